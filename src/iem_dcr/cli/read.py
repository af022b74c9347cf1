"""``iem-dcr read``: one reading of a meter. It asks and sends nothing."""

from __future__ import annotations

import asyncio

import click

from iem_dcr.bringup.look import Look, look
from iem_dcr.cli import render
from iem_dcr.cli.arguments import Address, AddressType, common
from iem_dcr.cli.interruption import Interruption
from iem_dcr.cli.terminal import Output
from iem_dcr.device.client import MeterClient


@click.command(name="read", short_help="Read a meter once.")
@click.argument("address", type=AddressType(), metavar="HOST[:PORT]")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@common
def command(address: Address, as_json: bool) -> int:
    """Read a meter once: live values, status, charge point, clock and public key. Nothing is sent to it but GETs."""
    look = asyncio.run(_read(address))
    output = Output()
    if as_json:
        output.line(look.to_json())
    else:
        render.print_look(output.console(), look)
        output.flush()
    return output.status()


async def _read(address: Address) -> Look:
    with Interruption() as interruption:
        return await interruption.break_off(_look(address), "the meter was not read.")


async def _look(address: Address) -> Look:
    async with MeterClient(address.host, address.port) as client:
        return await look(client)
