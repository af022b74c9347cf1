"""What a simulated meter is like: its make, its load, and a knob for everything that is not known of the real one.

A knob is declared once: its default, the type that reads and checks its value (from Python, from the command line, from
the control path), its group and its help. `iem-dcr simulate --help` and docs/simulator.md list what is declared here.
"""

from __future__ import annotations

import random
from dataclasses import Field, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final

import click

from iem_dcr.errors import ConfigError, printable
from iem_dcr.simulator.values import Flag, Line, Number, SecretKey, Several, Whole, checked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric import ec

TOTAL_IMPORT, TOTAL_EXPORT = "1-b:1.8.e", "1-b:2.8.e"
TRANSACTION_IMPORT, TRANSACTION_EXPORT = "transaction_1-b:1.8.e", "transaction_1-b:2.8.e"
OBIS_CODES: Final = (TOTAL_IMPORT, TOTAL_EXPORT, TRANSACTION_IMPORT, TRANSACTION_EXPORT)
"""The rows of /metervalue in the order the meter writes them."""
METERVALUE_FIELDS: Final = (
    "MS", "TM", "EF", "ST", "XT", "RD", "U1", "U2", "U3", "U4", "I", "P", "XS", "XC",
)  # fmt: skip

LARGEST_LOAD: Final = 1e6
LONGEST_OFF_S: Final = 86_400.0
LONGEST_SKEW_S: Final = 1e9
_LARGEST_WH: Final = 10**11 - 1

NO_RECEIPT: Final = ("refuse", "not-found", "nothing", "null", "empty")
"""How GET /receipt and /transaction may say that there is none: a refusal, 404, 200 with no body, null, or ""."""


_TEXT: Final = Line()
_DELAY: Final = Number(0, LONGEST_OFF_S)
_LAG: Final = Number(0, 5)
_RECEIPT: Final = click.Choice((*NO_RECEIPT, "previous"))


def _one(*words: str) -> click.Choice[str]:
    return click.Choice(words)


def _knob(default: object, kind: object, text: str) -> Any:  # noqa: ANN401  the field has its own type
    return field(default=default, metadata={"type": kind, "help": text})


def _on(text: str) -> Any:  # noqa: ANN401  as above
    return _knob(True, Flag(), text)  # noqa: FBT003  the default


def _off(text: str) -> Any:  # noqa: ANN401  as above
    return _knob(False, Flag(), text)  # noqa: FBT003  the default


GROUPS: Final = {
    "Meter": "MS",
    "Load": "current_a",
    "Clock": "unset_time",
    "Live values": "value_age_s",
    "Transactions": "second_begin",
    "Receipts": "signing_delay_s",
    "HTTP": "post_status",
}
"""The first option of each group; the others follow it in their order."""


