"""``iem-dcr config``: writes an example of the configuration file of ``iem-dcr run``, and checks a file."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import textwrap
from dataclasses import replace
from errno import EADDRINUSE
from pathlib import Path
from typing import TYPE_CHECKING

import click

from iem_dcr.cli.arguments import common
from iem_dcr.cli.exit_codes import EXIT_FAILURE, EXIT_USAGE
from iem_dcr.cli.output import Output, tell
from iem_dcr.config import AUTO, SETTINGS, VENDOR_CI
from iem_dcr.errors import ConfigError, printable
from iem_dcr.everest_api.mqtt_settings import MQTT
from iem_dcr.journaling import check_journal_of, place
from iem_dcr.service.config import ServiceConfig
from iem_dcr.service.web_settings import WEB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from iem_dcr.config import Setting
    from iem_dcr.everest_api.mqtt_settings import MqttSettings
    from iem_dcr.service.config import MeterConfig
    from iem_dcr.service.web_settings import WebSettings

_WIDTH = 100
_SHOWN_METERS = 10

_EXAMPLE_HEAD = """\
# Configuration of iem-dcr run. A line that begins with # and a key shows the default of that key.
# Set CI, then check it with: iem-dcr config check FILE
"""
_EXAMPLE_WEB = """\
# The bring-up page, for a browser on this computer. No page is served without this table, or with
# an empty listen.
"""
_EXAMPLE_METER = """\
# One table [[meter]] for each meter.
"""
_EXAMPLE_MODULE_ID = """\
# Id of this meter's module powermeter_API in EVerest's configuration.
# Optional if there is one meter and EVerest offers one such API: see iem-dcr discover
module_id = "powermeter_api"
"""
_EXAMPLE_CI = f"""\
# Required: the evse_id of EvseManager in EVerest's configuration. The meter keeps the first CI that
# it is given until its power is switched off and on, and signs every receipt with it. The
# default, "{VENDOR_CI}", is that of the vendor's module.
CI = ""
"""


def meter_names(meters: Sequence[MeterConfig]) -> str:
    """Name the first meters in one line."""
    shown = ", ".join(
        f"{printable(meter.module_id or 'module_id not known yet')} at {meter.address}"
        for meter in meters[:_SHOWN_METERS]
    )
    return shown if len(meters) <= _SHOWN_METERS else f"{shown} and {len(meters) - _SHOWN_METERS} more"


@click.group(name="config")
@common
def command() -> None:
    """Check the configuration file of iem-dcr run, or write an example of one."""


@command.command(short_help="Report what is wrong with a file.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--offline", is_flag=True, help="Do not try the broker and the port of the page.")
@common
def check(file: Path, offline: bool) -> int:
    """Report everything that is wrong with a configuration file, or show what it configures.

    The command tries what iem-dcr run needs: files and folders, the port of the page, and the broker, with a client_id
    of its own. It sends no requests to meters; iem-dcr doctor does.

    The exit status is 2 if the file has mistakes, and 1 if only the port or the broker is not available.
    """
    config = ServiceConfig.load(file)
    for warning in config.warnings:
        tell(f"Warning: {warning}")
    mistakes = [*_vendor_ci_problems(config.meters), *_journal_problems(config.meters)]
    failures = [] if offline else [*_page_problems(config.web), *_broker_problems(config.mqtt)]
    for problem in (*mistakes, *failures):
        tell(f"{printable(file, limit=300)}: {problem}")
    if mistakes or failures:
        return EXIT_USAGE if mistakes else EXIT_FAILURE
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
    """Return a configuration file with every key. Only the module_id and CI of its one meter are not commented out."""
    mqtt, web, meter = ("\n".join(_described(settings)) for settings in (MQTT, WEB, SETTINGS))
    tables = f"[mqtt]\n{mqtt}\n{_EXAMPLE_WEB}[web]\n{web}\n"
    return f"{_EXAMPLE_HEAD}\n{tables}{_EXAMPLE_METER}[[meter]]\n{_EXAMPLE_MODULE_ID}\n{meter}"


def _described(settings: Iterable[Setting]) -> Iterator[str]:
    for setting in settings:
        text = setting.description
        if setting.expected != "a text":
            text += f": {setting.expected}"
        yield from textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")
        # TOML and JSON write these three types in the same way.
        default = f"#{setting.key} = {json.dumps(setting.default, ensure_ascii=False)}\n"
        yield _EXAMPLE_CI if setting.key == "CI" else default


# --- checks of what iem-dcr run needs ---


def _vendor_ci_problems(meters: Iterable[MeterConfig]) -> Iterator[str]:
    for number, meter in enumerate(meters, 1):
        if meter.settings.CI == VENDOR_CI:
            yield (
                f"[[meter]] {number} ({meter_names([meter])}) CI is {VENDOR_CI!r}, the vendor's default: "
                "expected the evse_id of EvseManager. The meter keeps the first one it is given until a power cycle"
            )


def _journal_problems(meters: Iterable[MeterConfig]) -> Iterator[str]:
    for path, settings in {meter.settings.journal_path: meter.settings for meter in meters}.items():
        try:
            check_journal_of(settings)
        except ConfigError as error:
            yield from (f"[[meter]] {problem}" for problem in error.problems)
        if path == AUTO and place(makes_folder=False) is None:
            yield (
                "[[meter]] journal_path is 'auto', and this user cannot write to any of its folders: expected the path "
                "of a file, or STATE_DIRECTORY in the environment"
            )


def _page_problems(web: WebSettings | None) -> Iterator[str]:
    if web is None:
        return
    family = socket.AF_INET6 if ":" in web.host else socket.AF_INET
    try:
        socket.create_server((web.host, web.port), family=family).close()
    except OSError as error:
        hint = ": iem-dcr run is already running, or another program uses the port" if error.errno == EADDRINUSE else ""
        yield f"[web] listen is {web.listen!r}: {os.strerror(error.errno or 0)}{hint}"


def _broker_problems(mqtt: MqttSettings) -> Iterator[str]:
    from iem_dcr.everest_api.broker_errors import BrokerError  # noqa: PLC0415  not needed offline
    from iem_dcr.everest_api.mqtt import MqttConnection  # noqa: PLC0415  not needed offline

    # With the client_id of the service the broker would disconnect a running service.
    own = replace(mqtt, client_id="")
    try:
        asyncio.run(MqttConnection(own, identity=f"iem-dcr-check-{secrets.token_hex(4)}").probe())
    except BrokerError as error:
        yield f"[mqtt] the broker {printable(mqtt.address)} cannot be used: {error}"


def _summary(file: Path, config: ServiceConfig) -> Iterator[str]:
    yield f"{printable(file, limit=300)} is in order"
    tls = ", TLS" if config.mqtt.tls else ""
    user = f", user {printable(config.mqtt.user)}" if config.mqtt.user else ""
    yield f"  Broker  {printable(config.mqtt.address)}, MQTT {config.mqtt.protocol}{tls}{user}"
    if config.web is not None:
        yield f"  Page    http://{config.web.listen}{', with a token' if config.web.needs_token else ''}"
    yield f"  Meters  {len(config.meters)}: {meter_names(config.meters)}"
