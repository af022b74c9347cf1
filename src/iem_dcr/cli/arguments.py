"""Arguments of the commands: the address of a meter, KEY=VALUE, and the options that all commands have."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import click

from iem_dcr import __version__
from iem_dcr.cli import output
from iem_dcr.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., object]")

DEFAULT_PORT = 80
_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^\[\]:]*))(?::(?P<port>.*))?", re.DOTALL)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_VERBOSITY = "iem_dcr.verbosity"


@dataclass(frozen=True, slots=True)
class Address:
    """Address of a meter: host name or IP address (IPv6 without brackets), and TCP port."""

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parse ``host``, ``host:port``, ``[v6]``, ``[v6]:port`` or a bare IPv6 address. The default port is 80.

    Raises:
        ValueError: the text has none of these forms. The message says what is expected.
    """
    from iem_dcr.config import is_host  # noqa: PLC0415  only needed with an address

    if "//" in text:
        raise ValueError("give the address alone, without http:// and without a path")
    is_bare_v6 = text.count(":") > 1 and "[" not in text
    found = _ADDRESS.fullmatch(f"[{text}]" if is_bare_v6 else text)
    host = "" if found is None else found["v6"] or found["host"] or ""
    if found is None or not is_host(host) or (found["v6"] is not None) != (":" in host):
        raise ValueError("expected a host name or an IP address; a port may follow: meter:8080, [fe80::1]:8080")
    port = found["port"]
    if port is None:
        return Address(host)
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise ValueError(f"the port is {printable(port, limit=20)!r}; expected a number from 1 to 65535")
    return Address(host, int(port))


class AddressType(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """``HOST[:PORT]``."""

    name = "HOST[:PORT]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """Convert a word to an address."""
        try:
            return parse_address(value)
        except ValueError as error:
            self.fail(f"{printable(value, limit=60)!r}: {error}", param, ctx)


class SecondsType(click.FloatRange):
    """A number of seconds within a range. ``nan`` is refused."""

    name = "SECONDS"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Convert a word to a number."""
        try:
            is_number = not math.isnan(float(value))
        except ValueError:
            is_number = False
        if not is_number:
            self.fail(f"{printable(value, limit=60)!r} is not a number of seconds", param, ctx)
        return float(super().convert(value, param, ctx))  # type: ignore[arg-type]  # narrower than click's


class PairType(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """``KEY=VALUE``."""

    name = "KEY=VALUE"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Split a word at its first equals sign."""
        key, equals, text = value.partition("=")
        if not equals or not key:
            self.fail(f"{printable(value, limit=60)!r}: expected {self.name}", param, ctx)
        return key, text


def common(command: F) -> F:
    """Add the options that every command has: -v, -q and --version."""
    counted = partial(click.option, count=True, show_default=False, expose_value=False, callback=_change_verbosity)
    help_text = "Log progress to standard error; give it twice to log everything."
    command = click.version_option(__version__, prog_name="iem-dcr", message="%(prog)s %(version)s")(command)
    command = counted("-q", "--quiet", help="Log errors only.")(command)
    return counted("-v", "--verbose", help=help_text)(command)


def verbosity() -> int:
    """Return how often -v was given to the running command, minus how often -q was given."""
    steps: int = click.get_current_context().meta.get(_VERBOSITY, 0)
    return steps


def _change_verbosity(ctx: click.Context, param: click.Parameter, count: int) -> None:
    """Add to the count so far: the options may stand before the subcommand, after it, or both."""
    steps = count if param.name == "verbose" else -count
    ctx.meta[_VERBOSITY] = ctx.meta.get(_VERBOSITY, 0) + steps
    output.set_verbosity(ctx.meta[_VERBOSITY])
