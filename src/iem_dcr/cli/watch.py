"""``iem-dcr watch``: meters as they are, second by second. It asks and sends nothing, beside whoever drives them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click
from rich.live import Live

from iem_dcr.bringup.look import metervalue_json
from iem_dcr.bringup.sight import troubles
from iem_dcr.bringup.watching import WatchedMeter, watch
from iem_dcr.cli.arguments import Address, AddressType, SecondsType, common
from iem_dcr.cli.interruption import Interruption, LeftEarlyError
from iem_dcr.cli.output import Output, tell
from iem_dcr.cli.watch_view import Picture, plain_line
from iem_dcr.meter_time import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from iem_dcr.bringup.sight import Sight

    Wall = Callable[[], datetime]

EXIT_NONE_ANSWERED = 1
DRAWN_AGAIN_AFTER_S = 0.2
"""The picture is drawn when a meter has something new, but not more often than that."""
DRAWN_EVERY_S = 1.0
SILENCE_TOLD_EVERY_S = 60.0


def _local_time() -> datetime:
    """Return the host's time in the zone of the person before it."""
    return datetime.now(UTC).astimezone()


@click.command(name="watch", short_help="Watch meters live.")
@click.argument("addresses", type=AddressType(), metavar="HOST[:PORT]...", nargs=-1)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Watch the meters of a configuration file of iem-dcr run, after those that are named.",
)
@click.option("--seconds", type=SecondsType(0.1), metavar="S", help="End after so long; without it, at Ctrl-C.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End when each meter was asked N times.")
@click.option("--json", "as_json", is_flag=True, help="Write a JSON object for each look at a meter, one a line.")
@common
def command(
    addresses: tuple[Address, ...], file: Path | None, seconds: float | None, count: int | None, as_json: bool
) -> int:
    """Watch one or more meters: values, the last minutes, transaction, and what is wrong.

    Each is asked once a second, beside whoever drives it: GETs of what may be asked at any time, and nothing is sent.
    When the output is no terminal, a line is written for each value; for a meter that does not answer one at once and
    one a minute. Exit status: 1 when no meter ever answered.
    """
    context = click.get_current_context(silent=True)
    twice = sorted({str(address) for address in addresses if addresses.count(address) > 1})
    if twice:
        raise click.UsageError(f"{', '.join(twice)}: given more than once", context)
    if file is not None:
        addresses = tuple(dict.fromkeys((*addresses, *_configured(file))))
    if not addresses:
        raise click.UsageError("give the addresses of meters, or a configuration file with --config", context)
    return asyncio.run(_watch(addresses, seconds, count, as_json=as_json))


def _configured(file: Path) -> Iterator[Address]:
    """Yield the addresses of the meters of a configuration file.

    Raises:
        MistakenFileError: the file has mistakes.
    """
    from iem_dcr.cli.config import load_meters  # noqa: PLC0415  # without a file no configuration is loaded

    for meter in load_meters(file):
        yield Address(meter.settings.ip_address, meter.settings.port_http)


class View(Protocol):
    """Shows what is seen."""

    def looked(self, meter: WatchedMeter) -> None:
        """Take note that a meter was looked at."""

    async def run(self) -> None:
        """Show until cancelled."""

    def close(self) -> None:
        """Show how things were last."""


class LineView:
    """A line for each value; a meter that does not answer gets one when that begins, when its reason changes, and again
    after a while.

    Args:
        output: where to.
        written: writes a line.
        repeats_after_s: so long nothing more is said of a meter that does not answer.
    """

    def __init__(self, output: Output, written: Callable[[Sight], str], *, repeats_after_s: float = 0.0) -> None:
        self._output = output
        self._written = written
        self._repeats_after_s = repeats_after_s
        self._told: dict[str, tuple[str, float]] = {}

    def looked(self, meter: WatchedMeter) -> None:
        """Write its line."""
        sight = meter.sight()
        problem, told_s = self._told.get(sight.address, ("", 0.0))
        if sight.problem and sight.problem == problem and sight.now_s - told_s < self._repeats_after_s:
            return
        self._told[sight.address] = sight.problem, sight.now_s
        self._output.write(self._written(sight) + "\n")
        self._output.flush()

    async def run(self) -> None:
        """Wait: what there is to write is written when it is seen."""
        await asyncio.Event().wait()

    def close(self) -> None:
        """Everything is written."""


