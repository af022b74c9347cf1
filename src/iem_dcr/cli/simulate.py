"""``iem-dcr simulate``: a simulated meter on a port of this host."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import MISSING, Field, fields
from typing import Any

import click

from iem_dcr.cli.arguments import PairType, common
from iem_dcr.cli.interruption import Interruption
from iem_dcr.cli.output import Output
from iem_dcr.errors import ConfigError, printable
from iem_dcr.simulator import SimulatorOptions, SimulatorServer
from iem_dcr.simulator.options import build


class _Simulate(click.Command):
    """The command. Its help lists all knobs of the simulator in groups."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the knobs."""
        super().format_epilog(ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text("Knobs, given as --set NAME=VALUE, with their values and [default]:")
        groups: dict[str, list[tuple[str, str]]] = {}
        for knob in fields(SimulatorOptions):
            group = knob.metadata["group"] or next(reversed(groups))
            groups.setdefault(group, []).append((knob.name, _help(knob)))
        for group, lines in groups.items():
            with formatter.section(group):
                formatter.write_dl(lines, col_max=24)


def _help(knob: Field[Any]) -> str:
    """Return the help text of a knob, with its values and [default]."""
    text, kind, default = knob.metadata["help"], knob.metadata["type"], knob.default
    if isinstance(kind, click.Choice):
        text += f" One of {', '.join(kind.choices)}."
    if isinstance(default, tuple):
        default = ", ".join(default) or None
    if default is None or isinstance(default, bool):
        default = str(default).lower()
    return text if default is MISSING else f"{text} [{default}]"


@click.command(name="simulate", cls=_Simulate)
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8080,
    show_default=True,
    metavar="P",
    help="Port to listen at; 0 takes a free one.",
)
@click.option("--firmware", metavar="v1|v2", help="Same as --set firmware.")
@click.option("--serial", "MS", metavar="TEXT", help="Same as --set MS.")
@click.option("--current", "current_a", metavar="A", help="Same as --set current_a.")
@click.option("--voltage", "voltage_v", metavar="V", help="Same as --set voltage_v.")
@click.option("--charge-seconds", "charge_s", metavar="S", help="Same as --set charge_s.")
@click.option("--signing-delay", "signing_delay_s", metavar="S", help="Same as --set signing_delay_s.")
@click.option("--signature-encoding", metavar="FORM", help="Same as --set signature_encoding.")
@click.option("--open-at-power-cut", metavar="FATE", help="Same as --set open_at_power_cut.")
@click.option(
    "--set", "pairs", type=PairType(), multiple=True, help="A knob and its value. May be given more than once."
)
@common
def command(*, host: str, port: int, pairs: tuple[tuple[str, str], ...], **named: str | None) -> int:
    """Run a simulated IEM-DCR until interrupted. The first line of output is its address.

    Faults, power cycles and loads are set over the same port. The output shows how.
    """
    given = {name: value for name, value in named.items() if value is not None} | dict(pairs)
    try:
        options = build(SimulatorOptions, given)
    except ConfigError as error:
        knob = error.problems[0].partition(":")[0]
        options_of = {param.name: param.opts[0] for param in command.params if param.name not in dict(pairs)}
        raise click.BadParameter("; ".join(error.problems), param_hint=options_of.get(knob, "--set")) from error
    return asyncio.run(_simulate(options, host, port))


async def _simulate(options: SimulatorOptions, host: str, port: int) -> int:
    output = Output()
    async with AsyncExitStack() as stack:
        try:
            server = await stack.enter_async_context(SimulatorServer(options, host, port))
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or error
            at = f"{printable(host)} port {port}"
            raise click.ClickException(f"cannot listen at {at}: {why}. Use --port 0 for a free port.") from error
        with Interruption() as interruption:
            output.write(f"http://{server.address}\n{_hints(server.address, options)}")
            output.flush()
            await interruption.wait()
    return 0


def _hints(address: str, options: SimulatorOptions) -> str:
    return f"""
Simulated meter {options.MS}, firmware {options.firmware}. Ctrl-C ends it. To use it from another terminal:

  iem-dcr read {address}
  iem-dcr session {address} --id 04A2B3C4D5E6F7 --evse-id 'DE*PNX*E1234567*1'

To make it fail:

  curl http://{address}/_sim/state
  curl -d '{{"kind":"lose-answer","node":"/receipt","method":"POST"}}' http://{address}/_sim/faults
  curl -d '{{"off_s":2,"boot_s":3}}' http://{address}/_sim/power-cycle
  curl -d '{{"XC":"0x0001, 0x00000000, 0x00, 0x00"}}' http://{address}/_sim/set
  curl -d '{{"value_age_s":2,"begin_shows_after_s":1}}' http://{address}/_sim/set
"""
