"""``iem-dcr simulate``: a meter that is not there, on a port of this host."""

from __future__ import annotations

import asyncio
import json
from dataclasses import MISSING, fields
from datetime import datetime
from types import UnionType
from typing import Literal, get_args, get_origin, get_type_hints

import click

from iem_dcr.cli.arguments import PairType, common, usage_error
from iem_dcr.cli.interruption import Interruption
from iem_dcr.cli.terminal import Output
from iem_dcr.errors import ConfigError, printable
from iem_dcr.simulator import SimulatorOptions, SimulatorServer

_KINDS = get_type_hints(SimulatorOptions)
_DEFAULTS = {field.name: field.default for field in fields(SimulatorOptions) if field.default is not MISSING}
_WORDS: dict[str, object] = {"true": True, "false": False, "null": None, "none": None}


def _choice(name: str) -> click.Choice[str]:
    return click.Choice(get_args(_KINDS[name]))


def _default(name: str) -> str:
    return f"  [default: {_DEFAULTS[name]}]"


@click.command(name="simulate", short_help="Run a simulated meter.")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8080,
    show_default=True,
    metavar="P",
    help="Port to listen at; 0 takes a free one.",
)
@click.option(
    "--firmware",
    type=_choice("firmware"),
    help="v1 has /transaction below /counter/v1, v2 below /counter/v2." + _default("firmware"),
)
@click.option("--serial", "MS", metavar="TEXT", help="Serial number." + _default("MS"))
@click.option(
    "--current", "current_a", type=float, metavar="A", help="Current of a charging session." + _default("current_a")
)
@click.option(
    "--voltage", "voltage_v", type=float, metavar="V", help="Voltage of a charging session." + _default("voltage_v")
)
@click.option(
    "--charge-seconds",
    "charge_s",
    type=float,
    metavar="S",
    help="How long current flows in a session; while it does, a transaction cannot end." + _default("charge_s"),
)
@click.option(
    "--signing-delay",
    "signing_delay_s",
    type=float,
    metavar="S",
    help="How long the meter takes to sign." + _default("signing_delay_s"),
)
@click.option(
    "--signature-encoding",
    type=_choice("signature_encoding"),
    help="How signatures are written." + _default("signature_encoding"),
)
@click.option(
    "--open-at-power-cut",
    type=_choice("open_at_power_cut"),
    help="What becomes of a transaction open at a power cut." + _default("open_at_power_cut"),
)
@click.option(
    "--set",
    "pairs",
    type=PairType(),
    multiple=True,
    help="Any other option of the simulator, bidirectional=true for one. May be given more than once.",
)
@common
def command(*, host: str, port: int, pairs: tuple[tuple[str, str], ...], **named: object) -> int:
    """Run a simulated IEM-DCR until it is interrupted. The first line written is its address.

    It is told what to do over the same port: faults, power cycles, loads. See the hints it writes.
    """
    try:
        given = {name: value for name, value in named.items() if value is not None}
        given |= {name: _value(name, text) for name, text in pairs}
        options = SimulatorOptions(**given)  # type: ignore[arg-type]  # it checks every value itself
    except ConfigError as error:
        raise usage_error(error) from error
    return asyncio.run(_simulate(options, host, port))


async def _simulate(options: SimulatorOptions, host: str, port: int) -> int:
    output = Output()
    with Interruption() as interruption:
        server = SimulatorServer(options, host, port)
        try:
            await server.__aenter__()
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise click.ClickException(
                f"cannot listen at {printable(host)} port {port}: {why}. With --port 0 a free port is taken."
            ) from error
        try:
            output.write(f"http://{server.address}\n{_hints(server.address, options)}")
            output.flush()
            await interruption.wait()
        finally:
            await server.__aexit__(None, None, None)
    return 0


def _hints(address: str, options: SimulatorOptions) -> str:
    return f"""
Simulated meter {options.MS}, firmware {options.firmware}. Ctrl-C ends it. To use it from another terminal:

  iem-dcr read {address}
  iem-dcr session {address} --id 04A2B3C4D5E6F7 --evse-id 'DE*PNX*E1234567*1'

To see it fail:

  curl http://{address}/_sim/state
  curl -d '{{"kind":"lose-answer","node":"/receipt","method":"POST"}}' http://{address}/_sim/faults
  curl -d '{{"off_s":2,"boot_s":3}}' http://{address}/_sim/power-cycle
  curl -d '{{"XC":"0x0001, 0x00000000, 0x00, 0x00"}}' http://{address}/_sim/set
"""


def _value(name: str, text: str) -> object:
    """Read an option's value: a text as it is, all else by what it looks like; the simulator says if it does not fit.

    Raises:
        ConfigError: there is no such option.
    """
    if name not in _KINDS:
        raise ConfigError(
            [f"{printable(name, limit=60)} is not an option: expected one of {', '.join(sorted(_KINDS))}"]
        )
    kind = _KINDS[name]
    if text.lower() in _WORDS and (kind is bool or get_origin(kind) is UnionType):
        return _WORDS[text.lower()]
    if get_origin(kind) is tuple:
        return tuple(word.strip() for word in text.split(",") if word.strip())
    if kind is str or get_origin(kind) is Literal or str in get_args(kind):
        return text
    return _moment_or_number(text)


def _moment_or_number(text: str) -> object:
    for read in (_whole, json.loads, datetime.fromisoformat):
        try:
            return read(text)
        except (ValueError, RecursionError):
            continue
    return text


def _whole(text: str) -> int:
    """Read a whole number; a private key is usually written as 0x…"""
    return int(text, 0)
