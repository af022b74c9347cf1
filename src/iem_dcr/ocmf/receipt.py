"""A receipt: one signed OCMF tuple and what it says (OCMF 1.4.1, Payload Data Section).

A field that is missing, or is not what OCMF says it is, reads as None or "": a receipt with an odd field is still a
receipt, and its signature can be checked.

A reading that leaves a field out takes it from the reading before (OCMF, Readings). A reading that takes over TX is no
second begin or end of a register that has one of its own; but the second object of a meter that writes a row per
register inherits TX and TM, and is its register's begin or end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Context, Decimal
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from iem_dcr import meter_time
from iem_dcr.errors import ReceiptError, printable
from iem_dcr.ocmf.registers import BLANKS, key_of_register, register_of
from iem_dcr.ocmf.tuple_text import read_tuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from iem_dcr.meter_time import MeterTime

DEFAULT_ALGORITHM = "ECDSA-secp256r1-SHA256"
"""OCMF's default where the signature section has no SA."""

ENDING = frozenset("ELRAP")
"""Values of TX that end a transaction: end, local, remote, abort, power failure."""

MOST_READINGS = 10_000
"""A tuple of ten megabytes could hold three million readings; those of a transaction are a handful."""

_READING_FIELDS = ("TM", "TX", "EF", "ST", "RV", "RI", "RU", "RT")
_NUMBER = re.compile(r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,2})?", re.ASCII)
_PAGINATION = re.compile(r"([TF])(0|[1-9]\d{0,17})", re.ASCII)
_WH_PER_UNIT = {"kWh": Decimal(1000), "Wh": Decimal(1)}
_EXACT = Context(prec=320)
"""Wide enough for every difference of two numbers that `_NUMBER` lets through."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of a register, fields omitted in the tuple taken from the reading before (OCMF, Readings).

    Attributes:
        TM: time of the reading, or None.
        TX: place in the transaction, one of ``B C X E L R A P S T``, or "".
        EF: what is no longer usable: ``E`` energy, ``t`` time.
        ST: state of the meter, ``G`` is good.
        RV: value in the unit of RU, or None.
        RI: OBIS code of the register.
        RU: unit, ``kWh`` or ``Wh``.
        RT: kind of current, ``DC``.
    """

    TM: MeterTime | None = None
    TX: str = ""
    EF: str = ""
    ST: str = ""
    RV: Decimal | None = None
    RI: str = ""
    RU: str = ""
    RT: str = ""

    @property
    def is_import(self) -> bool:
        """Whether the register is one of imported energy (`iem_dcr.ocmf.registers`); A-B may be left out, ``1.8.0``."""
        register = register_of(self.RI if ":" in self.RI else f"1-0:{self.RI}")
        return register is not None and register.direction == "import"

    @property
    def energy_wh(self) -> Decimal | None:
        """The value in Wh, exactly; None without a value or with a unit that is none of energy."""
        factor = _WH_PER_UNIT.get(self.RU)
        return None if self.RV is None or factor is None else _EXACT.multiply(self.RV, factor)


class Row(NamedTuple):
    """One object of RD.

    Attributes:
        at: its index in RD.
        written: the object as written; empty where RD holds something else.
        reading: what it says, fields left out taken from the reading before.
        time_text: TM as text, taken from the reading before where it is left out; "" where there is none.
    """

    at: int
    written: Mapping[str, object]
    reading: Reading
    time_text: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """One signed OCMF tuple. Two receipts are equal when their texts are.

    Attributes:
        text: the tuple, byte for byte as received.
        payload: the payload section; fractions are Decimal.
        signature: the signature section.
        signed: what the signature is over, the UTF-8 of the payload section exactly as received.
        has_odd_numbers: a number is written as JSON does not have it, and is read as text.
    """

    text: str
    payload: Mapping[str, object] = field(repr=False, compare=False)
    signature: Mapping[str, object] = field(repr=False, compare=False)
    signed: bytes = field(repr=False, compare=False)
    has_odd_numbers: bool = field(default=False, repr=False, compare=False)
    _rows: tuple[Row, ...] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The objects of RD; of more than `MOST_READINGS` the first so many."""
        if self._rows is None:  # a signature can be checked without them, and they take longer than the rest
            object.__setattr__(self, "_rows", _rows_of(self.payload.get("RD")))
        return self._rows or ()

    @property
    def readings(self) -> tuple[Reading, ...]:
        """What the objects of RD say; of more than `MOST_READINGS` the first so many."""
        return tuple(row.reading for row in self.rows)

    @property
    def pagination(self) -> str | None:
        """PG: ``T`` or ``F`` and a counter, ``T4``."""
        return _string(self.payload.get("PG"))

    @property
    def counter(self) -> tuple[str, int] | None:
        """PG as context (``T`` or ``F``) and counter; None where it is not of that form."""
        match = _PAGINATION.fullmatch(self.pagination or "")
        return None if match is None else (match[1], int(match[2]))

    @property
    def is_fiscal(self) -> bool:
        """Whether the receipt is none of a transaction: its PG begins with another letter than ``T``."""
        PG = self.payload.get("PG")
        return isinstance(PG, (str, int, Decimal)) and PG != "" and (PG is True or not str(PG).startswith("T"))

    @property
    def meter_serial(self) -> str | None:
        """MS: serial number of the meter."""
        return _string(self.payload.get("MS"))

    @property
    def meter(self) -> str:
        """What tells the meter from others: its serial number, or the gateway's, or ""."""
        return self.meter_serial or _string(self.payload.get("GS")) or ""

    @property
    def identification(self) -> str | None:
        """ID: the user's id, and the only place for an id of the station's."""
        return _string(self.payload.get("ID"))

    @property
    def algorithm(self) -> str | None:
        """SA, or OCMF's default where there is none; None where it is not a string."""
        SA = self.signature.get("SA")
        return DEFAULT_ALGORITHM if SA is None else _string(SA)

    @property
    def has_begin(self) -> bool:
        """Whether any register has a begin."""
        return "B" in {row.reading.TX for row in self.rows}

    @property
    def has_end(self) -> bool:
        """Whether any register has an end."""
        return not ENDING.isdisjoint({row.reading.TX for row in self.rows})

    @property
    def begin(self) -> Reading | None:
        """The first reading of an import register with TX ``B``."""
        return next((reading for reading in self.readings if reading.is_import and reading.TX == "B"), None)

    @property
    def end(self) -> Reading | None:
        """The last reading that ends the transaction, of the register of `begin` (without one: of any import)."""
        begin = self.begin
        for reading in reversed(self.readings):
            same = (
                reading.is_import
                if begin is None
                else reading.RI == begin.RI or key_of_register(reading.RI) == key_of_register(begin.RI)
            )
            if same and reading.TX in ENDING:
                return reading
        return None

    @property
    def energy_wh(self) -> Decimal | None:
        """Imported energy from `begin` to `end` in Wh, exactly; None where the tuple does not hold both values."""
        begin, end = self.begin, self.end
        if begin is None or end is None:
            return None
        return difference_wh(begin.energy_wh, end.energy_wh)


