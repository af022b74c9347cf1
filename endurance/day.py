"""A day of virtual time in one process: memory, tasks and timers must not grow. `make soak` runs an hour of real time.

Usage: python -m endurance.day [--hours H]

The service's part for one meter, with a journal, has a session every five minutes and a live value every second.
There are no faults. The objects, tasks and timers of the driver, the adapter and the journal are counted. The resident
memory is that of the whole process, including the simulated world and its records.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from endurance.command_line import HOURS, verdict
from endurance.growth import grown, handles, resident_kib
from endurance.invariants import broken
from endurance.plan import SERVICE, Plan, SessionPlan, start, stop
from endurance.running import carry_out
from endurance.world import World
from iem_dcr.simulator import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SESSION_S: Final = 300.0
FULL_AFTER_HOURS: Final = 6.0
"""After this time the driver's collections of 64 receipts and ids are full."""
ALLOWED: Final = {"objects": 20.0, "tasks": 1.0, "timers": 8.0, "handles": 1.0}
_NOT_OURS: Final = ("iem_dcr.simulator", "iem_dcr.ocmf.receipt")
"""Not counted: the simulated meter keeps every signed record, and the world keeps every delivered receipt."""


class Day(World):
    """A world that is measured every hour and keeps only the last published values.

    Attributes:
        hours: the measurements of each hour, by name.
        values: number of published values.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        super().__init__(plan, folder)
        self.hours: list[dict[str, float]] = []
        self.values = 0

    def on_value(self, value: dict[str, Any]) -> None:
        """Count a live value and keep only the last two."""
        super().on_value(value)
        self.values += 1
        del self.energies[:-2]

    def measure(self) -> None:
        super().measure()
        if len(self.memory) % (3600 / SESSION_S) == 0:
            loop: Any = asyncio.get_running_loop()
            gc.collect()
            modules = Counter(str(type(each).__module__) for each in gc.get_objects())
            hour = {
                "hours": self.now_s / 3600,
                "objects": sum(
                    count
                    for module, count in modules.items()
                    if module.startswith("iem_dcr.") and not module.startswith(_NOT_OURS)
                ),
                "tasks": len(asyncio.all_tasks()),
                "timers": sum(not timer.cancelled() for timer in loop._scheduled),
                "handles": handles(os.getpid()),
                "MiB": resident_kib(os.getpid()) / 1024,
            }
            print("{hours:5.1f} {objects:8} {tasks:6} {timers:7} {handles:8} {MiB:13.1f}".format_map(hour), flush=True)
            self.hours.append(hour)


def plan_of(hours: float) -> Plan:
    """Return a plan of consecutive sessions without faults."""
    count = round(hours * 3600 / SESSION_S)
    sessions = (SessionPlan(number, SESSION_S, (start(5.0, number), stop(200.0, number))) for number in range(count))
    settings = {"timezone": "Europe/Berlin", "TT_initial": "0,49 EUR/kWh"}
    host = datetime(2026, 3, 28, 12, tzinfo=UTC)  # summer time begins in the following night
    options = SimulatorOptions(charge_s=3.0)
    return Plan(1, SERVICE, True, options, settings, host, tuple(sessions))  # noqa: FBT003  with a journal


def grown_when_full(hours: Sequence[dict[str, float]]) -> list[str]:
    """Return what has grown since the driver's collections were full."""
    return grown([hour for hour in hours if hour["hours"] >= FULL_AFTER_HOURS], ALLOWED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=HOURS, default=24.0, help="hours of virtual time (%(default)s)")
    options = parser.parse_args(arguments)
    began_s = time.monotonic()
    print("hours  objects  tasks  timers  handles  resident MiB")
    day = carry_out(plan_of(options.hours), Day)
    assert isinstance(day, Day)  # noqa: S101  for mypy: carry_out returns the class that it was given
    troubles = [*broken(day), *grown_when_full(day.hours)]
    print(
        f"{options.hours:g} hours in {time.monotonic() - began_s:.0f} s: {day.values} values,"
        f" {sum(call.ok for call in day.calls)} of {len(day.calls)} commands OK"
    )
    return verdict(troubles, "Nothing grows.")


if __name__ == "__main__":
    sys.exit(main())
