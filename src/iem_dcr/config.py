"""One meter's settings: names, types, defaults and ranges in one table, and the plausibility checks.

The first twelve are those of the vendor's EVerest module for this meter, so that existing charger configurations keep
working. The others are optional. `SETTINGS` is the only source: all code that shows or checks a setting is derived from
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, cast

from iem_dcr.errors import ConfigError, printable
from iem_dcr.meter_time import MeterZone

if TYPE_CHECKING:
    from collections.abc import Mapping

Value = str | int | bool

_TOO_LONG_TO_SHOW = 10**18

VENDOR_CI = "1234"
"""The default of ``CI`` in the vendor's module, kept for chargers that rely on it. It is not a charge point's id."""
PIN = "pin"
"""Value of ``meter_serial``: the first meter that answers is accepted, and no other one after it."""
AUTO = "auto"
OFF = ("", "off")
"""Values of ``journal_path``: `AUTO` is a file in a state folder, `OFF` is no journal."""

IDENTIFICATION_LEVELS = ("NONE", "HEARSAY", "TRUSTED", "VERIFIED", "CERTIFIED", "SECURE")
"""OCMF's levels that are acceptable for billing (OCMF 1.4.1, IL). The others are error levels."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the configuration.

    Attributes:
        key: name in a configuration.
        default: value if the key is absent. Its type is the type of the setting.
        minimum: smallest allowed number.
        maximum: largest allowed number.
        choices: the allowed texts, or () for any text.
        description: effect of the setting, with its unit.
    """

    key: str
    default: Value
    description: str
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] = ()

    @property
    def kind(self) -> type[Value]:
        """``str``, ``int`` or ``bool``."""
        return type(self.default)

    @property
    def expected(self) -> str:
        """Description of the allowed values, for a message."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        if self.kind is int:
            return f"a whole number from {self.minimum} to {self.maximum}"
        return "a text"


def _number(key: str, default: int, minimum: int, maximum: int, description: str) -> Setting:
    return Setting(key, default, description, minimum, maximum)


