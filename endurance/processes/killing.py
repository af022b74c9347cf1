"""Services and EVerest modules are killed at random instants: `make endurance-processes RESTARTS=300 SEED=1`.

Usage: python -m endurance.processes.killing [--restarts N] [--seed S] [--stations N] [--keep FOLDER]

Every station has a process of ours (`iem-dcr run`, or the EVerest module under a double of its framework), a simulated
meter (`iem-dcr simulate`) and a proxy between them, in which answers are lost, stalled and garbled. The services are at
two mosquittos, one of which keeps what it has on disk; both are killed now and then. Meters lose their power.
The seed chooses what is done; at which instant it meets what is up to the machine, so a run cannot be made again.
Exits with 1 when a promise of `endurance.invariants` was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from endurance.given import at_least_one
from endurance.processes import running
from endurance.processes.account import Account
from endurance.processes.chargers import MODULE, SERVICE, ModuleCharger, ServiceCharger
from endurance.processes.everest import Everest
from endurance.processes.station import BACK_WITHIN_S, EVSE_ID, Station
from iem_dcr.journal import open_for_reading
from tests.support.brokers import Mosquitto
from tests.support.shared import SHARED

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS: Final = (SERVICE, MODULE, SERVICE, SERVICE, MODULE, SERVICE, SERVICE, MODULE)
"""Of the stations, over and over."""
WITHOUT_JOURNAL: Final = (3, 4)
"""Which of eight keep no journal; the others share one file in pairs."""
BROKER_UP_S: Final = (6.0, 20.0)
BROKER_DOWN_S: Final = (0.0, 0.2, 1.5)


@dataclass(slots=True)
class Found:
    """What came of a run.

    Attributes:
        broken: promises that were broken, each with where.
        restarts: how many processes were killed and started again.
        back_s: how long each took to publish where nothing else was in its way.
        counts: how often what happened.
        took_s: how long it lasted.
    """

    broken: list[str] = field(default_factory=list)
    restarts: int = 0
    back_s: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    took_s: float = 0.0


class Run:
    """One run."""

    def __init__(self, folder: Path, restarts: int, seed: int, stations: int) -> None:
        self._folder = folder
        self._left = restarts
        self._done = 0
        self._seed = seed
        self._count = stations
        self._stations: list[Station] = []
        self._services: dict[str, ServiceCharger] = {}
        self._starting = asyncio.Semaphore(len(os.sched_getaffinity(0)))
        self.broker_kills = 0

    async def run(self) -> Found:
        """Start everything, kill it so many times, let it be calm, and judge."""
        began_s = time.monotonic()
        restarts = self._left
        async with contextlib.AsyncExitStack() as stack:
            brokers = [stack.enter_context(Mosquitto(persistence=keeps)) for keeps in (False, True)]
            names = [f"k{number}" for number in range(self._count)]
            everests = [
                await stack.enter_async_context(Everest(broker.port, names[place::2], self._heard))
                for place, broker in enumerate(brokers)
            ]
            for number, name in enumerate(names):
                await self._station(stack, number, name, everests[number % 2], brokers[number % 2].port)
            await asyncio.gather(*(station.begin() for station in self._stations))
            killing = [asyncio.create_task(self._kill_now_and_then(*each)) for each in enumerate(brokers)]
            try:
                await asyncio.gather(*(self._restart(station) for station in self._stations))
            finally:
                for task in killing:
                    task.cancel()
                await asyncio.wait(killing)
            for broker in brokers:
                await asyncio.to_thread(broker.restart)
            for station in self._stations:
                station.excuse("its broker was killed")
            await asyncio.gather(*(station.finish() for station in self._stations))
        return self._judged(restarts, time.monotonic() - began_s)

    def _heard(self, topic: str, payload: bytes) -> None:
        service = self._services.get(topic.split("/")[3])
        if service is not None:
            service.hear(topic, payload)

    async def _station(
        self, stack: contextlib.AsyncExitStack, number: int, name: str, everest: Everest, broker_port: int
    ) -> None:
        serial = f"1SIM{number:010}"
        line = running.command("simulate", "--port", "0", "--serial", serial, "--signing-delay", "0.15")
        options = {
            "load_delay_s": "0.05", "charge_s": "0.3",
            "receipt_while_signing": ("refuse", "nothing", "previous")[number % 3],
            "repeated_receipt": ("refuse", "accept")[number % 2], "firmware": ("v1", "v2")[number % 2],
        }  # fmt: skip
        for option, value in options.items():
            line += ["--set", f"{option}={value}"]
        meter = stack.enter_context(running.running(line, stdout=subprocess.PIPE))
        port = int((await asyncio.to_thread(running.first_line, meter)).rpartition(":")[2])
        has_journal = number % 8 not in WITHOUT_JOURNAL
        kind = KINDS[number % len(KINDS)] if SHARED.is_dir() else SERVICE
        station = Station(
            name, kind, Account(serial, journal=has_journal), port, f"{self._seed} {number}", self._starting
        )
        await stack.enter_async_context(station.proxy)
        settings = {"ip_address": "127.0.0.1", "port_http": station.proxy.port, "CI": EVSE_ID}
        settings |= {"resilience_initial_connection_retry_delay": 1000, "command_timeout_ms": 1000}
        if has_journal:
            settings["journal_path"] = str(self._journal(number))
        if kind == MODULE:
            station.charger = ModuleCharger(settings, station.value)
        else:
            file = self._folder / f"{name}.toml"
            file.write_text(_toml(broker_port, name, settings), "utf-8")
            log = self._folder / f"{name}.log"
            charger = ServiceCharger(everest, name, file, log, station.value, station.check)
            station.charger = self._services[name] = charger
        self._stations.append(station)
        stack.push_async_callback(_end_of, station)

    def _journal(self, number: int) -> Path:
        return self._folder / f"journal{number // 2}.sqlite"

    async def _restart(self, station: Station) -> None:
        while self._left > 0:
            self._left -= 1
            await station.be_killed()
            self._done += 1
            if self._done % 50 == 0:
                print(f"{self._done} restarts", file=sys.stderr, flush=True)

    async def _kill_now_and_then(self, number: int, broker: Mosquitto) -> None:
        chance = random.Random(f"{self._seed} broker {number}")
        concerned = self._stations[number::2]
        while True:
            await asyncio.sleep(chance.uniform(*BROKER_UP_S))
            for station in concerned:
                station.broker_troubled_s = time.monotonic() + 20.0
                if station.kind == SERVICE:
                    station.excuse("its broker was killed")
            broker.kill()
            self.broker_kills += 1
            await asyncio.sleep(chance.choice(BROKER_DOWN_S))
            starting = asyncio.ensure_future(asyncio.to_thread(broker.start))
            await asyncio.shield(starting)
            for station in concerned:
                station.broker_back_s = time.monotonic()
                station.broker_troubled_s = station.broker_back_s + 2.0

    def _judged(self, restarts: int, took_s: float) -> Found:
        found = Found(restarts=restarts, took_s=took_s)
        found.counts["kills of a broker"] = self.broker_kills
        for number, station in enumerate(self._stations):
            account = station.account
            if account.plan.journal:
                path = self._journal(number)
                with open_for_reading(path) as reader:
                    account.file(reader.entries())
                account.troubles += _unsound(path)
            (self._folder / f"{station.name}.txt").write_text(account.told(), "utf-8")
            found.broken += [f"{station.name} ({station.kind}): {sentence}" for sentence in account.broken()]
            found.counts += account.counts
            found.counts["transactions"] += len(account.unit.truths)
            found.counts["receipts"] += len(account.unit.signed)
            found.counts["values"] += len(account.energies)
            found.back_s += [each.back_s for each in station.restarts if each.is_fair]
        return found


def _toml(port: int, name: str, settings: dict[str, object]) -> str:
    lines = [f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\n\n[[meter]]\nmodule_id = "{name}"']
    lines += [f"{key} = {value if isinstance(value, int) else repr(value)}" for key, value in settings.items()]
    return "\n".join(lines) + "\n"


async def _end_of(station: Station) -> None:
    """Leave nothing behind, whatever ended the run."""
    for task in list(station.tasks):
        task.cancel()
    station.charger.strike()
    await station.charger.bury()


def _unsound(path: Path) -> list[str]:
    """Return what `iem-dcr receipts list` finds wrong with a journal, and what SQLite does."""
    import sqlite3  # noqa: PLC0415  as elsewhere: only where there is a journal

    done = subprocess.run(  # noqa: S603  our own command
        running.command("receipts", "list", "--journal", str(path), "--json"),
        capture_output=True,
        text=True,
        check=False,
    )
    troubles = [f"receipts list ended with {done.returncode}: {done.stderr}"] if done.returncode else []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (word,) = connection.execute("PRAGMA integrity_check").fetchone()
    if word != "ok":
        troubles.append(f"{path.name} is not sound: {word}")
    if moved := sorted(path.parent.glob(f"{path.name}.corrupt*")):
        troubles.append(f"a journal was moved aside as corrupt: {moved[0].name}")
    return troubles


def report(found: Found) -> None:
    """Print what came of a run."""
    print(f"{found.restarts} restarts in {found.took_s:.0f} s", end="")
    for name in ("kills of a broker", "transactions", "receipts", "values"):
        print(f", {found.counts.pop(name, 0)} {name}", end="")
    print()
    if found.back_s:
        ordered = sorted(found.back_s)
        median_s, most_s = statistics.median(ordered), ordered[int(0.95 * (len(ordered) - 1))]
        print(
            f"  from start to first value, waiting for a core left out: median {median_s:.2f} s,"
            f" 95 % {most_s:.2f} s, longest {ordered[-1]:.2f} s ({len(ordered)} starts with nothing else in their way)"
        )
    for name, count in sorted(found.counts.items()):
        print(f"  {name:32} {count}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=at_least_one, default=300, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of what is done (%(default)s)")
    parser.add_argument("--stations", type=at_least_one, default=8, help="at once (%(default)s)")
    parser.add_argument("--keep", type=Path, help="keep logs and journals in this folder")
    given = parser.parse_args(arguments)
    running.end_on_sigterm()
    running.need_mosquitto()
    if not SHARED.is_dir():
        print("skipped: the EVerest module, for EVerest's definitions are not beside the checkout; services only")
    with contextlib.ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iem-dcr-killing-")))
        folder.mkdir(parents=True, exist_ok=True)
        found = asyncio.run(Run(folder, given.restarts, given.seed, given.stations).run())
    report(found)
    late = [each for each in found.back_s if each > BACK_WITHIN_S]
    if late:
        found.broken.append(f"{len(late)} of {len(found.back_s)} processes were back after more than {BACK_WITHIN_S} s")
    for sentence in found.broken:
        print(f"BROKEN: {sentence}")
    print(f"{len(found.broken)} promises broken." if found.broken else "Nothing is broken.")
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.exit(main())
