"""``iem-dcr demo``: a charging session at a simulated meter behind EVerest's MQTT API, all in this process."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import uuid
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import click
from rich.text import Text

from iem_dcr.cli.arguments import SecondsType, common
from iem_dcr.cli.charging import NOTHING_BEGAN, Session, running
from iem_dcr.cli.exit_codes import EXIT_INTERRUPTED
from iem_dcr.cli.interruption import run_interruptible
from iem_dcr.cli.output import Output, say
from iem_dcr.config import Settings
from iem_dcr.errors import ConfigError
from iem_dcr.everest_api.broker_errors import BrokerError
from iem_dcr.everest_api.mqtt_settings import MqttSettings
from iem_dcr.powermeter import TransactionReq
from iem_dcr.simulator import SimulatorOptions, SimulatorServer

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from rich.console import Console

    from iem_dcr.cli.interruption import Interruption

EVSE_ID = "DE*PNX*E1234567*1"
TOKEN = "04A2B3C4D5E6F7"  # noqa: S105  a made-up RFID token, shown on purpose
TARIFF = "0.49 EUR/kWh"
CONNECT_S = 15.0
PAUSE_S = 5.0
LOAD_DELAY_S = 0.5
CURRENT_ENDS_BEFORE_S = 0.5
"""The simulated current ends this long before the stop: a meter does not end a transaction under load."""
PROTOCOL = "3.1.1"
"""The MQTT version that every broker supports, also the demo's own."""
_NEXT_STEPS = (
    ("iem-dcr simulate", "a simulated meter to play with, at 127.0.0.1:8080"),
    ("iem-dcr read 127.0.0.1:8080", "one reading of it, or of a real meter"),
    (f"iem-dcr session 127.0.0.1:8080 --id {TOKEN} --evse-id '{EVSE_ID}'", "a session of your own"),
    ("iem-dcr config example > iem-dcr.toml", "set CI in it; then, with a real EVerest: iem-dcr run iem-dcr.toml"),
)


def _mqtt(_ctx: click.Context, param: click.Parameter, url: str | None) -> MqttSettings | None:
    try:
        return None if url is None else MqttSettings.from_url(url, protocol=PROTOCOL)
    except ConfigError as error:
        raise click.BadParameter("\n".join(error.problems), param=param) from error


@click.command(name="demo")
@click.option(
    "--seconds", type=SecondsType(2, 3600), default=10.0, show_default=True, metavar="N", help="How long to charge."
)
@click.option(
    "--broker",
    "mqtt",
    metavar="URL",
    callback=_mqtt,
    help="Use this MQTT broker, mqtt://USER:PASSWORD@HOST:PORT or mqtts://, instead of the demo's own. Do not "
    "use the broker of a live charger: the demo acts as EVerest there.",
)
@click.option(
    "--keep-open", is_flag=True, help="Run one session after another until Ctrl-C, so that the page stays open."
)
@common
def command(seconds: float, mqtt: MqttSettings | None, keep_open: bool) -> int:
    """Show a charging session at a simulated IEM-DCR, with its signed receipt and the check of it.

    The meter is driven behind EVerest's MQTT API. The demo brings its own broker and acts as EVerest. It prints how to
    watch the messages with mosquitto_sub, and the bring-up page with a browser.
    """
    output = Output()
    return run_interruptible(partial(_demo, output, mqtt, seconds=seconds, keep_open=keep_open), output)


async def _demo(
    output: Output, given: MqttSettings | None, interruption: Interruption, *, seconds: float, keep_open: bool
) -> int:
    """Run one session, or one after another until interrupted; return the exit status."""
    options = SimulatorOptions(
        charge_s=seconds - LOAD_DELAY_S - CURRENT_ENDS_BEFORE_S,
        load_delay_s=LOAD_DELAY_S,
        signature_encoding="der",  # raw signatures give a confusing finding in one of 128 receipts
    )
    console = output.console()
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(SimulatorServer(options))
        console.print(Text("A charging session at a simulated IEM-DCR", style="bold"))
        console.print(f"The simulated meter {options.MS} is at http://{server.address}")
        console.print(f"Its driver sets the charge point {EVSE_ID} and reads it every second.")
        output.flush()
        # Loading this takes a moment, so the first lines of output come before it.
        from iem_dcr.cli.demo_everest import DemoEverest  # noqa: PLC0415

        mqtt = await stack.enter_async_context(_broker(given))
        module_id = f"demo_{secrets.token_hex(2)}"
        everest = DemoEverest(_settings(server), mqtt, module_id)
        try:
            await interruption.see_through(everest.bus.probe(), NOTHING_BEGAN)
        except BrokerError as error:
            raise click.ClickException(f"the broker {mqtt.address} cannot be used: {error}") from error
        _how_to_watch(console, mqtt, module_id)
        await stack.enter_async_context(running(everest))
        await interruption.break_off(everest.page.listening.wait(), NOTHING_BEGAN)
        console.print("In a browser (--keep-open keeps it open):", Text(everest.page.url, "cyan"), end="\n\n")
        while True:
            output.flush()
            everest.view = session = Session(output, _request(), seconds)
            status = await session.run(everest.driver, everest, interruption, connect_s=CONNECT_S)
            if status != 0 or not keep_open:
                break
            del server.meter.state.signed[:-1]  # the simulated meter would keep all receipts
            say(console, f"\nThe next session begins in {PAUSE_S:.0f} s. Ctrl-C ends the demo.\n")
            output.flush()
            await interruption.wait(PAUSE_S)
            if interruption.came:
                break
    if keep_open and status == EXIT_INTERRUPTED:
        status = 0
    if status == 0:
        console.print(Text("\nNext steps:", style="bold"))
        for command_line, what in _NEXT_STEPS:
            say(console, Text.assemble("  ", (command_line, "cyan"), f"\n      {what}"))
        output.flush()
    return status


def _broker(given: MqttSettings | None) -> AbstractAsyncContextManager[MqttSettings]:
    """Return a context with the settings of the given broker, or of one that runs while the context is entered."""
    if given is not None:
        return contextlib.nullcontext(given)
    from iem_dcr.cli.embedded_broker import embedded_broker  # noqa: PLC0415  loads slowly

    return embedded_broker()


def _settings(server: SimulatorServer) -> Settings:
    """Return the driver's settings. The meter's clock is set in this host's time zone, as in EVerest's values."""
    time = {"timezone": f"{datetime.now().astimezone():%z}", "timezone_handle_DST": False}
    return Settings.of({"ip_address": server.host, "port_http": server.port, "CI": EVSE_ID} | time)


def _request() -> TransactionReq:
    return TransactionReq(
        EVSE_ID,
        str(uuid.uuid4()),
        identification_status="ASSIGNED",
        identification_type="ISO14443",
        identification_data=TOKEN,
        tariff_text=TARIFF,
    )


def _how_to_watch(console: Console, mqtt: MqttSettings, module_id: str) -> None:
    user = ["-u", mqtt.user, "-P", "PASSWORD"] if mqtt.user else []
    tls = ["--tls-use-os-certs"] if mqtt.tls else []
    topics = f"everest_api/1/powermeter/{module_id}/#"
    words = ["mosquitto_sub", "-h", mqtt.host, "-p", str(mqtt.port), *user, *tls, "-v", "-t", topics]
    console.print(f"EVerest's API module is {module_id}, at the MQTT broker {mqtt.address}.")
    console.print("To watch heartbeats, live values, requests and replies (longer with --seconds):")
    say(console, Text.assemble("\n  ", (shlex.join(words), "cyan"), "\n"))
