"""Examining the receipts of one transaction by the rules of `iem_dcr.ocmf.rules`.

What stands in each receipt is looked at here; begin and end together by `iem_dcr.ocmf.transaction`.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from iem_dcr.errors import printable
from iem_dcr.ocmf.receipt import MOST_READINGS, Row
from iem_dcr.ocmf.registers import register_of
from iem_dcr.ocmf.rules import Finding, finding
from iem_dcr.ocmf.signature import Form, form_of
from iem_dcr.ocmf.transaction import Transaction, double_in, is_old, quoted, text_of
from iem_dcr.ocmf.tuple_text import HEADER, repeated_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from iem_dcr.ocmf.receipt import Receipt


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


def examine(receipt: Receipt) -> tuple[Finding, ...]:
    """Examine one receipt. Never raises, whatever it holds.

    A receipt of one end only gets ``transaction-incomplete``; `examine_transaction` takes both.
    """
    return tuple(_examine([receipt], [None]))


def examine_transaction(receipts: Sequence[Receipt]) -> tuple[Finding, ...]:
    """Examine the receipts of one transaction: one, or begin and end each in a tuple of its own, in their order.

    Returns:
        The findings, with the index of the receipt each is about.
    """
    return tuple(_examine(receipts, range(len(receipts))))


def _examine(receipts: Sequence[Receipt], numbers: Sequence[int | None]) -> list[Finding]:
    found: list[Finding] = []
    numbered = list(zip(numbers, receipts, strict=True))
    for number, receipt in numbered:
        found += _of_tuple(receipt, number)
        found += _of_fields(receipt, number)
        found += _of_signature(receipt, number)
        found += _of_payload(receipt, number)
    for number, receipt in numbered:
        for row in receipt.rows:
            found += _types_of_row(receipt, row, number)
            found += _of_row(row, number)
    if len(numbered) > 1:
        found += _between_receipts(receipts)
    first = receipts[0]
    if len(receipts) > 1 or (first.has_begin and first.has_end and not first.is_fiscal):
        found += Transaction(numbered).judge()
    elif not first.is_fiscal:
        missing = [what for what, has in (("begin", first.has_begin), ("end", first.has_end)) if not has]
        found.append(finding("transaction-incomplete", f"no {' and no '.join(missing)} in it", field="TX"))
    return found


# --- one receipt ---


def _of_tuple(receipt: Receipt, number: int | None) -> list[Finding]:
    found: list[Finding] = []
    payload, text = receipt.payload, receipt.text
    if text.count("|") > 2:
        named = next((name for name in _SIGNED_TEXTS if "|" in str(payload.get(name))), "")
        what = f"a | stands in {named or 'a section'}; other readers cut there"
        found.append(finding("separator-in-text", what, field=named, receipt=number))
    if not receipt.signed.isascii():
        named = next((name for name in _SIGNED_TEXTS if not str(payload.get(name)).isascii()), "")
        what = f"{named or 'the payload'} holds characters that are not ASCII"
        found.append(finding("text-not-ascii", what, field=named, receipt=number))
    for name, longest in _LONGEST.items():
        value = payload.get(name)
        if isinstance(value, str) and len(value) > longest:
            what = f"{name} has {len(value)} characters, {longest} are allowed"
            found.append(finding("text-too-long", what, field=name, receipt=number))
    signed = receipt.signed.decode()
    outer, inner = repeated_keys(signed, payload)
    in_signature = repeated_keys(text[len(HEADER) + len(signed) + 1 :], receipt.signature)
    if outer:
        what = f"the payload gives {printable(outer, limit=20)!r} twice"
        found.append(finding("key-repeated", what, field=printable(outer, limit=20), receipt=number))
    for key in (inner, *in_signature):
        if key:
            what = f"{printable(key, limit=20)!r} is given twice in one object; the last one counts"
            found.append(finding("key-repeated-within", what, field=printable(key, limit=20), receipt=number))
    if receipt.has_odd_numbers:
        found.append(finding("number-form", "a number is written as JSON does not have it", receipt=number))
    return found


def _of_fields(receipt: Receipt, number: int | None) -> list[Finding]:
    found: list[Finding] = []
    payload, old = receipt.payload, is_old(receipt)
    version = double_in(payload.get("FV"))
    if version is None or not _OLDEST <= version <= _NEWEST:
        said = quoted(payload["FV"]) if "FV" in payload else "missing"
        what = f"FV is {said}; the transparency software reads 0.1 to 1.3"
        found.append(finding("format-version", what, field="FV", receipt=number))
    wrong = [*_wrong_fields(payload, old=old)]
    wrong += [name for name in _SIGNATURE_TEXTS if type(receipt.signature.get(name)) in (list, dict)]
    found += [finding("field-type", f"{name} is of another type", field=name, receipt=number) for name in wrong]
    return found


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


def _of_signature(receipt: Receipt, number: int | None) -> list[Finding]:
    found: list[Finding] = []
    form = form_of(receipt.signature)
    if form is Form.ODD:
        what = "SA, SE or SD is written otherwise than OCMF has it"
        found.append(finding("signature-spelling", what, field="SD", receipt=number))
    elif form is Form.ENCODING:
        what = f"SE is {quoted(receipt.signature.get('SE'))}, or SD holds a carriage return"
        found.append(finding("signature-encoding", what, field="SE", receipt=number))
    elif form is Form.NOT_DER:
        what = "the signature is not DER as the transparency software reads it"
        found.append(finding("signature-form", what, field="SD", receipt=number))
    return found


def _of_payload(receipt: Receipt, number: int | None) -> list[Finding]:
    found: list[Finding] = []
    RD, PG = receipt.payload.get("RD"), text_of(receipt.payload.get("PG"))
    if not isinstance(RD, list) or not RD:
        found.append(finding("readings-missing", "RD holds no readings", field="RD", receipt=number))
    elif len(RD) > MOST_READINGS:
        found.append(finding("readings-too-many", f"RD holds {len(RD)} readings", field="RD", receipt=number))
    if PG is None or len(PG) < 2:
        found.append(finding("pagination-missing", "PG is missing or too short", field="PG", receipt=number))
    elif receipt.counter is None:
        what = f"PG is {printable(PG, limit=20)!r}, not T or F and a number"
        found.append(finding("pagination-form", what, field="PG", receipt=number))
    if receipt.is_fiscal:
        what = "readings without a transaction (PG F): begin and end were not judged"
        found.append(finding("fiscal", what, field="PG", receipt=number))
    if not receipt.meter_serial:
        found.append(finding("meter-missing", "MS, the meter's serial number, is missing", field="MS", receipt=number))
    return found


def _types_of_row(receipt: Receipt, row: Row, number: int | None) -> list[Finding]:
    found: list[Finding] = []
    if not row.written:
        RD = receipt.payload.get("RD")
        if not (isinstance(RD, list) and isinstance(RD[row.at], dict)):
            found.append(finding("field-type", "a reading is no object", field="RD", reading=row.at, receipt=number))
    for name, value in row.written.items():
        if type(value) in (list, dict) and name in (_READING_TEXTS_OLD if is_old(receipt) else _READING_TEXTS):
            found.append(finding("field-type", f"{name} is no text", field=name, reading=row.at, receipt=number))
    return found


def _of_row(row: Row, number: int | None) -> list[Finding]:
    found: list[Finding] = []
    reading, written = row.reading, row.written

    def add(code: str, text: str, field: str) -> None:
        found.append(finding(code, text, field=field, reading=row.at, receipt=number))

    RV = written.get("RV")
    if reading.RV is None and RV is not None:
        add("value-unreadable", f"RV is no number: {quoted(RV)}", "RV")
    elif isinstance(RV, str) and not RV.isdigit() and not _PLAIN_NUMBER.fullmatch(RV):
        add("number-form", f"RV is written as {RV[:40]!r}", "RV")
    if register_of(reading.RI) is None and (reading.RV is not None or reading.RI):
        add("register-unknown", f"RI {quoted(reading.RI)} is no register known here", "RI")
    if reading.RU not in ("kWh", "Wh") and reading.RV is not None and (reading.RU or written.get("RU") is not None):
        add("unit-unknown", f"RU is {quoted(written.get('RU', reading.RU))}, neither kWh nor Wh", "RU")
    if reading.EF and "t" in reading.EF:
        add("time-flag", "EF contains t: the time is not usable for billing", "EF")
    if reading.TX == "X":
        add("exception", "an exception while charging (TX X)", "TX")
    return found


def _between_receipts(receipts: Sequence[Receipt]) -> list[Finding]:
    found: list[Finding] = []
    for number, (before, after) in enumerate(pairwise(receipts), start=1):
        if before.meter != after.meter:
            found.append(finding("meters-differ", "begin and end are of different meters", field="MS", receipt=number))
        if before.identification != after.identification:
            found.append(
                finding("identifications-differ", "begin and end name different users", field="ID", receipt=number)
            )
        first, second = before.counter, after.counter
        if first and second and (first[0] != second[0] or first[1] >= second[1]):
            text = f"PG {after.pagination} does not come after {before.pagination}"
            found.append(finding("pagination-falling", printable(text, limit=100), field="PG", receipt=number))
    return found
