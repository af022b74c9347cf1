"""Examines the receipts of one transaction by the rules of `iem_dcr.ocmf.rules`.

This module examines each receipt by itself. `iem_dcr.ocmf.transaction` examines begin and end together.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from iem_dcr.errors import printable
from iem_dcr.ocmf.receipt import MOST_READINGS
from iem_dcr.ocmf.registers import register_of
from iem_dcr.ocmf.rules import Report
from iem_dcr.ocmf.signature import Form, form_of
from iem_dcr.ocmf.transaction import Transaction, double_in, is_old, quoted, text_of
from iem_dcr.ocmf.tuple_text import HEADER, repeated_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from iem_dcr.ocmf.receipt import Receipt, Row
    from iem_dcr.ocmf.rules import Finding

_OLDEST, _NEWEST = 0.1, 1.3
_LONGEST = {"TT": 250, "ID": 40}
_TEXTS = frozenset({"FV", "GI", "GV", "GS", "PG", "MV", "MM", "MS", "MF", "CF", "IT", "ID", "TT"})
_TEXTS_NEW = _TEXTS | {"IL", "CT", "CI"}
_TEXTS_OLD = _TEXTS | {"VI", "VV", "IS"}
_SIGNED_TEXTS = ("TT", "ID", "CI", "CT")
_READING_TEXTS = frozenset({"TM", "TX", "RV", "RI", "RU", "ST", "EF", "RT"})
_READING_TEXTS_OLD = frozenset({"TM", "TX", "RV", "RI", "RU", "ST", "EI"})
_LOSS_TEXTS = ("LN", "LI", "LR", "LU")
_SIGNATURE_TEXTS = ("SA", "SE", "SM", "SD")
_PLAIN_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_FORMS = {
    Form.ODD: ("signature-spelling", "SA, SE or SD is not written as OCMF specifies", "SD"),
    Form.ENCODING: ("signature-encoding", "SE is not exactly hex or base64, or SD has a carriage return", "SE"),
    Form.NOT_DER: ("signature-form", "the signature is not DER that the transparency software reads", "SD"),
}


def examine(receipt: Receipt) -> tuple[Finding, ...]:
    """Examine one receipt. Never raises.

    A receipt with only the begin or only the end gets ``transaction-incomplete``. `examine_transaction` takes both.
    """
    return tuple(_examined([receipt], [None]))


def examine_transaction(receipts: Sequence[Receipt]) -> tuple[Finding, ...]:
    """Examine the receipts of one transaction: one receipt, or one for the begin and one for the end, in this order.

    Returns:
        The findings. Each has the index of its receipt.
    """
    return tuple(_examined(receipts, range(len(receipts))))


def _examined(receipts: Sequence[Receipt], numbers: Sequence[int | None]) -> Report:
    report = Report()
    numbered = list(zip(numbers, receipts, strict=True))
    for number, receipt in numbered:
        _tuple(report, receipt, number)
        _fields(report, receipt, number)
        _payload(report, receipt, number)
    for number, receipt in numbered:
        for row in receipt.rows:
            _types(report, receipt, row, number)
            _row(report, row, number)
    first = receipts[0]
    if len(receipts) > 1:
        for number, (before, after) in enumerate(pairwise(receipts), 1):
            _pair(report, before, after, number)
        Transaction(report, numbered).judge()
    elif not first.is_fiscal:
        missing = [what for what, has in (("begin", first.has_begin), ("end", first.has_end)) if not has]
        if missing:
            report.add("transaction-incomplete", f"no {' and no '.join(missing)} in it", "TX")
        else:
            Transaction(report, numbered).judge()
    return report


def _tuple(report: Report, receipt: Receipt, number: int | None) -> None:
    payload, text = receipt.payload, receipt.text
    if text.count("|") > 2:
        name = next((name for name in _SIGNED_TEXTS if "|" in str(payload.get(name))), "")
        report.add(
            "separator-in-text", f"{name or 'a section'} contains a |; other readers split there", name, of=number
        )
    if not receipt.signed.isascii():
        name = next((name for name in _SIGNED_TEXTS if not str(payload.get(name)).isascii()), "")
        report.add("text-not-ascii", f"{name or 'the payload'} has characters that are not ASCII", name, of=number)
    for name, longest in _LONGEST.items():
        value = payload.get(name)
        if isinstance(value, str) and len(value) > longest:
            report.add("text-too-long", f"{name} has {len(value)} characters; the limit is {longest}", name, of=number)
    signed = receipt.signed.decode()
    outer, inner = repeated_keys(signed, payload)
    in_signature = repeated_keys(text[len(HEADER) + len(signed) + 1 :], receipt.signature)
    if outer:
        report.add("key-repeated", f"the payload has {quoted(outer)} twice", printable(outer, limit=20), of=number)
    for key in (inner, *in_signature):
        if key:
            what = f"an object has {quoted(key)} twice; the last one counts"
            report.add("key-repeated-within", what, printable(key, limit=20), of=number)
    if receipt.has_odd_numbers:
        report.add("number-form", "a number is not valid in JSON", of=number)


def _fields(report: Report, receipt: Receipt, number: int | None) -> None:
    payload, signature = receipt.payload, receipt.signature
    version = double_in(payload.get("FV"))
    if version is None or not _OLDEST <= version <= _NEWEST:
        said = quoted(payload["FV"]) if "FV" in payload else "missing"
        report.add("format-version", f"FV is {said}; the transparency software reads 0.1 to 1.3", "FV", of=number)
    for name in _wrong_fields(payload, old=is_old(receipt)):
        report.add("field-type", f"{name} has a wrong type", name, of=number)
    for name in _SIGNATURE_TEXTS:
        if type(signature.get(name)) in (list, dict):
            report.add("field-type", f"{name} is not a text", name, of=number)
    form = form_of(signature)
    if form is not Form.PLAIN:
        report.add(*_FORMS[form], of=number)


def _wrong_fields(payload: Mapping[str, object], *, old: bool) -> Iterator[str]:
    texts = _TEXTS_OLD if old else _TEXTS_NEW
    for name, value in payload.items():
        if type(value) in (list, dict) and name in texts:
            yield name
    if not old and not isinstance(payload.get("IS"), (bool, str, type(None))):
        yield "IS"
    flags = payload.get("IF")
    if flags is not None and (not isinstance(flags, list) or any(type(flag) in (list, dict) for flag in flags)):
        yield "IF"
    loss = None if old else payload.get("LC")
    if loss is not None and (
        not isinstance(loss, dict) or any(type(loss.get(name)) in (list, dict) for name in _LOSS_TEXTS)
    ):
        yield "LC"


def _payload(report: Report, receipt: Receipt, number: int | None) -> None:
    RD, PG = receipt.payload.get("RD"), text_of(receipt.payload.get("PG"))
    if not isinstance(RD, list) or not RD:
        report.add("readings-missing", "RD has no readings", "RD", of=number)
    elif len(RD) > MOST_READINGS:
        report.add("readings-too-many", f"RD has {len(RD)} readings", "RD", of=number)
    if PG is None or len(PG) < 2:
        report.add("pagination-missing", "PG is missing or too short", "PG", of=number)
    elif receipt.counter is None:
        report.add("pagination-form", f"PG is {quoted(PG)}, not T or F and a number", "PG", of=number)
    if receipt.is_fiscal:
        report.add("fiscal", "readings without a transaction (PG F): begin and end were not judged", "PG", of=number)
    if not receipt.meter_serial:
        report.add("meter-missing", "MS, the meter's serial number, is missing", "MS", of=number)


def _types(report: Report, receipt: Receipt, row: Row, number: int | None) -> None:
    if not row.written:
        RD = receipt.payload.get("RD")
        if not (isinstance(RD, list) and isinstance(RD[row.at], dict)):
            report.add("field-type", "a reading is not an object", "RD", row, number)
    for name, value in row.written.items():
        if type(value) in (list, dict) and name in (_READING_TEXTS_OLD if is_old(receipt) else _READING_TEXTS):
            report.add("field-type", f"{name} is not a text", name, row, number)


def _row(report: Report, row: Row, number: int | None) -> None:
    reading, written = row.reading, row.written
    RV = written.get("RV")
    if reading.RV is None and RV is not None:
        report.add("value-unreadable", f"RV is not a number: {quoted(RV)}", "RV", row, number)
    elif isinstance(RV, str) and not RV.isdigit() and not _PLAIN_NUMBER.fullmatch(RV):
        report.add("number-form", f"RV is written as {RV[:40]!r}", "RV", row, number)
    if register_of(reading.RI) is None and (reading.RV is not None or reading.RI):
        report.add("register-unknown", f"RI {quoted(reading.RI)} is not a known register", "RI", row, number)
    if reading.RU not in ("kWh", "Wh") and reading.RV is not None and (reading.RU or written.get("RU") is not None):
        RU = written.get("RU", reading.RU)
        report.add("unit-unknown", f"RU is {quoted(RU)}, neither kWh nor Wh", "RU", row, number)
    if reading.EF and "t" in reading.EF:
        report.add("time-flag", "EF contains t: the time is not usable for billing", "EF", row, number)
    if reading.TX == "X":
        report.add("exception", "an exception while charging (TX X)", "TX", row, number)


def _pair(report: Report, before: Receipt, after: Receipt, number: int) -> None:
    if before.meter != after.meter:
        report.add("meters-differ", "begin and end belong to different meters", "MS", of=number)
    if before.identification != after.identification:
        report.add("identifications-differ", "begin and end name different users", "ID", of=number)
    first, second = before.counter, after.counter
    if first and second and (first[0] != second[0] or first[1] >= second[1]):
        text = f"PG {after.pagination} does not come after {before.pagination}"
        report.add("pagination-falling", printable(text, limit=100), "PG", of=number)
