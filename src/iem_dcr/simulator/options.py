"""The options of a simulated meter: its model, its load, and a knob for everything unknown of the real meter.

A knob is a field of `SimulatorOptions`, which alone defines its default, type and help. Values from the command line,
from JSON and from Python are all parsed like command-line text: 204 and "204" are the same status, 204.0 is invalid.
docs/simulator.md lists what is known of the real meter.
"""

from __future__ import annotations

import math
import random
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from iem_dcr.errors import ConfigError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    from _typeshed import DataclassInstance

    Kind: TypeAlias = Callable[[Any], Any]
    """A click type, or a function that raises ValueError."""
    D = TypeVar("D", bound=DataclassInstance)

T = TypeVar("T")

TOTAL_IMPORT, TOTAL_EXPORT = "1-b:1.8.e", "1-b:2.8.e"
TRANSACTION_IMPORT, TRANSACTION_EXPORT = "transaction_1-b:1.8.e", "transaction_1-b:2.8.e"
OBIS_CODES: Final = (TOTAL_IMPORT, TOTAL_EXPORT, TRANSACTION_IMPORT, TRANSACTION_EXPORT)
"""The rows of /metervalue in the meter's order."""
_VALUE_FIELDS: Final = ("MS", "TM", "EF", "ST", "XT", "RD", "U1", "U2", "U3", "U4", "I", "P", "XS", "XC")
_RECEIPT: Final = ("refuse", "not-found", "nothing", "null", "empty", "previous")
"""Possible answers of /receipt without a current one: refusal, 404, 200 with no body, null, "", the previous one."""
_SECP256R1_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

# --- types ---

SIGNED: Final = click.FloatRange(-1e6, 1e6)
UNSIGNED: Final = click.FloatRange(0, 1e6)
SECONDS: Final = click.FloatRange(0, 86_400)
_LAG: Final = click.FloatRange(0, 5)
_WATT_HOURS: Final = click.IntRange(0, 10**11 - 1)
_LENGTH: Final = click.IntRange(0, 10**6)


