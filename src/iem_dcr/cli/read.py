"""``iem-dcr read``: one reading of a meter. It asks and sends nothing."""

from __future__ import annotations

import asyncio

import click

from iem_dcr.cli import render
from iem_dcr.cli.arguments import Address, AddressType, common
from iem_dcr.cli.interruption import Interruption
from iem_dcr.cli.terminal import Output
from iem_dcr.device.client import MeterClient
from iem_dcr.diagnostics.snapshot import Snapshot, take_snapshot


@click.command(name="read", short_help="Read a meter once.")
@click.argument("address", type=AddressType(), metavar="HOST[:PORT]")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@common
def command(address: Address, as_json: bool) -> int:
    """Read a meter once: live values, status, charge point, clock and public key. Nothing is sent to it but GETs."""
    snapshot = asyncio.run(_read(address))
    output = Output()
    if as_json:
        output.line(snapshot.to_json())
    else:
        render.print_snapshot(output.console(), snapshot)
        output.flush()
    return output.status()


async def _read(address: Address) -> Snapshot:
    with Interruption() as interruption:
        return await interruption.break_off(_take_snapshot(address), "the meter was not read.")


async def _take_snapshot(address: Address) -> Snapshot:
    async with MeterClient(address.host, address.port) as client:
        return await take_snapshot(client)