SETTINGS: tuple[Setting, ...] = (
    Setting("ip_address", "192.168.60.12", "Address of the meter on the charger's network"),
    _number("port_http", 80, 0, 65535, "TCP port of the meter's HTTP server"),
    Setting("timezone", "+0100", "Time zone of the meter's clock: ±HHMM or an IANA name like Europe/Berlin"),
    Setting(
        "timezone_handle_DST",
        default=True,
        description="Add European summer time to an offset of +0000, +0100 or +0200",
    ),
    _number("datetime_resync_interval", 2, 1, 24, "Hours between two settings of the meter's clock"),
    _number(
        "resilience_initial_connection_retry_delay",
        10000,
        1000,
        65535,
        "Milliseconds between two attempts to reach a meter that does not answer",
    ),
    _number(
        "resilience_transaction_request_retries",
        3,
        0,
        5,
        "How often a refused request of a transaction is sent again",
    ),
    _number(
        "resilience_transaction_request_retry_delay",
        250,
        200,
        1000,
        "Milliseconds before a refused request of a transaction is sent again",
    ),
    Setting("CT", "EVSEID", "Charge point identification type, signed with every transaction (OCMF CT)"),
    Setting("CI", VENDOR_CI, "Charge point identification, signed with every transaction (OCMF CI)"),
    Setting("TT_initial", "", "Tariff text set once per power-up of the meter; empty sets none (OCMF TT)"),
    Setting("US", default=False, description="Show the user's id on the meter's display"),
    _number(
        "command_timeout_ms",
        5000,
        500,
        20000,
        "Milliseconds for one request to the meter, connecting and body included; a live value takes at most 2000",
    ),
    Setting(
        "refuse_start_with_error",
        default=False,
        description="Answer UNEXPECTED_ERROR instead of NOT_SUPPORTED, so that EVerest does not charge without signing",
    ),
    _number(
        "initial_connection_wait_ms",
        30000,
        0,
        60000,
        "Milliseconds for which a stop waits for a meter that has not been initialised since the process began",
    ),
    _number(
        "stop_current_wait_ms",
        10000,
        0,
        30000,
        "Milliseconds for which a refused end of a transaction is repeated while a current still flows",
    ),
    Setting(
        "IL_default",
        "NONE",
        "Identification level signed when the station gives none (OCMF IL)",
        choices=IDENTIFICATION_LEVELS,
    ),
    Setting(
        "meter_serial", "", "Serial number the meter must have (its MS); pin: the first one that answers; empty: any"
    ),
    Setting(
        "strict_transaction_ids",
        default=False,
        description="Answer a stop for an unknown id with an error if the last receipt belongs to another transaction",
    ),
    Setting(
        "verify_receipts", default=True, description="Check the signature of every receipt with the meter's public key"
    ),
    Setting(
        "journal_path",
        AUTO,
        "File of the journal that keeps every receipt; auto: in the state folder; off or empty: none",
    ),
    _number("journal_keep_days", 365, 0, 36500, "Days after which a receipt is deleted from the journal; 0 is never"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The checked settings of one meter. Every attribute is a key of `SETTINGS`, which describes it."""

    ip_address: str
    port_http: int
    timezone: str
    timezone_handle_DST: bool  # noqa: N815  the key is the vendor's
    datetime_resync_interval: int
    resilience_initial_connection_retry_delay: int
    resilience_transaction_request_retries: int
    resilience_transaction_request_retry_delay: int
    CT: str
    CI: str
    TT_initial: str
    US: bool
    command_timeout_ms: int
    refuse_start_with_error: bool
    initial_connection_wait_ms: int
    stop_current_wait_ms: int
    IL_default: str
    meter_serial: str
    strict_transaction_ids: bool
    verify_receipts: bool
    journal_path: str
    journal_keep_days: int

    @classmethod
    def of(cls, values: Mapping[str, object] | None = None) -> Settings:
        """Check values and fill in the defaults.

        Args:
            values: keys of `SETTINGS` with values of their types.

        Raises:
            ConfigError: one or more values are wrong. It has one line per mistake, with key, value and expectation.
        """
        given = dict(values or {})
        problems = [_unknown(key) for key in given if key not in _BY_KEY]
        checked: dict[str, Value] = {}
        for setting in SETTINGS:
            value = given.get(setting.key, setting.default)
            problem = type_or_range(setting, value)
            if problem:
                problems.append(f"{setting.key} is {shown(value)}: {problem}")
            else:
                checked[setting.key] = cast("Value", value)
        problems += [f"{key} is {shown(checked[key])}: expected {expected}" for key, expected in _implausible(checked)]
        if problems:
            raise ConfigError(problems)
        return cls(**checked)  # type: ignore[arg-type]  # each was checked against the type in SETTINGS

    def zone(self) -> MeterZone:
        """Return the zone in which the meter's time is written."""
        return MeterZone.named(self.timezone, handle_dst=self.timezone_handle_DST)


def from_text(key: str, text: str) -> Value:
    """Read a setting's value from text, as typed on a command line.

    Raises:
        ConfigError: there is no such key, or the text is not of the setting's type.
    """
    setting = _BY_KEY.get(key)
    if setting is None:
        raise ConfigError([_unknown(key)])
    if setting.kind is bool:
        values = {"true": True, "false": False}
        if text.lower() in values:
            return values[text.lower()]
    elif setting.kind is int:
        try:
            return int(text)
        except ValueError:
            pass
    else:
        return text
    raise ConfigError([f"{key} is {shown(text)}: expected {setting.expected}"])


_BY_KEY = {setting.key: setting for setting in SETTINGS}


def _unknown(key: str) -> str:
    return f"{printable(key, limit=60)} is not a setting: expected one of {', '.join(sorted(_BY_KEY))}"


def shown(value: object) -> str:
    """Show a value in a message. Show only the type of a list or an object, because it may be very large."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= _TOO_LONG_TO_SHOW:
        return "a number of more than 18 digits"
    is_plain = value is None or isinstance(value, str | int | float)
    return printable(repr(value), limit=60) if is_plain else f"a {type(value).__name__}"


def type_or_range(setting: Setting, value: object) -> str:
    """Return the expectation that a value does not meet, or "" for a value of the right type and range."""
    if type(value) is not setting.kind:
        return f"expected {setting.expected}"
    if setting.choices and value not in setting.choices:
        return f"expected {setting.expected}"
    if isinstance(value, int) and not isinstance(value, bool):
        low, high = cast("int", setting.minimum), cast("int", setting.maximum)
        if not low <= value <= high:
            return f"expected {setting.expected}"
    return ""


def _implausible(values: Mapping[str, Value]) -> list[tuple[str, str]]:
    """Return key and expectation of every value that has the right type but cannot work."""
    found = []
    if "ip_address" in values and not is_host(str(values["ip_address"])):
        found.append(("ip_address", "the address or host name of the meter, without scheme, port or path"))
    if values.get("port_http") == 0:
        found.append(("port_http", "a port from 1 to 65535 (the meter's own is 80)"))
    found += [
        (key, "ASCII letters, digits and signs, not empty, without | and control characters")
        for key in ("CT", "CI")
        if key in values and not is_signable(str(values[key]))
    ]
    if "timezone" in values:
        try:
            MeterZone.named(str(values["timezone"]), handle_dst=False)
        except ValueError:
            found.append(("timezone", "±HHMM (hours to 14, minutes to 59) or an IANA name this host knows"))
    if "meter_serial" in values and values["meter_serial"] and not is_signable(str(values["meter_serial"])):
        found.append(("meter_serial", "the serial number as the meter gives it (MS), or nothing"))
    path = str(values.get("journal_path", ""))
    if path and (not path.isprintable() or path.rstrip("/.") != path):
        found.append(("journal_path", "auto, off, or the path of a file in a folder that exists"))
    return found


def is_signable(text: str) -> bool:
    """Return whether a text may be signed as an id: not empty, printable ASCII, no ``|``.

    Other readers of OCMF split at every ``|``, and the transparency software hashes in the platform's own charset.
    """
    return bool(text) and text.isascii() and text.isprintable() and "|" not in text


def is_host(text: str) -> bool:
    """Return whether a text may be an address or a host name, without scheme, port or path."""
    if not text or any(c.isspace() or not c.isprintable() or c in "/?#@[]\\" for c in text):
        return False
    try:
        if ":" in text:
            IPv6Address(text)
        elif not text.strip("0123456789."):
            IPv4Address(text)
        else:
            text.encode("idna")
    except ValueError:
        return False
    return True
