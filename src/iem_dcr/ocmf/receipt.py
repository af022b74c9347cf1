"""A receipt: one signed OCMF tuple and its contents (OCMF 1.4.1, Payload Data Section).

A missing or invalid field is read as None or "". A receipt with an unusual field is still a receipt, and its signature
can be checked.

A reading without a field inherits it from the previous reading (OCMF, Readings). A reading that inherits TX is not a
second begin or end if its register has a begin or end with its own TX. But some meters write one row per register, and
the second row inherits TX and TM. It is then the begin or end of its register.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Context, Decimal
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from iem_dcr import meter_time
from iem_dcr.errors import ReceiptError
from iem_dcr.ocmf.registers import BLANKS, key_of_register, register_of
from iem_dcr.ocmf.tuple_text import read_tuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from iem_dcr.meter_time import MeterTime

DEFAULT_ALGORITHM = "ECDSA-secp256r1-SHA256"
"""OCMF's default for a signature section without SA."""

ENDING = frozenset("ELRAP")
"""Values of TX that end a transaction: end, local, remote, abort, power failure."""

MOST_READINGS = 10_000
"""Limit of readings. A transaction has a few, but a tuple of ten megabytes could hold three million."""

_NUMBER = re.compile(r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,2})?", re.ASCII)
_VERSION = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)
_PAGINATION = re.compile(r"([TF])(0|[1-9]\d{0,17})", re.ASCII)
_WH_PER_UNIT = {"kWh": Decimal(1000), "Wh": Decimal(1)}
_EXACT = Context(prec=320)
"""Enough digits for every difference of two numbers that `_NUMBER` accepts."""


class Reading(NamedTuple):
    """One reading of a register. Omitted fields are inherited from the previous reading (OCMF, Readings).

    Attributes:
        TM: time of the reading, or None.
        TX: position in the transaction, one of ``B C X E L R A P S T``, or "".
        EF: quantities that are not usable: ``E`` energy, ``t`` time.
        ST: state of the meter. ``G`` is good.
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
        """Whether the register counts imported energy (`iem_dcr.ocmf.registers`). A-B may be omitted: ``1.8.0``."""
        register = register_of(self.RI if ":" in self.RI else f"1-0:{self.RI}")
        return register is not None and register.direction == "import"

    @property
    def energy_wh(self) -> Decimal | None:
        """The exact value in Wh, or None without a value or with another unit than kWh and Wh."""
        factor = _WH_PER_UNIT.get(self.RU)
        return None if self.RV is None or factor is None else _EXACT.multiply(self.RV, factor)


class Row(NamedTuple):
    """One object of RD.

    Attributes:
        at: its index in RD.
        written: the object as written, or empty if RD has something else there.
        reading: its contents with inherited fields.
        time_text: TM as text, possibly inherited, or "".
        is_object: False if RD has something else there.
    """

    at: int
    written: Mapping[str, object]
    reading: Reading
    time_text: str
    is_object: bool = True


@dataclass(frozen=True)
class Receipt:
    """One signed OCMF tuple. Two receipts are equal if their texts are equal.

    Attributes:
        text: the tuple, byte for byte as received.
        payload: the payload section. Fractions are Decimal.
        signature: the signature section.
        signed: the signed bytes: UTF-8 of the payload section exactly as received.
    """

    text: str
    payload: Mapping[str, object] = field(repr=False, compare=False)
    signature: Mapping[str, object] = field(repr=False, compare=False)
    signed: bytes = field(repr=False, compare=False)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The objects of RD, at most `MOST_READINGS`."""
        return _rows_of(self.payload.get("RD"))

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The readings of RD, at most `MOST_READINGS`."""
        return tuple(row.reading for row in self.rows)

    @cached_property
    def version(self) -> float | None:
        """FV as a number, or None if it is missing or not a number."""
        match = _VERSION.fullmatch(text_of(self.payload.get("FV")) or "")
        return None if match is None else float(match[0])

    @property
    def is_old(self) -> bool:
        """Whether it is of OCMF before 0.5: it has the level in IS, and counts events in EI."""
        return self.version is not None and self.version < 0.5

    @property
    def pagination(self) -> str | None:
        """PG: ``T`` or ``F`` and a counter, such as ``T4``."""
        return _string(self.payload.get("PG"))

    @property
    def counter(self) -> tuple[str, int] | None:
        """PG as context (``T`` or ``F``) and counter, or None if it has another form."""
        match = _PAGINATION.fullmatch(self.pagination or "")
        return None if match is None else (match[1], int(match[2]))

    @property
    def is_fiscal(self) -> bool:
        """Whether the receipt is outside of transactions: its PG begins with another letter than ``T``."""
        PG = text_of(self.payload.get("PG"))
        return PG is not None and PG != "" and not PG.startswith("T")

    @property
    def meter_serial(self) -> str | None:
        """MS: serial number of the meter."""
        return _string(self.payload.get("MS"))

    @property
    def meter(self) -> str:
        """The identity of the meter: its serial number, or that of the gateway, or ""."""
        return self.meter_serial or _string(self.payload.get("GS")) or ""

    @property
    def identification(self) -> str | None:
        """ID: the user's id. It is the only field that can hold an id of the station."""
        return _string(self.payload.get("ID"))

    @property
    def algorithm(self) -> str | None:
        """SA or its default, or None if SA is not a string."""
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
        """The last reading that ends the transaction, of the register of `begin`, or without one of any import."""
        begin = self.begin
        ends = [reading for reading in self.readings if reading.TX in ENDING]
        if begin is None:
            ends = [reading for reading in ends if reading.is_import]
        else:
            ends = [reading for reading in ends if key_of_register(reading.RI) == key_of_register(begin.RI)]
        return ends[-1] if ends else None

    @property
    def energy_wh(self) -> Decimal | None:
        """The exact imported energy from `begin` to `end` in Wh, or None if one of the values is missing."""
        begin, end = self.begin, self.end
        if begin is None or end is None:
            return None
        return difference_wh(begin.energy_wh, end.energy_wh)


