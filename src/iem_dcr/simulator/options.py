"""What a simulated meter is like: its make, its load, and one knob for everything that is not known of the real one."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta, timezone
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, get_origin, get_type_hints

from cryptography.hazmat.primitives.asymmetric import ec  # noqa: TC002  # get_type_hints looks it up

from iem_dcr.errors import ConfigError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

TOTAL_IMPORT, TOTAL_EXPORT = "1-b:1.8.e", "1-b:2.8.e"
TRANSACTION_IMPORT, TRANSACTION_EXPORT = "transaction_1-b:1.8.e", "transaction_1-b:2.8.e"
OBIS_CODES = (TOTAL_IMPORT, TOTAL_EXPORT, TRANSACTION_IMPORT, TRANSACTION_EXPORT)
"""The rows of /metervalue in the order the meter writes them."""

SECP256R1_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

ReceiptAnswer = Literal["refuse", "nothing", "previous"]

LARGEST_LOAD = 1e6
LONGEST_OFF_S = 86_400.0
LONGEST_SKEW_S = 1e9

_LARGEST = {int: 1e9, float: 1e6}
_START_VALUES = ("import_wh", "export_wh", "pagination")
_MAY_BE_NEGATIVE = ("current_a",)


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """Everything that can be chosen of a simulated meter. What is not a start value can be changed while it runs.

    Attributes:
        MS: serial number, also GS of receipts.
        MM: model, as it stands in receipts.
        MV: manufacturer.
        GI: gateway identification.
        GV: firmware text.
        private_key: the secp256r1 key it signs with, as a key or as the secret number; None generates one.
        firmware: "v1" has /transaction below /counter/v1/ocmf, "v2" below /counter/v2/ocmf instead.
        bidirectional: receipts carry a second RD object for the export register with each reading.
        import_wh: import register at the start.
        export_wh: export register at the start.
        pagination: number of records signed before the start.
        current_a: current of a charging session; negative feeds back.
        voltage_v: voltage of a charging session.
        charge_s: how long current flows; 0: constant load until it is switched off (`SimulatedMeter.clear_load`).
        load_delay_s: from an accepted B to the first current.
        activation_threshold_a: B and E are refused while the current is above it, in either direction.
        signing_delay_s: from an accepted E to its tuple.
        clock_at_power_up: where the clock starts at every power-up, with the offset it is written with.
        sync_flag: times carry OCMF's sync flag.
        EF: error flags; None: "t" until the clock is set, as the real meter has it, then "".
        ST: OCMF status.
        XS: status word.
        XC: error words.
        U1: volts at the first sense input; the meter's DC voltage is U2.
        power_decimals: decimals of P; a captured answer has whole watts for 60.1 V and 5 A.
        RD_rows: OBIS codes of the rows of /metervalue, in order; a row may be missing.
        signature_encoding: SD as DER whose two integers are 32 bytes without 00 pad, as proper DER, or as r‖s.
        public_key_form: PK as hex of SubjectPublicKeyInfo or as hex of X‖Y.
        receipt_wrapping: the tuple alone; in quotes or braces as it is; as a JSON string; in a JSON object.
        receipt_while_signing: answer of GET /receipt until the signature is computed.
        receipt_in_transaction: answer of GET /receipt while a transaction runs.
        receipt_after_power_up: GET /receipt still has the last tuple after a power cycle (/transaction always has).
        repeated_receipt: a B while a transaction runs, and an E while none does, is refused, or answered 200 without
            doing anything.
        strict_key_order: a POST whose keys are in another order than the meter's is refused.
        user_required: B without a POST /user before it is refused.
        user_tariff_sticks: TT of /user stays the tariff text for the transactions after it.
        user_id_limit: longest ID of /user, in characters.
        tariff_text_limit: longest TT, in characters.
        open_at_power_cut: what becomes of a transaction open at a power cut: signed with TX "P" at power-up, signed
            ``late_close_s`` after it, still running, or gone.
        power_failure_reading: the reading of TX "P" is of the moment of the cut (with CT, CI and clock as they were),
            or of the power-up.
        late_close_s: see ``open_at_power_cut``.
        connections: keep-alive; close after each answer; close an idle one after ``idle_s``; drop a connection on
            which a second request comes, without acting on that.
        idle_s: see ``connections``.
        expect_continue: ``Expect: 100-continue`` is answered; else the client waits in vain before it sends its body.
    """

    MS: str = "1SIM0000000042"
    MM: str = "IEM-DCR-SIM-125"
    MV: str = "Isabellenhuette"
    GI: str = "Isabellenhuette IEM-DCR-SIM-125"
    GV: str = "DU-90.00.01_SU-90.00.02"
    private_key: int | ec.EllipticCurvePrivateKey | None = None
    firmware: Literal["v1", "v2"] = "v1"
    bidirectional: bool = False
    import_wh: int = 20_480
    export_wh: int = 1_024
    pagination: int = 0

    current_a: float = 125.0
    voltage_v: float = 400.0
    charge_s: float = 8.0
    load_delay_s: float = 0.5
    activation_threshold_a: float = 0.5
    signing_delay_s: float = 0.12

    clock_at_power_up: datetime = datetime(2000, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    sync_flag: bool = True
    EF: str | None = None
    ST: str = "G"
    XS: str = "0x0000000000000001"
    XC: str = "0x0000, 0x00000000, 0x00, 0x00"
    U1: float = 1.125
    power_decimals: int = 0
    RD_rows: tuple[str, ...] = OBIS_CODES

    signature_encoding: Literal["unpadded-der", "der", "raw"] = "unpadded-der"
    public_key_form: Literal["der", "raw"] = "der"
    receipt_wrapping: Literal["raw", "quoted", "braced", "json-string", "object"] = "raw"
    receipt_while_signing: ReceiptAnswer = "refuse"
    receipt_in_transaction: ReceiptAnswer = "refuse"
    receipt_after_power_up: bool = True
    repeated_receipt: Literal["refuse", "accept"] = "refuse"
    strict_key_order: bool = True
    user_required: bool = False
    user_tariff_sticks: bool = True
    user_id_limit: int = 40
    tariff_text_limit: int = 250
    open_at_power_cut: Literal["closed", "closed-late", "running", "lost"] = "closed"
    power_failure_reading: Literal["at-cut", "at-power-up"] = "at-cut"
    late_close_s: float = 5.0

    connections: Literal["keep-alive", "close", "drop-idle", "drop-reused"] = "keep-alive"
    idle_s: float = 0.5
    expect_continue: bool = True

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: with one line for each value that does not fit.
        """
        problems = [
            problem for name, hint in _hints().items() if (problem := _problem(name, getattr(self, name), hint))
        ]
        if not problems and self.clock_at_power_up.utcoffset() is None:
            problems.append("clock_at_power_up: has no offset from UTC; write it like 2000-01-01T00:00:00+01:00")
        if not problems and (set(self.RD_rows) - set(OBIS_CODES) or len(set(self.RD_rows)) < len(self.RD_rows)):
            problems.append(f"RD_rows: expects each of these at most once: {', '.join(OBIS_CODES)}")
        if isinstance(self.private_key, int) and not 0 < self.private_key < SECP256R1_ORDER:
            problems.append(
                "private_key: the secret number of a secp256r1 key is at least 1 and below the curve's order"
            )
        if problems:
            raise ConfigError(problems)

    def changed(self, changes: Mapping[str, object]) -> SimulatorOptions:
        """Return these options with some of them changed, as a control path or a test hands them in.

        Lists are taken for tuples and ISO 8601 text for times, as JSON has neither.

        Raises:
            ConfigError: a name is no option that can be changed while the meter runs, or a value does not fit.
        """
        problems = [f"{printable(name)}: no such option" for name in changes if name not in _hints()]
        problems += [f"{name}: can be set at the start only" for name in changes if name in _START_VALUES]
        if problems:
            raise ConfigError(problems)
        values = {name: _from_json(name, value) for name, value in changes.items()}
        return replace(self, **cast("dict[str, Any]", values))

    def as_json(self) -> dict[str, object]:
        """Return the options as JSON types, without the private key."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "private_key"}
        return values | {"clock_at_power_up": self.clock_at_power_up.isoformat(), "RD_rows": list(self.RD_rows)}


def number_in(name: str, value: object, least: float, most: float) -> float:
    """Check a number from outside.

    Raises:
        ConfigError: it is no number, or outside of the range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ConfigError([f"{name}: expects a number from {least:g} to {most:g}"])
    return float(value)


