"""A service with many meters is left to run, and must not grow: `make soak HOURS=1 METERS=50`.

Usage: python -m endurance.processes.soak [--hours H] [--meters N] [--every S]

`iem-dcr run` (with a journal), mosquitto and the simulated meters are processes of their own. First each meter has as
many sessions as the driver remembers, so that its memories are full; then a session now and then, while resident
memory, file handles, threads, tasks and Python's objects are sampled every ten seconds. Exits with 1 when one of them
grows, or when a session fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from endurance.given import at_least_one, positive
from endurance.processes import running
from endurance.processes.everest import Everest, start_payload
from iem_dcr.everest_api.topics import Topics
from iem_dcr.journal import open_for_reading
from tests.support.brokers import Mosquitto

if TYPE_CHECKING:
    from collections.abc import Sequence

FILLS: Final = 70
"""Sessions of each meter before the first sample: the driver's memories hold 64."""
SETTLES_S: Final = 30.0
ANSWER_WITHIN_S: Final = 61.6
ROWS: Final = 20
EVSE_ID: Final = "DE*SOA*E1"
ALLOWED: Final = {"resident_kib": 1024.0, "handles": 2.0, "threads": 1.0, "tasks": 4.0, "objects": 2000.0}
"""By how much the last third of the samples may be above the first third: what a moment's work is worth."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The service at one moment.

    Attributes:
        minute: since sampling began.
        resident_kib: resident memory.
        handles, threads, tasks: how many there are.
        objects: Python's, as far as its collector knows them.
    """

    minute: float
    resident_kib: int
    handles: int
    threads: int
    tasks: int
    objects: int


@dataclass(slots=True)
class Station:
    """One meter's station.

    Attributes:
        module_id: of its power meter.
        sessions: how many were begun and ended as they should.
        failures: what went wrong.
        receipts: that were handed over.
    """

    module_id: str
    sessions: int = 0
    failures: list[str] = field(default_factory=list)
    receipts: set[str] = field(default_factory=set)

    async def session(self, everest: Everest, length_s: float) -> None:
        """Have one session."""
        name = f"{self.module_id}-{self.sessions + len(self.failures)}"
        card = f"04{name.encode().hex().upper()}"
        topics = Topics(self.module_id)
        started = await _answer(everest, topics.start, start_payload(EVSE_ID, name, card))
        await asyncio.sleep(length_s)
        stopped = await _answer(everest, topics.stop, name)
        text = stopped.get("signed_meter_value", {}).get("signed_meter_data", "")
        if started.get("status") != "OK" or stopped.get("status") != "OK" or f'"ID":"{card}"' not in text:
            self.failures.append(f"{name}: {started} {stopped}")
        elif text in self.receipts:
            self.failures.append(f"{name}: a receipt a second time")
        else:
            self.sessions += 1
            self.receipts.add(text)


async def _answer(everest: Everest, topic: str, payload: object) -> dict[str, Any]:
    answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    everest.ask(topic, payload, lambda told: None if answer.done() else answer.set_result(told))
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return await answer
    except TimeoutError:
        return {"status": "no answer"}


