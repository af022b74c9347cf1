"""One receipt: what it says, what the check of its signature says, what was found, and itself to take along."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from aiohttp import web

from iem_dcr.bringup.sight import shown
from iem_dcr.errors import JournalError, ReceiptError, printable, shortened
from iem_dcr.ocmf.export import Format, Item, export
from iem_dcr.ocmf.rules import FINDINGS, Severity
from iem_dcr.ocmf.verdict import Judgement
from iem_dcr.service.web import words
from iem_dcr.service.web.html import document, page, table, tag
from iem_dcr.service.web.layout import HOME, bottom, top
from iem_dcr.service.web.meter_view import path_of
from iem_dcr.service.web.site import Route

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from xml.etree.ElementTree import Element

    from iem_dcr.ocmf import Reading, Receipt
    from iem_dcr.ocmf.rules import Finding
    from iem_dcr.service.observation import ObservedMeter
    from iem_dcr.service.web.book import Found
    from iem_dcr.service.web.site import Site

_JUDGEMENTS: Final = {
    Judgement.INVALID: ("not valid", "fault", "The signature does not match: {}."),
    Judgement.NOT_CHECKED: ("not checked", "warning", "The signature could not be checked: {}."),
    Judgement.REFUSED: (*words.NOT_ACCEPTED, "The signature matches, but the transparency software refuses this."),
    Judgement.ACCEPTED: ("valid", "ok", "The signature matches, and nothing speaks against the receipt."),
}
_ORDER: Final = {severity: place for place, severity in enumerate(Severity)}
_KINDS: Final = {Severity.ERROR: "fault", Severity.WARNING: "warning", Severity.INFO: ""}
MOST_FINDINGS: Final = 100
"""So many are on the page: a meter that signs nonsense can have thousands, and to write them holds up the loop."""
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+")


def routes(site: Site) -> Iterable[Route]:
    """Return the routes of receipts."""

    async def found(request: web.Request) -> tuple[ObservedMeter, Found]:
        meter = site.meter(request.match_info["name"])
        try:
            one = await site.receipts.find(meter, request.match_info["key"])
        except JournalError as error:
            raise web.HTTPServiceUnavailable(reason=printable(error)) from error
        except ReceiptError as error:
            raise web.HTTPNotFound(reason=printable(error)) from error
        if one is None:
            raise web.HTTPNotFound(reason="There is no such receipt, or not any more.")
        return meter, one

    async def show(request: web.Request) -> web.Response:
        meter, one = await found(request)
        return page(_page(meter, one, f"{path_of(meter)}/receipts/{request.match_info['key']}"))

    async def download(request: web.Request) -> web.Response:
        meter, one = await found(request)
        item = Item(one.receipt, one.public_key, one.transaction_id)
        name = _NOT_IN_A_NAME.sub("-", f"{meter.name}-{one.receipt.pagination or 'receipt'}")[:80].strip("-.")
        return web.Response(
            text=export([item], Format.TRANSPARENCY).text,
            content_type="application/xml",
            headers={"Content-Disposition": f'attachment; filename="{name or "receipt"}.xml"'},
        )

    yield Route("/meters/{name}/receipts/{key}.xml", download)
    yield Route("/meters/{name}/receipts/{key}", show)


def _page(meter: ObservedMeter, found: Found, path: str) -> str:
    receipt, verdict = found.receipt, found.verdict
    title = f"Receipt {shown(receipt.pagination or 'without PG')}"
    word, kind, why = _JUDGEMENTS[verdict.judgement]
    (verification,) = verdict.verifications
    notes = export([Item(receipt, found.public_key)], Format.TRANSPARENCY).notes
    return document(
        title,
        top((HOME, "/"), (shown(meter.name), path_of(meter)), (title, ""), is_live=False),
        tag(
            "main",
            tag("h1", title, " ", tag("span", word, class_="state", data_kind=kind)),
            tag("p", why.format(shown(verification.reason)), class_="summary"),
            tag(
                "section",
                tag("h2", "What it says"),
                tag("dl", *_says(receipt, found.transaction_id), class_="pairs"),
                class_="card",
            ),
            tag("section", tag("h2", "Findings"), _findings(receipt, verdict.findings)),
            tag(
                "section",
                tag("h2", "For the transparency software"),
                tag("p", "The receipt as the meter signed it, with its key. It holds the user's id in full."),
                *(tag("p", shown(note), ".", class_="note") for note in notes),
                tag("p", tag("a", "Download the XML", href=f"{path}.xml", class_="button", download="")),
            ),
            id="content",
        ),
        bottom(),
    )


def _says(receipt: Receipt, transaction_id: str) -> Iterator[Element]:
    begin, end = receipt.begin, receipt.end
    last = end or (receipt.readings[-1] if receipt.readings else None)
    ID = receipt.identification or ""
    lines = {
        "Charge point": _words(receipt, "CT", "CI"),
        "Meter": _words(receipt, "MM", "MS"),
        "User": f"{shortened(ID) if ID else words.NOTHING} ({_words(receipt, 'IT') or 'no type'})",
        "Tariff": _words(receipt, "TT"),
        "Begin": _reading(begin),
        "End": _reading(last),
        "Ended": words.ENDS.get(last.TX, "") if last else "",
        "Energy": "not in the receipt" if receipt.energy_wh is None else f"{words.kwh(receipt.energy_wh)} kWh",
        "Transaction": shown(transaction_id),
        "Algorithm": shown(receipt.algorithm or ""),
    }
    for head, said in lines.items():
        if said:
            yield tag("div", tag("dt", head), tag("dd", said))


def _words(receipt: Receipt, *keys: str) -> str:
    return " ".join(shown(receipt.payload[key]) for key in keys if receipt.payload.get(key) not in (None, ""))


def _reading(reading: Reading | None) -> str:
    if reading is None:
        return "not in the receipt"
    time = f"{words.meter_time(reading.TM)}, {words.sync(reading.TM)}" if reading.TM else "time not readable"
    return time if reading.energy_wh is None else f"{time}; register {words.kwh(reading.energy_wh)} kWh"


def _findings(receipt: Receipt, findings: tuple[Finding, ...]) -> Element:
    if not findings:
        return tag("p", "None.")
    heads = ("Severity", "Code", "What was found", "What to do")
    worst = sorted(findings, key=lambda finding: _ORDER[finding.severity])[:MOST_FINDINGS]
    body = tag("tbody", *(_finding(receipt, finding) for finding in worst))
    more = len(findings) - len(worst)
    return tag(
        "div",
        table("Findings", heads, body, class_="findings"),
        tag("p", f"And {more} more: iem-dcr verify shows all of the XML.", class_="note") if more else None,
        class_="wide",
    )


def _finding(receipt: Receipt, finding: Finding) -> Element:
    return tag(
        "tr",
        tag("th", finding.severity.value, scope="row", role="rowheader", data_kind=_KINDS[finding.severity] or None),
        tag("td", tag("code", finding.code), role="cell"),
        tag("td", _without_id(receipt, shown(finding.text)), role="cell"),
        tag("td", FINDINGS[finding.code].to_do, role="cell"),
        role="row",
    )


def _without_id(receipt: Receipt, said: str) -> str:
    """Shorten the user's id where a finding cites it."""
    ID = receipt.identification or ""
    return said.replace(ID, shortened(ID)) if len(ID) > 2 else said