class ScreenView:
    """For terminals: a picture on a screen of its own, in whatever size it has; the last one stays behind."""

    def __init__(self, console: Console, meters: Sequence[WatchedMeter], wall: Wall) -> None:
        self._meters = meters
        self._wall = wall
        self._changed = asyncio.Event()
        self._console = console
        self._live = Live(
            console=console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=sys.stderr.isatty(),
        )

    def looked(self, _meter: WatchedMeter) -> None:
        """Have the picture drawn."""
        self._changed.set()

    async def run(self) -> None:
        """Draw whenever there is something new, and once a second: silence grows."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGWINCH, self._changed.set)
        try:
            with self._live:
                while True:
                    self._live.update(self._picture(), refresh=True)
                    await asyncio.sleep(DRAWN_AGAIN_AFTER_S)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(DRAWN_EVERY_S - DRAWN_AGAIN_AFTER_S):
                            await self._changed.wait()
                    self._changed.clear()
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)

    def close(self) -> None:
        """Leave the last picture behind."""
        self._console.print(self._picture(stays=True))

    def _picture(self, *, stays: bool = False) -> Picture:
        return Picture(tuple(meter.sight() for meter in self._meters), self._wall(), stays)


async def _watch(
    addresses: Sequence[Address], seconds: float | None, count: int | None, *, as_json: bool, wall: Wall = _local_time
) -> int:
    meters = [WatchedMeter(address.host, address.port, wall) for address in addresses]
    output = Output()
    with Interruption() as interruption:
        output.when_lost = interruption.ask_to_end
        view = _view(output, meters, wall, as_json=as_json)
        showing = asyncio.create_task(view.run())
        watching = asyncio.create_task(watch(meters, view.looked, count=count))
        interrupted = asyncio.create_task(interruption.wait(seconds))
        tasks = {showing, watching, interrupted}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
        view.close()
        output.flush()
        if (seconds is not None or count is not None) and interruption.came and output.error is None:
            raise LeftEarlyError("the meters were not watched for as long as was asked for.")
    return _status(output, meters)


def _view(output: Output, meters: Sequence[WatchedMeter], wall: Wall, *, as_json: bool) -> View:
    if as_json:
        return LineView(output, lambda sight: json.dumps(sight_json(sight), separators=(",", ":")))
    console = output.console()
    if console.is_terminal and not console.is_dumb_terminal:
        return ScreenView(console, meters, wall)
    return LineView(output, plain_line, repeats_after_s=SILENCE_TOLD_EVERY_S)


def _status(output: Output, meters: Sequence[WatchedMeter]) -> int:
    status = output.status()
    silent = [meter for meter in meters if not meter.answered]
    if len(silent) < len(meters):
        return status
    for meter in silent:
        tell(f"Error: meter {meter.address}, {meter.sight().problem or 'asked, and not answered yet'}")
    return EXIT_NONE_ANSWERED


def sight_json(sight: Sight) -> dict[str, object]:
    """Return what there is to see of a meter as JSON types; times are RFC 3339 in UTC."""
    seen, value = sight.transaction, sight.value
    is_new = sight.silent_since is None
    return {
        "address": sight.address,
        "read_at": rfc3339(sight.read_at) if sight.read_at is not None else None,
        "age_s": _rounded(sight.age_s),
        "no_answer_since": rfc3339(sight.silent_since) if sight.silent_since is not None else None,
        "no_answer_for_s": _rounded(sight.silent_s),
        "metervalue": metervalue_json(value) if value is not None and is_new else None,
        "clock_ahead_s": round(sight.clock_off.total_seconds(), 3) if sight.clock_off is not None and is_new else None,
        "gw": {"CT": sight.gateway.CT, "CI": sight.gateway.CI} if sight.gateway is not None else None,
        "transaction": {
            "seen_since": rfc3339(seen.since),
            "begin_seen": seen.begin_seen,
            "charged_wh": float(seen.charged_wh),
        }
        if seen is not None
        else None,
        "troubles": [{"text": trouble.text, "fault": trouble.is_fault} for trouble in troubles(sight)],
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