class Ends(NamedTuple):
    """The begins and ends of one register, in their order; only the first of each where more are inherited."""

    begins: list[Row]
    ends: list[Row]


def ends_of(rows: Iterable[Row]) -> dict[object, Ends]:
    """Return the begins and ends of each register, in the order in which the registers appear."""
    of: dict[object, Ends] = {}
    for row in rows:
        TX = row.reading.TX
        if TX == "B" or TX in ENDING:
            key = key_of_register(row.reading.RI)
            if key not in of:
                of[key] = Ends([], [])
            _add(of[key][0 if TX == "B" else 1], row)
    return of


def _add(rows: list[Row], row: Row) -> None:
    if "TX" in row.written:
        if rows and "TX" not in rows[0].written:
            rows.clear()
        rows.append(row)
    elif not rows:
        rows.append(row)


def difference_wh(begin_wh: Decimal | None, end_wh: Decimal | None) -> Decimal | None:
    """Return what was counted between two values of `Reading.energy_wh`, exactly; None where one of them is."""
    return None if begin_wh is None or end_wh is None else _EXACT.subtract(end_wh, begin_wh)


def parse(text: str) -> Receipt:
    """Read a receipt from a text that `find_tuple` finds a tuple in.

    Raises:
        ReceiptError: there is no tuple in it.
    """
    read = read_tuple(text)
    if read is None:
        raise ReceiptError(f"no OCMF tuple: no 'OCMF|' in {printable(text[:200], limit=40)!r}")
    found, (payload, signature, signed, _, has_odd_numbers) = read
    try:
        data = signed.encode()
        if not found.isascii():
            found.encode()
    except UnicodeEncodeError as error:
        raise ReceiptError(
            f"not a text of Unicode's: half a surrogate pair at character {error.start}; read the bytes as UTF-8"
        ) from error
    return Receipt(found, payload, signature, data, has_odd_numbers)


def _rows_of(RD: object) -> tuple[Row, ...]:
    if not isinstance(RD, list):
        return ()
    rows: list[Row] = []
    fields: dict[str, object] = {}
    for index, written in enumerate(islice(RD, MOST_READINGS)):
        if isinstance(written, dict):
            fields = fields | written
            time = fields.get("TM")
            rows.append(Row(index, written, _reading(fields), time if isinstance(time, str) else ""))
        else:
            fields = {}  # it says nothing, and nothing can be taken over from it
            rows.append(Row(index, fields, Reading(), ""))
    return tuple(rows)


def _reading(fields: Mapping[str, object]) -> Reading:
    get = fields.get
    return Reading(
        _time(get("TM")),
        _text(get("TX")).strip(BLANKS),
        _text(get("EF")),
        _text(get("ST")),
        number_in(get("RV")),
        _text(get("RI")),
        _text(get("RU")),
        _text(get("RT")),
    )


def _text(value: object) -> str:
    return _string(value) or ""


def _string(value: object) -> str | None:
    """Return a string that can be written anywhere; a JSON escape can smuggle in half a surrogate pair."""
    if not isinstance(value, str):
        return None
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return None
    return value


def _time(value: object) -> MeterTime | None:
    if not isinstance(value, str):
        return None
    try:
        return meter_time.parse(value)
    except ValueError:
        return None


def number_in(value: object) -> Decimal | None:
    """Read a register's value: this meter writes a string of digits, OCMF asks for a JSON number; others pad it."""
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        return None
    text = str(value).strip(BLANKS)
    return Decimal(text) if _NUMBER.fullmatch(text) else None
