"""The typed answers of the meter's nodes, and the bodies that are sent to it.

Only the import register and the serial matter to billing. An answer of /metervalue without a readable import register
is rejected. Any other field that is missing, null or unreadable is None, and is neither an error nor a fault. A number
may be written as text, and text as a number. True may be 1 or "true". Rows may come in any order. Nothing is guessed: a
number must be a number, and an energy must have a unit. All shapes are those of ``/counter/v1/ocmf/…`` on the meter.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from iem_dcr import meter_time
from iem_dcr.errors import printable

if TYPE_CHECKING:
    from iem_dcr.meter_time import MeterTime

IMPORT_REGISTER: Final = "1-b:1.8.e"
EXPORT_REGISTER: Final = "1-b:2.8.e"
TRANSACTION_REGISTER: Final = "transaction_1-b:1.8.e"

_WATT_HOURS: Final = {"Wh": Decimal(1), "kWh": Decimal(1000), "MWh": Decimal(1_000_000)}
_NUMBER: Final = re.compile(r"\s*-?[0-9]{1,15}(\.[0-9]{1,9})?\s*", re.ASCII)
_PLAUSIBLE: Final = Decimal("1e15")
_WORD: Final = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,32})", re.ASCII)
_BETWEEN_WORDS: Final = re.compile(r"[\s,;]+")
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}


class ShapeError(ValueError):
    """A part of an answer does not have the expected form.

    Attributes:
        path: position in the JSON.
        what: what is wrong there.
    """

    def __init__(self, path: str, what: str) -> None:
        self.path = path
        self.what = what
        super().__init__(f"{path}: {what}")


@dataclass(frozen=True, slots=True)
class Gateway:
    """Answer of GET /gw: charge point type and id, "" after power-up; the clock, None if it cannot be read."""

    CT: str
    CI: str
    TM: MeterTime | None

    @property
    def is_set(self) -> bool:
        """Whether POST /gw was accepted since the meter was powered up."""
        return self.CT != "" or self.CI != ""


@dataclass(frozen=True, slots=True)
class MeterValue:
    """Answer of GET /metervalue. A field that the meter does not send in a readable form is None, or "" for text.

    Attributes:
        MS: serial number of the meter.
        TM: the meter's clock.
        EF: OCMF's error flags.
        ST: OCMF's status.
        XT: a transaction was active at the moment of the value.
        XS: status word, as text.
        XC: error words, as text.
        U2: the DC voltage, volts.
        I: amperes.
        P: watts.
        import_wh: register ``1-b:1.8.e``, watt hours, exact.
        export_wh: register ``1-b:2.8.e``, watt hours, exact.
        transaction_wh: register ``transaction_1-b:1.8.e``, watt hours imported by the running transaction, or by the
            last one if none runs.
    """

    MS: str
    TM: MeterTime | None
    EF: str
    ST: str
    XT: bool | None
    XS: str
    XC: str
    U2: Decimal | None
    I: Decimal | None  # noqa: E741  the meter's name of the current
    P: Decimal | None
    import_wh: Decimal
    export_wh: Decimal | None
    transaction_wh: Decimal | None = None

    @property
    def has_error(self) -> bool | None:
        """Whether a word of XC is a number other than zero; None if no word is readable."""
        words = [match[1] for word in _BETWEEN_WORDS.split(self.XC) if (match := _WORD.fullmatch(word))]
        return any(int(word, 16) for word in words) if words else None


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Answer of GET /publickey: SA is the algorithm, PK the key as the meter writes it."""

    SA: str
    PK: str


