"""``iem-dcr read``: reads a meter once. It sends only GET requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click
from rich.text import Text

from iem_dcr.cli.arguments import Address, AddressType, common
from iem_dcr.cli.interruption import Interruption
from iem_dcr.cli.output import Output, kw, kwh, say
from iem_dcr.cli.receipt_view import flags_text, status_text
from iem_dcr.device.client import MeterClient
from iem_dcr.diagnostics.snapshot import Snapshot, take_snapshot
from iem_dcr.diagnostics.status import CLOCK_TOLERANCE_S, clock_difference, measured, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from iem_dcr.device.messages import MeterValue

_HEALTH = {False: ("healthy", "green"), True: ("IN ERROR", "bold red"), None: ("not known", "yellow")}


@click.command(name="read")
@click.argument("address", type=AddressType(), metavar="HOST[:PORT]")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@common
def command(address: Address, as_json: bool) -> int:
    """Read a meter once: live values, status, charge point, clock and public key. Only GET requests are sent."""
    reading = asyncio.run(_read(address))
    output = Output()
    if as_json:
        output.line(reading.to_json())
    else:
        _print(output.console(), reading)
    return output.status()


async def _read(address: Address) -> Snapshot:
    async with MeterClient(address.host, address.port) as client:
        with Interruption() as interruption:
            return await interruption.break_off(take_snapshot(client), "the meter was not read.")


def _print(console: Console, reading: Snapshot) -> None:
    say(console, Text(f"Meter {shown(reading.value.MS)} at {reading.address}", style="bold"))
    _print_section(console, "Live values", _live_values(reading.value))
    _print_section(console, "Status", _status(reading.value))
    _print_section(console, "Charge point, clock and key", _charge_point(reading))


def _print_section(console: Console, title: str, rows: Mapping[str, str | Text]) -> None:
    console.print(Text(f"\n{title}", style="cyan"))
    for name, text in rows.items():
        say(console, Text.assemble((f"  {name:<19}", "dim"), text))


def _live_values(value: MeterValue) -> dict[str, str | Text]:
    return {
        "Power": kw(value.P),
        "Voltage (U2)": measured(value.U2, "V"),
        "Current (I)": measured(value.I, "A"),
        "Import": kwh(value.import_wh),
        "Export": "no such register" if value.export_wh is None else kwh(value.export_wh),
    }


def _status(value: MeterValue) -> dict[str, str | Text]:
    return {
        "Transaction (XT)": Text("runs", style="bold") if value.XT else "none",
        "Errors (XC)": Text.assemble(_HEALTH[value.has_error], f"  {shown(value.XC)}"),
        "Status word (XS)": shown(value.XS) or "not given",
        "Status (ST)": status_text(value.ST),
        "Flags (EF)": flags_text(value.EF),
    }


def _charge_point(reading: Snapshot) -> dict[str, str | Text]:
    gateway, key, off = reading.gateway, reading.key, reading.clock_offset
    rows: dict[str, str | Text] = {}
    if gateway is None:
        rows["Gateway"] = _missing(reading.problems["gw"])
    else:
        not_set = Text("not set since the meter was powered up", style="yellow")
        rows["Type (CT)"] = shown(gateway.CT) if gateway.CT else not_set
        rows["Id (CI)"] = shown(gateway.CI) if gateway.CI else not_set
        rows["Time (TM)"] = f"{gateway.TM.instant:%Y-%m-%d %H:%M:%S %z}" if gateway.TM else "not readable"
    if off is None:
        rows["Clock"] = Text("not readable", style="yellow")
    else:
        rows["Clock"] = Text(
            clock_difference(off), style="" if abs(off.total_seconds()) <= CLOCK_TOLERANCE_S else "yellow"
        )
    rows["Public key"] = f"{key.form}, {shown(key.SA)}" if key else _missing(reading.problems["publickey"])
    return rows


def _missing(problem: str) -> Text:
    return Text(f"not available: {shown(problem)}", style="yellow")
