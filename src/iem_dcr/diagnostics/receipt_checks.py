"""Doctor's checks of key, node and content of the last receipt. `iem_dcr.diagnostics.checks` says what a check is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iem_dcr import ocmf
from iem_dcr.diagnostics import nodes
from iem_dcr.diagnostics.report import FAILED, NOT_ASKED, OK, WARNING, Result
from iem_dcr.diagnostics.status import shown
from iem_dcr.errors import ReceiptError, printable
from iem_dcr.ocmf.rules import Severity
from iem_dcr.ocmf.verdict import Judgement, verdict_on

if TYPE_CHECKING:
    from iem_dcr.diagnostics.evidence import Evidence
    from iem_dcr.ocmf import Receipt

_ALGORITHM: Final = "ECDSA-secp256r1-SHA256"
_ALWAYS_FOUND: Final = "signature-form"
"""The finding that this firmware causes in every receipt, and that an export corrects."""
_SIGN_ONE: Final = "Run a transaction (iem-dcr session), then run this again."


def key(evidence: Evidence) -> Result:
    """The key can be read, is a point on its curve, and has the meter's algorithm."""
    found = evidence.key
    if found is None:
        to_do = "Receipts of this meter cannot be checked. Take the key from its type plate, and tell its manufacturer."
        return Result(FAILED, shown(evidence.problems.get("publickey", "not asked")), to_do)
    values = {"SA": found.SA, "PK": found.PK, "form": found.form, "der_hex": found.der_hex}
    text = f"{found.form}, a point of secp256r1, {shown(found.SA) or 'no algorithm named'}"
    if found.SA not in ("", _ALGORITHM):
        to_do = f"Expected {_ALGORITHM}. Check whether the last receipt verifies."
        return Result(WARNING, text, to_do, values)
    return Result(OK, text, "", values)


def api(evidence: Evidence) -> Result:
    """Whether /transaction is below v1 or v2."""
    asked, unknown = evidence.transaction, {"transaction": None}
    if asked.tuple_text is not None:
        version = "v2" if asked.node is nodes.TRANSACTION_V2 else "v1"
        return Result(OK, f"/transaction is below {version}", "", {"transaction": version})
    if asked.not_asked:
        return Result(NOT_ASKED, asked.not_asked, "", unknown)
    if evidence.has_signed_nothing:
        return Result(WARNING, "not known without a receipt", _SIGN_ONE, unknown)
    problem = asked.problem if asked.answer is None else f"status {asked.answer.status}"
    to_do = "Receipts cannot be read. Run this again; if it still fails, power the meter off and on."
    return Result(FAILED, f"/transaction gives no receipt: {problem}", to_do, unknown)


def receipt(evidence: Evidence) -> Result:
    """The receipt's signature, the findings in it, and whether it is from this meter."""
    asked = evidence.transaction
    if asked.not_asked:
        return Result(NOT_ASKED, asked.not_asked)
    if asked.tuple_text is not None:
        try:
            return _judge(evidence, ocmf.parse(asked.tuple_text))
        except ReceiptError as error:
            to_do = "Record it with iem-dcr record, and tell its manufacturer."
            return Result(FAILED, f"not readable: {printable(error, limit=200)}", to_do)
    if evidence.has_signed_nothing:
        return Result(WARNING, "the meter has signed nothing yet", _SIGN_ONE)
    return Result(FAILED, "none was received, see API")


def _judge(evidence: Evidence, last: Receipt) -> Result:
    verdict = verdict_on([last], "" if evidence.key is None else evidence.key.PK)
    reason = verdict.verifications[0].reason
    values = {
        "PG": last.pagination,
        "judgement": verdict.judgement.value,
        "reason": reason,
        "findings": [found.code for found in verdict.findings],
    }
    name = shown(last.pagination or "without PG")
    if evidence.values and last.meter_serial not in (None, evidence.last.MS):
        text = f"{name} is from meter {shown(last.meter_serial)}, not from this one"
        return Result(FAILED, text, "Another device answers for the meter, or the meter was repaired.", values)
    if verdict.judgement is Judgement.INVALID:
        to_do = "Do not charge with this meter. Keep receipt and key (iem-dcr record --raw), and tell its manufacturer."
        return Result(FAILED, f"{name} is NOT VALID: {reason}", to_do, values)
    if verdict.judgement is Judgement.NOT_CHECKED:
        text = f"{name} could not be checked: {shown(reason)}"
        return Result(FAILED, text, "See the check of the public key.", values)
    codes = dict.fromkeys(found.code for found in verdict.findings if found.severity is not Severity.INFO)
    if not codes:
        return Result(OK, f"{name} is valid", "", values)
    to_do = "See docs/receipts.md for each finding."
    found = f"found: {', '.join(codes)}"
    if set(verdict.errors) - {_ALWAYS_FOUND}:
        text = f"{name} is valid, but the transparency software refuses it; {found}"
        return Result(FAILED, text, to_do, values)
    return Result(WARNING, f"{name} is valid; {found}", to_do, values)