@dataclass(frozen=True, slots=True)
class User:
    """Body of POST /user: the user of the next transaction (OCMF IS, IL, IF, IT, ID, TT).

    Attributes:
        US: show the user's id on the display.
        TT: tariff text of this transaction, or None to leave the text unchanged.
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
        body = {name: getattr(self, name) for name in ("IS", "IL", "IF", "IT", "ID", "US")}
        return body if self.TT is None else body | {"TT": self.TT}


def decode(body: bytes) -> object:
    """Decode an answer's JSON, numbers exact.

    Raises:
        ShapeError: it is not JSON, or is nested too deeply.
    """
    try:
        return _JSON.decode(body.decode(json.detect_encoding(body), "surrogatepass"))
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise ShapeError("", f"not JSON: {printable(body[:60].decode(errors='replace'))!r}") from error


def gateway(answer: object) -> Gateway:
    """Read the answer of GET /gw.

    Raises:
        ShapeError: the answer has none of the fields of this node.
    """
    fields = _fields(answer)
    if fields.keys().isdisjoint(("CT", "CI", "TM")):
        raise ShapeError("", "none of CT, CI and TM")
    return Gateway(_text(fields, "CT"), _text(fields, "CI"), _time(fields))


def datetime_answer(answer: object) -> MeterTime | None:
    """Read the answer of GET /datetime."""
    return _time(_fields(answer))


def public_key(answer: object) -> PublicKey:
    """Read the answer of GET /publickey.

    Raises:
        ShapeError: the answer has no key.
    """
    fields = _fields(answer)
    if not _text(fields, "PK"):
        raise ShapeError("PK", "no text")
    return PublicKey(_text(fields, "SA"), _text(fields, "PK"))


def meter_value(answer: object) -> MeterValue:
    """Read the answer of GET /metervalue.

    Raises:
        ShapeError: the answer has no readable import register.
    """
    fields = _fields(answer)
    rows = fields.get("RD")
    if not isinstance(rows, list):
        raise ShapeError("RD", "missing" if rows is None else f"expected a list, not {_shown(rows)}")
    return MeterValue(
        MS=_text(fields, "MS"),
        TM=_time(fields),
        EF=_text(fields, "EF"),
        ST=_text(fields, "ST"),
        XT=flag(fields.get("XT")),
        XS=_text(fields, "XS"),
        XC=_text(fields, "XC"),
        U2=_number(fields.get("U2")),
        I=_number(fields.get("I")),
        P=_number(fields.get("P")),
        import_wh=_wh(rows, "R", IMPORT_REGISTER),
        export_wh=_wh_or_none(rows, "R", EXPORT_REGISTER),
        transaction_wh=_wh_or_none(rows, "W", TRANSACTION_REGISTER),
    )


def flag(value: object) -> bool | None:
    """Read true and false, 0 and 1, and the same as text. Anything else is None."""
    return _FLAGS.get(str(value).strip().lower()) if isinstance(value, bool | int | str) else None


CLOCK_YEARS: Final = range(1900, 3000)


def _fields(answer: object) -> dict[str, object]:
    if not isinstance(answer, dict):
        raise ShapeError("", f"expected an object, not {_shown(answer)}")
    return answer


def _text(fields: dict[str, object], key: str) -> str:
    value = fields.get(key)
    is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
    return str(value) if is_number else value if isinstance(value, str) else ""


def _time(fields: dict[str, object]) -> MeterTime | None:
    """Return TM, or None if it is unreadable or far outside the years of real clocks, where arithmetic may overflow."""
    try:
        time = meter_time.parse(_text(fields, "TM"))
    except ValueError:
        return None
    return time if time.instant.year in CLOCK_YEARS else None


def _wh(rows: list[object], kind: str, code: str) -> Decimal:
    """Return the register of an OBIS code. Totals have RI, RV and RU; the transaction's rows WI, WV and WU.

    Raises:
        ShapeError: it cannot be read, or there are several.
    """
    found = [row for row in rows if isinstance(row, dict) and row.get(f"{kind}I") == code]
    path = f"RD[{code}]"
    if len(found) != 1:
        raise ShapeError(path if found else "RD", f"{len(found)} rows with {kind}I {code}")
    unit, value = found[0].get(f"{kind}U"), found[0].get(f"{kind}V")
    if not isinstance(unit, str) or unit not in _WATT_HOURS:
        raise ShapeError(f"{path}.{kind}U", f"no unit of energy: {_shown(unit)}")
    number = _number(value)
    if number is None:
        raise ShapeError(f"{path}.{kind}V", f"expected digits, not {_shown(value)}")
    return number * _WATT_HOURS[unit]


def _wh_or_none(rows: list[object], kind: str, code: str) -> Decimal | None:
    with contextlib.suppress(ShapeError):
        return _wh(rows, kind, code)
    return None


def _number(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    number = Decimal(value.strip() if isinstance(value, str) else value)
    return number if number.is_finite() and -_PLAUSIBLE <= number <= _PLAUSIBLE else None


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_JSON: Final = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_constant)
"""Made once, because `json.loads` would build a decoder for each answer."""


def _shown(value: object) -> str:
    """Show a value in a message. Show only the type of a list or an object, because it may be nested very deeply."""
    return f"a {type(value).__name__}" if isinstance(value, dict | list) else printable(repr(value), limit=40)
