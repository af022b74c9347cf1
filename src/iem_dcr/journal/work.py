"""Units of work of a journal, and the seam that decides when and on which disk they are done."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from iem_dcr.errors import JournalError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Generator

    Unit = Callable[[Exception | None], None]
    """Does a unit of work when called with None; called with an error, fails as if SQLite had raised it. Does nothing
    when it was replaced by a later unit. Never raises."""


T = TypeVar("T")


# --- the seam ---


class Worker(Protocol):
    """Has the units of work of one journal done, one after the other. `ThreadWorker` is the default.

    A simulation provides its own, which needs no thread and runs in the time of the simulation::

        class Disk:
            failure: Exception | None = None  # sqlite3.OperationalError with its sqlite_errorcode

            def time(self) -> float:
                return loop.time()

            def submit(self, unit: Unit, after_s: float, *, writes: bool) -> None:
                loop.call_later(after_s + (1.5 if writes else 0.004), lambda: unit(self.failure))

            def stop(self) -> None:
                pass

        journal = Journal(path, worker=Disk())

    A disk that does not answer keeps the unit and calls it later. A kill happens between two units: `Journal.abandon`
    drops what is not written. Units have to be called by one thread at a time.
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
        self._changed = threading.Condition()
        self._unit: Unit | None = None
        self._due_s = 0.0
        self._is_stopped = False
        threading.Thread(target=self._run, name="journal", daemon=True).start()

    def time(self) -> float:
        """Return the time of the host's monotonic clock, s."""
        return time.monotonic()

    def submit(self, unit: Unit, after_s: float, *, writes: bool) -> None:
        """Have a unit called by the thread."""
        del writes
        with self._changed:
            self._unit, self._due_s = unit, self.time() + after_s
            self._changed.notify()

    def stop(self) -> None:
        """Let the thread end."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()

    def _run(self) -> None:
        while (unit := self._next()) is not None:
            unit(None)

    def _next(self) -> Unit | None:
        with self._changed:
            while not self._is_stopped:
                wait_s = None if self._unit is None else self._due_s - self.time()
                if wait_s is not None and wait_s <= 0:
                    unit, self._unit = self._unit, None
                    return unit
                self._changed.wait(wait_s)
        return None


# --- what has to be done ---


class Rank(IntEnum):
    """Which write is displaced first when the queue is full; a question is no write."""

    REFUSED = 0
    NOTE = 1
    RECEIPT = 2
    QUESTION = 3


@dataclass(slots=True, eq=False)
class Work:
    """A write or a question.

    Attributes:
        do: does it within a transaction; a write returns what is to be logged as an error, or nothing.
        what: names a write in a message.
        otherwise: the answer to a question of a file that counts as empty.
        size_bytes: of a receipt that it holds in memory.
        done: when it is committed or answered; a JournalError when it could not be yet.
    """

    rank: Rank
    do: Callable[[sqlite3.Connection], Any]
    what: str = ""
    otherwise: object = None
    size_bytes: int = 0
    done: Future[Any] = field(default_factory=Future)

    def settle(self, problem: str = "") -> None:
        """Resolve ``done``, unless it is resolved already."""
        with contextlib.suppress(InvalidStateError):
            self.done.set_exception(JournalError(problem)) if problem else self.done.set_result(None)


class Answer(Generic[T]):
    """Result of a method of a journal: may be awaited on any loop, or dropped."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future

    def __await__(self) -> Generator[object, None, T]:
        return cast("Generator[object, None, T]", asyncio.wrap_future(self._future).__await__())
