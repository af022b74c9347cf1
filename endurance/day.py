"""A day of virtual time in one process: memory, tasks and timers must be flat. `make soak` has an hour of real time.

Usage: python -m endurance.day [--hours H] [--seed S]

The service's part for one meter, with a journal, has a session every five minutes and a value every second. Nothing
goes wrong. What is counted are the driver's, the adapter's and the journal's own objects, tasks and timers; the
resident memory is the whole process's, the simulated world and its notes included.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from endurance.clock import JumpingLoop
from endurance.given import positive
from endurance.invariants import broken
from endurance.knobs import KNOWN
from endurance.model import SERVICE
from endurance.plan import Plan, SessionPlan, Step
from endurance.process import task_factory
from endurance.processes.programs import handles, resident_kib
from endurance.world import World
from iem_dcr.simulator import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

SESSION_S: Final = 300.0
FULL_AFTER_HOURS: Final = 6.0
"""By then the driver's memories of 64 receipts and ids are full."""
_NOT_OURS: Final = ("iem_dcr.simulator", "iem_dcr.ocmf.receipt")
"""The simulated meter keeps every record it signs; receipts that were handed over are kept by the world."""


@dataclass(frozen=True, slots=True)
class Hour:
    """What there was at the end of a session.

    Attributes:
        hours: of virtual time.
        objects: the project's own.
        tasks, timers, handles: how many.
        resident_kib: of the process.
    """

    hours: float
    objects: int
    tasks: int
    timers: int
    handles: int
    resident_kib: int

    def __str__(self) -> str:
        """A line of a table."""
        return (
            f"{self.hours:5.1f} {self.objects:8} {self.tasks:6} {self.timers:7} {self.handles:8}"
            f" {self.resident_kib / 1024:10.1f}"
        )


class Day(World):
    """A world that is looked at every hour, and keeps no more of it than it needs.

    Attributes:
        hours: what there was.
        values: how many were published.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        super().__init__(plan, folder)
        self.hours: list[Hour] = []
        self.values = 0

    def published(self, value: dict[str, Any]) -> None:
        """Take a live value, and forget those between."""
        super().published(value)
        self.values += 1
        del self.energies[:-2]

    def _weigh(self) -> None:
        super()._weigh()
        if len(self.memory) % (3600 / SESSION_S) == 0:
            loop: Any = asyncio.get_running_loop()
            gc.collect()
            modules = Counter(str(type(each).__module__) for each in gc.get_objects())
            ours = sum(
                count
                for module, count in modules.items()
                if module.startswith("iem_dcr.") and not module.startswith(_NOT_OURS)
            )
            tasks, timers = len(asyncio.all_tasks()), len(loop._scheduled)
            pid = Path("/proc/self").resolve().name
            hour = Hour(self.now_s / 3600, ours, tasks, timers, handles(int(pid)), resident_kib(int(pid)))
            print(hour, flush=True)
            self.hours.append(hour)


def plan_of(hours: float, seed: int) -> Plan:
    """Make a plan in which a session follows the other."""
    sessions = []
    for number in range(round(hours * 3600 / SESSION_S)):
        name = f"T-{number}"
        request = {
            "evse_id": "DE*SIM*E1", "transaction_id": name, "identification_status": "ASSIGNED",
            "identification_flags": ["RFID_PLAIN"], "identification_type": "ISO14443",
            "identification_data": f"04{number:08X}",
        }  # fmt: skip
        steps = (Step(5.0, "start", {"request": request}), Step(200.0, "stop", {"transaction_id": name}))
        sessions.append(SessionPlan(number, SESSION_S, steps))
    settings = {"timezone": "Europe/Berlin", "TT_initial": "0,49 EUR/kWh"}
    host = datetime(2026, 3, 28, 12, tzinfo=UTC)  # summer time begins in the night
    options = SimulatorOptions(charge_s=3.0)
    return Plan(seed, KNOWN, SERVICE, True, options, settings, host, tuple(sessions))  # noqa: FBT003  with a journal


def grown(hours: Sequence[Hour]) -> list[str]:
    """Return what there is more of at the end than when the driver's memories were full."""
    full = [hour for hour in hours if hour.hours >= FULL_AFTER_HOURS]
    if len(full) < 2:
        return []
    limits = {"objects": 20, "tasks": 1, "timers": 8, "handles": 1}
    return [
        f"{name} grow from {getattr(full[0], name)} to {getattr(full[-1], name)}"
        for name, limit in limits.items()
        if getattr(full[-1], name) > getattr(full[0], name) + limit
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=positive, default=24.0, help="of virtual time (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the network's latency (%(default)s)")
    given = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    began_s = time.monotonic()
    print("hours  objects  tasks  timers  handles  resident MiB")
    with tempfile.TemporaryDirectory(prefix="iem-dcr-day-") as name, asyncio.Runner(loop_factory=JumpingLoop) as runner:
        day = Day(plan_of(given.hours, given.seed), Path(name))
        make_task: Any = task_factory
        runner.get_loop().set_task_factory(make_task)
        runner.run(day.run())
    troubles = [*broken(day), *grown(day.hours)]
    print(
        f"{given.hours:g} hours in {time.monotonic() - began_s:.0f} s: {day.values} values,"
        f" {sum(call.ok for call in day.calls)} of {len(day.calls)} commands OK"
    )
    for trouble in troubles:
        print(f"BROKEN: {trouble}")
    print("Something grows, or is broken." if troubles else "Nothing grows.")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
