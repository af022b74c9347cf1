"""The journal as drivers use it. Writes and questions are executed in the order of the calls, outside the event loop.

All users of one file in a process share one `Journal`. It executes one unit of work at a time: the commit of all queued
writes, one question, a pruning, or the end. A `Worker` executes the units: a thread, or a part of a simulation. So a
disk never blocks a loop, and a question sees the writes before it.

`iem_dcr.journal.file` defines what an error means. A write that fails because of the file stays queued and is retried
every `RETRY_S`. Questions do not wait for that. The first failure is logged with what a kill would lose. Repeats are
logged at debug level. The queue is bounded, and half of it is reserved for receipts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
from collections import deque
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from iem_dcr.driver.ports import Recalled
from iem_dcr.errors import JournalError, printable
from iem_dcr.journal import records
from iem_dcr.journal.file import JournalFile, diagnose
from iem_dcr.journal.maintenance import prune
from iem_dcr.journal.schema import NoFolderError, named
from iem_dcr.journal.worker import ThreadWorker

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Awaitable, Callable, Generator

    from iem_dcr.driver.ports import FiledReceipt, KeptReceipt, NotedEntry
    from iem_dcr.journal.worker import Unit, Worker

T = TypeVar("T")

_log = logging.getLogger("iem_dcr.journal")

CLOSE_TIMEOUT_S: Final = 2.0
RETRY_S: Final = 3.0
FIRST_PRUNING_S: Final = 3600.0
PRUNING_S: Final = 6 * 3600.0
"""How often a process checks whether a pruning is due."""
MAX_BATCH: Final = 500
MAX_WAITING: Final = 10_000
"""Limit of the writes that wait in memory while the file cannot be written. Further writes fail with an error."""
MAX_WAITING_NOTES: Final = MAX_WAITING // 2
"""If this many writes wait, only receipts are accepted."""
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Limit of the receipts that wait in memory."""
MAX_QUESTIONS: Final = 256
"""More waiting questions than this mean that the disk does not answer."""
MAX_NAMED: Final = 20
"""A message names at most this many receipts."""


@dataclass(eq=False)
class _Work(Generic[T]):
    """A write or a question. It may be awaited on any loop, or dropped.

    Attributes:
        do: executes it within a transaction. A write returns a text to log as an error, or "" or None.
        otherwise: the answer to a question if the file counts as empty; None for a write.
        what: names a write in a message; "" for a question.
        size_bytes: size of the receipt that it holds in memory; 0 for anything else.
        done: resolved when it is committed or answered, or with a JournalError if that failed so far.
    """

    do: Callable[[sqlite3.Connection], Any]
    otherwise: T
    what: str = ""
    size_bytes: int = 0
    done: Future[T] = field(default_factory=Future)

    def __await__(self) -> Generator[object, None, T]:
        return cast("Generator[object, None, T]", asyncio.wrap_future(self.done).__await__())

    def settle(self, problem: str = "") -> None:
        """Resolve ``done``, unless it is resolved already."""
        with contextlib.suppress(InvalidStateError):
            self.done.set_exception(JournalError(problem)) if problem else self.done.set_result(self.otherwise)