def _line(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{value!r} is not text in one line")
    return value


def _some_of(*words: str) -> Kind:
    def some(value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [word for word in map(str.strip, value.split(",")) if word not in ("", "none")]
        if not isinstance(value, (list, tuple)) or any(value.count(word) > 1 or word not in words for word in value):
            raise ValueError(f"expects each of these at most once: {', '.join(words)}")
        return tuple(value)

    return some


def _secret(value: object) -> int:
    number = int(str(value), 0)
    if not 0 < number < _SECP256R1_ORDER:
        raise ValueError("the secret number of a secp256r1 key is at least 1 and below the curve's order")
    return number


def read(name: str, kind: Kind, value: object) -> Any:  # noqa: ANN401  as the type has it
    """Parse the value of an option.

    Raises:
        ConfigError: the value is invalid.
    """
    try:
        result = kind(str(value) if isinstance(kind, click.ParamType) else value)
    except click.BadParameter as error:
        problem = error.message
    except (ValueError, RecursionError) as error:
        problem = str(error)
    else:
        if not isinstance(result, float) or not math.isnan(result):
            return result
        problem = "nan is not a number"
    raise ConfigError([f"{name}: {printable(problem)}"])


def knob(default: T, text: str = "", kind: Kind | None = None, *, group: str = "") -> T:
    """Declare an option. Without ``kind`` it is a bool or text in one line. A group includes the options after it.

    If the default is None, the values None, "none" and "null" all mean None.
    """
    kind = kind or (click.BOOL if isinstance(default, bool) else _line)
    return field(default=default, metadata={"help": text, "type": kind, "group": group})


def choice(text: str, *values: str, group: str = "") -> str:
    """Declare an option with a fixed set of values. The first is the default."""
    return knob(values[0], text, click.Choice(values), group=group)


def read_all(options: DataclassInstance) -> None:
    """Parse every option of a new object in place.

    Raises:
        ConfigError: with one line for each invalid value.
    """
    problems: list[str] = []
    for each in fields(options):
        value = getattr(options, each.name)
        try:
            is_none = each.default is None and str(value).lower() in ("none", "null")
            value = None if is_none else read(each.name, each.metadata["type"], value)
        except ConfigError as error:
            problems += error.problems
        object.__setattr__(options, each.name, value)
    if problems:
        raise ConfigError(problems)


def build(kind: type[D], values: Mapping[str, Any]) -> D:
    """Create an options object from values by name.

    Raises:
        ConfigError: a name is not an option, a required option is missing, or a value is invalid.
    """
    needed = {each.name: each.default is MISSING and each.default_factory is MISSING for each in fields(kind)}
    problems = [f"{printable(name, limit=60)}: no such option" for name in values if name not in needed]
    problems += [f"{name}: is missing" for name, is_needed in needed.items() if is_needed and name not in values]
    if problems:
        raise ConfigError(problems)
    return kind(**values)


# --- the knobs ---


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """All options of a simulated meter, for its start and while it runs.

    Raises:
        ConfigError: with one line for each invalid value.
    """

    MS: str = field(
        default_factory=lambda: f"1SIM{random.SystemRandom().randrange(10**10):010}",
        metadata={"help": "Serial number; random if not given.", "type": _line, "group": "Meter"},
    )
    MM: str = knob("IEM-DCR-SIM-125", "Model, as shown in receipts.")
    MV: str = knob("Isabellenhuette", "Manufacturer.")
    GI: str = knob("Isabellenhuette IEM-DCR-SIM-125", "Gateway identification.")
    GV: str = knob("DU-90.00.01_SU-90.00.02", "Firmware text.")
    private_key: int | None = knob(None, "Secret number of the signing key; none: a new key.", _secret)
    firmware: str = choice("Path of /transaction: below /counter/v1 or /counter/v2.", "v1", "v2")
    bidirectional: bool = knob(False, "Receipts have a second RD row for the export register.")
    import_wh: int = knob(20_480, "Import register in Wh; it can be lowered while the meter runs.", _WATT_HOURS)
    export_wh: int = knob(1_024, "Export register in Wh; it can be lowered too.", _WATT_HOURS)
    pagination: int = knob(0, "Pagination of the last signed record.", click.IntRange(0, 10**9))

    current_a: float = knob(125.0, "Current of a charging session in A; negative feeds back.", SIGNED, group="Load")
    voltage_v: float = knob(400.0, "Voltage of a charging session in V.", UNSIGNED)
    charge_s: float = knob(8.0, "Seconds of current flow; 0: until switched off.", SECONDS)
    load_delay_s: float = knob(0.5, "Seconds from an accepted B to the first current.", SECONDS)
    activation_threshold_a: float = knob(0.5, "B and E are refused above this current in A, in or out.", UNSIGNED)

    unset_time: str = choice(
        "TM before the clock is set.", "2000", "1970", "zeros", "dashes", "empty", "missing", group="Clock"
    )
    sync_flag: bool = knob(True, "Times have OCMF's sync flag.")
    milliseconds: bool = knob(True, "Times have milliseconds.")

    value_age_s: float = knob(0.0, "/metervalue is a snapshot up to this many seconds old.", _LAG, group="Live values")
    begin_shows_after_s: float = knob(0.0, "Seconds from an accepted B to XT true.", _LAG)
    end_shows_after_s: float = knob(0.0, "Seconds from an accepted E to XT false.", _LAG)
    false_xt: str = choice(
        "XT is falsely false in a running transaction: in every fifth reading, or for 4 s after a power cut.",
        *("never", "single", "after-power-cut", "both"),
    )
    frozen: bool = knob(False, "/metervalue does not change, TM included.")
    missing: tuple[str, ...] = knob((), "Fields that /metervalue omits.", _some_of(*_VALUE_FIELDS))
    null: tuple[str, ...] = knob((), "Fields that are null in /metervalue.", _some_of(*_VALUE_FIELDS))
    xt_type: str = choice('Type of XT: true, 1 or "true".', "bool", "number", "text")
    number_type: str = choice("Type of U1 to U4, I and P.", "number", "text")
    register_type: str = choice("Type of RV and WV.", "text", "number")
    xc_blanks: bool = knob(True, "XC has a space after each comma.")
    EF: str | None = knob(None, 'Error flags; none: "t" until the clock is set, then "".', _line)
    ST: str = knob("G", "OCMF status.")
    XS: str = knob("0x0000000000000001", "Status word.")
    XC: str = knob("0x0000, 0x00000000, 0x00, 0x00", "Error words.")
    U1: float = knob(1.125, "Voltage of the first input in V; the DC voltage is U2.", SIGNED)
    power_decimals: int = knob(0, "Decimals of P; the real meter's captured answer has none.", click.IntRange(0, 6))
    RD_rows: tuple[str, ...] = knob(OBIS_CODES, "Rows of /metervalue, in order.", _some_of(*OBIS_CODES))

    second_begin: str = choice(
        "B in a running transaction: refused; 200 without effect; the old one is lost; the old one is closed.",
        *("refuse", "ignore", "restart", "close-and-restart"),
        group="Transactions",
    )
    idle_end: str = choice("E without a running transaction: refused, or 200.", "refuse", "accept")
    user_while_running: str = choice("POST /user during a transaction.", "accept", "refuse")
    user_required: bool = knob(False, "B is refused without a preceding POST /user.")
    user_tariff_sticks: bool = knob(True, "TT of /user remains the tariff text for later transactions.")
    user_id_limit: int = knob(40, "Maximum length of ID in /user, in characters.", _LENGTH)
    tariff_text_limit: int = knob(250, "Maximum length of TT, in characters.", _LENGTH)
    open_at_power_cut: str = choice(
        "What happens to an open transaction at a power cut.", "closed", "closed-late", "running", "lost"
    )
    power_failure_reading: str = choice("Time of the reading with TX P.", "at-cut", "at-power-up")
    late_close_s: float = knob(5.0, "Seconds from power-up to the record of closed-late.", SECONDS)

    signing_delay_s: float = knob(0.12, "Seconds from an accepted E to its receipt.", SECONDS, group="Receipts")
    begin_spoils_signature: bool = knob(False, "B during signing is accepted, and the record being signed is lost.")
    signature_encoding: str = choice("Encoding of SD; the real meter's is unpadded-der.", "unpadded-der", "der", "raw")
    public_key_form: str = choice("PK is SubjectPublicKeyInfo, or X and Y only.", "der", "raw")
    receipt_wrapping: str = choice("What encloses the tuple.", "raw", "quoted", "braced", "json-string", "object")
    receipt_while_signing: str = choice("GET /receipt during signing.", *_RECEIPT)
    receipt_in_transaction: str = choice("GET /receipt during a transaction.", *_RECEIPT)
    receipt_never_signed: str = choice(
        "Both receipt nodes before the first signature.", "not-found", "refuse", "nothing", "null", "empty"
    )
    receipt_after_power_up: bool = knob(True, "GET /receipt returns the last tuple after a power cycle too.")
    transaction_lag_s: float = knob(0.0, "Seconds by which /transaction shows a new tuple later than /receipt.", _LAG)
    PG: str = choice("Pagination: counts, is omitted, or restarts at each power-up.", "counter", "missing", "restarts")

    post_status: int = knob(200, "Status of a successful POST.", click.IntRange(200, 299), group="HTTP")
    refusal_status: int = knob(428, "Status of a refusal; an invalid body always gets 400.", click.IntRange(400, 499))
    connections: str = choice(
        "Connections served at once: any number, or one while the others wait or are refused.",
        *("any", "one-waits", "one-refused"),
    )
    keep_alive: str = choice(
        "A connection is kept; closed after each answer; closed after idle_s; or dropped at its second request.",
        *("keep", "close", "drop-idle", "drop-reused"),
    )
    idle_s: float = knob(0.5, "Seconds until keep_alive drop-idle closes an idle connection.", SECONDS)
    two_segments: bool = knob(True, "Head and body of an answer are sent in two segments.")
    expect_continue: bool = knob(True, "Expect: 100-continue is answered.")
    strict_key_order: bool = knob(True, "The keys of a POST must be in the meter's order.")

    def __post_init__(self) -> None:
        read_all(self)

    def changed(self, changes: Mapping[str, Any]) -> SimulatorOptions:
        """Return a copy with some options changed.

        Raises:
            ConfigError: a name is not an option, or a value is invalid.
        """
        return build(SimulatorOptions, {each.name: getattr(self, each.name) for each in fields(self)} | dict(changes))

    def as_json(self) -> dict[str, object]:
        """Return the options as JSON types, without the private key."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "private_key"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
