"""``iem-dcr doctor``: finds out what is wrong with a meter, and what to do. It sends only GET requests."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from iem_dcr.cli.arguments import Address, AddressType, common
from iem_dcr.cli.interruption import Interruption
from iem_dcr.cli.output import Output, say, tell
from iem_dcr.diagnostics import doctor
from iem_dcr.diagnostics.checks import CHECKS
from iem_dcr.diagnostics.report import State
from iem_dcr.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from iem_dcr.config import Settings
    from iem_dcr.diagnostics.report import Report

_PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
_STYLES = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "bold red", State.NOT_ASKED: "dim"}
_WIDEST_STATE = max(map(len, State))
_TITLE = 14
_TEXT_AT = 4 + _WIDEST_STATE + 2 + _TITLE + 2
_NARROWEST_TEXT = 20


@click.command(name="doctor")
@click.argument("address", type=AddressType(), metavar="HOST[:PORT]")
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Compare with this meter's settings in a configuration file of iem-dcr run (or with its only meter).",
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@common
def command(address: Address, file: Path | None, as_json: bool) -> int:
    """Find out what is wrong with a meter, and what to do about it.

    This takes 10 seconds, or up to a minute if the meter hardly answers. The command sends only GET requests, and
    during a transaction only those that cannot disturb it. Exit status: 0 nothing failed; 1 something failed, or no
    IEM-DCR answered.
    """
    settings = None if file is None else _settings(file, address)
    report = asyncio.run(_examine(address, settings))
    output = Output()
    if as_json:
        output.line(report.to_json())
    else:
        show(report, output.console(), is_terminal=output.isatty())
        output.flush()
    return report.exit_status or output.status()


async def _examine(address: Address, settings: Settings | None) -> Report:
    proxies = tuple(name for name in _PROXIES if os.environ.get(name))
    with Interruption() as interruption:
        examination = doctor.examine(address.host, address.port, settings, proxies=proxies)
        return await interruption.break_off(examination, "the examination was not finished.")


def show(report: Report, console: Console, *, is_terminal: bool) -> None:
    """Print a report: as lines, or as a table if a terminal has room for one. It wraps long lines to its left edge."""
    if not is_terminal or console.width < _TEXT_AT + _NARROWEST_TEXT:
        for line in lines(report):
            say(console, line)
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for row in _rows(report):
        grid.add_row(*row)
    console.print(Group(*_head(report), grid, _counts(report)))


def lines(report: Report) -> Iterator[Text]:
    """Format a report as lines of any length."""
    yield from _head(report)
    for number, state, title, text in _rows(report):
        state.pad_right(_WIDEST_STATE - len(state))
        yield Text.assemble(f"{number:>2}  ", state, f"  {title:<{_TITLE}}  ", text)
    yield _counts(report)


def _rows(report: Report) -> Iterator[tuple[str, Text, str, Text]]:
    """Yield number, state, title and result of each check, and what to do about it below the result."""
    for number, (name, result) in enumerate(report.results.items(), 1):
        state = Text(result.state, style=_STYLES[result.state])
        yield str(number), state, CHECKS[name].title, Text(result.text)
        if result.to_do:
            yield "", Text(), "", Text(f"-> {result.to_do}", style="cyan")


def _head(report: Report) -> Iterator[Text]:
    if report.error:
        yield Text(f"Error: {report.error}", style=_STYLES[State.FAILED])
    yield Text(f"Meter at {report.address}", style="bold")


def _counts(report: Report) -> Text:
    counts = Counter(result.state for result in report.results.values())
    words = {state: "warnings" if state is State.WARNING and counts[state] > 1 else state for state in State}
    return Text(", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts[state]), style="bold")


def _settings(file: Path, address: Address) -> Settings:
    """Return the settings of the meter at an address in a configuration file, or of the file's only meter.

    Raises:
        click.UsageError: the file has no such meter.
        ConfigError: the file has mistakes.
    """
    from iem_dcr.service.config import ServiceConfig, same_host  # noqa: PLC0415  # only needed with a file

    meters = ServiceConfig.load_meters(file)
    for meter in meters:
        if (same_host(meter.settings.ip_address), meter.settings.port_http) == (same_host(address.host), address.port):
            return meter.settings
    if len(meters) == 1:
        tell(f"Note: the only meter in {printable(file, limit=300)} is at {meters[0].address}; its settings are used.")
        return meters[0].settings
    known = ", ".join(meter.address for meter in meters[:10])
    raise click.UsageError(
        f"{printable(file, limit=300)} has {len(meters)} meters and none at {address}: {known}",
        click.get_current_context(silent=True),
    )
