"""``iem-dcr demo``: a charging session at a simulated meter behind EVerest's MQTT API, all of it in this process."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
import uuid
from datetime import datetime
from typing import TYPE_CHECKING

import click
from rich.text import Text

from iem_dcr.cli.arguments import SecondsType, common
from iem_dcr.cli.charging import NOTHING_BEGAN, charge, running
from iem_dcr.cli.interruption import Interruption, LeftEarlyError
from iem_dcr.cli.output import Output, say
from iem_dcr.cli.session_view import HumanView
from iem_dcr.config import Settings
from iem_dcr.errors import ConfigError
from iem_dcr.everest_api.mqtt_settings import MqttSettings
from iem_dcr.everest_api.topics import READY_BEACON, Topics
from iem_dcr.powermeter import TransactionReq
from iem_dcr.service.observation import ObservedMeter
from iem_dcr.service.web_settings import WebSettings
from iem_dcr.simulator import SimulatorOptions, SimulatorServer
from iem_dcr.web.server import WebServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from rich.console import Console

EVSE_ID = "DE*PNX*E1234567*1"
TOKEN = "04A2B3C4D5E6F7"  # noqa: S105  a made-up RFID token, shown on purpose
TARIFF = "0.49 EUR/kWh"
CONNECT_S = 15.0
PAGE_S = 2.0
"""How long the page may take to be there; the session does not wait for it longer."""
LOAD_DELAY_S = 0.5
CURRENT_ENDS_BEFORE_S = 0.5
"""How long before the stop the simulated car has taken its last current: a meter ends no transaction under load."""
PROTOCOL = "3.1.1"
"""The version of MQTT that every broker speaks, the demo's own among them."""
_PATIENCE = "Still ending the transaction; interrupt once more to leave at once."


def _mqtt(_ctx: click.Context, param: click.Parameter, url: str | None) -> MqttSettings | None:
    if url is None:
        return None
    try:
        return MqttSettings.from_url(url, protocol=PROTOCOL)
    except ConfigError as error:
        raise click.BadParameter("\n".join(error.problems), param=param) from error


@click.command(name="demo", short_help="Show a session at a simulated meter behind EVerest's API.")
@click.option(
    "--seconds",
    type=SecondsType(2, 3600),
    default=10.0,
    show_default=True,
    metavar="N",
    help="How long to charge.",
)
@click.option(
    "--broker",
    "mqtt",
    metavar="URL",
    callback=_mqtt,
    help="Use this MQTT broker, mqtt://USER:PASSWORD@HOST:PORT or mqtts://, instead of one of the demo's own. Not that "
    "of a charger in use: the demo plays EVerest there.",
)
@click.option("--keep-open", is_flag=True, help="Leave meter and page running after the session, until Ctrl-C.")
@common
def command(seconds: float, mqtt: MqttSettings | None, keep_open: bool) -> int:
    """Show the main job without a meter: a charging session at a simulated IEM-DCR, its signed receipt and its check.

    The meter is driven behind EVerest's MQTT API; the demo brings the broker and plays EVerest's part. All of it can be
    watched with mosquitto_sub, and on the bring-up page with a browser; the demo says how.
    """
    return asyncio.run(_demo(seconds, mqtt, keep_open=keep_open))


async def _demo(seconds: float, given: MqttSettings | None, *, keep_open: bool) -> int:
    output = Output()
    console = output.console()
    options = SimulatorOptions(
        charge_s=seconds - LOAD_DELAY_S - CURRENT_ENDS_BEFORE_S,
        load_delay_s=LOAD_DELAY_S,
        signature_encoding="der",  # without padding, one receipt in 128 has a finding that takes explaining
    )
    async with SimulatorServer(options) as server:
        with Interruption(_PATIENCE) as interruption:
            output.when_lost = interruption.ask_to_end
            _headline(console, server)
            output.flush()
            try:
                async with _broker(given) as mqtt:
                    status = await _session(
                        mqtt, _settings(server), output, interruption, seconds=seconds, keep_open=keep_open
                    )
            except LeftEarlyError:
                if output.error is None:
                    raise
                return output.status()  # nobody interrupted: there is nobody left to write for
    if status == 0:
        _whats_next(console)
        output.flush()
    return status or output.status()


async def _session(
    mqtt: MqttSettings,
    settings: Settings,
    output: Output,
    interruption: Interruption,
    *,
    seconds: float,
    keep_open: bool,
) -> int:
    with _tools():
        from iem_dcr.cli.behind_everest import Links, MeterBehindEverest  # noqa: PLC0415  as in _broker
    console = output.console()
    view = HumanView(output, seconds)
    async with Links(mqtt, f"demo_{secrets.token_hex(2)}") as links:
        await interruption.break_off(links.open(), NOTHING_BEGAN)
        _how_to_watch(console, mqtt, links.module_id)
        observed = ObservedMeter(settings, links.module_id, f"{settings.ip_address}:{settings.port_http}")
        async with _served([observed]) as page:
            say(console, Text.assemble("In a browser (to stay: --keep-open): ", (page.url, "cyan"), "\n"))
            meter = MeterBehindEverest(settings, links, view, view, observed)
            async with running(meter):
                status = await charge(meter, _request(), view, interruption, seconds=seconds, connect_s=CONNECT_S)
                if keep_open and status == 0:
                    say(console, f"\nThe meter is still driven, and the page shows it: {page.url}\nCtrl-C ends it.")
                    await interruption.wait()
    return status


