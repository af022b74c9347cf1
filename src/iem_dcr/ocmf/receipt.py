"""A receipt: one signed OCMF tuple and what it says (OCMF 1.4.1, Payload Data Section).

A field that is missing, or is not what OCMF says it is, reads as None or "": a receipt with an odd field is still a
receipt, and its signature can be checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Context, Decimal
from itertools import islice
from typing import TYPE_CHECKING

from iem_dcr import meter_time
from iem_dcr.errors import ReceiptError, printable
from iem_dcr.ocmf.registers import register_of
from iem_dcr.ocmf.tuple_text import read_tuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iem_dcr.meter_time import MeterTime

DEFAULT_ALGORITHM = "ECDSA-secp256r1-SHA256"
"""OCMF's default where the signature section has no SA."""

ENDING = frozenset("ELRAP")
"""Values of TX that end a transaction: end, local, remote, abort, power failure."""

MOST_READINGS = 10_000
"""A tuple of ten megabytes could hold three million readings; those of a transaction are a handful."""

_READING_FIELDS = ("TM", "TX", "EF", "ST", "RV", "RI", "RU", "RT")
_NUMBER = re.compile(r"[+-]?\d{1,40}(?:\.\d{1,40})?(?:[eE][+-]?\d{1,2})?", re.ASCII)
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


@dataclass(frozen=True, slots=True)
class Receipt:
    """One signed OCMF tuple. Two receipts are equal when their texts are.

    Attributes:
        text: the tuple, byte for byte as received.
        payload: the payload section; fractions are Decimal.
        signature: the signature section.
        signed: what the signature is over, the UTF-8 of the payload section exactly as received.
    """

    text: str
    payload: Mapping[str, object] = field(repr=False, compare=False)
    signature: Mapping[str, object] = field(repr=False, compare=False)
    signed: bytes = field(repr=False, compare=False)
    _resolved: tuple[Reading, ...] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The readings of RD, resolved; of more than `MOST_READINGS` the first so many."""
        if self._resolved is None:  # a signature can be checked without them, and they take longer than the rest
            object.__setattr__(self, "_resolved", _readings(self.payload.get("RD")))
        return self._resolved or ()

    @property
    def pagination(self) -> str | None:
        """PG: ``T`` or ``F`` and a counter, ``T4``."""
        return _string(self.payload.get("PG"))

    @property
    def meter_serial(self) -> str | None:
        """MS: serial number of the meter."""
        return _string(self.payload.get("MS"))

    @property
    def identification(self) -> str | None:
        """ID: the user's id, and the only place for an id of the station's."""
        return _string(self.payload.get("ID"))

    @property
    def algorithm(self) -> str | None:
        """SA, or OCMF's default where there is none; None where it is not a string."""
        return _string(self.signature.get("SA", DEFAULT_ALGORITHM))

    @property
    def begin(self) -> Reading | None:
        """The first reading of an import register with TX ``B``."""
        return next((reading for reading in self.readings if reading.is_import and reading.TX == "B"), None)

    @property
    def end(self) -> Reading | None:
        """The last reading that ends the transaction, of the register of `begin` (without one: of any import)."""
        begin = self.begin
        for reading in reversed(self.readings):
            same = reading.is_import if begin is None else reading.RI == begin.RI
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


def difference_wh(begin_wh: Decimal | None, end_wh: Decimal | None) -> Decimal | None:
    """Return what was counted between two values of `Reading.energy_wh`, exactly; None where one of them is."""
    return None if begin_wh is None or end_wh is None else _EXACT.subtract(end_wh, begin_wh)


def parse(text: str) -> Receipt:
    """Read a receipt from a text that `find_tuple` finds a tuple in.

    Raises:
        ReceiptError: there is no tuple in it, or it is one that two readers may read differently.
    """
    read = read_tuple(text)
    if read is None:
        raise ReceiptError(f"no OCMF tuple: no 'OCMF|' in {printable(text[:200], limit=40)!r}")
    found, sections = read
    if not found.isascii():
        _refuse_half_characters(found)
    return Receipt(
        text=found,
        payload=sections.payload,
        signature=sections.signature,
        signed=sections.signed.encode(),
    )


def _refuse_half_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ReceiptError(
            f"not a text of Unicode's: half a surrogate pair at character {error.start}; read the bytes as UTF-8"
        ) from error


def _readings(rows: object) -> tuple[Reading, ...]:
    if not isinstance(rows, list):
        return ()
    readings: list[Reading] = []
    row: dict[str, object] = {}
    for written in islice(rows, MOST_READINGS):
        if isinstance(written, dict):
            row = row | {key: written[key] for key in _READING_FIELDS if key in written}
        else:
            row = {}  # it says nothing, and nothing can be taken over from it
        readings.append(_reading(row))
    return tuple(readings)


def _reading(row: Mapping[str, object]) -> Reading:
    return Reading(
        TM=_time(row.get("TM")),
        TX=_string(row.get("TX")) or "",
        EF=_string(row.get("EF")) or "",
        ST=_string(row.get("ST")) or "",
        RV=_number(row.get("RV")),
        RI=_string(row.get("RI")) or "",
        RU=_string(row.get("RU")) or "",
        RT=_string(row.get("RT")) or "",
    )


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


def _number(value: object) -> Decimal | None:
    """Read a register's value: this meter writes a string of digits, OCMF asks for a JSON number."""
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        return None
    text = str(value)
    return Decimal(text) if _NUMBER.fullmatch(text) else None
