"""Examines the receipts of one transaction by the rules of `iem_dcr.ocmf.rules`.

This module examines each receipt by itself. `iem_dcr.ocmf.transaction` examines begin and end together.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from iem_dcr.errors import printable
from iem_dcr.ocmf.receipt import MOST_READINGS, text_of
from iem_dcr.ocmf.registers import register_of
from iem_dcr.ocmf.rules import Report
from iem_dcr.ocmf.signature import Form, form_of
from iem_dcr.ocmf.transaction import Transaction, quoted
from iem_dcr.ocmf.tuple_text import RepeatedKeys

if TYPE_CHECKING:
    from iem_dcr.ocmf.receipt import Receipt, Row
    from iem_dcr.ocmf.rules import Finding

_OLDEST, _NEWEST = 0.1, 1.3
_LONGEST = {"TT": 250, "ID": 40}
_TEXTS = frozenset(
    ("FV", "GI", "GV", "GS", "PG", "MV", "MM", "MS", "MF", "CF", "CT", "CI", "IL", "IT", "ID", "TT", "VI", "VV")
)
_SIGNED_TEXTS = ("TT", "ID", "CI", "CT")
_READING_TEXTS = frozenset(("TM", "TX", "RV", "RI", "RU", "ST", "EF", "EI", "RT"))
_SIGNATURE_TEXTS = ("SA", "SE", "SM", "SD")
_NESTED = (list, dict)
_PLAIN_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_FORMS = {
    Form.ODD: ("signature-spelling", "SA, SE or SD is not written as OCMF specifies", "SD"),
    Form.ENCODING: ("signature-encoding", "SE is not exactly hex or base64, or SD has a carriage return", "SE"),
    Form.NOT_DER: ("signature-form", "the signature is not DER that the transparency software reads", "SD"),
}


def examine(*receipts: Receipt) -> tuple[Finding, ...]:
    """Examine the receipts of one transaction: one receipt, or one for the begin and one for the end, in this order.

    Never raises. A single receipt with only the begin or only the end gets ``transaction-incomplete``.

    Returns:
        The findings. Each has the index of its receipt.
    """
    report = Report()
    examinations = [_Examination(report, receipt, number) for number, receipt in enumerate(receipts)]
    for one in examinations:
        one.examine_tuple()
        one.examine_fields()
        one.examine_payload()
    for one in examinations:
        one.examine_rows()
    first = receipts[0]
    if len(receipts) > 1:
        for number, (before, after) in enumerate(pairwise(receipts), 1):
            _examine_pair(report, before, after, number)
        Transaction(report, receipts).judge()
    elif not first.is_fiscal:
        missing = [what for what, has in (("begin", first.has_begin), ("end", first.has_end)) if not has]
        if missing:
            report.add("transaction-incomplete", f"no {' and no '.join(missing)} in it", "TX")
        else:
            Transaction(report, receipts).judge()
    return tuple(report)


class _Examination:
    """Examines one receipt by itself."""

    def __init__(self, report: Report, receipt: Receipt, number: int) -> None:
        self._report = report
        self._receipt = receipt
        self._number = number

    def _add(self, code: str, text: str, field: str = "", row: Row | None = None) -> None:
        self._report.add(code, text, field, row, self._number)

    def examine_tuple(self) -> None:
        receipt, payload = self._receipt, self._receipt.payload
        if receipt.text.count("|") > 2:
            name = next((name for name in _SIGNED_TEXTS if "|" in str(payload.get(name))), "")
            self._add("separator-in-text", f"{name or 'a section'} contains a |; other readers split there", name)
        if not receipt.signed.isascii():
            name = next((name for name in _SIGNED_TEXTS if not str(payload.get(name)).isascii()), "")
            self._add("text-not-ascii", f"{name or 'the payload'} has characters that are not ASCII", name)
        for name, longest in _LONGEST.items():
            value = payload.get(name)
            if isinstance(value, str) and len(value) > longest:
                self._add("text-too-long", f"{name} has {len(value)} characters; the limit is {longest}", name)
        if isinstance(payload, RepeatedKeys):
            self._add("key-repeated", f"the payload has {quoted(payload.key)} twice", printable(payload.key, limit=20))
        for written in (receipt.signature, *(row.written for row in receipt.rows)):
            if isinstance(written, RepeatedKeys):
                what = f"an object has {quoted(written.key)} twice; the last one counts"
                self._add("key-repeated-within", what, printable(written.key, limit=20))

    def examine_fields(self) -> None:
        payload, signature = self._receipt.payload, self._receipt.signature
        version = self._receipt.version
        if version is None or not _OLDEST <= version <= _NEWEST:
            said = quoted(payload["FV"]) if "FV" in payload else "missing"
            self._add("format-version", f"FV is {said}; the transparency software reads 0.1 to 1.3", "FV")
        wrong = [name for name, value in payload.items() if name in _TEXTS and isinstance(value, _NESTED)]
        if not isinstance(payload.get("IS"), (bool, str, type(None))):
            wrong.append("IS")
        flags = payload.get("IF")
        if flags is not None and (not isinstance(flags, list) or any(isinstance(flag, _NESTED) for flag in flags)):
            wrong.append("IF")
        if not isinstance(payload.get("LC"), (dict, type(None))):
            wrong.append("LC")
        wrong += [name for name in _SIGNATURE_TEXTS if isinstance(signature.get(name), _NESTED)]
        for name in wrong:
            self._add("field-type", f"{name} has a wrong type", name)
        form = form_of(signature)
        if form is not Form.PLAIN:
            self._add(*_FORMS[form])

    def examine_payload(self) -> None:
        receipt = self._receipt
        RD, PG = receipt.payload.get("RD"), text_of(receipt.payload.get("PG"))
        if not isinstance(RD, list) or not RD:
            self._add("readings-missing", "RD has no readings", "RD")
        elif len(RD) > MOST_READINGS:
            self._add("readings-too-many", f"RD has {len(RD)} readings", "RD")
        if PG is None or len(PG) < 2:
            self._add("pagination-missing", "PG is missing or too short", "PG")
        elif receipt.counter is None:
            self._add("pagination-form", f"PG is {quoted(PG)}, not T or F and a number", "PG")
        if receipt.is_fiscal:
            self._add("fiscal", "readings without a transaction (PG F): begin and end were not judged", "PG")
        if not receipt.meter_serial:
            self._add("meter-missing", "MS, the meter's serial number, is missing", "MS")

    def examine_rows(self) -> None:
        for row in self._receipt.rows:
            if not row.is_object:
                self._add("field-type", "a reading is not an object", "RD", row)
            for name, value in row.written.items():
                if name in _READING_TEXTS and isinstance(value, _NESTED):
                    self._add("field-type", f"{name} is not a text", name, row)
            self._examine_row(row)

    def _examine_row(self, row: Row) -> None:
        reading, written = row.reading, row.written
        RV = written.get("RV")
        if reading.RV is None and RV is not None:
            self._add("value-unreadable", f"RV is not a number: {quoted(RV)}", "RV", row)
        elif isinstance(RV, str) and not _PLAIN_NUMBER.fullmatch(RV):
            self._add("number-form", f"RV is written as {RV[:40]!r}", "RV", row)
        if register_of(reading.RI) is None and reading.RV is not None:
            self._add("register-unknown", f"RI {quoted(reading.RI)} is not a known register", "RI", row)
        RU = written.get("RU")
        if RU not in (None, "kWh", "Wh") and reading.RV is not None:
            self._add("unit-unknown", f"RU is {quoted(RU)}, neither kWh nor Wh", "RU", row)
        if "t" in reading.EF:
            self._add("time-flag", "EF contains t: the time is not usable for billing", "EF", row)
        if reading.TX == "X":
            self._add("exception", "an exception while charging (TX X)", "TX", row)


def _examine_pair(report: Report, before: Receipt, after: Receipt, number: int) -> None:
    if before.meter != after.meter:
        report.add("meters-differ", "begin and end belong to different meters", "MS", of=number)
    if before.identification != after.identification:
        report.add("identifications-differ", "begin and end name different users", "ID", of=number)
    first, second = before.counter, after.counter
    if first and second and (first[0] != second[0] or first[1] >= second[1]):
        text = f"PG {after.pagination} does not come after {before.pagination}"
        report.add("pagination-falling", printable(text, limit=100), "PG", of=number)