class Ends(NamedTuple):
    """The begins and ends of one register in order. Of inherited ones only the first counts."""

    begins: list[Row]
    ends: list[Row]


def ends_of(rows: Iterable[Row]) -> dict[object, Ends]:
    """Return the begins and ends of each register, in the order of the registers in ``rows``."""
    of: dict[object, Ends] = {}
    for row in rows:
        TX = row.reading.TX
        if TX != "B" and TX not in ENDING:
            continue
        ends = of.setdefault(key_of_register(row.reading.RI), Ends([], []))
        same = ends.begins if TX == "B" else ends.ends
        if "TX" in row.written and same and "TX" not in same[0].written:
            same.clear()
        if "TX" in row.written or not same:
            same.append(row)
    return of


def difference_wh(begin_wh: Decimal | None, end_wh: Decimal | None) -> Decimal | None:
    """Return the exact difference of two values of `Reading.energy_wh`, or None if one is None."""
    return None if begin_wh is None or end_wh is None else _EXACT.subtract(end_wh, begin_wh)


def parse(text: str) -> Receipt:
    """Read a receipt from a text in which `find_tuple` finds a tuple.

    Raises:
        ReceiptError: the text has no tuple.
    """
    found, (payload, signature, signed, _) = read_tuple(text)
    try:
        data = signed.encode()
        if not found.isascii():
            found.encode()
    except UnicodeEncodeError as error:
        raise ReceiptError(
            f"not valid Unicode: half a surrogate pair at character {error.start}; read the bytes as UTF-8"
        ) from error
    return Receipt(found, payload, signature, data)


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
            fields = {}  # the next reading can inherit nothing from it
            rows.append(Row(index, fields, Reading(), "", is_object=False))
    return tuple(rows)


def _reading(fields: Mapping[str, object]) -> Reading:
    get = fields.get
    return Reading(
        _time(get("TM")),
        (_string(get("TX")) or "").strip(BLANKS),
        _string(get("EF")) or "",
        _string(get("ST")) or "",
        _number(get("RV")),
        _string(get("RI")) or "",
        _string(get("RU")) or "",
        _string(get("RT")) or "",
    )


def text_of(value: object) -> str | None:
    """Return a text, a number or a boolean of a tuple as text, or None."""
    return str(value) if isinstance(value, (str, int, Decimal)) else None


def _string(value: object) -> str | None:
    """Return a string that UTF-8 can encode, or None. A JSON escape can contain half a surrogate pair."""
    if not isinstance(value, str):
        return None
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


def _number(value: object) -> Decimal | None:
    """Read a register's value. OCMF requires a JSON number, this meter writes a string, and others pad it."""
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        return None
    text = str(value).strip(BLANKS)
    return Decimal(text) if _NUMBER.fullmatch(text) else None
