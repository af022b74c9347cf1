"""``iem-dcr config``: an example of the service's configuration file, and what is wrong with a file."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from iem_dcr.cli.arguments import common
from iem_dcr.cli.output import Output, tell
from iem_dcr.config import SETTINGS
from iem_dcr.errors import ConfigError, printable
from iem_dcr.service.config import MQTT, ServiceConfig
from iem_dcr.service.web_settings import WEB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iem_dcr.config import Setting, Value
    from iem_dcr.service.config import MeterConfig

EXIT_USAGE = 2
_WIDTH = 100
_SHOWN_METERS = 10

_EXAMPLE_HEAD = """\
# Configuration of iem-dcr run. A line that begins with # and a key shows the default of that key.
# Check it with: iem-dcr config check FILE
"""
_EXAMPLE_WEB = """\
# The bring-up page, for a browser on this computer. There is none without this table, or with an
# empty listen.
"""
_EXAMPLE_METER = """\
# One table [[meter]] for each meter.
"""
_EXAMPLE_MODULE_ID = """\
# Id of the module powermeter_API in EVerest's configuration that this meter is behind.
# May be left out where there is one meter and EVerest offers one such API: iem-dcr discover
module_id = "powermeter_api"
"""


class MistakenFileError(click.ClickException):
    """A configuration file with mistakes, each of which is a line on standard error."""

    exit_code = EXIT_USAGE

    def __init__(self, error: ConfigError) -> None:
        self._problems = error.problems
        super().__init__("; ".join(error.problems))

    def show(self, file: object = None) -> None:  # noqa: ARG002  the signature is click's
        """Write them."""
        tell("\n".join(self._problems))


def load(file: Path) -> ServiceConfig:
    """Read a configuration file.

    Raises:
        MistakenFileError: it has mistakes.
    """
    try:
        return ServiceConfig.load(file)
    except ConfigError as error:
        raise MistakenFileError(error) from error


def load_meters(file: Path) -> tuple[MeterConfig, ...]:
    """Read the meters of a configuration file, whatever is in its ``[mqtt]``.

    Raises:
        MistakenFileError: there are mistakes in them.
    """
    try:
        return ServiceConfig.load_meters(file)
    except ConfigError as error:
        raise MistakenFileError(error) from error


@click.group(name="config", short_help="Check the service's configuration, or see an example.")
@common
def command() -> None:
    """Check the configuration file of iem-dcr run, or write an example of one."""


@command.command(short_help="Say what is wrong with a file.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@common
def check(file: Path) -> int:
    """Say everything that is wrong with a configuration file, or what it configures. Nothing is connected to."""
    config = load(file)
    for warning in config.warnings:
        tell(f"Warning: {warning}")
    output = Output()
    output.write("".join(f"{line}\n" for line in _summary(file, config)))
    output.flush()
    return output.status()


@command.command(short_help="Write an example.")
@common
def example() -> int:
    """Write a configuration file with every key, its default and what it does."""
    output = Output()
    output.write(example_text())
    output.flush()
    return output.status()


def example_text() -> str:
    """Return a configuration file with every key; all but the module_id of its one meter are commented out."""
    mqtt, web, meter = ("\n".join(_commented(settings)) for settings in (MQTT, WEB, SETTINGS))
    tables = f"[mqtt]\n{mqtt}\n\n{_EXAMPLE_WEB}[web]\n{web}\n"
    return f"{_EXAMPLE_HEAD}\n{tables}\n{_EXAMPLE_METER}[[meter]]\n{_EXAMPLE_MODULE_ID}\n{meter}\n"


def _commented(settings: Iterable[Setting]) -> Iterator[str]:
    for number, setting in enumerate(settings):
        if number:
            yield ""
        told = setting.description
        if setting.expected != "a text":
            told += f": {setting.expected}"
        yield from textwrap.wrap(told, _WIDTH, initial_indent="# ", subsequent_indent="# ")
        yield f"#{setting.key} = {_toml(setting.default)}"


def _toml(value: Value) -> str:
    """Write a value as TOML does; for these three types JSON writes the same."""
    return json.dumps(value, ensure_ascii=False)


def _summary(file: Path, config: ServiceConfig) -> Iterator[str]:
    yield f"{printable(file, limit=300)} is in order"
    yield f"  Broker  {printable(config.mqtt.address)}, MQTT {config.mqtt.protocol}" + "".join(_broker(config))
    if config.web is not None:
        yield f"  Page    http://{config.web.listen}{', with a token' if config.web.needs_token else ''}"
    count = len(config.meters)
    shown = ", ".join(map(_meter, config.meters[:_SHOWN_METERS]))
    more = f" and {count - _SHOWN_METERS} more" if count > _SHOWN_METERS else ""
    yield f"  Meters  {count}: {shown}{more}"


def _broker(config: ServiceConfig) -> Iterator[str]:
    if config.mqtt.tls:
        yield ", TLS"
    if config.mqtt.user is not None:
        yield f", user {printable(config.mqtt.user)}"


def _meter(meter: MeterConfig) -> str:
    return f"{printable(meter.module_id or 'module_id to be found out')} at {meter.address}"
