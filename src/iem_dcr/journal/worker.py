"""The seam of a journal: who does its units of work, when, and on which disk. A thread does, or a simulation."""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    Unit = Callable[[Exception | None], None]
    """Does a unit of work when called with None; called with an error, fails as if SQLite had raised it. Does nothing
    when it was replaced by a later unit. Never raises."""


class Worker(Protocol):
    """Has the units of work of one journal done, one after the other, each by one thread at a time.

    A simulation schedules them on its loop, and needs no thread. A disk that does not answer keeps a unit and calls it
    later. A kill happens between two units: `iem_dcr.journal.Journal.abandon` drops what is not written.
    """

    def time(self) -> float:
        """Return seconds that never run backwards."""

    def submit(self, unit: Unit, after_s: float, *, writes: bool) -> None:
        """Schedule a unit in place of the one before. Must return without having called it.

        Args:
            unit: the unit.
            after_s: earliest time from now, s.
            writes: it may write to the file.
        """

    def stop(self) -> None:
        """Called when no unit follows."""


class ThreadWorker:
    """Does units of work in a thread of its own, which a disk may block."""

    def __init__(self) -> None:
        self._units: SimpleQueue[tuple[Unit, float] | None] = SimpleQueue()
        threading.Thread(target=self._run, name="journal", daemon=True).start()

    def time(self) -> float:
        """Return the time of the host's monotonic clock, s."""
        return time.monotonic()

    def submit(self, unit: Unit, after_s: float, *, writes: bool) -> None:
        """Have a unit called by the thread."""
        del writes
        self._units.put((unit, self.time() + after_s))

    def stop(self) -> None:
        """Let the thread end."""
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
