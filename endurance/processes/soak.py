"""A service with many meters runs for hours and must not grow: `make soak HOURS=1 METERS=50`.

Usage: python -m endurance.processes.soak [--hours H] [--meters N]

`iem-dcr run`, with a journal, and mosquitto have their own processes. The simulated meters are in this one. First each
meter has as many sessions as the driver remembers. Then each has occasional sessions, while resident memory, file
handles, threads, tasks and Python objects of the service are sampled every ten seconds. There are no faults. The exit
status is 1 if one of these numbers grows or a session fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from endurance.command_line import COUNT, HOURS, verdict
from endurance.growth import grown, handles, resident_kib, threads
from endurance.plan import start_request
from endurance.processes import programs
from endurance.processes.programs import RealService
from endurance.processes.station import EverestMqtt, RealStation
from endurance.station import until
from tests.support.brokers import Mosquitto

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FILLS: Final = 70
"""Sessions of each meter before the first sample: the driver remembers 64 receipts and ids."""
SESSION_PERIOD_S: Final = 60.0
SETTLE_S: Final = 30.0
SAMPLE_PERIOD_S: Final = 10.0
ROWS: Final = 20
ALLOWED: Final = {"resident_kib": 1024.0, "handles": 2.0, "threads": 1.0, "tasks": 4.0, "objects": 2000.0}
"""Maximum excess of the last third of the samples over the first third, as normal work can cause."""


class Soak:
    """One run."""

    def __init__(self, folder: Path, meters: int) -> None:
        self._samples: list[dict[str, float]] = []
        self._folder = folder
        self._counts = folder / "counts.json"
        self._is_over = False
        self._stations = [RealStation(f"pm{number}", f"1SIM{number:010}") for number in range(meters)]

    async def run(self, hours: float) -> list[str]:
        """Start everything, fill the driver's collections, sample, and end everything. Return the broken promises."""
        journal = self._folder / "journal.sqlite"
        async with contextlib.AsyncExitStack() as stack:
            broker = stack.enter_context(Mosquitto())
            everest = await stack.enter_async_context(EverestMqtt(broker.port))
            for station in self._stations:
                everest.add(station)
                await station.serve_meter(stack)
            counts = {"IEM_DCR_ENDURANCE_COUNTS": str(self._counts)}
            service = RealService(self._folder, self._stations, everest.address, journal, "-q", **counts)
            await stack.enter_async_context(service)
            await asyncio.gather(*(self._fill(station) for station in self._stations))
            sessions_running = [asyncio.create_task(self._run_sessions(station)) for station in self._stations]
            await asyncio.sleep(SETTLE_S)
            await self._sample(service.pid, hours)
            self._is_over = True
            await asyncio.gather(*sessions_running)
            broken = await service.terminate()
        for station in self._stations:
            broken += [f"{station.name}: {each}" for each in station.judge(journal)]
        if text := service.log.read_text("utf-8"):
            broken.append(f"the service's log has entries: {text[:2000]}")
        return broken + grown(self._samples, ALLOWED)

    async def _fill(self, station: RealStation) -> None:
        station.process_starts()
        await until(lambda: station.value_s, 60)
        for _ in range(FILLS):
            await self._run_session(station, 0.5)

    async def _run_sessions(self, station: RealStation) -> None:
        chance = random.Random(station.name)
        while not await until(lambda: self._is_over, chance.uniform(0.2, 1.8) * SESSION_PERIOD_S):
            await self._run_session(station, chance.uniform(2.0, 20.0))

    async def _run_session(self, station: RealStation, length_s: float) -> None:
        for call in await station.session(start_request(station.new_id(), ""), length_s):
            call.fresh = True

    async def _sample(self, pid: int, hours: float) -> None:
        begin_s = time.monotonic()
        rows_apart = max(1, round(hours * 3600 / SAMPLE_PERIOD_S / ROWS))
        print("minute  resident KiB  handles  threads  tasks  objects  sessions")
        while (now_s := time.monotonic() - begin_s) <= hours * 3600:
            self._counts.unlink(missing_ok=True)
            os.kill(pid, signal.SIGUSR1)
            if not await until(self._counts.exists, 10):
                raise RuntimeError("the service does not write its counts")
            sample = {"minute": now_s / 60, "resident_kib": resident_kib(pid), "handles": handles(pid)}
            sample |= {"threads": threads(pid), **json.loads(self._counts.read_text("utf-8"))}
            if len(self._samples) % rows_apart == 0:
                self._show(sample)
            self._samples.append(sample)
            await asyncio.sleep(max(0.0, SAMPLE_PERIOD_S * len(self._samples) - (time.monotonic() - begin_s)))
        self._show(self._samples[-1])

    def _show(self, sample: dict[str, float]) -> None:
        sessions = sum(station.counts["stop: OK"] for station in self._stations)
        row = "{minute:6.1f}  {resident_kib:12} {handles:8} {threads:8} {tasks:6} {objects:8} {sessions:9}"
        print(row.format(**sample, sessions=sessions), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=HOURS, default=1.0, help="hours of sampling (%(default)s)")
    parser.add_argument("--meters", type=COUNT, default=50, help="number of meters (%(default)s)")
    options = parser.parse_args(arguments)
    with programs.prepared(None) as folder:
        broken = asyncio.run(Soak(folder, options.meters).run(options.hours))
    return verdict(broken, "Nothing grows.")


if __name__ == "__main__":
    sys.exit(main())