def _hints() -> dict[str, object]:
    if not _HINTS:
        _HINTS.update(get_type_hints(SimulatorOptions))
    return _HINTS


_HINTS: dict[str, object] = {}


def _from_json(name: str, value: object) -> object:
    if name == "RD_rows" and isinstance(value, list):
        return tuple(value)
    if name == "clock_at_power_up" and isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError as error:
            raise ConfigError([f"{name}: {error}"]) from error
    return value


def _problem(name: str, value: object, hint: object) -> str:
    if not _fits(value, hint):
        return f"{name}: {printable(repr(value))} is not {_expected(hint)}"
    if isinstance(value, (int, float)) and name != "private_key":
        if not abs(value) <= _LARGEST[int if hint is int else float]:
            return f"{name}: {printable(value)} is out of all proportion"
        if value < 0 and name not in _MAY_BE_NEGATIVE:
            return f"{name}: {printable(value)} is negative"
    return ""


def _fits(value: object, hint: object) -> bool:
    origin = get_origin(hint)
    if origin is Literal:
        return value in get_args(hint)
    if origin is UnionType:
        return any(_fits(value, one) for one in get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if hint in (int, float):
        allowed = int if hint is int else (int, float)
        return isinstance(value, allowed) and not isinstance(value, bool)
    if isinstance(value, str):
        return hint is str and value.isprintable()
    return isinstance(value, cast("type", hint))


def _expected(hint: object) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    if get_origin(hint) is UnionType:
        return " or ".join(_expected(one) for one in get_args(hint))
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "text in one line"}
    names |= {datetime: "a time like 2000-01-01T00:00:00+01:00", type(None): "null"}
    return names.get(cast("type", hint), "a list of texts" if get_origin(hint) is tuple else "a secp256r1 key")
