"""The readings of a transaction, per register: those of one tuple, or of a begin and an end in tuples of their own.

A reading that leaves TX out takes it from the reading before (OCMF, Readings). It then is no second begin or end of a
register that has one of its own; but the second object of a meter that writes a row per register inherits TX and TM,
and is its register's begin or end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING

from iem_dcr.ocmf.receipt import ENDING, MOST_READINGS, Reading
from iem_dcr.ocmf.registers import register_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from iem_dcr.ocmf.receipt import Receipt

_PAGINATION = re.compile(r"([TF])(0|[1-9]\d{0,29})", re.ASCII)
_VERSION = re.compile(r"\s*(\d{1,9}(?:\.\d{0,20})?)\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Row:
    """One object of RD.

    Attributes:
        receipt: index of the receipt it is in.
        index: its index in RD.
        reading: what it says, fields left out taken from the reading before.
        written: the object as written; empty where RD holds something else.
        time_text: TM as text, taken from the reading before where it is left out; "" where there is none.
    """

    receipt: int
    index: int
    reading: Reading
    written: Mapping[str, object]
    time_text: str


@dataclass(frozen=True, slots=True)
class Ends:
    """The begins and ends of one register, in their order; only the first of each where more are inherited."""

    begins: tuple[Row, ...]
    ends: tuple[Row, ...]

    @property
    def begin(self) -> Row | None:
        """The first begin."""
        return self.begins[0] if self.begins else None

    @property
    def end(self) -> Row | None:
        """The last end."""
        return self.ends[-1] if self.ends else None


def rows_of(receipts: Sequence[Receipt]) -> list[Row]:
    """Return the readings of receipts, in their order."""
    rows: list[Row] = []
    for number, receipt in enumerate(receipts):
        time_text = ""
        written = receipt.payload.get("RD")
        objects = islice(written, MOST_READINGS) if isinstance(written, list) else ()
        for index, (value, reading) in enumerate(zip(objects, receipt.readings, strict=True)):
            row: Mapping[str, object] = value if isinstance(value, dict) else {}
            told = row.get("TM", time_text if isinstance(value, dict) else "")
            time_text = told if isinstance(told, str) else ""
            rows.append(Row(number, index, reading, row, time_text))
    return rows


def judged_of(rows: Iterable[Row]) -> list[Row]:
    """Return the rows by which the transparency software judges: those of registers with the cable's loss taken out,
    or where there are none, those of all registers it knows.
    """
    judged = [(row, register) for row in rows if (register := register_of(row.reading.RI)) and register.judged]
    compensated = [row for row, register in judged if register.compensated]
    return compensated or [row for row, _ in judged]


def ends_of(rows: Iterable[Row]) -> dict[str, Ends]:
    """Return the begins and ends of each register, by its RI, in the order in which the registers appear."""
    of: dict[str, list[Row]] = {}
    for row in rows:
        if row.reading.TX == "B" or row.reading.TX in ENDING:
            of.setdefault(row.reading.RI, []).append(row)
    return {
        register: Ends(
            _own([row for row in found if row.reading.TX == "B"]),
            _own([row for row in found if row.reading.TX in ENDING]),
        )
        for register, found in of.items()
    }


def has_begin(rows: Iterable[Row]) -> bool:
    """Whether any register has a begin."""
    return any(row.reading.TX == "B" for row in rows)


def has_end(rows: Iterable[Row]) -> bool:
    """Whether any register has an end."""
    return any(row.reading.TX in ENDING for row in rows)


def meter_of(receipt: Receipt) -> str:
    """Return what tells a receipt's meter from others: its serial number, or the gateway's, or ""."""
    gateway = receipt.payload.get("GS")
    return receipt.meter_serial or (gateway if isinstance(gateway, str) else "")


def pagination_of(receipt: Receipt) -> tuple[str, int] | None:
    """Return PG as context (``T`` or ``F``) and counter; None where it is not of that form."""
    match = _PAGINATION.fullmatch(receipt.pagination or "")
    return None if match is None else (match[1], int(match[2]))


def is_fiscal(receipt: Receipt) -> bool:
    """Whether the receipt is none of a transaction: its PG begins with another letter than ``T``."""
    return bool(receipt.pagination) and not (receipt.pagination or "").startswith("T")


def version_of(receipt: Receipt) -> Decimal | None:
    """Return FV as a number; None where it is none."""
    value = receipt.payload.get("FV")
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return Decimal(value)
    match = _VERSION.fullmatch(value) if isinstance(value, str) else None
    return None if match is None else Decimal(match[1])


def _own(rows: list[Row]) -> tuple[Row, ...]:
    own = tuple(row for row in rows if "TX" in row.written)
    return own or tuple(rows[:1])