# --- the options -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """Everything that can be chosen of a simulated meter, at the start and while it runs.

    Every value is read and checked when the object is made; `help_in_groups` has what each means.
    """

    MS: str = field(
        default_factory=lambda: f"1SIM{random.SystemRandom().randrange(10**10):010}",
        metadata={"type": _TEXT, "help": "Serial number; a random one unless it is given."},
    )
    MM: str = _knob("IEM-DCR-SIM-125", _TEXT, "Model, as it stands in receipts.")
    MV: str = _knob("Isabellenhuette", _TEXT, "Manufacturer.")
    GI: str = _knob("Isabellenhuette IEM-DCR-SIM-125", _TEXT, "Gateway identification.")
    GV: str = _knob("DU-90.00.01_SU-90.00.02", _TEXT, "Firmware text.")
    private_key: int | ec.EllipticCurvePrivateKey | None = _knob(  # noqa: RUF009  a field
        None, SecretKey(), "Secret number of the key it signs with; none: a new one is generated."
    )
    firmware: str = _knob("v1", _one("v1", "v2"), "/transaction is below /counter/v1 or /counter/v2.")
    bidirectional: bool = _off("Receipts have a second RD object for the export register.")
    import_wh: int = _knob(20_480, Whole(0, _LARGEST_WH), "Import register; lowered while it runs, it falls.")
    export_wh: int = _knob(1_024, Whole(0, _LARGEST_WH), "Export register, likewise.")
    pagination: int = _knob(0, Whole(0, 10**9), "Number of the last record that was signed.")

    current_a: float = _knob(
        125.0, Number(-LARGEST_LOAD, LARGEST_LOAD), "Current of a charging session; negative feeds back."
    )
    voltage_v: float = _knob(400.0, Number(0, LARGEST_LOAD), "Voltage of a charging session.")
    charge_s: float = _knob(8.0, _DELAY, "How long current flows; 0: until it is switched off.")
    load_delay_s: float = _knob(0.5, _DELAY, "From an accepted B to the first current.")
    activation_threshold_a: float = _knob(
        0.5, Number(0, LARGEST_LOAD), "B and E are refused while the current is above it, in either direction."
    )

    unset_time: str = _knob(
        "2000", _one("2000", "1970", "zeros", "dashes", "empty", "missing"), "What TM reads before it is set."
    )
    sync_flag: bool = _on("Times carry OCMF's sync flag.")
    milliseconds: bool = _on("Times are written with milliseconds.")

    value_age_s: float = _knob(0.0, _LAG, "/metervalue is a snapshot up to so old.")
    begin_shows_after_s: float = _knob(0.0, _LAG, "From an accepted B to XT true.")
    end_shows_after_s: float = _knob(0.0, _LAG, "From an accepted E to XT false.")
    false_xt: str = _knob(
        "never",
        _one("never", "single", "after-power-cut", "both"),
        "XT is false in a running transaction: in every fifth reading, or for 4 s after a power cut.",
    )
    frozen: bool = _off("/metervalue stands still, TM included.")
    missing: tuple[str, ...] = _knob((), Several(METERVALUE_FIELDS), "Fields that /metervalue leaves out.")
    null: tuple[str, ...] = _knob((), Several(METERVALUE_FIELDS), "Fields that are null in /metervalue.")
    xt_type: str = _knob("bool", _one("bool", "number", "text"), 'XT is true, 1 or "true".')
    number_type: str = _knob("number", _one("number", "text"), "U1 to U4, I and P are numbers or text.")
    register_type: str = _knob("text", _one("text", "number"), "RV and WV are text or numbers.")
    xc_blanks: bool = _on("XC has a blank after each comma.")
    EF: str | None = _knob(None, Line(optional=True), 'Error flags; none: "t" until the clock is set.')
    ST: str = _knob("G", _TEXT, "OCMF status.")
    XS: str = _knob("0x0000000000000001", _TEXT, "Status word.")
    XC: str = _knob("0x0000, 0x00000000, 0x00, 0x00", _TEXT, "Error words.")
    U1: float = _knob(1.125, Number(-LARGEST_LOAD, LARGEST_LOAD), "Volts at the first input; the DC voltage is U2.")
    power_decimals: int = _knob(0, Whole(0, 6), "Decimals of P; the captured answer has whole watts.")
    RD_rows: tuple[str, ...] = _knob(OBIS_CODES, Several(OBIS_CODES), "Rows of /metervalue, in order.")

    second_begin: str = _knob(
        "refuse",
        _one("refuse", "ignore", "restart", "close-and-restart"),
        "B in a running transaction: refused; 200 and nothing; the old one is lost; the old one is closed.",
    )
    idle_end: str = _knob("refuse", _one("refuse", "accept"), "E at an idle meter: refused, or 200.")
    user_while_running: str = _knob("accept", _one("accept", "refuse"), "POST /user in a running transaction.")
    user_required: bool = _off("B without a POST /user before it is refused.")
    user_tariff_sticks: bool = _on(
        "TT of /user stays the tariff text for the transactions after it.",
    )
    user_id_limit: int = _knob(40, Whole(0, 10**6), "Longest ID of /user, in characters.")
    tariff_text_limit: int = _knob(250, Whole(0, 10**6), "Longest TT, in characters.")
    open_at_power_cut: str = _knob(
        "closed", _one("closed", "closed-late", "running", "lost"), "What becomes of a transaction open at a power cut."
    )
    power_failure_reading: str = _knob(
        "at-cut", _one("at-cut", "at-power-up"), "Which moment the reading with TX P is of."
    )
    late_close_s: float = _knob(5.0, _DELAY, "From power-up to the record of closed-late.")

    signing_delay_s: float = _knob(0.12, _DELAY, "From an accepted E to its tuple.")
    begin_spoils_signature: bool = _off("B while a record is signed: refused, or accepted and that record is lost.")
    signature_encoding: str = _knob(
        "unpadded-der", _one("unpadded-der", "der", "raw"), "How SD is written; unpadded as the real meter."
    )
    public_key_form: str = _knob("der", _one("der", "raw"), "PK is SubjectPublicKeyInfo, or X and Y.")
    receipt_wrapping: str = _knob(
        "raw", _one("raw", "quoted", "braced", "json-string", "object"), "What surrounds the tuple."
    )
    receipt_while_signing: str = _knob("refuse", _RECEIPT, "GET /receipt until the signature is there.")
    receipt_in_transaction: str = _knob("refuse", _RECEIPT, "GET /receipt while a transaction runs.")
    receipt_never_signed: str = _knob("not-found", click.Choice(NO_RECEIPT), "Both nodes when nothing was ever signed.")
    receipt_after_power_up: bool = _on(
        "GET /receipt still has the last tuple after a power cycle, as /transaction has.",
    )
    transaction_lag_s: float = _knob(0.0, _LAG, "/transaction has a new tuple so long after /receipt.")
    PG: str = _knob(
        "counter",
        _one("counter", "missing", "restarts"),
        "Pagination: counts, is left out, or begins again with each power-up.",
    )

    post_status: int = _knob(200, Whole(200, 299), "Status of a POST that was acted on: 200, 201, 202, 204.")
    refusal_status: int = _knob(428, Whole(400, 499), "Status of a refusal that is not of the body's form.")
    connections: str = _knob(
        "any",
        _one("any", "one-waits", "one-refused"),
        "How many are served at once: any number; one, the others wait or are refused.",
    )
    keep_alive: str = _knob(
        "keep",
        _one("keep", "close", "drop-idle", "drop-reused"),
        "A connection is kept; closed after each answer; closed after idle_s; dropped at its second request.",
    )
    idle_s: float = _knob(0.5, _DELAY, "See keep_alive.")
    two_segments: bool = _on("Head and body are written one after the other.")
    expect_continue: bool = _on("Expect: 100-continue is answered.")
    strict_key_order: bool = _on("Keys of a POST must be in the meter's order.")

    def __post_init__(self) -> None:
        """Read and check every value.

        Raises:
            ConfigError: with one line for each value that does not fit.
        """
        checked(self)

    def changed(self, changes: Mapping[str, Any]) -> SimulatorOptions:
        """Return these options with some of them changed.

        Raises:
            ConfigError: there is no option of a name, or a value does not fit.
        """
        check_names(changes)
        return replace(self, **changes)

    def as_json(self) -> dict[str, object]:
        """Return the options as JSON types, without the private key."""
        values = {option.name: getattr(self, option.name) for option in fields(self) if option.name != "private_key"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def check_names(names: Mapping[str, object]) -> None:
    """Check names of options.

    Raises:
        ConfigError: there is no option of a name.
    """
    known = {option.name for option in fields(SimulatorOptions)}
    if problems := [f"{printable(name, limit=60)}: no such option" for name in names if name not in known]:
        raise ConfigError(problems)


def help_in_groups() -> dict[str, list[tuple[str, str]]]:
    """Return by group the name of every option, and what it means with its values and [default]."""
    groups: dict[str, list[tuple[str, str]]] = {}
    firsts = {first: group for group, first in GROUPS.items()}
    for option in fields(SimulatorOptions):
        group = firsts.get(option.name) or next(reversed(groups))
        groups.setdefault(group, []).append((option.name, _help(option)))
    return groups


def _help(option: Field[Any]) -> str:
    kind, text = option.metadata["type"], option.metadata["help"]
    values = ""
    if isinstance(kind, click.Choice):
        values = f" One of {', '.join(map(str, kind.choices))}."
    default = "" if option.name == "MS" else f" [{_written(option.default)}]"
    return f"{text}{values}{default}"


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
