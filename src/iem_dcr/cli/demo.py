"""``iem-dcr demo``: a simulated meter and a charging session at it, both in this process."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import click
from rich.text import Text

from iem_dcr.cli import render
from iem_dcr.cli.arguments import SecondsType, common
from iem_dcr.cli.charging import charge_and_judge
from iem_dcr.cli.display import LineDisplay, LiveDisplay
from iem_dcr.cli.interruption import Interruption
from iem_dcr.cli.station import HumanStation
from iem_dcr.cli.terminal import Output
from iem_dcr.config import Settings
from iem_dcr.powermeter import TransactionReq
from iem_dcr.simulator import SimulatorOptions, SimulatorServer

if TYPE_CHECKING:
    from rich.console import Console

EVSE_ID = "DE*PNX*E1234567*1"
TOKEN = "04A2B3C4D5E6F7"  # noqa: S105  a made-up RFID token, shown on purpose
TARIFF = "0.49 EUR/kWh"
CONNECT_S = 15.0
LOAD_DELAY_S = 0.5
CURRENT_ENDS_BEFORE_S = 0.5
"""How long before the stop the simulated car has taken its last current: a meter ends no transaction under load."""
_PATIENCE = "Still ending the transaction; interrupt once more to leave at once."


@click.command(name="demo", short_help="Show a session at a simulated meter.")
@click.option(
    "--seconds",
    type=SecondsType(2, 3600),
    default=10.0,
    show_default=True,
    metavar="N",
    help="How long to charge.",
)
@common
def command(seconds: float) -> int:
    """Show the main job without a meter: a simulated IEM-DCR, a charging session, a signed receipt and its check."""
    return asyncio.run(_demo(seconds))


async def _demo(seconds: float) -> int:
    output = Output()
    console = output.console()
    options = SimulatorOptions(charge_s=seconds - LOAD_DELAY_S - CURRENT_ENDS_BEFORE_S, load_delay_s=LOAD_DELAY_S)
    async with SimulatorServer(options) as server:
        with Interruption(_PATIENCE) as interruption:
            output.when_lost = interruption.ask_to_end
            _headline(console, server)
            display = LiveDisplay(console, seconds, table=True) if console.is_terminal else LineDisplay(console)
            status = await charge_and_judge(
                Settings.of({"ip_address": server.host, "port_http": server.port, "CI": EVSE_ID}),
                _request(),
                HumanStation(console, display),
                interruption,
                output,
                seconds=seconds,
                connect_s=CONNECT_S,
            )
    if status == 0:
        _whats_next(console)
        output.flush()
    return status or output.status()


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
    render.say(console, f"The simulated meter {server.meter.options.MS} is at http://{server.address}")
    render.say(console, f"The driver sets it up for charge point {EVSE_ID} and reads it every second.\n")


def _whats_next(console: Console) -> None:
    console.print(Text("\nTo go on:", style="bold"))
    for command_line, what in (
        ("iem-dcr simulate", "a simulated meter to play with, at 127.0.0.1:8080"),
        ("iem-dcr read 127.0.0.1:8080", "one reading of it, or of a real meter"),
        (f"iem-dcr session 127.0.0.1:8080 --id {TOKEN} --evse-id '{EVSE_ID}'", "a session of your own"),
    ):
        render.say(console, Text.assemble("  ", (command_line, "cyan"), f"\n      {what}"))
