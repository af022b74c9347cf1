"""Executes a journal's units of work: in a thread, or in a simulation, which decides when and on which disk."""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    Unit = Callable[[Exception | None], None]
    """A unit of work. Called with None, it does the work. Called with an error, it fails as if SQLite had raised that
    error. It does nothing if a later unit has replaced it. It never raises."""


class Worker(Protocol):
    """Executes the units of work of one journal, one at a time.

    A simulation schedules them on its loop and needs no thread. It simulates a disk that does not answer by calling a
    unit later, and a kill between two units by `iem_dcr.journal.Journal.abandon`, which drops unwritten data.
    """

    def time(self) -> float:
        """Return seconds that never run backwards."""

    def submit(self, unit: Unit, after_s: float, *, writes: bool) -> None:
        """Schedule a unit, which replaces the previous one. Must return before calling it.

        Args:
            unit: the unit.
            after_s: earliest time from now, s.
            writes: the unit may write to the file.
        """

    def stop(self) -> None:
        """Called after the last unit."""


class ThreadWorker:
    """Executes units of work in a thread of its own, which a disk may block."""

    def __init__(self) -> None:
        self._units: SimpleQueue[tuple[Unit, float] | None] = SimpleQueue()
        threading.Thread(target=self._run, name="journal", daemon=True).start()

    def time(self) -> float:
        """Return the time of the host's monotonic clock, s."""
        return time.monotonic()

    def submit(self, unit: Unit, after_s: float, *, writes: bool) -> None:
        """Schedule a unit in the thread."""
        del writes
        self._units.put((unit, self.time() + after_s))

    def stop(self) -> None:
        """End the thread."""
        self._units.put(None)

    def _run(self) -> None:
        wanted = self._units.get()
        while wanted is not None:
            unit, due_s = wanted
            try:
                wanted = self._units.get(timeout=max(0.0, due_s - self.time()))
            except Empty:
                unit(None)
                wanted = self._units.get()
