"""The checks of /transaction: where it is, and the last receipt in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iem_dcr import ocmf
from iem_dcr.diagnostics import nodes
from iem_dcr.diagnostics.evidence import tuple_in
from iem_dcr.diagnostics.report import Line, State
from iem_dcr.diagnostics.status import shown
from iem_dcr.errors import MeterError, ReceiptError, printable
from iem_dcr.ocmf.rules import Severity
from iem_dcr.ocmf.verdict import Judgement, verdict_on

if TYPE_CHECKING:
    from iem_dcr.config import Settings
    from iem_dcr.diagnostics.evidence import Evidence
    from iem_dcr.ocmf import Receipt
    from iem_dcr.ocmf.verdict import Verdict

_VERSIONS: Final = {nodes.TRANSACTION_V1.path: "v1", nodes.TRANSACTION_V2.path: "v2"}
_SIGN_ONE: Final = "Let a transaction begin and end (iem-dcr session), then ask again."
_OF_THE_FIRMWARE: Final = {"signature-form"}
"""Errors that are in how this firmware writes every receipt, and that an export undoes."""


def api(evidence: Evidence, _: Settings | None) -> Line:
    """Judge where /transaction is."""
    for path, answer in evidence.transactions.items():
        if tuple_in(answer) is not None:
            text = f"/transaction is below {_VERSIONS[path]}"
            return Line("api", State.OK, text, "", {"transaction": _VERSIONS[path]})
    if not evidence.transactions or evidence.why_not:
        return Line("api", State.NOT_ASKED, evidence.why_not or "not asked", "", {"transaction": None})
    if _has_none(evidence):
        return Line("api", State.WARNING, "cannot be told without a receipt", _SIGN_ONE, {"transaction": None})
    text = "; ".join(f"{_VERSIONS[path]}: {_refusal(answer)}" for path, answer in evidence.transactions.items())
    to_do = "Receipts cannot be fetched: ask again, then power the meter off and on."
    return Line("api", State.FAILED, f"/transaction gives no receipt: {text}", to_do, {"transaction": None})


def receipt(evidence: Evidence, _: Settings | None) -> Line:
    """Judge the last receipt: its signature, what is found in it, and whose it is."""
    text = next((found for answer in evidence.transactions.values() if (found := tuple_in(answer)) is not None), None)
    if text is None:
        return _no_receipt(evidence)
    try:
        last = ocmf.parse(text)
    except ReceiptError as error:
        to_do = "Record it with iem-dcr record, and tell its manufacturer."
        return Line("receipt", State.FAILED, f"not readable: {printable(error, limit=200)}", to_do)
    key = "" if evidence.public_key is None else evidence.public_key.PK
    return _judged(evidence, last, verdict_on([last], key))


def _judged(evidence: Evidence, last: Receipt, verdict: Verdict) -> Line:
    codes = [found.code for found in verdict.findings]
    values: dict[str, object] = {
        "PG": last.pagination,
        "judgement": verdict.judgement.value,
        "reason": verdict.verifications[0].reason,
        "findings": codes,
    }
    name = f"{shown(last.pagination or 'without PG')}"
    meter = evidence.last.MS if evidence.last is not None else None
    if meter is not None and last.meter_serial not in (None, meter):
        text = f"{name} is of meter {shown(last.meter_serial)}, not of this one"
        return Line("receipt", State.FAILED, text, "Something else answers for the meter, or it was repaired.", values)
    if verdict.judgement is Judgement.INVALID:
        to_do = "Do not charge with this meter. Keep receipt and key (iem-dcr record --raw), and tell its manufacturer."
        return Line("receipt", State.FAILED, f"{name} is NOT VALID: {verdict.verifications[0].reason}", to_do, values)
    if verdict.judgement is Judgement.NOT_CHECKED:
        text = f"{name} could not be checked: {shown(verdict.verifications[0].reason)}"
        return Line("receipt", State.FAILED, text, "See what is said of the public key.", values)
    told = {found.code: found.severity for found in verdict.findings if found.severity is not Severity.INFO}
    worst = {code for code, severity in told.items() if severity is Severity.ERROR} - _OF_THE_FIRMWARE
    if not told:
        return Line("receipt", State.OK, f"{name} is valid", "", values)
    text = f"{name} is valid; found: {', '.join(told)}"
    to_do = "See docs/receipts.md for each finding."
    if worst:
        text = f"{name} is valid, but the transparency software refuses it; found: {', '.join(told)}"
    return Line("receipt", State.FAILED if worst else State.WARNING, text, to_do, values)


def _no_receipt(evidence: Evidence) -> Line:
    if not evidence.transactions or evidence.why_not:
        return Line("receipt", State.NOT_ASKED, evidence.why_not or "not asked")
    if _has_none(evidence):
        return Line("receipt", State.WARNING, "the meter has signed nothing yet", _SIGN_ONE)
    return Line("receipt", State.FAILED, "not had, see API", "")


def _has_none(evidence: Evidence) -> bool:
    """Whether every place of /transaction says that there is nothing: a 404, or an answer without a tuple."""
    return all(not isinstance(one, MeterError) and one.status in (200, 404) for one in evidence.transactions.values())


def _refusal(answer: object) -> str:
    if isinstance(answer, MeterError):
        return shown(answer.brief)
    return f"status {getattr(answer, 'status', '?')}"
