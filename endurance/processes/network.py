"""Sessions over a failing network: `make endurance-network ROUNDS=3`.

Usage: python -m endurance.processes.network [--rounds N] [--way packets|proxy] [--keep FOLDER]

`iem-dcr run` with a real mosquitto drives one simulated meter for each fault: in another network namespace, if the
machine allows that, and through a proxy. In every round the fault begins and ends at a random time of a session.
The exit status is 1 if a promise of `endurance.invariants` was broken or live values did not return.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from endurance.command_line import at_least, verdict
from endurance.model import start_request
from endurance.processes import programs
from endurance.processes.programs import ServiceProcess
from endurance.processes.station import CALM_S, EverestMqtt, RealStation
from endurance.processes.ways import PacketWay, ProxyWay, Trouble, unshared, why_no_namespaces, within
from endurance.station import until
from iem_dcr.simulator import SimulatorServer
from tests.support.brokers import Mosquitto

if TYPE_CHECKING:
    from collections.abc import Sequence

    from endurance.processes.ways import Way

VALUE_TIMEOUT_S: Final = 15.0
"""Maximum time from the end of a fault to the next live value."""
BROKER_PORT: Final = 1883
"""The port is free, as the broker runs in its own namespace."""
INSIDE: Final = "IEM_DCR_ENDURANCE_INSIDE"
"""Environment variable that is set for the command inside a namespace."""
FAULTS: Final = (
    Trouble("30 % loss", 20.0, loss=0.3),
    Trouble("2 s delay", 20.0, delay_s=2.0),
    Trouble("black hole", carries_requests=False, carries_answers=False),
    Trouble("requests vanish", carries_requests=False),
    Trouble("requests held back", holds_back=True),
    Trouble("answers vanish", carries_answers=False),
    Trouble("network down", 8.0, is_up=False),
    Trouble("half-open", 8.0, carries_requests=False, carries_answers=False, cuts_power=True),
)


class CutOffStation(RealStation):
    """A station whose network to the meter fails.

    Attributes:
        way: its network to the meter.
        back_s: seconds from the end of each fault to the next live value.
    """

    way: Way

    def __init__(self, name: str, fault: Trouble) -> None:
        super().__init__(name, f"1SIM-{name}")
        self.back_s: list[float] = []
        self._fault = fault
        self._chance = random.Random(f"1 {name}")

    async def connect(self, stack: contextlib.AsyncExitStack, number: int, pid: int) -> None:
        """Connect to the meter from the namespace of the process ``pid``, or through a proxy if ``pid`` is 0."""
        if pid:
            self.way = await stack.enter_async_context(PacketWay(number, pid))
            self.way.port = (await stack.enter_async_context(SimulatorServer(self.meter, self.way.host))).port
        else:
            port = (await stack.enter_async_context(SimulatorServer(self.meter))).port
            self.way = await stack.enter_async_context(ProxyWay(port))
        self.address = self.way.host, self.way.port

    async def rounds(self, count: int) -> None:
        """Run ``count`` sessions with the fault, and then one without it."""
        self.process_starts()
        await until(lambda: self.value_s, self.answer_timeout_s)
        for _ in range(count):
            failing = asyncio.create_task(self._fail(self._chance.uniform(0.0, 6.0)))
            await asyncio.sleep(self._chance.uniform(0.0, 3.0))
            start, stop = await self.session(start_request(self.new_id(), ""), self._chance.uniform(0.5, 6.0))
            await failing
            if start.ok and not stop.ok:
                stop = self.stop(start.transaction_id)
                await self.answers(stop)
                if not stop.ok:
                    self.troubles.append(f"no receipt of {start.transaction_id}: {stop.answer}")
        if not await until(lambda: self.meter.open_transaction is None, CALM_S):
            self.troubles.append("a stopped or failed transaction still runs")
        await self.last_session()

    async def _fail(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self.way.set_trouble(self._fault)
        if self._fault.cuts_power:
            self.meter.power_cycle(off_s=0.5, boot_s=1.0)
        await asyncio.sleep(self._fault.lasts_s)
        self.way.set_trouble(Trouble())
        over_s = time.monotonic()
        if await until(lambda: self.value_s > over_s, VALUE_TIMEOUT_S):
            self.back_s.append(self.value_s - over_s)
        else:
            self.troubles.append(f"no value within {VALUE_TIMEOUT_S} s")

    def judge(self, journal: Path) -> list[str]:
        return [f"{self._fault.name}: {each}" for each in super().judge(journal)]

    def row(self) -> str:
        longest_s = max((call.answered_s or 0.0) - (call.asked_s or 0.0) for call in self.calls)
        ok = sum(call.ok for call in self.calls)
        back_s = max(self.back_s, default=float("nan"))
        return f"  {self._fault.name:18} {len(self.calls):8} {ok:5} {longest_s:13.1f} s {back_s:14.1f} s"


class Run:
    """One run: all faults at the same time, each at its own station."""

    def __init__(self, folder: Path, rounds: int, faults: Sequence[Trouble] = FAULTS, *, packets: bool) -> None:
        self.stations = [CutOffStation(f"n{number}", fault) for number, fault in enumerate(faults)]
        self._folder = folder
        self._rounds = rounds
        self._packets = packets

    async def run(self) -> list[str]:
        """Run all faults and return the broken promises."""
        journal = self._folder / "journal.sqlite"
        async with contextlib.AsyncExitStack() as stack:
            pid = await new_namespace(stack) if self._packets else 0
            if pid:
                sure = await stack.enter_async_context(PacketWay(100, pid))
                broker = stack.enter_context(Mosquitto(extra=f"listener {BROKER_PORT} {sure.host}"))
                address = sure.host, BROKER_PORT
            else:
                broker = stack.enter_context(Mosquitto())
                address = "127.0.0.1", broker.port
            everest = await stack.enter_async_context(EverestMqtt(broker.port))
            for number, station in enumerate(self.stations):
                everest.add(station)
                await station.connect(stack, number, pid)
            service = ServiceProcess(self._folder, self.stations, address, journal, prefix=within(pid) if pid else ())
            await stack.enter_async_context(service)
            await asyncio.gather(*(station.rounds(self._rounds) for station in self.stations))
            broken = await service.terminate()
        return broken + [each for station in self.stations for each in station.judge(journal)]


async def new_namespace(stack: contextlib.AsyncExitStack) -> int:
    """Create a network namespace that ends with the stack. Return the id of a process in it."""
    line = unshared("sh", "-c", "echo; exec cat")
    process = stack.enter_context(programs.running(line, stdout=subprocess.PIPE))
    assert process.stdout is not None  # noqa: S101  it is a pipe
    await asyncio.to_thread(process.stdout.readline)
    return process.pid


def run_faults(rounds: int, folder: Path, *, packets: bool) -> int:
    """Run all faults and print the results. Return the exit status."""
    run = Run(folder, rounds, packets=packets)
    began_s = time.monotonic()
    broken = asyncio.run(run.run())
    print(f"{'packets between namespaces' if packets else 'a proxy'}, {time.monotonic() - began_s:.0f} s")
    print("  fault              commands    OK  longest answer  values back after")
    for station in run.stations:
        print(station.row())
    return verdict(broken)


def run_in_namespace(rounds: int, folder: Path) -> int:
    """Run this command in a network namespace and return its exit status, or 0 if namespaces are unavailable."""
    if why := why_no_namespaces():
        print(f"skipped: packets between network namespaces: {why}")
        return 0
    line = unshared(sys.executable, "-m", __spec__.name, "--rounds", str(rounds), "--keep", str(folder))
    with programs.running(line, env=os.environ | {INSIDE: "1"}) as process:
        return process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=at_least(1), default=3, help="sessions with each fault (%(default)s)")
    parser.add_argument("--way", choices=("packets", "proxy"), help="only this one (default: both)")
    parser.add_argument("--keep", type=Path, help="keep logs and journals in this new folder")
    given = parser.parse_args(arguments)
    with programs.prepared(given.keep) as folder:
        if os.environ.get(INSIDE):
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # noqa: S607  a tool of the system
            return run_faults(given.rounds, folder, packets=True)
        status = 0 if given.way == "proxy" else run_in_namespace(given.rounds, folder / "packets")
        if given.way != "packets":
            (folder / "proxy").mkdir()
            status |= run_faults(given.rounds, folder / "proxy", packets=False)
    return status


if __name__ == "__main__":
    sys.exit(main())
