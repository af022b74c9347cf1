"""``iem-dcr watch``: shows meters live, beside the program that drives them. It sends only GET requests."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.live import Live

from iem_dcr.cli.arguments import Address, AddressType, SecondsType, common
from iem_dcr.cli.exit_codes import EXIT_FAILURE
from iem_dcr.cli.interruption import LeftEarlyError, run_interruptible
from iem_dcr.cli.output import Output, json_text, tell
from iem_dcr.cli.watch_view import Picture, plain_line
from iem_dcr.diagnostics.snapshot import metervalue_json
from iem_dcr.diagnostics.status import troubles
from iem_dcr.diagnostics.watching import WatchedMeter, watch
from iem_dcr.driver.timing import now_s

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iem_dcr.cli.interruption import Interruption
    from iem_dcr.diagnostics.status import Status

DRAWN_EVERY_S = 0.5
SILENCE_TOLD_EVERY_S = 60.0


def _local_time() -> datetime:
    """Return the host's time in its time zone."""
    return datetime.now(UTC).astimezone()


@click.command(name="watch")
@click.argument("addresses", type=AddressType(), metavar="HOST[:PORT]...", nargs=-1)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also watch the meters of iem-dcr run FILE.",
)
@click.option("--seconds", type=SecondsType(0.1), metavar="S", help="End after this time; by default at Ctrl-C.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End when each meter was polled N times.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object per poll, each in a line of its own.")
@common
def command(
    addresses: tuple[Address, ...], file: Path | None, seconds: float | None, count: int | None, as_json: bool
) -> int:
    """Watch one or more meters: values, the last minutes, transaction, and what is wrong.

    Each meter is polled once a second, beside the program that drives it, with GET requests that a meter accepts at any
    time. If the output is not a terminal, each value is written in a line; a meter that does not answer gets a line at
    once and then one a minute. Exit status: 1 if no meter ever answered.
    """
    twice = sorted({str(address) for address in addresses if addresses.count(address) > 1})
    if twice:
        raise click.UsageError(f"{', '.join(twice)}: given more than once")
    if file is not None:
        from iem_dcr.service.config import ServiceConfig  # noqa: PLC0415  # only needed with a file

        configured = [meter.settings for meter in ServiceConfig.load_meters(file)]
        more = (Address(settings.ip_address, settings.port_http) for settings in configured)
        addresses = tuple(dict.fromkeys((*addresses, *more)))
    if not addresses:
        raise click.UsageError("give the addresses of meters, or a configuration file with --config")
    output = Output()

    async def run(interruption: Interruption) -> int:
        meters = [WatchedMeter(address.host, address.port, _local_time) for address in addresses]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                showing = _show(meters, output, count, as_json=as_json)
                try:
                    await interruption.break_off(showing, "the meters were watched for less time than requested.")
                except LeftEarlyError:
                    if seconds is not None or count is not None:
                        raise
        if any(meter.has_answered for meter in meters):
            return 0
        for meter in meters:
            tell(f"Error: meter {meter.address}, {meter.status().problem or 'no answer yet'}")
        return EXIT_FAILURE

    return run_interruptible(run, output)


async def _show(meters: Sequence[WatchedMeter], output: Output, count: int | None, *, as_json: bool) -> None:
    """Show meters until cancelled: on the alternate screen of a terminal, where the last picture stays, or in lines."""
    console, drawn_s = output.console(), 0.0
    if as_json or not console.is_terminal or console.is_dumb_terminal:
        lines = LineView(output, json_line) if as_json else LineView(output, plain_line, SILENCE_TOLD_EVERY_S)
        await watch(meters, lines.on_poll, count=count)
        return

    def picture(*, stays: bool = False) -> Picture:
        return Picture(tuple(meter.status() for meter in meters), _local_time(), stays)

    def draw(_: WatchedMeter) -> None:
        nonlocal drawn_s
        if now_s() - drawn_s >= DRAWN_EVERY_S:
            drawn_s = now_s()
            live.update(picture(), refresh=True)

    live = Live(picture(), console=console, screen=True, auto_refresh=False, redirect_stderr=sys.stderr.isatty())
    try:
        with live:
            await watch(meters, draw, count=count)
    finally:
        console.print(picture(stays=True))


class LineView:
    """Writes a line for each poll.

    A meter that does not answer gets a line when the reason changes, and again after ``repeats_after_s``.
    """

    def __init__(self, output: Output, written: Callable[[Status], str], repeats_after_s: float = 0.0) -> None:
        self._output = output
        self._written = written
        self._repeats_after_s = repeats_after_s
        self._last: dict[str, tuple[str, float]] = {}

    def on_poll(self, meter: WatchedMeter) -> None:
        """Write the line of a poll."""
        status = meter.status()
        problem, written_s = self._last.get(status.address, ("", 0.0))
        if status.problem and status.problem == problem and status.now_s - written_s < self._repeats_after_s:
            return
        self._last[status.address] = status.problem, status.now_s
        self._output.write(self._written(status) + "\n")
        self._output.flush()


def json_line(status: Status) -> str:
    """Format the status of a meter as a line of JSON."""
    seen, gateway, is_new = status.transaction, status.gateway, status.silent_since is None
    value, offset = (status.value, status.clock_offset) if is_new else (None, None)
    written = {
        "address": status.address,
        "read_at": status.read_at,
        "age_s": _rounded(status.age_s),
        "no_answer_since": status.silent_since,
        "no_answer_for_s": _rounded(status.silent_s),
        "metervalue": value and metervalue_json(value),
        "clock_ahead_s": None if offset is None else _rounded(offset.total_seconds()),
        "gw": gateway and {"CT": gateway.CT, "CI": gateway.CI},
        "transaction": seen
        and {"seen_since": seen.since, "begin_seen": seen.begin_seen, "charged_wh": float(seen.charged_wh)},
        "troubles": [{"text": trouble.text, "fault": trouble.is_fault} for trouble in troubles(status)],
    }
    return json_text(written)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