class Journal:
    """A journal for any number of drivers on any number of loops: an `iem_dcr.driver.ports.Journal`.

    Its methods neither wait nor raise. Awaiting their results is optional. It raises a `JournalError` if a question
    should be asked again, or if a write is not committed yet. The write stays queued, unless the message says
    otherwise. `open_journal` returns shared journals. A journal that is constructed directly is not shared.

    Args:
        path: path of the file; its folder must exist.
        keep_days: age in days after which a receipt is deleted; 0 keeps receipts for ever.
        worker: executes the units of work; None means a thread.
        wall: the host's clock; aware datetimes.

    Attributes:
        path: path of the file.
        keep_days: as in Args; may be changed.
        users: number of users. The last one that closes the journal ends it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        keep_days: int = 365,
        *,
        worker: Worker | None = None,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.path = Path(path).absolute()
        self.keep_days = keep_days
        self.users = 1
        self._name = named(self.path)
        self._wall = wall
        self._worker = worker or ThreadWorker()
        self._file = JournalFile(self.path, wall, self._worker.time)
        self._lock = threading.RLock()
        self._queue: deque[_Work[Any]] = deque()
        self._waiting_bytes = 0
        self._problem = ""
        self._write_at_s = -math.inf
        self._prune_at_s = self._worker.time() + FIRST_PRUNING_S
        self._is_opened = self._is_closing = self._is_over = False
        self._submitted: tuple[Unit, float] | None = None
        self._ended: Future[None] = Future()
        self._ended.set_running_or_notify_cancel()
        with self._lock:
            self._submit()

    @property
    def unwritten(self) -> int:
        """Number of writes that are not committed yet. A kill loses them."""
        return len(self._unwritten())

    def recall(self, *, meter: str, address: str) -> Awaitable[Recalled]:
        """Return what is known of a meter or of its address. A file that is absent, foreign or moved aside is empty."""
        return self._ask(partial(records.recall, meter=meter, address=address), Recalled())

    def receipt_of(self, transaction_id: str, *, meter: str, address: str) -> Awaitable[FiledReceipt | None]:
        """Return the receipt that answers a stop for an id, of any age, or None."""
        question = partial(records.receipt_of, transaction_id=transaction_id, meter=meter, address=address)
        return self._ask(question, None)

    def note(self, entry: NotedEntry) -> Awaitable[None]:
        """Write an entry of the ledger or a later state of it."""
        return self._write(f"the entry of transaction {printable(entry.transaction_id)}", records.note_entry, entry)

    def withdraw(self, entry: NotedEntry) -> Awaitable[None]:
        """Withdraw the entry of a B that was refused. An earlier note under its id counts again."""
        what = f"the withdrawal of an entry of transaction {printable(entry.transaction_id)}"
        return self._write(what, records.withdraw_entry, entry)

    def refused(self, transaction_id: str, *, meter: str, address: str) -> Awaitable[None]:
        """Note the id of a start that failed without the meter acting on a B, unless the id has an entry."""
        what = f"the refused transaction {printable(transaction_id)}"
        return self._write(what, records.note_refused, transaction_id, meter, address, self._wall())

    def keep(self, kept: KeptReceipt) -> Awaitable[None]:
        """Write a receipt, which closes its entry. Done when the write is committed and survives a power cut."""
        receipt = kept.receipt
        meter = receipt.meter_serial or kept.meter or kept.address
        what = printable(f"receipt {receipt.pagination or 'without PG'} of meter {meter}")
        return self._write(what, records.keep_receipt, kept, self._wall(), size_bytes=len(receipt.text))

    def pin(self, address: str, meter: str) -> Awaitable[None]:
        """Write the serial that is accepted at an address; "" for none."""
        what = f"the serial pinned for {printable(address)}"
        return self._write(what, records.note_pin, address, meter, self._wall())

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Wait at most `timeout_s` for the queued writes. The last user's call ends the journal.

        The log names writes that are lost.
        """
        with _lock:
            self.users -= 1
            if not self.users and _shared.get(self.path) is self:
                del _shared[self.path]
        try:
            async with asyncio.timeout(timeout_s):
                await (self._ask(lambda _: None, None) if self.users > 0 else asyncio.wrap_future(self.end()))
        except TimeoutError:
            _log.error("%s does not answer: %s may be lost; check its disk", self._name, self._at_risk())
        except JournalError:
            pass  # it was logged when it occurred

    def end(self) -> Future[None]:
        """Try to write the queue once more, then close the file. Returns a future that is done then."""
        with self._lock:
            self._is_closing = True
            self._submit()
        return self._ended

    def abandon(self) -> int:
        """End like a kill between two units of work, for simulations. Returns the number of lost writes."""
        with self._lock:
            self._is_closing = True
        self._end_file()
        return self.unwritten

    # --- the queue ---

    def _ask(self, ask: Callable[[sqlite3.Connection], T], otherwise: T) -> Awaitable[T]:
        work = _Work(ask, otherwise)
        with self._lock:
            if self._is_closing:
                work.settle(f"{self._name} is closed")
            elif sum(not each.what for each in self._queue) >= MAX_QUESTIONS:
                work.settle(f"{self._name} does not answer; check its disk")
            else:
                self._queue.append(work)
                self._submit()
        return work

    def _write(self, what: str, do: Callable[..., Any], *values: object, size_bytes: int = 0) -> Awaitable[None]:
        work = _Work(lambda connection: do(connection, *values), None, what, size_bytes)
        work.done.set_running_or_notify_cancel()  # cancelling it changes nothing
        with self._lock:
            limit = MAX_WAITING if size_bytes else MAX_WAITING_NOTES
            if self._is_closing:
                work.settle(f"{self._name} is closed: {what} is NOT kept")
            elif len(self._queue) >= limit or self._waiting_bytes + size_bytes > MAX_WAITING_BYTES:
                why = f"{self._problem or 'its disk does not answer'}: the queue in memory is full: {what} is NOT kept"
                work.settle(f"{self._name}: {why}")
                _log.error("%s: %s", self._name, why)
            else:
                self._queue.append(work)
                self._waiting_bytes += size_bytes
                if self._problem:
                    work.settle(self._waits())
                self._submit()
        return work

    def _unwritten(self) -> list[_Work[Any]]:
        with self._lock:
            return [work for work in self._queue if work.what]

    def _next(self) -> tuple[Unit, float]:
        """Return the next unit of work, and the earliest time for it."""
        if any(not work.what for work in (self._queue if self._problem else islice(self._queue, 1))):
            return self._answer, -math.inf
        if self._is_closing and all(work.what for work in self._queue):
            return self._finish, -math.inf
        if self._queue or self._problem or not self._is_opened:
            return self._write_batch, self._write_at_s
        return self._prune, self._prune_at_s

    def _submit(self) -> None:
        """Submit the next unit of work. Called with the lock."""
        wanted = self._next()
        if not self._is_over and self._submitted != wanted:
            self._submitted = wanted
            do, due_s = wanted
            after_s = max(0.0, due_s - self._worker.time())
            self._worker.submit(partial(self._do, wanted), after_s, writes=do != self._answer)

    # --- units of work ---

    def _do(self, wanted: tuple[Unit, float], failure: Exception | None) -> None:
        with self._lock:
            if wanted is not self._submitted or self._is_over:
                return
            self._submitted = None
        try:
            wanted[0](failure)
        except Exception:  # noqa: BLE001  the worker must continue
            _log.exception("%s: a unit of work failed", self._name)
        with self._lock:
            self._submit()

    def _write_batch(self, failure: Exception | None) -> None:
        with self._lock:
            self._is_opened = True
            batch = list(islice(takewhile(lambda work: work.what, self._queue), MAX_BATCH))
        try:
            results = self._file.commit([work.do for work in batch], failure)
        except Exception as error:  # noqa: BLE001  after any error the writes stay queued
            self._fail(diagnose(error, self.path))
            return
        with self._lock:
            for work in batch:
                self._queue.popleft()
                self._waiting_bytes -= work.size_bytes
            problem, self._problem, self._write_at_s = self._problem, "", -math.inf
        if problem:
            _log.info("%s works again: %d queued writes are committed", self._name, len(batch))
        for work, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                _log.error("%s: %s is not kept", self._name, work.what, exc_info=result)
                work.settle(f"{self._name}: {work.what} is not kept: {type(result).__name__}")
            elif result:
                _log.error("%s: %s", self._name, printable(result, limit=400))
            work.settle()

    def _fail(self, error: JournalError) -> None:
        with self._lock:
            is_new, self._problem = self._problem != str(error), str(error)
            self._write_at_s = self._worker.time() + RETRY_S
            waiting, problem = self._unwritten(), self._waits()
        level = logging.WARNING if isinstance(error, NoFolderError) else logging.ERROR
        _log.log(level if is_new else logging.DEBUG, "%s; a kill now loses %s", problem, self._at_risk())
        for work in waiting:
            work.settle(problem)

    def _answer(self, failure: Exception | None) -> None:
        with self._lock:
            work = next(work for work in self._queue if not work.what)
            self._queue.remove(work)
        if work.done.set_running_or_notify_cancel():
            try:
                work.done.set_result(self._file.ask(work.do, work.otherwise, failure))
            except Exception as error:  # noqa: BLE001  it is raised where the answer is awaited
                work.done.set_exception(error)

    def _prune(self, failure: Exception | None) -> None:
        self._prune_at_s = self._worker.time() + PRUNING_S
        work = partial(prune, path=self.path, keep_days=self.keep_days, now=self._wall())
        try:
            (result,) = self._file.commit([work], failure)
        except Exception as error:  # noqa: BLE001  pruning can wait for another day
            result = error
        if result is not None:
            _log.warning("%s: old receipts were not deleted: %s", self._name, diagnose(result, self.path))

    def _finish(self, failure: Exception | None) -> None:
        self._problem = ""
        while self._queue and not self._problem:
            self._write_batch(failure)
        if self._queue:
            _log.error("%s: not written when the process ended: %s", self._name, self._at_risk())
        self._end_file()

    def _end_file(self) -> None:
        self._is_over = True
        self._file.close()
        self._worker.stop()
        if not self._ended.done():
            self._ended.set_result(None)

    # --- messages ---

    def _waits(self) -> str:
        return f"{self._name}: {self._problem}. Writes wait in memory and are retried every {RETRY_S:g} s"

    def _at_risk(self) -> str:
        """Describe the writes that are not committed yet."""
        waiting = self._unwritten()
        receipts = [work.what for work in waiting if work.size_bytes]
        parts = receipts[:MAX_NAMED]
        if len(receipts) > MAX_NAMED:
            parts.append(f"{len(receipts) - MAX_NAMED} more receipts")
        if notes := len(waiting) - len(receipts):
            parts.append(f"{notes} note{'s' if notes > 1 else ''} on transactions")
        return ", ".join(parts) or "nothing"


def open_journal(path: str | os.PathLike[str], keep_days: int = 365) -> Journal:
    """Open a journal for the drivers of this process. The file is opened or created in the background.

    Never fails because of the file. An error is logged, and writes wait in memory until they can be committed. A
    program that should not start then calls `iem_dcr.journal.check_journal` first.

    Args:
        path: path of the file; its folder must exist.
        keep_days: age in days after which a receipt is deleted; 0 keeps receipts for ever. If one file is opened with
            different values, the longest applies.
    """
    found = Path(path).absolute()
    with _lock:
        journal = _shared.get(found)
        if journal is None:
            _log.info("receipts are kept in %s", named(found))
            journal = _shared[found] = Journal(found, keep_days)
            return journal
        journal.users += 1
        journal.keep_days = 0 if 0 in (journal.keep_days, keep_days) else max(journal.keep_days, keep_days)
        return journal


_lock = threading.Lock()
_shared: dict[Path, Journal] = {}
"""The journals by the path under which they were opened."""
