"""What the commands take: the address of a meter, KEY=VALUE, and the options that all of them have."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import click

from iem_dcr import __version__
from iem_dcr.cli import output
from iem_dcr.errors import ConfigError, printable

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., object]")

DEFAULT_PORT = 80
_BRACKETED = re.compile(r"\[([^\[\]]*)\](?::(.*))?")
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")
_ONLY_DIGITS = re.compile(r"[0-9.]+")
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_VERBOSITY = "iem_dcr.verbosity"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a meter is: host name or IP address (IPv6 without brackets), and TCP port."""

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read ``host``, ``host:port``, ``[v6]``, ``[v6]:port`` or a bare IPv6 address; the port is 80 without one.

    Raises:
        ValueError: it is none of these; the message says what is expected.
    """
    if "//" in text:
        raise ValueError("give the address alone, without http:// and without a path")
    bracketed = _BRACKETED.fullmatch(text)
    if bracketed is not None:
        host, port = bracketed.groups()
        return Address(_ip_v6(host), _port(port))
    if text.count(":") > 1:
        return Address(_ip_v6(text))
    host, colon, port = text.partition(":")
    return Address(_name(host), _port(port if colon else None))


class AddressType(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """``HOST[:PORT]``."""

    name = "HOST[:PORT]"

    def convert(self, value: str | Address, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """Make an address of a word."""
        if isinstance(value, Address):
            return value
        try:
            return parse_address(value)
        except ValueError as error:
            self.fail(f"{printable(value, limit=60)!r}: {error}", param, ctx)


class SecondsType(click.FloatRange):
    """A number of seconds within a range; ``nan`` is in none."""

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Make a number of a word."""
        seconds = float(super().convert(value, param, ctx))  # type: ignore[arg-type]  # narrower than what click gives it
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


class PairType(click.ParamType):  # type: ignore[type-arg]  # as above
    """``KEY=VALUE``."""

    name = "KEY=VALUE"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Split a word at its first equals sign."""
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not equals or not key:
            self.fail(f"{printable(value, limit=60)!r}: expected {self.name}", param, ctx)
        return key, text


def common(command: F) -> F:
    """Add the options that every command has: -v, -q and --version."""
    for option in (
        click.version_option(__version__, prog_name="iem-dcr", message="%(prog)s %(version)s"),
        click.option("-q", "--quiet", count=True, expose_value=False, callback=_quieter, help="Log errors only."),
        click.option(
            "-v",
            "--verbose",
            count=True,
            expose_value=False,
            callback=_louder,
            help="Log what is done to standard error; twice: everything.",
        ),
    ):
        command = option(command)
    return command


def verbosity() -> int:
    """Return how often the running command was told -v, less how often -q."""
    steps: int = click.get_current_context().meta.get(_VERBOSITY, 0)
    return steps


def usage_error(error: ConfigError) -> click.UsageError:
    """Make a mistake in a setting one in the command line."""
    return click.UsageError("\n".join(error.problems), click.get_current_context(silent=True))


def _louder(ctx: click.Context, _param: click.Parameter, value: int) -> None:
    _change_verbosity(ctx, value)


def _quieter(ctx: click.Context, _param: click.Parameter, value: int) -> None:
    _change_verbosity(ctx, -value)


def _change_verbosity(ctx: click.Context, steps: int) -> None:
    """Add to what was said before: the options stand before the command, behind it, or both."""
    ctx.meta[_VERBOSITY] = ctx.meta.get(_VERBOSITY, 0) + steps
    output.set_verbosity(ctx.meta[_VERBOSITY])


def _name(host: str) -> str:
    if not host:
        raise ValueError("the host is missing; expected is an IP address or a host name")
    if _ONLY_DIGITS.fullmatch(host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError as error:
            raise ValueError("not an IP address; expected is one like 192.168.60.12, or a host name") from error
    if not _NAME.fullmatch(host):
        raise ValueError("not a host; expected is an IP address, an IPv6 address in brackets, or a host name")
    return host


def _ip_v6(host: str) -> str:
    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError as error:
        raise ValueError("not an IPv6 address; expected is one like [fe80::1]:80") from error


def _port(text: str | None) -> int:
    if text is None:
        return DEFAULT_PORT
    if _PORT.fullmatch(text) and 1 <= int(text) <= 65535:
        return int(text)
    raise ValueError(f"the port is {printable(text, limit=20)!r}; expected is a number from 1 to 65535")
