"""The view of one receipt: its content, the result of the signature check, and the findings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from iem_dcr.diagnostics.status import shown
from iem_dcr.errors import shortened
from iem_dcr.ocmf.codes import how_ended
from iem_dcr.ocmf.export import Format, Item, export
from iem_dcr.ocmf.rules import FINDINGS, Severity
from iem_dcr.ocmf.verdict import Judgement, energy_summary_of
from iem_dcr.web import formatting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iem_dcr.ocmf import Reading, Receipt
    from iem_dcr.ocmf.rules import Finding
    from iem_dcr.web.receipt_list import Found

MAX_FINDINGS: Final = 100
"""Largest number of findings on the page. A meter that signs nonsense can cause thousands."""
_WHY: Final = {
    Judgement.INVALID: "The signature does not match: {}.",
    Judgement.NOT_CHECKED: "The signature could not be checked: {}.",
    Judgement.REFUSED: "The signature matches, but the transparency software refuses this receipt.",
    Judgement.ACCEPTED: "The signature matches, and there are no objections to the receipt.",
}
_KINDS: Final = {Severity.ERROR: "fault", Severity.WARNING: "warning", Severity.INFO: ""}


def receipt_view(found: Found) -> dict[str, Any]:
    """Return the variables of the receipt template."""
    receipt, verdict = found.receipt, found.verdict
    word, kind = formatting.signature(verdict.outcome, accepted=verdict.judgement is Judgement.ACCEPTED)
    order = list(Severity)
    worst = sorted(verdict.findings, key=lambda finding: order.index(finding.severity))[:MAX_FINDINGS]
    return {
        "title": f"Receipt {shown(receipt.pagination or 'without PG')}",
        "word": word,
        "kind": kind,
        "why": _WHY[verdict.judgement].format(shown(verdict.reason)),
        "lines": tuple(_lines(receipt, found.transaction_id)),
        "findings": tuple(_finding(receipt, finding) for finding in worst),
        "left_out": len(verdict.findings) - len(worst),
        "notes": export([Item(receipt, found.public_key)], Format.TRANSPARENCY).notes,
    }


def _lines(receipt: Receipt, transaction_id: str) -> Iterator[tuple[str, str]]:
    ID = receipt.identification or ""
    last = receipt.end or (receipt.readings[-1] if receipt.readings else None)
    yield "Charge point", _payload(receipt, "CT", "CI")
    yield "Meter", _payload(receipt, "MM", "MS")
    yield "User", f"{shortened(ID) if ID else formatting.NOTHING} ({_payload(receipt, 'IT') or 'no type'})"
    yield "Tariff", _payload(receipt, "TT")
    yield "Begin", _reading(receipt.begin)
    how = how_ended(last.TX) if last else ""
    yield "End", _reading(last) + (f", ended {how}" if how else "")
    yield "Energy", energy_summary_of(receipt) or "not in the receipt"
    yield "Transaction", shown(transaction_id)
    yield "Algorithm", shown(receipt.algorithm or "")


def _payload(receipt: Receipt, *keys: str) -> str:
    return " ".join(shown(receipt.payload[key]) for key in keys if receipt.payload.get(key) not in (None, ""))


def _reading(reading: Reading | None) -> str:
    if reading is None:
        return "not in the receipt"
    time = formatting.meter_clock(reading.TM) if reading.TM else "time not readable"
    return time if reading.energy_wh is None else f"{time}; register {formatting.kwh(reading.energy_wh)} kWh"


def _finding(receipt: Receipt, finding: Finding) -> tuple[str, str, str, str, str]:
    """Return kind, severity, code, text and what to do. The text may contain the user's id, which is shortened."""
    ID = receipt.identification or ""
    text = shown(finding.text)
    text = text.replace(ID, shortened(ID)) if len(ID) > 2 else text
    return _KINDS[finding.severity], finding.severity.value, finding.code, text, FINDINGS[finding.code].to_do
