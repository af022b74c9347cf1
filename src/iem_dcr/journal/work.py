"""What a journal has to do, and the seam by which that is done: who does it, when, and on which disk."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from iem_dcr.errors import JournalError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Generator, Hashable

    Unit = Callable[[Exception | None], None]
    """Does a unit of work when it is called with None; with an error it fails as if SQLite had raised that. A unit that
    another one took the place of does nothing. It never raises."""


T = TypeVar("T")


# --- the seam ---


class Worker(Protocol):
    """Has the units of work of one journal done, one after the other. `ThreadWorker` is the default.

    A simulation brings its own. It needs no thread and steps the journal in its own time::

        class Disk:
            failure: Exception | None = None  # sqlite3.OperationalError with its sqlite_errorcode

            def time(self) -> float:
                return loop.time()

            def submit(self, unit: Unit, after_s: float, *, writes: bool) -> None:
                loop.call_later(after_s + (1.5 if writes else 0.004), lambda: unit(self.failure))

            def stop(self) -> None:
                pass

        journal = Journal(path, worker=Disk())

    A disk that does not answer keeps the unit, and calls it when it does. A kill comes between two units:
    `Journal.abandon` drops what is not written. Units are to be called by one thread at a time.
    """

    def time(self) -> float:
        """Return seconds that never run backwards."""

    def submit(self, unit: Unit, after_s: float, *, writes: bool) -> None:
        """Have a unit called in so many seconds or later, in place of the one before. Does not call it itself.

        Args:
            unit: the unit.
            after_s: 0 for at once.
            writes: it may write to the file.
        """

    def stop(self) -> None:
        """Hear that no unit follows."""


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
    """What a write is worth where not all can wait; and what is no write."""

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
        key: while a write with the same key waits, this one need not wait as well; None for any.
        size_bytes: of a receipt that it holds in memory.
        done: when it is committed or answered; a JournalError when it could not be yet.
    """

    rank: Rank
    do: Callable[[sqlite3.Connection], Any]
    what: str = ""
    otherwise: object = None
    key: Hashable | None = None
    size_bytes: int = 0
    done: Future[Any] = field(default_factory=Future)

    def settle(self, problem: str = "") -> None:
        """Tell who waits for a write what came of it, unless that was told before."""
        if not self.done.done():
            self.done.set_exception(JournalError(problem)) if problem else self.done.set_result(None)


class Answer(Generic[T]):
    """What a method returns: it may be awaited on any loop, or dropped."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future

    def __await__(self) -> Generator[object, None, T]:
        return cast("Generator[object, None, T]", asyncio.wrap_future(self._future).__await__())
