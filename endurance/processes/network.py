"""Sessions over a failing network: `make endurance-network ROUNDS=3`.

Usage: python -m endurance.processes.network [--rounds N] [--keep FOLDER]

`iem-dcr run` with a real mosquitto drives one simulated meter for each fault, from another network namespace, so that
the kernel's TCP is part of the test. In every round the fault begins and ends at a random time of a session. Without
network namespaces nothing is tested, and the command says why.
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

from endurance.command_line import COUNT, verdict
from endurance.plan import start_request
from endurance.processes import programs
from endurance.processes.packets import NetworkFault, NetworkPath, unshared, why_no_namespaces, within
from endurance.processes.programs import RealService
from endurance.processes.station import CALM_S, EverestMqtt, RealStation
from endurance.station import until
from tests.support.brokers import Mosquitto

if TYPE_CHECKING:
    from collections.abc import Sequence

VALUE_TIMEOUT_S: Final = 15.0
"""Maximum time from the end of a fault to the next live value."""
BROKER_PATH: Final = 100
BROKER_PORT: Final = 1883
"""The port is free, as the broker runs in its own namespace."""
FAULTS: Final = (
    NetworkFault("30 % loss", 20.0, loss=0.3),
    NetworkFault("2 s delay", 20.0, delay_s=2.0),
    NetworkFault("black hole", carries_requests=False, carries_answers=False),
    NetworkFault("requests vanish", carries_requests=False),
    NetworkFault("requests held back", carries_data=False),
    NetworkFault("answers vanish", carries_answers=False),
    NetworkFault("network down", 8.0, is_up=False),
    NetworkFault("half-open", 8.0, carries_requests=False, carries_answers=False, cuts_power=True),
)


class CutOffStation(RealStation):
    """A station whose network to the meter fails.

    Attributes:
        back_s: seconds from the end of each fault to the next live value.
    """

    path: NetworkPath

    def __init__(self, name: str, fault: NetworkFault) -> None:
        super().__init__(name, f"1SIM-{name}")
        self.back_s: list[float] = []
        self._fault = fault
        self._chance = random.Random(f"1 {name}")

    async def run_rounds(self, count: int) -> None:
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
                    self.problems.append(f"no receipt of {start.transaction_id}: {stop.answer}")
        if not await until(lambda: self.meter.open_transaction is None, CALM_S):
            self.problems.append("a stopped or failed transaction still runs")
        await self.last_session()

    async def _fail(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self.path.set_fault(self._fault)
        if self._fault.cuts_power:
            self.meter.power_cycle(off_s=0.5, boot_s=1.0)
        await asyncio.sleep(self._fault.lasts_s)
        self.path.set_fault(NetworkFault())
        over_s = time.monotonic()
        if await until(lambda: self.value_s > over_s, VALUE_TIMEOUT_S):
            self.back_s.append(self.value_s - over_s)
        else:
            self.problems.append(f"no value within {VALUE_TIMEOUT_S} s")

    def row(self) -> str:
        longest_s = max(call.took_s for call in self.calls)
        ok = sum(call.ok for call in self.calls)
        back_s = max(self.back_s, default=float("nan"))
        return f"  {self._fault.name:18} {len(self.calls):8} {ok:5} {longest_s:13.1f} s {back_s:14.1f} s"


async def run_faults(rounds: int, folder: Path, faults: Sequence[NetworkFault] = FAULTS) -> list[str]:
    """Run all faults at the same time, each at its own station, and print the results. Return the broken promises."""
    began_s = time.monotonic()
    stations = [CutOffStation(f"n{number}", fault) for number, fault in enumerate(faults)]
    journal = folder / "journal.sqlite"
    async with contextlib.AsyncExitStack() as stack:
        pid = await new_namespace(stack)
        to_broker = await stack.enter_async_context(NetworkPath(BROKER_PATH, pid))
        broker = stack.enter_context(Mosquitto(extra=f"listener {BROKER_PORT} {to_broker.host}"))
        everest = await stack.enter_async_context(EverestMqtt(broker.port))
        for number, station in enumerate(stations):
            everest.add(station)
            station.path = await stack.enter_async_context(NetworkPath(number, pid))
            await station.serve_meter(stack, station.path.host)
        address = to_broker.host, BROKER_PORT
        service = RealService(folder, stations, address, journal, prefix=within(pid))
        await stack.enter_async_context(service)
        await asyncio.gather(*(station.run_rounds(rounds) for station in stations))
        broken = await service.terminate()
    print(f"packets between namespaces, {time.monotonic() - began_s:.0f} s")
    print("  fault              commands    OK  longest answer  values back after")
    for station, fault in zip(stations, faults, strict=True):
        broken += [f"{fault.name}: {each}" for each in station.judge(journal)]
        print(station.row())
    return broken


async def new_namespace(stack: contextlib.AsyncExitStack) -> int:
    """Create a network namespace that ends with the stack. Return the id of a process in it."""
    line = unshared("sh", "-c", "echo; exec cat")
    process = stack.enter_context(programs.running(line, stdout=subprocess.PIPE))
    assert process.stdout is not None  # noqa: S101  it is a pipe
    await asyncio.to_thread(process.stdout.readline)
    return process.pid


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, in a network namespace of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=COUNT, default=3, help="sessions with each fault (%(default)s)")
    parser.add_argument("--keep", type=Path, help="keep logs and journals in this new folder")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.inside:
        if why := why_no_namespaces():
            print(f"skipped: packets between network namespaces: {why}")
            return 0
        line = unshared(sys.executable, "-m", __spec__.name, "--inside", *(arguments or sys.argv[1:]))
        os.execvp(line[0], line)  # noqa: S606  this command again
    with programs.prepared(options.keep) as folder:
        return verdict(asyncio.run(run_faults(options.rounds, folder)))


if __name__ == "__main__":
    sys.exit(main())
