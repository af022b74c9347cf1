"""The answers of the meter's nodes, typed, and the bodies that are sent to it.

Reading is tolerant where meters may differ (unknown keys, whole numbers, rows in any order, rows that are missing) and
strict where a wrong value would be billed: a number is a number, an energy has a unit, nothing is made up.
All shapes are those of ``/counter/v1/ocmf/…`` on the meter.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from iem_dcr import meter_time
from iem_dcr.errors import printable

if TYPE_CHECKING:
    from iem_dcr.meter_time import MeterTime

IMPORT_REGISTER = "1-b:1.8.e"
EXPORT_REGISTER = "1-b:2.8.e"
TRANSACTION_REGISTER = "transaction_1-b:1.8.e"

_WATT_HOURS = {"Wh": Decimal(1), "kWh": Decimal(1000), "MWh": Decimal(1_000_000)}
_DIGITS = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)
_PLAUSIBLE = Decimal("1e15")
_ZERO = re.compile(r"\s*(?:0[xX])?0+\s*", re.ASCII)


class ShapeError(ValueError):
    """A part of an answer is not as it should be.

    Attributes:
        path: where in the JSON.
    """

    def __init__(self, path: str, what: str) -> None:
        self.path = path
        self.what = what
        super().__init__(f"{path}: {what}")


@dataclass(frozen=True, slots=True)
class Gateway:
    """Answer of GET /gw: charge point type and id, "" after power-up; the clock, None where it cannot be read."""

    CT: str
    CI: str
    TM: MeterTime | None

    @property
    def is_set(self) -> bool:
        """Whether POST /gw was accepted since the meter was powered up."""
        return self.CT != ""


@dataclass(frozen=True, slots=True)
class MeterValue:
    """Answer of GET /metervalue.

    Attributes:
        MS: serial number of the meter.
        TM: its clock.
        EF: error flags of OCMF.
        ST: status of OCMF.
        XT: a transaction is active.
        XS: status word, as text.
        XC: error words, as text.
        U2: the DC voltage, volts.
        I: amperes.
        P: watts.
        import_wh: register ``1-b:1.8.e``, watt hours, exact.
        export_wh: register ``1-b:2.8.e``, watt hours, exact; None where the row is missing.
        transaction_wh: register ``transaction_1-b:1.8.e``, watt hours imported by the running transaction, or by the
            last one while none runs; None where the row is missing or cannot be read.
    """

    MS: str
    TM: MeterTime
    EF: str
    ST: str
    XT: bool
    XS: str
    XC: str
    U2: Decimal
    I: Decimal  # noqa: E741  the meter's name of the current
    P: Decimal
    import_wh: Decimal
    export_wh: Decimal | None
    transaction_wh: Decimal | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether every word of XC is hexadecimal zero; how the zeros are written does not matter."""
        return all(_ZERO.fullmatch(word) for word in self.XC.split(","))


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Answer of GET /publickey: SA the algorithm, PK the key as the meter writes it."""

    SA: str
    PK: str


@dataclass(frozen=True, slots=True)
class User:
    """Body of POST /user: who is assigned to the next transaction (OCMF IS, IL, IF, IT, ID, TT).

    Attributes:
        US: show the user's id on the display.
        TT: tariff text of this transaction, or None to leave it as it is.
    """

    IS: bool
    IL: str
    IF: tuple[str, ...]
    IT: str
    ID: str
    US: bool
    TT: str | None = None

    def body(self) -> dict[str, object]:
        """Return the body, keys in the meter's order."""
        body: dict[str, object] = {
            "IS": self.IS,
            "IL": self.IL,
            "IF": list(self.IF),
            "IT": self.IT,
            "ID": self.ID,
            "US": self.US,
        }
        if self.TT is not None:
            body["TT"] = self.TT
        return body


def decode(body: bytes) -> object:
    """Decode an answer's JSON, numbers exact.

    Raises:
        ShapeError: it is not JSON, or not of a kind anyone could mean.
    """
    try:
        return _JSON.decode(body.decode(json.detect_encoding(body), "surrogatepass"))
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise ShapeError("", f"not JSON: {printable(body[:60].decode(errors='replace'))!r}") from error


def gateway(answer: object) -> Gateway:
    """Read the answer of GET /gw."""
    fields = _object(answer)
    return Gateway(_text(fields, "CT"), _text(fields, "CI"), _time_or_none(fields))


def datetime_answer(answer: object) -> MeterTime:
    """Read the answer of GET /datetime."""
    return _time(_object(answer))