def grown(samples: Sequence[Sample]) -> dict[str, float]:
    """Return by how much each column's median of the last third is above that of the first third."""
    third = max(1, len(samples) // 3)
    return {
        name: statistics.median(getattr(each, name) for each in samples[-third:])
        - statistics.median(getattr(each, name) for each in samples[:third])
        for name in ALLOWED
    }


def slope_per_hour(samples: Sequence[Sample], name: str) -> float:
    """Return how much a column rises in an hour, by the straight line nearest to it."""
    if len(samples) < 2:
        return 0.0
    return (
        60
        * statistics.linear_regression(
            [each.minute for each in samples], [float(getattr(each, name)) for each in samples]
        ).slope
    )


class Soak:
    """One run."""

    def __init__(self, folder: Path, meters: int, every_s: float) -> None:
        self._folder = folder
        self._every_s = every_s
        self._told = folder / "told.json"
        self.log = folder / "service.log"
        self.journal = folder / "journal.sqlite"
        self.stations = [Station(f"pm{number}") for number in range(meters)]
        self.samples: list[Sample] = []
        self.values = 0

    async def run(self, hours: float, fills: int = FILLS, settles_s: float = SETTLES_S) -> None:
        """Start everything, fill the memories, sample, and end everything."""
        with contextlib.ExitStack() as stack:
            broker = stack.enter_context(Mosquitto())
            meters = stack.enter_context(running.running(running.program("site_meters", len(self.stations)), stdout=-1))
            ports: list[int] = json.loads(await asyncio.to_thread(running.first_line, meters))
            service = running.program("counted_service", self._told, "-q", "run", self._config(broker.port, ports))
            process = stack.enter_context(running.running(service, self.log))
            names = [station.module_id for station in self.stations]
            async with Everest(broker.port, names, self._heard) as everest:
                await self._until_all_speak()
                await asyncio.gather(*(self._fill(everest, station, fills) for station in self.stations))
                sessions = [asyncio.create_task(self._now_and_then(everest, station)) for station in self.stations]
                await asyncio.sleep(settles_s)
                await self._sample(process.pid, hours)
                for task in sessions:
                    task.cancel()
                await asyncio.wait(sessions)
            if process.poll() is not None or running.end(process) != 0:
                self.stations[0].failures.append(f"the service ended with {process.returncode}")

    def _heard(self, topic: str, _payload: bytes) -> None:
        self.values += topic.endswith("powermeter_values")

    async def _until_all_speak(self) -> None:
        async with asyncio.timeout(60):
            while self.values < 2 * len(self.stations):  # noqa: ASYNC110  it is counted where it comes
                await asyncio.sleep(0.1)

    async def _fill(self, everest: Everest, station: Station, sessions: int) -> None:
        for _ in range(sessions):
            await station.session(everest, 0.5)

    async def _now_and_then(self, everest: Everest, station: Station) -> None:
        chance = random.Random(station.module_id)
        while True:
            await asyncio.sleep(chance.uniform(0.2, 1.8) * self._every_s)
            await station.session(everest, chance.uniform(2.0, 20.0))

    async def _sample(self, pid: int, hours: float) -> None:
        began_s = time.monotonic()
        shown = max(1, round(hours * 360 / ROWS))
        print("minute  resident MiB  handles  threads  tasks  objects  sessions")
        while (now_s := time.monotonic() - began_s) <= hours * 3600:
            self._told.unlink(missing_ok=True)
            os.kill(pid, signal.SIGUSR1)
            async with asyncio.timeout(10):
                while not self._told.exists():  # noqa: ASYNC110  another process makes it
                    await asyncio.sleep(0.02)
            counts = json.loads(self._told.read_text("utf-8"))
            sample = Sample(now_s / 60, running.resident_kib(pid), running.handles(pid), running.threads(pid), **counts)
            if len(self.samples) % shown == 0:
                self._show(sample)
            self.samples.append(sample)
            await asyncio.sleep(max(0.0, 10.0 * len(self.samples) - (time.monotonic() - began_s)))
        self._show(self.samples[-1])

    def _show(self, sample: Sample) -> None:
        minute, resident_kib, *counts = astuple(sample)
        sessions = sum(station.sessions for station in self.stations)
        columns = "".join(
            f"{count:{width}}" for count, width in zip([*counts, sessions], (9, 9, 7, 9, 10), strict=True)
        )
        print(f"{minute:6.1f}  {resident_kib / 1024:12.2f}{columns}", flush=True)

    def _config(self, port: int, ports: list[int]) -> Path:
        tables = [f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\n']
        tables += [
            f'[[meter]]\nmodule_id = "{station.module_id}"\nip_address = "127.0.0.1"\nport_http = {port}\n'
            f'CI = "{EVSE_ID}"\njournal_path = "{self.journal}"\n'
            for station, port in zip(self.stations, ports, strict=True)
        ]
        file = self._folder / "meters.toml"
        file.write_text("\n".join(tables), "utf-8")
        return file

    def troubles(self) -> list[str]:
        """Return what is not as it should be, each as a sentence."""
        found = [failure for station in self.stations for failure in station.failures]
        with open_for_reading(self.journal) as reader:
            kept = [entry.text for entry in reader.entries()]
        handed_over = set().union(*(station.receipts for station in self.stations))
        if missing := len(handed_over - set(kept)):
            found.append(f"{missing} receipts that were handed over are not in the journal")
        if len(kept) != len(set(kept)):
            found.append("a receipt is in the journal more than once")
        if said := self.log.read_text("utf-8"):
            found.append(f"the service's log says: {said[:2000]}")
        found += [
            f"{name} grows: by {by:.0f}, where {ALLOWED[name]:.0f} is a moment's work"
            for name, by in grown(self.samples).items()
            if by > ALLOWED[name]
        ]
        return found

    def report(self) -> None:
        """Print what came of it."""
        sessions = sum(station.sessions for station in self.stations)
        last = self.samples[-1]
        print(
            f"\n{len(self.stations)} meters, {last.minute:.1f} minutes, {len(self.samples)} samples,"
            f" {sessions} sessions, {self.values} values"
        )
        for name, by in grown(self.samples).items():
            slope = slope_per_hour(self.samples, name)
            print(f"  {name:13} slope {slope:+9.1f} an hour, last third {by:+8.1f} against the first")


def main() -> int:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=positive, default=1.0, help="how long to sample (%(default)s)")
    parser.add_argument("--meters", type=at_least_one, default=50, help="how many (%(default)s)")
    parser.add_argument("--every", type=positive, default=60.0, help="seconds between a meter's sessions (%(default)s)")
    parser.add_argument("--fills", type=at_least_one, default=FILLS, help="sessions of each meter before (%(default)s)")
    arguments = parser.parse_args()
    running.end_on_sigterm()
    running.need_mosquitto()
    with tempfile.TemporaryDirectory(prefix="iem-dcr-soak-") as name:
        soak = Soak(Path(name), arguments.meters, arguments.every)
        asyncio.run(soak.run(arguments.hours, arguments.fills))
        soak.report()
        troubles = soak.troubles()
    for trouble in troubles:
        print(trouble)
    print("It grows, or it failed." if troubles else "Nothing grows.")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
