"""``iem-dcr read``: reads a meter once. It sends only GET requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click
from rich.text import Text

from iem_dcr.cli.arguments import Address, AddressType, common
from iem_dcr.cli.interruption import Interruption
from iem_dcr.cli.output import Output, kw, kwh, say
from iem_dcr.device.client import MeterClient
from iem_dcr.diagnostics.snapshot import Snapshot, take_snapshot
from iem_dcr.diagnostics.status import CLOCK_TOLERANCE_S, clock_difference, measured, shown
from iem_dcr.ocmf.codes import meaning_of_flags

if TYPE_CHECKING:
    from rich.console import Console

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
    value = reading.value
    live_values: dict[str, str | Text] = {
        "Power": kw(value.P),
        "Voltage (U2)": measured(value.U2, "V"),
        "Current (I)": measured(value.I, "A"),
        "Import": kwh(value.import_wh),
        "Export": "no such register" if value.export_wh is None else kwh(value.export_wh),
    }
    status = {
        "Transaction (XT)": Text("runs", style="bold") if value.XT else "none",
        "Errors (XC)": Text.assemble(_HEALTH[value.has_error], f"  {shown(value.XC)}"),
        "Status word (XS)": shown(value.XS) or "not given",
        "Status (ST)": "G, good" if value.ST == "G" else shown(value.ST or "not given"),
        "Flags (EF)": f"{shown(value.EF)}, {meaning_of_flags(shown(value.EF))}" if value.EF else "none",
    }
    say(console, Text(f"Meter {shown(value.MS)} at {reading.address}", style="bold"))
    for title, rows in (
        ("Live values", live_values),
        ("Status", status),
        ("Charge point, clock and key", _charge_point(reading)),
    ):
        console.print(Text(f"\n{title}", style="cyan"))
        for name, text in rows.items():
            say(console, Text.assemble((f"  {name:<19}", "dim"), text))


def _charge_point(reading: Snapshot) -> dict[str, str | Text]:
    gateway, key, off = reading.gateway, reading.key, reading.clock_offset
    rows: dict[str, str | Text] = {}
    if gateway is None:
        rows["Gateway"] = _warning(f"not available: {shown(reading.problems['gw'])}")
    else:
        not_set = _warning("not set since the meter was powered up")
        rows["Type (CT)"] = shown(gateway.CT) if gateway.CT else not_set
        rows["Id (CI)"] = shown(gateway.CI) if gateway.CI else not_set
        rows["Time (TM)"] = f"{gateway.TM.instant:%Y-%m-%d %H:%M:%S %z}" if gateway.TM else "not readable"
    if off is not None and abs(off.total_seconds()) <= CLOCK_TOLERANCE_S:
        rows["Clock"] = clock_difference(off)
    else:
        rows["Clock"] = _warning("not readable" if off is None else clock_difference(off))
    if key is None:
        rows["Public key"] = _warning(f"not available: {shown(reading.problems['publickey'])}")
    else:
        rows["Public key"] = f"{key.form}, {shown(key.SA)}"
    return rows


def _warning(text: str) -> Text:
    return Text(text, style="yellow")