def public_key(answer: object) -> PublicKey:
    """Read the answer of GET /publickey."""
    fields = _object(answer)
    return PublicKey(_optional_text(fields, "SA"), _text(fields, "PK"))


def meter_value(answer: object) -> MeterValue:
    """Read the answer of GET /metervalue."""
    fields = _object(answer)
    rows = _registers(fields)
    if IMPORT_REGISTER not in rows:
        raise ShapeError("RD", f"no row with RI {IMPORT_REGISTER}")
    return MeterValue(
        MS=_text(fields, "MS"),
        TM=_time(fields),
        EF=_optional_text(fields, "EF"),
        ST=_optional_text(fields, "ST"),
        XT=_flag(fields, "XT"),
        XS=_optional_text(fields, "XS"),
        XC=_text(fields, "XC"),
        U2=_number(fields, "U2"),
        I=_number(fields, "I"),
        P=_number(fields, "P"),
        import_wh=rows[IMPORT_REGISTER],
        export_wh=rows.get(EXPORT_REGISTER),
        transaction_wh=_transaction_wh(fields["RD"]),
    )


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_constant)
"""What `json.loads` would build anew for each answer."""


def _object(answer: object) -> dict[str, object]:
    if not isinstance(answer, dict):
        raise ShapeError("", f"expected an object, not {_shown(answer)}")
    return answer


def _text(fields: dict[str, object], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise ShapeError(key, "missing" if key not in fields else f"expected a text, not {_shown(value)}")
    return value


def _optional_text(fields: dict[str, object], key: str) -> str:
    return _text(fields, key) if key in fields else ""


def _flag(fields: dict[str, object], key: str) -> bool:
    value = fields.get(key)
    if not isinstance(value, bool):
        raise ShapeError(key, "missing" if key not in fields else f"expected true or false, not {_shown(value)}")
    return value


def _number(fields: dict[str, object], key: str) -> Decimal:
    value = fields.get(key)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ShapeError(key, "missing" if key not in fields else f"expected a number, not {_shown(value)}")
    return _plausible(key, Decimal(value))


def _plausible(path: str, number: Decimal) -> Decimal:
    if not (number.is_finite() and -_PLAUSIBLE <= number <= _PLAUSIBLE):
        raise ShapeError(path, f"no number a meter can have: {_shown(number)}")
    return number


def _time(fields: dict[str, object]) -> MeterTime:
    try:
        return meter_time.parse(_text(fields, "TM"))
    except ShapeError:
        raise
    except ValueError as error:
        raise ShapeError("TM", printable(error)) from error


def _time_or_none(fields: dict[str, object]) -> MeterTime | None:
    """Read TM of /gw, which nothing depends on: a clock that is not set may say anything."""
    try:
        return _time(fields)
    except ShapeError:
        return None


def _registers(fields: dict[str, object]) -> dict[str, Decimal]:
    """Return the two total registers by their OBIS code, in watt hours. Other rows are passed over."""
    rows = fields.get("RD")
    if not isinstance(rows, list):
        raise ShapeError("RD", "missing" if rows is None else f"expected a list, not {_shown(rows)}")
    found: dict[str, Decimal] = {}
    for row in rows:
        name = row.get("RI") if isinstance(row, dict) else None
        if name in (IMPORT_REGISTER, EXPORT_REGISTER):
            if name in found:
                raise ShapeError(f"RD[{name}]", "this register comes twice")
            found[name] = _energy_wh(row, f"RD[{name}]")
    return found


def _transaction_wh(rows: object) -> Decimal | None:
    """Return the transaction's register, which no transaction depends on: one that cannot be read is none."""
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and row.get("WI") == TRANSACTION_REGISTER:
            try:
                return _energy_wh(row, f"RD[{TRANSACTION_REGISTER}]", "W")
            except ShapeError:
                return None
    return None


def _energy_wh(row: dict[str, object], path: str, kind: str = "R") -> Decimal:
    unit, value = row.get(f"{kind}U"), row.get(f"{kind}V")
    if not isinstance(unit, str) or unit not in _WATT_HOURS:
        raise ShapeError(f"{path}.{kind}U", f"no unit of energy: {_shown(unit)}")
    is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, str) and _DIGITS.fullmatch(value)):
        raise ShapeError(f"{path}.{kind}V", f"expected digits, not {_shown(value)}")
    return _plausible(f"{path}.{kind}V", Decimal(value)) * _WATT_HOURS[unit]  # type: ignore[arg-type]  # one of the three


def _shown(value: object) -> str:
    """Show a value in a message; of a list or an object only what it is, for it may be nested without end."""
    return f"a {type(value).__name__}" if isinstance(value, dict | list) else printable(repr(value), limit=40)
