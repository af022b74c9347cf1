"""Carries out plans: one run in this process, or the runs of many seeds in several processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from endurance.clock import JumpingLoop
from endurance.invariants import broken
from endurance.knobs import OPEN_AT_POWER_CUT, UNKNOWN, differences
from endurance.plan import Plan, make
from endurance.process import task_factory
from endurance.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNS_AT_ONCE: Final = 4
"""Number of runs that a process gets at a time."""
LOGGERS: Final = ("iem_dcr", "asyncio")
MAX_MISTAKES: Final = 20


def carry_out(plan: Plan, kind: type[World] = World) -> World:
    """Carry out a plan and return the world at its end.

    Raises:
        NothingLeftError: all tasks waited for each other.
    """

    async def run(folder: Path) -> World:
        make_task: Any = task_factory
        asyncio.get_running_loop().set_task_factory(make_task)
        world = kind(plan, folder)
        world.mistakes = mistakes
        await world.run()
        return world

    fastest = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  a folder is made in it
    with (
        logged_mistakes() as mistakes,
        tempfile.TemporaryDirectory(dir=fastest) as folder,
        asyncio.Runner(loop_factory=JumpingLoop) as runner,
    ):
        return runner.run(run(Path(folder)))


@contextlib.contextmanager
def logged_mistakes() -> Iterator[list[str]]:
    """Collect the log messages with a traceback from the program and its event loop. Discard all others."""
    found: list[str] = []

    class Mistakes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1] is not None and len(found) < MAX_MISTAKES:
                found.append(f"{record.getMessage()}: {record.exc_info[1]!r}")

    with contextlib.ExitStack() as stack:
        for logger in map(logging.getLogger, LOGGERS):
            stack.enter_context(patch.multiple(logger, handlers=[Mistakes(logging.ERROR)], propagate=False))
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        yield found


EVERY_KIND: Final = (
    "wire: refuse", "wire: lose-request", "wire: lose-answer", "wire: stall", "wire: reset", "wire: server-error",
    "wire: garbage", "wire: garbage-http", "wire: wrong-length",
    *(f"power cut in a session, {fate}" for fate in OPEN_AT_POWER_CUT),
    "power cut between /user and B", "power cut while signing", "power cut between E and GET /receipt", "slow boot",
    "kill", "killed in a start", "killed in a stop", "restart", "shift_clock", "step_host", "exchange_meter",
    "network_swallows", "network_is_slow", "broker_away", "current_flows", "meter_in_error", "begin_by_hand", "repeat",
    "disk full", "disk writes slowly", "start: OK", "start: NOT_SUPPORTED", "stop: OK", "stop: UNEXPECTED_ERROR",
)  # fmt: skip
"""Events that must occur in a large number of runs with the knobs ``known``."""
MORE_KINDS: Final = (
    "wire: act-late", "disk slow", "disk silent", "disk broken", "values_freeze", "register_falls", "swap_meters",
    *(f"knob {name}" for name in UNKNOWN),
)  # fmt: skip
"""Events that must also occur in runs with ``all`` knobs."""


def counted(world: World) -> Counter[str]:
    """Return the number of events in a run. Planned events that had no effect are not counted."""
    counts = Counter({name: count for name, count in world.counts.items() if name in (*EVERY_KIND, *MORE_KINDS)})
    counts.update(f"knob {name}" for name, _ in differences(world.plan.options) if name in UNKNOWN)
    counts["sessions"] = len(world.plan.sessions)
    counts["commands"] = len(world.calls)
    counts["receipts handed over"] = sum(call.tuple_text is not None for call in world.calls)
    counts["transactions"] = len(world.truths)
    counts["live values"] = len(world.energies)
    counts["virtual seconds"] = int(world.calmed_s)
    return counts


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one run.

    Attributes:
        broken: the broken promises, among them any exception.
    """

    seed: int
    broken: tuple[str, ...]
    counts: Counter[str]


def outcome_of(plan: Plan, report: Callable[[str], object] = str) -> Outcome:
    """Carry out a run and judge it. ``report`` is called with its chronicle."""
    try:
        world = carry_out(plan)
        report(world.chronicle())
        return Outcome(plan.seed, tuple(broken(world)), counted(world))
    except Exception as error:  # noqa: BLE001  any exception is a failure of the run
        return Outcome(plan.seed, (f"the run itself failed: {type(error).__name__}: {error}",), Counter())


def outcomes(seeds: range, workers: int, knobs: str) -> Iterator[Outcome]:
    """Carry out the runs of many seeds in several processes. Yield their outcomes in the order of completion."""
    with multiprocessing.get_context("spawn").Pool(min(workers, len(seeds))) as pool:
        yield from pool.imap_unordered(partial(_outcome_of_seed, knobs=knobs), seeds, RUNS_AT_ONCE)


def _outcome_of_seed(seed: int, knobs: str) -> Outcome:
    return outcome_of(make(seed, knobs=knobs))
