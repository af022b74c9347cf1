"""Counts the calls, functions, files and hops between files of a start, a stop and a live value.

Usage: python benchmarks/walk.py [--list start|stop|'live value']

Only this program's own functions are counted, with `sys.setprofile`. Resuming a coroutine is not a call, and a
comprehension is not a function. A hop is a call into another file than that of the previous call. The simulated meter
runs in its own process.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import iem_dcr
from benchmarks.driver import request, running_driver, simulated_meter
from iem_dcr.powermeter import TransactionRequestStatus

if TYPE_CHECKING:
    from types import FrameType

    from benchmarks.driver import Station
    from iem_dcr.driver import MeterDriver

OWN: Final = str(Path(iem_dcr.__file__).parent)
LIVE_VALUES: Final = 3
"""The cheapest of this many live values counts, because some include work that is due every few seconds only."""


class Walk:
    """Context manager that records every call of own code."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self._entered: set[FrameType] = set()

    def __enter__(self) -> Walk:
        sys.setprofile(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        is_function = code.co_name == "<lambda>" or not code.co_name.startswith("<")
        if event == "call" and is_function and code.co_filename.startswith(OWN) and frame not in self._entered:
            self._entered.add(frame)
            self.calls.append((code.co_filename.removeprefix(OWN + "/"), code.co_qualname))

    def __str__(self) -> str:
        files = [file for file, _ in self.calls]
        hops = sum(one != other for one, other in itertools.pairwise(files))
        return f"{len(files):5} calls {len(set(self.calls)):5} functions {len(set(files)):4} files {hops:5} hops"


async def walks(port: int) -> dict[str, Walk]:
    """Record each of the three walks once."""
    async with running_driver(port) as (driver, station):
        await asyncio.sleep(2.5)
        found = {"live value": min([await live_value(station) for _ in range(LIVE_VALUES)], key=lambda w: len(w.calls))}
        await next_value(station)
        with Walk() as found["start"]:
            started = await driver.start_transaction(request(1))
        await next_value(station)
        found["stop"] = await stop(driver)
    if started.status is not TransactionRequestStatus.OK:
        raise SystemExit(f"not started: {started.error}")
    return found


async def stop(driver: MeterDriver) -> Walk:
    with Walk() as walk:
        stopped = await driver.stop_transaction("bench-1")
    if stopped.status is not TransactionRequestStatus.OK:
        raise SystemExit(f"not stopped: {stopped.error}")
    return walk


async def live_value(station: Station) -> Walk:
    """Record the calls from one live value to the next."""
    await next_value(station)
    with Walk() as walk:
        await next_value(station)
    return walk


async def next_value(station: Station) -> None:
    """Wait for a live value and for the work that follows it."""
    count = len(station.at_s)
    while len(station.at_s) == count:  # noqa: ASYNC110  the driver has no event for it
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", choices=("start", "stop", "live value"), help="list the functions of one walk")
    arguments = parser.parse_args()
    with simulated_meter() as port:
        found = asyncio.run(walks(port))
    for name, walk in found.items():
        print(f"{name:12} {walk}")
    if arguments.list:
        for (file, function), count in Counter(found[arguments.list].calls).items():
            print(f"{count:5}  {file:32} {function}")


if __name__ == "__main__":
    main()
