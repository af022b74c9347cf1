"""Services and EVerest modules are killed at random instants: `make endurance-processes RESTARTS=300 SEED=1`.

Usage: python -m endurance.processes.killing [--restarts N] [--seed S] [--stations N] [--slow-disk] [--keep FOLDER]

Every station has a process of ours (`iem-dcr run`, or the EVerest module under a double of its framework) and a
simulated meter, which loses, stalls and garbles answers, and loses its power. The services use two mosquitto brokers.
One of them keeps its sessions on disk, and both are killed from time to time. With --slow-disk the journals of some
stations are on a disk that is temporarily slow or full.
The seed determines the actions, but not their exact instants, so that a run cannot be repeated exactly.
The exit status is 1 if a promise of `endurance.invariants` was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from endurance.command_line import COUNT, verdict
from endurance.processes import programs
from endurance.processes.killed_station import KilledStation
from endurance.processes.station import EverestMqtt
from endurance.processes.wrapped_program import FailingDisk
from endurance.station import until
from tests.support.brokers import Mosquitto
from tests.support.shared import SHARED

if TYPE_CHECKING:
    from collections.abc import Sequence

ON_SLOW_DISK: Final = (1, 3)
"""Of four journals these. The others are judged without the exceptions for a failing disk."""
BACK_TIMEOUT_S: Final = 3.0
BROKER_UP_S: Final = (6.0, 20.0)
BROKER_DOWN_S: Final = (0.0, 0.2, 1.5)


class Run:
    """One run."""

    def __init__(self, folder: Path, *, restarts: int, seed: int, stations: int, slow_disk: bool) -> None:
        self.broken: list[str] = []
        self.counts: Counter[str] = Counter()
        self._folder = folder
        self._restarts = restarts
        self._seed = seed
        self._is_over = False
        starting = asyncio.Semaphore(len(os.sched_getaffinity(0)))
        disks = [
            FailingDisk(folder / f"journal{pair}.sqlite", has_troubles=slow_disk and pair % 4 in ON_SLOW_DISK)
            for pair in range((stations + 1) // 2)
        ]
        self._stations = [KilledStation(number, seed, disks[number // 2], starting) for number in range(stations)]

    async def run(self) -> None:
        """Start everything, kill processes and brokers, wait for the recovery, and judge."""
        async with contextlib.AsyncExitStack() as stack:
            brokers = [stack.enter_context(Mosquitto(persistence=keeps)) for keeps in (False, True)]
            everests = [await stack.enter_async_context(EverestMqtt(broker.port)) for broker in brokers]
            for number, station in enumerate(self._stations):
                await station.serve_meter(stack)
                station.drive(self._folder, everests[number % 2])
                stack.push_async_callback(station.close)
            await asyncio.gather(*(station.begin() for station in self._stations))
            async with asyncio.TaskGroup() as killing:
                for number, (broker, everest) in enumerate(zip(brokers, everests, strict=True)):
                    killing.create_task(self._kill_broker(number, broker, everest))
                await asyncio.gather(*(self._kill_process(station) for station in self._stations))
                self._is_over = True
            await asyncio.gather(*(station.finish() for station in self._stations))
        for station in self._stations:
            self._judge(station)

    async def _kill_process(self, station: KilledStation) -> None:
        while self.counts["restarts"] < self._restarts:
            self.counts["restarts"] += 1
            if self.counts["restarts"] % 50 == 0:
                print(f"{self.counts['restarts']} restarts", file=sys.stderr, flush=True)
            await station.session_with_kill()

    async def _kill_broker(self, number: int, broker: Mosquitto, everest: EverestMqtt) -> None:
        """Kill a broker and start it again at random times, and once at the end."""
        chance = random.Random(f"{self._seed} broker {number}")
        services = [station for station in self._stations if station.name in everest.stations]
        is_over = False
        while not is_over:
            is_over = await until(lambda: self._is_over, chance.uniform(*BROKER_UP_S))
            for station in services:
                station.broker_is_killed()
            broker.kill()
            self.counts["kills of a broker"] += 1
            await asyncio.sleep(chance.choice(BROKER_DOWN_S))
            await asyncio.to_thread(broker.start)
            for station in services:
                station.broker_is_back()

    def _judge(self, station: KilledStation) -> None:
        if station.journal:
            station.problems += damage(station.disk.journal)
        late = sum(each > BACK_TIMEOUT_S for each in station.back_s)
        if late:
            station.problems.append(f"{late} processes took more than {BACK_TIMEOUT_S} s to their first value")
        self.broken += [f"{station.name} ({station.kind}): {each}" for each in station.judge(station.disk.journal)]
        self.counts += station.counts
        self.counts["transactions"] += len(station.meter.truths)
        self.counts["receipts"] += len(station.meter.signed_truths)
        self.counts["values"] += len(station.energies)

    def report(self, took_s: float) -> None:
        names = ("restarts", "kills of a broker", "transactions", "receipts", "values")
        print(", ".join(f"{self.counts.pop(name, 0)} {name}" for name in names), f"in {took_s:.0f} s")
        if back_s := sorted(each for station in self._stations for each in station.back_s):
            print(
                "  from start to first value, without the wait for a core:"
                f" median {statistics.median(back_s):.2f} s, 95 % {back_s[int(0.95 * (len(back_s) - 1))]:.2f} s,"
                f" longest {back_s[-1]:.2f} s ({len(back_s)} starts without other troubles)"
            )
        for name, count in sorted(self.counts.items()):
            print(f"  {name:32} {count}")


def damage(journal: Path) -> list[str]:
    """Return the problems that `iem-dcr receipts list` and SQLite find in a journal."""
    line = (*programs.IEM_DCR, "receipts", "list", "--journal", str(journal), "--json")
    done = subprocess.run(line, capture_output=True, text=True, check=False)  # noqa: S603  our own command
    found = [f"receipts list ended with {done.returncode}: {done.stderr}"] if done.returncode else []
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
    if verdict != "ok":
        found.append(f"{journal.name} is damaged: {verdict}")
    aside = sorted(journal.parent.glob(f"{journal.name}.corrupt*"))
    return found + [f"a journal was moved aside as corrupt: {path.name}" for path in aside]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=COUNT, default=300, help="number of restarts (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the actions (%(default)s)")
    parser.add_argument("--stations", type=COUNT, default=8, help="number of stations (%(default)s)")
    parser.add_argument("--slow-disk", action="store_true", help="put some journals on a failing disk")
    parser.add_argument("--keep", type=Path, help="keep logs and journals in this new folder")
    options = parser.parse_args(arguments)
    if not SHARED.is_dir():
        print("skipped: the EVerest module, because EVerest's definitions are not beside the checkout; services only")
    began_s = time.monotonic()
    with programs.prepared(options.keep) as folder:
        run = Run(
            folder, restarts=options.restarts, seed=options.seed, stations=options.stations, slow_disk=options.slow_disk
        )
        asyncio.run(run.run())
    run.report(time.monotonic() - began_s)
    return verdict(run.broken)


if __name__ == "__main__":
    sys.exit(main())
