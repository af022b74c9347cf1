"""One meter's settings: names, types, defaults and ranges in one table, and the plausibility checks.

The first twelve are those of the vendor's EVerest module for this meter, so that existing charger configurations keep
working. The others are optional. The fields of `Settings` are the only source: all code that shows or checks a setting
is derived from them, through `SETTINGS`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final, TypeVar, cast

from iem_dcr.errors import ConfigError, printable
from iem_dcr.meter_time import MeterZone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _typeshed import DataclassInstance

Value = str | int | bool
V = TypeVar("V", bound=Value)

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
    """One key of a configuration.

    Attributes:
        key: name in a configuration.
        default: value if the key is absent. Its type is the type of the setting.
        description: effect of the setting, with its unit.
        minimum: smallest allowed number.
        maximum: largest allowed number.
        choices: the allowed texts, or () for any text.
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

    def accepts(self, value: object) -> bool:
        """Return whether a value has the right type and range."""
        if type(value) is not self.kind:
            return False
        if self.choices:
            return value in self.choices
        return self.minimum is None or self.minimum <= cast("int", value) <= cast("int", self.maximum)


def setting(
    default: V,
    description: str,
    minimum: int | None = None,
    maximum: int | None = None,
    *,
    choices: tuple[str, ...] = (),
    is_secret: bool = False,
) -> V:
    """Make a field of a dataclass of settings, as `settings_of` reads it. A secret is left out of the repr."""
    limits = {"minimum": minimum, "maximum": maximum, "choices": choices}
    return field(default=default, repr=not is_secret, metadata={"description": description, **limits})


def settings_of(kind: type[DataclassInstance]) -> tuple[Setting, ...]:
    """Return the settings of a dataclass whose fields are made by `setting`."""
    return tuple(Setting(each.name, cast("Value", each.default), **each.metadata) for each in fields(kind))


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one meter. `of` makes them from a configuration."""

    ip_address: str = setting("192.168.60.12", "Address of the meter on the charger's network")
    port_http: int = setting(80, "TCP port of the meter's HTTP server", 0, 65535)
    timezone: str = setting("+0100", "Time zone of the meter's clock: ±HHMM or an IANA name like Europe/Berlin")
    timezone_handle_DST: bool = setting(  # noqa: N815  the key is the vendor's
        default=True, description="Add European summer time to an offset of +0000, +0100 or +0200"
    )
    datetime_resync_interval: int = setting(2, "Hours between two settings of the meter's clock", 1, 24)
    resilience_initial_connection_retry_delay: int = setting(
        10000, "Milliseconds between two attempts to reach a meter that does not answer", 1000, 65535
    )
    resilience_transaction_request_retries: int = setting(
        3, "How often a refused request of a transaction is sent again", 0, 5
    )
    resilience_transaction_request_retry_delay: int = setting(
        250, "Milliseconds before a refused request of a transaction is sent again", 200, 1000
    )
    CT: str = setting("EVSEID", "Charge point identification type, signed with every transaction (OCMF CT)")
    CI: str = setting(VENDOR_CI, "Charge point identification, signed with every transaction (OCMF CI)")
    TT_initial: str = setting("", "Tariff text set once per power-up of the meter; empty sets none (OCMF TT)")
    US: bool = setting(default=False, description="Show the user's id on the meter's display")
    command_timeout_ms: int = setting(
        5000,
        "Milliseconds for one request to the meter, connecting and body included; a live value takes at most 2000",
        500,
        20000,
    )
    refuse_start_with_error: bool = setting(
        default=False,
        description="Answer UNEXPECTED_ERROR instead of NOT_SUPPORTED, so that EVerest does not charge without signing",
    )
    initial_connection_wait_ms: int = setting(
        30000,
        "Milliseconds for which a stop waits for a meter that has not been initialised since the process began",
        0,
        60000,
    )
    stop_current_wait_ms: int = setting(
        10000,
        "Milliseconds for which a refused end of a transaction is repeated while a current still flows",
        0,
        30000,
    )
    IL_default: str = setting(
        "NONE", "Identification level signed when the station gives none (OCMF IL)", choices=IDENTIFICATION_LEVELS
    )
    meter_serial: str = setting(
        "", "Serial number the meter must have (its MS); pin: the first one that answers; empty: any"
    )
    strict_transaction_ids: bool = setting(
        default=False,
        description="Answer a stop for an unknown id with an error if the last receipt belongs to another transaction",
    )
    verify_receipts: bool = setting(
        default=True, description="Check the signature of every receipt with the meter's public key"
    )
    journal_path: str = setting(
        AUTO, "File of the journal that keeps every receipt; auto: in the state folder; off or empty: none"
    )
    journal_keep_days: int = setting(
        365, "Days after which a receipt is deleted from the journal; 0 is never", 0, 36500
    )

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
        for key, value in given.items():
            if key in _BY_KEY and (expected := _expectation(_BY_KEY[key], value)):
                problems.append(f"{key} is {shown(value)}: expected {expected}")
        if problems:
            raise ConfigError(problems)
        return cls(**given)  # type: ignore[arg-type]  # each was checked against the type in SETTINGS

    def zone(self) -> MeterZone:
        """Return the zone in which the meter's time is written."""
        return MeterZone.named(self.timezone, handle_dst=self.timezone_handle_DST)


