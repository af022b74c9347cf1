"""The one thread of a process that writes a journal: what waits is committed together.

A failure (a full disk, no rights, another process that holds the file) is logged once; what could not be written stays
queued in memory and is tried again every few seconds. A corrupt file is moved aside and a new one begun.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final

from iem_dcr.errors import JournalError, printable
from iem_dcr.journal.schema import DamagedError, is_damage, named, open_for_writing, said
from iem_dcr.journal.upkeep import identity, move_aside, prune

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator
    from pathlib import Path

_log = logging.getLogger("iem_dcr.journal")

LARGEST_BATCH: Final = 500
"""Most pieces of work in one commit."""
LONGEST_QUEUE: Final = 10_000
LARGEST_QUEUE_BYTES: Final = 64 * 1024 * 1024
"""What may wait in memory while the file cannot be written; a receipt beyond that is refused, loudly."""
RETRY_S: Final = 3.0
MOVED_AT_MOST_EVERY_S: Final = 60.0
"""A file that is corrupt again so soon after it was begun is left where it is: the disk is broken."""
FIRST_PRUNING_S: Final = 3600.0
PRUNING_EVERY_S: Final = 6 * 3600.0
"""How often a process looks whether a pruning is due."""
_TRIES_WHILE_MOVED = 3
_ITS_OWN_FAULT = (
    sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.DataError, ArithmeticError, ValueError, TypeError,
    LookupError, AttributeError,
)  # fmt: skip
"""Errors for which a piece of work is given up, so that it does not keep the others from being done."""


@dataclass(slots=True, eq=False)
class Work:
    """A piece of work on the file.

    Attributes:
        do: does it within a transaction; returns what is to be logged as an error, or "".
        what: names it in a message.
        key: work with the same key that waits already need not wait twice; None for any.
        size: bytes of a receipt that it holds in memory; 0 for what is none.
        done: when it is committed; a JournalError when it could not be yet and stays queued.
    """

    do: Callable[[sqlite3.Connection], str]
    what: str
    key: Hashable | None = None
    size: int = 0
    done: Future[None] = field(default_factory=Future)


class Writer:
    """Writes one file. Its thread starts with it, and opens the file at once.

    Args:
        path: of the journal, resolved.
        wall: the host's clock; aware datetimes.
    """

    def __init__(self, path: Path, wall: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.path = path
        self.keep_days = 0
        self.ended: Future[None] = Future()
        self._wall = wall
        self._changed = threading.Condition()
        self._queue: deque[Work] = deque()
        self._keys: set[Hashable] = set()
        self._bytes = 0
        self._failing = ""
        self._failed_s = 0.0
        self._closing = False
        self._closed_s = math.inf
        self._is_fresh = True
        self._prune_at_s = time.monotonic() + FIRST_PRUNING_S
        self._pruning: Iterator[int] | None = None
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._moved_s: float | None = None
        self._begin()

    @property
    def waiting(self) -> int:
        """How many pieces of work wait."""
        return len(self._queue)

    def submit(self, work: Work) -> Future[None]:
        """Queue a piece of work.

        Returns:
            `Work.done`. Cancelling it changes nothing.

        Raises:
            JournalError: it is queued, but the file cannot be written now; or, and that is said, it is not queued.
        """
        work.done.set_running_or_notify_cancel()
        with self._changed:
            if self._closing:
                raise JournalError(f"{named(self.path)} is closed; {work.what} is not kept in it")
            is_known = work.key is not None and work.key in self._keys and bool(self._failing)
            if not is_known:
                if len(self._queue) >= LONGEST_QUEUE or self._bytes + work.size > LARGEST_QUEUE_BYTES:
                    raise JournalError(
                        f"{named(self.path)}: {self._failing or 'too much waits to be written'}; {len(self._queue)} "
                        f"entries wait in memory and there is no room for more: {work.what} is NOT kept"
                    )
                self._queue.append(work)
                self._keys.add(work.key)
                self._bytes += work.size
                self._changed.notify()
            if self._failing:
                raise JournalError(self._queued_still(self._failing))
        return work.done

    def close(self) -> Future[None]:
        """Have the thread write what waits, once, and end. Returns a future that is done when it has."""
        with self._changed:
            self._closing, self._closed_s = True, time.monotonic()
            self._changed.notify()
        return self.ended

    # --- the thread ---

    def _begin(self) -> None:
        threading.Thread(target=self._run, name="journal", daemon=True).start()

    def _run(self) -> None:
        self.ended.set_running_or_notify_cancel()
        try:
            while (batch := self._next()) is not None:
                self._attempt(batch)
                self._prune_if_due()
        finally:
            with self._changed:
                self._closing = True
            self._drop()
            self._say_what_is_lost()
            self.ended.set_result(None)

    def _next(self) -> list[Work] | None:
        """Wait for something to do. Returns the work for one commit, maybe none; None at the end."""
        with self._changed:
            while True:
                if self._is_fresh:
                    self._is_fresh = False
                    return list(islice(self._queue, LARGEST_BATCH))
                now_s = time.monotonic()
                wait_s = self._failed_s + RETRY_S - now_s if self._failing else 0.0
                if self._closing:
                    # What waits is tried once more, however short ago it failed.
                    if not self._queue or self._failed_s > self._closed_s:
                        return None
                    wait_s = 0.0
                if (self._queue or self._failing) and wait_s <= 0:
                    return list(islice(self._queue, LARGEST_BATCH))
                if not self._failing and now_s >= self._prune_at_s:
                    return []
                self._changed.wait(wait_s if wait_s > 0 else max(0.0, self._prune_at_s - now_s))

    def _attempt(self, batch: list[Work]) -> None:
        try:
            complaints = self._write_or_begin_anew(batch)
        except (JournalError, sqlite3.Error, OSError) as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001  the thread has to go on
            _log.exception("%s: writing failed", named(self.path))
            self._failed(error)
        else:
            self._written(batch, complaints)

    def _write_or_begin_anew(self, batch: list[Work]) -> list[str | Exception]:
        try:
            return self._write(batch)
        except (DamagedError, sqlite3.Error) as error:
            if not is_damage(error, self.path):
                raise
            self._move_aside(error)
            return self._write(batch)

    def _write(self, batch: list[Work]) -> list[str | Exception]:
        """Do and commit some work, in the file that stands at the path after that."""
        for _ in range(_TRIES_WHILE_MOVED):
            try:
                complaints = self._commit(self._opened(), batch)
            except BaseException:
                self._drop()
                raise
            if identity(self.path) == self._file:
                return complaints
            self._drop()
            _log.error("%s was moved or deleted while it was in use: a new one is begun", named(self.path))
        raise JournalError(f"{named(self.path)} is moved or deleted again and again")

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._file = identity(self.path)
            self._connection = open_for_writing(self.path)
            self._file = self._file or identity(self.path)
        return self._connection

    @staticmethod
    def _commit(connection: sqlite3.Connection, batch: list[Work]) -> list[str | Exception]:
        if not batch:
            return []
        complaints: list[str | Exception] = []
        connection.execute("BEGIN IMMEDIATE")
        for work in batch:
            try:
                complaints.append(work.do(connection))
            except _ITS_OWN_FAULT as error:
                complaints.append(error)
        connection.execute("COMMIT")
        return complaints

    def _drop(self) -> None:
        """Close the connection. What was not committed is rolled back by that."""
        connection, self._connection = self._connection, None
        self._pruning = None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _move_aside(self, error: Exception) -> None:
        self._drop()
        now_s = time.monotonic()
        if self._moved_s is not None and now_s - self._moved_s < MOVED_AT_MOST_EVERY_S:
            raise JournalError(f"{named(self.path)} is corrupt again at once: {said(error)}") from error
        self._moved_s = now_s
        aside = move_aside(self.path, self._file, self._wall())
        if aside is not None:
            _log.error(
                "%s is corrupt (%s): it was moved to %s, and a new one is begun. What it holds can still be looked for",
                named(self.path),
                said(error),
                printable(aside.name, limit=300),
            )

    # --- what came of it ---

    def _written(self, batch: list[Work], complaints: list[str | Exception]) -> None:
        with self._changed:
            for work in batch:
                self._queue.popleft()
                self._keys.discard(work.key)
                self._bytes -= work.size
            failing, self._failing = self._failing, ""
        if failing:
            _log.info("%s works again: what waited is written (%d so far)", named(self.path), len(batch))
        for work, complaint in zip(batch, complaints, strict=False):
            if isinstance(complaint, Exception):
                _log.error("%s: %s is not kept", named(self.path), work.what, exc_info=complaint)
                _settle(work, JournalError(f"{named(self.path)}: {work.what} is not kept: {type(complaint).__name__}"))
                continue
            if complaint:
                _log.error("%s: %s", named(self.path), printable(complaint, limit=400))
            _settle(work, None)

    def _failed(self, error: Exception) -> None:
        why = _why(error)
        with self._changed:
            is_new = self._failing != why
            self._failing, self._failed_s = why, time.monotonic()
            waiting = tuple(self._queue)
        if is_new:
            _log.error("%s", self._queued_still(why))
        for work in waiting:
            _settle(work, JournalError(self._queued_still(why)))

    def _queued_still(self, why: str) -> str:
        return f"{named(self.path)}: {why}; receipts wait in memory, and writing is tried again every {RETRY_S:.0f} s"

    def _prune_if_due(self) -> None:
        """Begin a pruning that is due, or go on with one by a few receipts, if nothing else waits."""
        now_s = time.monotonic()
        if self._failing or self._connection is None or self._queue or now_s < self._prune_at_s:
            return
        try:
            if self._pruning is None:
                self._pruning = prune(self._connection, self.path, self.keep_days, self._wall())
            if next(self._pruning, None) is not None:
                return
        except Exception:  # noqa: BLE001  another day will do
            _log.exception("%s: old receipts were not deleted", named(self.path))
            self._drop()
        self._pruning = None
        self._prune_at_s = now_s + PRUNING_EVERY_S

    def _say_what_is_lost(self) -> None:
        lost = [work.what for work in self._queue if work.size]
        if lost:
            some = ", ".join(lost[:20])
            _log.error(
                "%s: %d receipts were not written when the process ended: %s",
                named(self.path),
                len(lost),
                printable(some, limit=1000),
            )


def _settle(work: Work, error: JournalError | None) -> None:
    """Tell who waits for a piece of work what came of it, unless that was told before."""
    if work.done.done():
        return
    if error is None:
        work.done.set_result(None)
    else:
        work.done.set_exception(error)


def _why(error: Exception) -> str:
    """Say in a message what a failure means."""
    if isinstance(error, JournalError):
        text = str(error)
        return text.partition(": ")[2] if text.startswith("journal ") and ": " in text else text
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    reasons = {
        sqlite3.SQLITE_FULL: "the disk is full",
        sqlite3.SQLITE_BUSY: "another process has it locked",
        sqlite3.SQLITE_READONLY: "it may not be written by this user, or its file system is read-only",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check the rights of file and folder",
    }
    return f"{reasons.get(code, 'it cannot be written')}: {said(error)}"
