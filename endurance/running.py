"""Runs by the number, in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from endurance.counts import counted
from endurance.invariants import broken
from endurance.knobs import KNOWN
from endurance.plan import Plan, make
from endurance.world import carry_out

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS_AT_ONCE: Final = 4
"""How many runs a worker is given at a time."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of some runs.

    Attributes:
        runs: how many were made.
        counts: what happened how often.
        seed: of the first that broke a promise, or None.
        promises: that it broke.
        worker: process that made them.
        resident_kib: memory of that process afterwards.
    """

    runs: int
    counts: Counter[str]
    seed: int | None
    promises: tuple[str, ...]
    worker: int
    resident_kib: int


def broken_promises(plan: Plan) -> tuple[list[str], Counter[str]]:
    """Carry out a run. Returns the promises it broke, an error of any kind among them, and what happened in it."""
    try:
        world = carry_out(plan)
        return broken(world), counted(world)
    except Exception as error:  # noqa: BLE001  whatever it is, the run is not as it should be
        return [f"the run itself failed: {type(error).__name__}: {error}"], Counter()


def make_runs(seeds: range, knobs: str = KNOWN) -> Outcome:
    """Make the runs of some seeds, up to the first that breaks a promise."""
    counts: Counter[str] = Counter()
    for done, seed in enumerate(seeds, start=1):
        promises, happened = broken_promises(make(seed, knobs=knobs))
        counts += happened
        if promises:
            return Outcome(done, counts, seed, tuple(promises), os.getpid(), _resident_kib())
    return Outcome(len(seeds), counts, None, (), os.getpid(), _resident_kib())


def outcomes(first: int, runs: int, workers: int, knobs: str) -> Iterator[Outcome]:
    """Have the runs made by several processes; their outcomes come as they are done."""
    ends = first + runs
    chunks = (range(begin, min(begin + RUNS_AT_ONCE, ends)) for begin in range(first, ends, RUNS_AT_ONCE))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, runs), mp_context=context) as pool:
        waiting: set[Future[Outcome]] = set()
        try:
            for chunk in chunks:
                waiting.add(pool.submit(make_runs, chunk, knobs))
                if len(waiting) >= 2 * workers:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _resident_kib() -> int:
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    return 0