SETTINGS: Final = settings_of(Settings)
_BY_KEY: Final = {each.key: each for each in SETTINGS}


def from_text(key: str, text: str) -> Value:
    """Read a setting's value from text, as typed on a command line.

    Raises:
        ConfigError: there is no such key, or the text is not of the setting's type.
    """
    found = _BY_KEY.get(key)
    if found is None:
        raise ConfigError([_unknown(key)])
    if found.kind is str:
        return text
    try:
        return int(text) if found.kind is int else {"true": True, "false": False}[text.lower()]
    except (KeyError, ValueError):
        raise ConfigError([f"{key} is {shown(text)}: expected {found.expected}"]) from None


def shown(value: object) -> str:
    """Show a value in a message. Show only the type of a list or an object, because it may be very large."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= _TOO_LONG_TO_SHOW:
        return "a number of more than 18 digits"
    is_plain = value is None or isinstance(value, str | int | float)
    return printable(repr(value), limit=60) if is_plain else f"a {type(value).__name__}"


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


def _unknown(key: str) -> str:
    return f"{printable(key, limit=60)} is not a setting: expected one of {', '.join(sorted(_BY_KEY))}"


def _expectation(which: Setting, value: object) -> str:
    """Return the expectation that a value does not meet, or ""."""
    if not which.accepts(value):
        return which.expected
    is_plausible, expected = _PLAUSIBLE.get(which.key, (lambda _: True, ""))
    return "" if is_plausible(value) else expected


def _is_zone(name: str) -> bool:
    try:
        MeterZone.named(name, handle_dst=False)
    except ValueError:
        return False
    return True


_SIGNABLE: Final = "ASCII letters, digits and signs, not empty, without | and control characters"
_PLAUSIBLE: Final[dict[str, tuple[Callable[..., bool], str]]] = {
    "ip_address": (is_host, "the address or host name of the meter, without scheme, port or path"),
    "port_http": (lambda port: port != 0, "a port from 1 to 65535 (the meter's own is 80)"),
    "timezone": (_is_zone, "±HHMM (hours to 14, minutes to 59) or an IANA name this host knows"),
    "CT": (is_signable, _SIGNABLE),
    "CI": (is_signable, _SIGNABLE),
    "meter_serial": (
        lambda serial: serial == "" or is_signable(serial),
        "the serial number as the meter gives it (MS), or nothing",
    ),
    "journal_path": (
        lambda path: path.isprintable() and path.rstrip("/.") == path,
        "auto, off, or the path of a file in a folder that exists",
    ),
}
"""What a value of the right type must be, beyond its range, so that it can work; and that expectation in words."""
