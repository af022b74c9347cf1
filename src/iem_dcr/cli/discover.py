"""``iem-dcr discover``: lists the power meter APIs that EVerest offers at a broker."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

import click

from iem_dcr.cli.arguments import SecondsType, common
from iem_dcr.cli.exit_codes import EXIT_FAILURE
from iem_dcr.cli.interruption import Interruption
from iem_dcr.cli.output import Output, tell
from iem_dcr.errors import ConfigError, IemDcrError, printable
from iem_dcr.everest_api.broker_errors import BrokerError
from iem_dcr.everest_api.discovery import WAIT_S, discover
from iem_dcr.everest_api.mqtt import MqttConnection
from iem_dcr.everest_api.mqtt_settings import MqttSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iem_dcr.everest_api.discovery import FoundApi

PROTOCOL = "3.1.1"
"""The MQTT version that every broker supports."""
CHECK_TIMEOUT_S = 15
REPLY_TIMEOUT_S = 120
"""Recommended by docs/everest-api.md: cfg_communication_check_to_s at least, cfg_request_reply_to_s exactly."""
_FILE = click.Path(dir_okay=False)


@click.command(name="discover")
@click.option(
    "--broker",
    "url",
    default="mqtt://localhost",
    show_default=True,
    metavar="URL",
    help="MQTT broker of the EVerest: mqtt://HOST[:PORT], or mqtts:// for TLS.",
)
@click.option("--user", metavar="NAME", help="User name at the broker.")
@click.option("--password-file", type=_FILE, metavar="FILE", help="File with the password of that user.")
@click.option("--ca-file", type=_FILE, metavar="FILE", help="CA certificates (PEM) that verify the broker.")
@click.option("--cert-file", type=_FILE, metavar="FILE", help="Client certificate (PEM).")
@click.option("--key-file", type=_FILE, metavar="FILE", help="Private key of that certificate (PEM, not encrypted).")
@click.option(
    "--wait",
    "wait_s",
    type=SecondsType(0.1, 60),
    default=WAIT_S,
    show_default=True,
    metavar="S",
    help="How long to wait for answers.",
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@common
def command(url: str, wait_s: float, as_json: bool, **others: str | None) -> int:
    """List the power meter APIs that EVerest offers at a broker, with its monitoring times.

    The command publishes one query and listens for the answers. It sends and changes nothing else.
    """
    try:
        mqtt = MqttSettings.from_url(url, protocol=PROTOCOL, **others)
        mqtt.current_password()
        mqtt.tls_context()
    except ConfigError as error:
        raise click.UsageError("\n".join(error.problems)) from error
    found = asyncio.run(_discover(mqtt, wait_s))
    output = Output()
    if as_json:
        apis = [api.to_json() | {"warnings": warnings(api)} for api in found]
        output.line({"broker": mqtt.address, "apis": apis})
    elif found:
        _print_table(output, found)
    if not found:
        tell(
            f"No powermeter API at {printable(mqtt.address)}: no answer within {wait_s:g} s. Is EVerest connected "
            "to this broker, and does its configuration have a module powermeter_API?"
        )
        return EXIT_FAILURE
    return output.status()


def warnings(api: FoundApi) -> list[str]:
    """Return a warning for each of an API's times that differs from the recommendation, with the consequence."""
    found = []
    check_s = api.communication_monitoring.get("communication_check_period_s")
    if check_s is not None and check_s < CHECK_TIMEOUT_S:
        found.append(
            f"cfg_communication_check_to_s is {check_s:g}: set {CHECK_TIMEOUT_S} or more. A restart of iem-dcr or "
            "of the broker can take longer than that, and EVerest stops charging at once when it misses the check"
        )
    reply_s = api.communication_monitoring.get("request_reply_timeout_s")
    if reply_s is not None and reply_s < REPLY_TIMEOUT_S:
        found.append(
            f"cfg_request_reply_to_s is {reply_s:g}: set {REPLY_TIMEOUT_S}. A stop can take longer than that, and its "
            "receipt would come after EVerest has stopped waiting"
        )
    elif reply_s is not None and reply_s > REPLY_TIMEOUT_S:
        found.append(
            f"cfg_request_reply_to_s is {reply_s:g}: set {REPLY_TIMEOUT_S}. No reply takes longer than that, and a "
            "lost reply blocks the connector until EVerest stops waiting"
        )
    return found


async def _discover(mqtt: MqttSettings, wait_s: float) -> tuple[FoundApi, ...]:
    with Interruption() as interruption:
        return await interruption.break_off(_ask(mqtt, wait_s), "the search was not finished.")


async def _ask(mqtt: MqttSettings, wait_s: float) -> tuple[FoundApi, ...]:
    bus = MqttConnection(mqtt, identity=f"iem-dcr-discover-{secrets.token_hex(4)}")
    connected = asyncio.Event()
    bus.on_connected(connected.set)
    found: tuple[FoundApi, ...] = ()
    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            connection = group.create_task(bus.run_once())
            await connected.wait()
            found = await discover(bus, wait_s=wait_s)
            connection.cancel()
    except* BrokerError as errors:
        failure = errors.exceptions[0]
    if failure is not None and not found:  # what was found counts although the broker failed afterwards
        raise IemDcrError(f"broker {printable(mqtt.address)}: {failure}") from failure
    return found


def _print_table(output: Output, found: Iterable[FoundApi]) -> None:
    from rich import box  # noqa: PLC0415  only the table needs it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(Text("Module id"), overflow="fold")
    for heading in ("Type", "Version", "Heartbeat", "Check within", "Reply within"):
        table.add_column(Text(heading), no_wrap=True)
    warned: dict[str, list[str]] = {}
    for api in found:
        times = api.communication_monitoring
        table.add_row(
            Text(api.module_id, style="bold"),
            Text(api.type),
            Text(api.version),
            Text(_seconds(times.get("heartbeat_period_ms"), 1000)),
            Text(_seconds(times.get("communication_check_period_s"))),
            Text(_seconds(times.get("request_reply_timeout_s"))),
        )
        for warning in warnings(api):
            warned.setdefault(warning, []).append(api.module_id)
    console = output.console()
    console.print(table)
    for warning, module_ids in warned.items():
        line = Text.assemble(("Warning: ", "bold yellow"), f"{', '.join(module_ids)}: {warning}.")
        console.print(line, soft_wrap=True)
    output.flush()


def _seconds(time: float | None, per_second: float = 1.0) -> str:
    return "" if time is None else f"{time / per_second:g} s"