@contextlib.asynccontextmanager
async def _served(meters: Sequence[ObservedMeter]) -> AsyncIterator[WebServer]:
    """Serve the bring-up page at a port of loopback that is free."""
    page = WebServer(WebSettings("127.0.0.1:0"), meters, lambda: "This is the demo: the meter is a simulated one")
    task = asyncio.create_task(page.run())
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PAGE_S):
                await page.listening.wait()
        yield page
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextlib.asynccontextmanager
async def _broker(given: MqttSettings | None) -> AsyncIterator[MqttSettings]:
    """Yield how the broker is reached: the one that was given, or one that lives as long as this is entered."""
    if given is not None:
        yield given
        return
    with _tools():
        # It takes a moment to load, and the first line should not wait for it.
        from iem_dcr.cli.own_broker import HOST, OwnBroker  # noqa: PLC0415
    async with OwnBroker() as own:
        yield MqttSettings(host=HOST, port=own.port, protocol=PROTOCOL)


@contextlib.contextmanager
def _tools() -> Iterator[None]:
    """Say what to install where a package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise click.ClickException(
            f"the demo needs the package {missing}, of the extra 'tools': pip install 'iem-dcr[tools]'"
        ) from error


def _settings(server: SimulatorServer) -> Settings:
    """Return the driver's settings; the meter's time is written in the zone of this host, as EVerest's values are."""
    return Settings.of(
        {
            "ip_address": server.host,
            "port_http": server.port,
            "CI": EVSE_ID,
            "timezone": f"{datetime.now().astimezone():%z}",
            "timezone_handle_DST": False,
        }
    )


def _request() -> TransactionReq:
    return TransactionReq.from_json(
        {
            "evse_id": EVSE_ID,
            "transaction_id": str(uuid.uuid4()),
            "identification_status": "ASSIGNED",
            "identification_flags": [],
            "identification_type": "ISO14443",
            "identification_data": TOKEN,
            "tariff_text": TARIFF,
        }
    )


def _headline(console: Console, server: SimulatorServer) -> None:
    console.print(Text("A charging session at a simulated IEM-DCR", style="bold"))
    say(console, f"The simulated meter {server.meter.options.MS} is at http://{server.address}")
    say(console, f"The driver sets it up for charge point {EVSE_ID} and reads it every second.")


def _how_to_watch(console: Console, mqtt: MqttSettings, module_id: str) -> None:
    topics = Topics(module_id)
    say(console, f"EVerest's API module is {module_id}, at the MQTT broker {mqtt.address}.")
    say(console, "To watch it (longer with --seconds):")
    say(console, Text.assemble("\n  ", (_watching(mqtt), "cyan"), "\n"))
    width = len(topics.check)
    for topic, what in (
        (READY_BEACON, "EVerest has started"),
        (topics.heartbeat, "and is there, every second"),
        (topics.check, "the meter can be reached, every two seconds"),
        (topics.key, "the key its receipts are checked with"),
        (topics.values, "live values"),
        (topics.start, "EVerest asks for the begin of a transaction"),
        (topics.stop, "and for its end; replies come below both"),
    ):
        say(console, Text.assemble(f"  {topic:<{width}}  ", (what, "dim")))
    console.print()


def _watching(mqtt: MqttSettings) -> str:
    words = ["mosquitto_sub", "-h", mqtt.host, "-p", str(mqtt.port)]
    if mqtt.user is not None:
        words += ["-u", mqtt.user, "-P", "PASSWORD"]
    if mqtt.tls:
        words.append("--tls-use-os-certs")
    return f"{shlex.join(words)} -v -t 'everest_api/#'"


def _whats_next(console: Console) -> None:
    console.print(Text("\nTo go on:", style="bold"))
    for command_line, what in (
        ("iem-dcr simulate", "a simulated meter to play with, at 127.0.0.1:8080"),
        ("iem-dcr read 127.0.0.1:8080", "one reading of it, or of a real meter"),
        (f"iem-dcr session 127.0.0.1:8080 --id {TOKEN} --evse-id '{EVSE_ID}'", "a session of your own"),
        ("iem-dcr config example > iem-dcr.toml", "then iem-dcr run iem-dcr.toml: your meters behind a real EVerest"),
    ):
        say(console, Text.assemble("  ", (command_line, "cyan"), f"\n      {what}"))
