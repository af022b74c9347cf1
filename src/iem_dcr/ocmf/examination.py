"""Examining the receipts of one transaction; `iem_dcr.ocmf.findings` says by whose rules."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING

from iem_dcr.errors import printable
from iem_dcr.ocmf.finding_codes import finding
from iem_dcr.ocmf.judging import judge_transaction
from iem_dcr.ocmf.receipt import MOST_READINGS
from iem_dcr.ocmf.registers import register_of
from iem_dcr.ocmf.signature import is_der
from iem_dcr.ocmf.transaction import (
    has_begin,
    has_end,
    is_fiscal,
    meter_of,
    pagination_of,
    rows_of,
    version_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iem_dcr.ocmf.finding_codes import Finding
    from iem_dcr.ocmf.receipt import Receipt
    from iem_dcr.ocmf.transaction import Row

_OLDEST, _NEWEST = Decimal("0.1"), Decimal("1.3")
_TEXTS = ("TT", "ID", "CI", "CT")
_PAYLOAD_TEXTS = ("FV", "GI", "GV", "GS", "PG", "MV", "MM", "MS", "MF", "CF", "IL", "IT", "ID", "TT", "CT", "CI")
_READING_TEXTS = ("TM", "TX", "RV", "RI", "RU", "RT", "EF", "ST")
_SIGNATURE_TEXTS = ("SA", "SE", "SM", "SD")
_LONGEST = {"TT": 250, "ID": 40}


def examine(receipt: Receipt) -> tuple[Finding, ...]:
    """Examine one receipt. Never raises, whatever it holds.

    A receipt of one end only gets ``transaction-incomplete``; `examine_transaction` takes both.
    """
    return tuple(replace(one, receipt=None) for one in examine_transaction([receipt]))


def examine_transaction(receipts: Sequence[Receipt]) -> tuple[Finding, ...]:
    """Examine the receipts of one transaction: one, or begin and end each in a tuple of its own, in their order.

    Returns:
        The findings, with the index of the receipt each is about.
    """
    rows = rows_of(receipts)
    found: list[Finding] = []
    for number, receipt in enumerate(receipts):
        of_payload = (*_of_text(receipt), *_of_types(receipt), *_of_payload(receipt))
        found += [replace(one, receipt=number) for one in of_payload]
    for row in rows:
        found += _of_row(row)
    found += _between(receipts)
    found += _of_transaction(receipts, rows)
    return tuple(found)


def _of_text(receipt: Receipt) -> Iterator[Finding]:
    fields = {name: text for name in _TEXTS if isinstance(text := receipt.payload.get(name), str)}
    if receipt.text.count("|") > 2:
        named = next((name for name, text in fields.items() if "|" in text), "")
        yield finding(
            "separator-in-text", f"a | stands in {named or 'a section'}; other readers cut there", field=named
        )
    if not receipt.signed.isascii():
        named = next((name for name, text in fields.items() if not text.isascii()), "")
        yield finding("text-not-ascii", f"{named or 'the payload'} holds characters that are not ASCII", field=named)
    for name, longest in _LONGEST.items():
        if len(fields.get(name, "")) > longest:
            yield finding(
                "text-too-long", f"{name} has {len(fields[name])} characters, {longest} are allowed", field=name
            )
    if not is_der(receipt.signature):
        yield finding("signature-form", "the signature is not DER as the transparency software reads it", field="SD")


def _of_types(receipt: Receipt) -> Iterator[Finding]:
    for section, names in ((receipt.payload, _PAYLOAD_TEXTS), (receipt.signature, _SIGNATURE_TEXTS)):
        for name in names:
            if isinstance(section.get(name), (list, dict)):
                yield finding("field-type", f"{name} is no text", field=name)
    status, flags = receipt.payload.get("IS"), receipt.payload.get("IF")
    if not isinstance(status, (bool, str, type(None))):
        yield finding("field-type", "IS is neither true nor false", field="IS")
    if flags is not None and not (
        isinstance(flags, list) and not any(isinstance(flag, (list, dict)) for flag in flags)
    ):
        yield finding("field-type", "IF is no list of texts", field="IF")


def _of_payload(receipt: Receipt) -> Iterator[Finding]:
    version, pagination = version_of(receipt), receipt.payload.get("PG")
    if version is None or not _OLDEST <= version <= _NEWEST:
        said = _shown(receipt.payload["FV"]) if "FV" in receipt.payload else "missing"
        yield finding("format-version", f"FV is {said}; the transparency software reads 0.1 to 1.3", field="FV")
    if not isinstance(pagination, str) or len(pagination) < 2:
        yield finding("pagination-missing", "PG is missing or too short", field="PG")
    elif pagination_of(receipt) is None:
        yield finding(
            "pagination-form", f"PG is {printable(pagination, limit=20)!r}, not T or F and a number", field="PG"
        )
    if receipt.pagination and receipt.pagination.startswith("F"):
        yield finding("fiscal", "readings without a transaction (PG F): begin and end were not judged", field="PG")
    if not receipt.meter_serial:
        yield finding("meter-missing", "MS, the meter's serial number, is missing", field="MS")
    yield from _of_readings(receipt.payload.get("RD"))


def _of_readings(written: object) -> Iterator[Finding]:
    if not isinstance(written, list) or not written:
        yield finding("readings-missing", "RD holds no readings", field="RD")
    elif len(written) > MOST_READINGS:
        yield finding("readings-too-many", f"RD holds {len(written)} readings", field="RD")


def _of_row(row: Row) -> Iterator[Finding]:
    reading, at = row.reading, row.index
    if not row.written:
        yield finding(
            "field-type", "a reading is no object, or an empty one", field="RD", reading=at, receipt=row.receipt
        )
    for name in _READING_TEXTS:
        if isinstance(row.written.get(name), (list, dict)):
            yield finding("field-type", f"{name} is no text", field=name, reading=at, receipt=row.receipt)
    if reading.RV is None and row.written.get("RV") is not None:
        yield finding(
            "value-unreadable",
            f"RV is no number: {_shown(row.written['RV'])}",
            field="RV",
            reading=at,
            receipt=row.receipt,
        )
    if register_of(reading.RI) is None and (reading.RV is not None or reading.RI):
        yield finding(
            "register-unknown",
            f"RI {_shown(reading.RI)} is no register known here",
            field="RI",
            reading=at,
            receipt=row.receipt,
        )
    if reading.RV is not None and reading.RU not in ("kWh", "Wh") and reading.RU:
        yield finding(
            "unit-unknown",
            f"RU is {_shown(reading.RU)}, neither kWh nor Wh",
            field="RU",
            reading=at,
            receipt=row.receipt,
        )
    if "t" in reading.EF:
        yield finding(
            "time-flag",
            "EF contains t: the time is not usable for billing",
            field="EF",
            reading=at,
            receipt=row.receipt,
        )
    if reading.TX == "X":
        yield finding("exception", "an exception while charging (TX X)", field="TX", reading=at, receipt=row.receipt)


def _between(receipts: Sequence[Receipt]) -> Iterator[Finding]:
    for number, (before, after) in enumerate(pairwise(receipts), start=1):
        if meter_of(before) != meter_of(after):
            yield finding("meters-differ", "begin and end are of different meters", field="MS", receipt=number)
        if before.identification != after.identification:
            yield finding("identifications-differ", "begin and end name different users", field="ID", receipt=number)
        first, second = pagination_of(before), pagination_of(after)
        if first and second and (first[0] != second[0] or first[1] >= second[1]):
            text = f"PG {after.pagination} does not come after {before.pagination}"
            yield finding("pagination-falling", printable(text, limit=100), field="PG", receipt=number)


def _of_transaction(receipts: Sequence[Receipt], rows: list[Row]) -> Iterator[Finding]:
    if any(is_fiscal(receipt) for receipt in receipts):
        return
    missing = [name for name, there in (("begin", has_begin(rows)), ("end", has_end(rows))) if not there]
    if missing:
        yield finding("transaction-incomplete", f"no {' and no '.join(missing)} in it", field="TX")
    else:
        yield from judge_transaction(receipts, rows)


def _shown(value: object) -> str:
    text = str(value)[:60] if isinstance(value, (str, int, Decimal)) else type(value).__name__
    return repr(printable(text, limit=40))
