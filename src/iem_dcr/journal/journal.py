"""The journal as the drivers of a process have it: it keeps receipts, and finds those of before."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import sqlite3
import threading
from collections import deque
from concurrent.futures import Future, wait
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from iem_dcr.errors import JournalError, printable
from iem_dcr.journal.entry import Row, clean, milliseconds
from iem_dcr.journal.filing import file_row, is_of_another, receipt_of
from iem_dcr.journal.notes import Recalled, note_begun, note_refused, recall, withdraw_begun
from iem_dcr.journal.schema import check_version, connect_for_reading, named, resolved, said
from iem_dcr.journal.writer import Work, Writer

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from iem_dcr.driver.station import KeptReceipt, NotedBegin
    from iem_dcr.journal.entry import Entry
    from iem_dcr.ocmf import Receipt

T = TypeVar("T")

_log = logging.getLogger("iem_dcr.journal")

CLOSES_WITHIN_S = 2.0
PLACE_WITHIN_S = 0.5
"""How long a disk may take to tell where a path leads; all meters of a process wait for that."""
REFUSALS_WAIT_WITH = 1000
"""A refused start is not noted while so much waits: there can be any number of them, and receipts need the room."""
QUESTIONS_AT_ONCE = 256
"""More than so many questions that wait mean a disk that does not answer."""


class Journal:
    """One user's hold on a journal; all those of one file in one process share its writer. Made by `open_journal`.

    It is a `iem_dcr.driver.ReceiptJournal` and may serve any number of drivers on any number of loops.
    """

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._is_open = True

    @property
    def path(self) -> Path:
        """Its file."""
        return self._shared.writer.path

    async def keep(self, kept: KeptReceipt) -> None:
        """Write a receipt; returns when it is committed and will stand after a power cut.

        Being cancelled while it waits changes nothing: the receipt is written all the same.

        Raises:
            JournalError: it could not be written yet. It stays queued, unless the message says otherwise.
        """
        await self._do(_filing(kept, datetime.now(UTC)))

    async def begun(self, noted: NotedBegin) -> None:
        """Note a new transaction: a receipt under its id is an older one's, and its own is still to come.

        Raises:
            JournalError: it could not be written yet, and stays queued.
        """
        await self._do(Work(partial(note_begun, noted=noted), "a note on a transaction"))

    def withdraw(self, noted: NotedBegin) -> None:
        """Take back a note, after it was made and before whatever is given next. Waits for nothing.

        What was noted before under the same id counts again; a later note stays as it is.

        Raises:
            JournalError: it could not be written yet, and stays queued.
        """
        self._submit(Work(partial(withdraw_begun, noted=noted), "the withdrawal of a note"))

    def refused(self, transaction_id: str, *, meter: str, address: str) -> None:
        """Note that a start was refused, unless a note stands under its id. Waits for nothing.

        Raises:
            JournalError: it could not be written yet and stays queued; or, and that is said, it is not queued, because
                too much waits.
        """
        if self._shared.writer.waiting >= REFUSALS_WAIT_WITH:
            raise JournalError(f"{named(self.path)}: too much waits to be written: a refused start is not noted")
        note = partial(
            note_refused,
            transaction_id=clean(transaction_id),
            meter=clean(meter),
            address=clean(address),
            now_ms=milliseconds(datetime.now(UTC)),
        )
        self._submit(Work(note, "a note on a start that was refused"))

    async def recall(self, *, meter: str, address: str) -> Recalled:
        """Return what is noted of a meter, or of what was at its address.

        Raises:
            JournalError: the file cannot be read.
        """
        return await self._asked(partial(recall, meter=clean(meter), address=clean(address)), Recalled())

    async def receipt_of(self, transaction_id: str, *, meter: str, address: str) -> Entry | None:
        """Return the latest receipt of a transaction of a meter, or of what was at its address before.

        Raises:
            JournalError: the file cannot be read.
        """
        return await self._asked(
            partial(receipt_of, transaction_id=clean(transaction_id), meter=clean(meter), address=clean(address)), None
        )

    async def is_of_another(self, receipt: Receipt, transaction_id: str, *, meter: str) -> bool:
        """Tell whether a receipt is known to be that of another transaction than this one.

        Raises:
            JournalError: the file cannot be read.
        """
        question = partial(
            is_of_another,
            digest=hashlib.sha256(receipt.text.encode()).digest(),
            transaction_id=clean(transaction_id),
            meter=clean(receipt.meter_serial or meter),
            pagination=receipt.pagination or "",
        )
        return await self._asked(question, otherwise=False)

    async def close(self, within_s: float = CLOSES_WITHIN_S) -> None:
        """Wait a bounded moment for what is queued, and let go of the file. What is left then is logged."""
        if not self._is_open:
            return
        self._is_open = False
        writer = self._shared.writer
        ends_s = asyncio.get_running_loop().time() + within_s
        with contextlib.suppress(JournalError, TimeoutError):
            async with asyncio.timeout_at(ends_s):
                await asyncio.wrap_future(writer.submit(Work(lambda _: "", "the end")))
        ended = _let_go(self._shared)
        if ended is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(ends_s):
                await asyncio.wrap_future(ended)
        if not ended.done():
            _log.error(
                "%s does not answer: what waits (%d entries) may not be written", named(self.path), writer.waiting
            )

    async def _do(self, work: Work) -> None:
        await asyncio.wrap_future(self._submit(work))

    def _submit(self, work: Work) -> Future[None]:
        if not self._is_open:
            raise JournalError(f"{named(self.path)} is closed; {work.what} is not kept in it")
        return self._shared.writer.submit(work)

    async def _asked(self, question: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        return await asyncio.wrap_future(self._shared.questions.ask(question, otherwise))


def open_journal(path: str | os.PathLike[str], keep_days: int = 365) -> Journal:
    """Open a journal for the drivers of this process; the file is opened, and made, in the background.

    Never fails for anything that is wrong with the file: that is logged, and receipts wait in memory until it is
    mended. A program that would rather not start calls `iem_dcr.journal.check_journal` first.

    Args:
        path: of the file; its folder has to exist.
        keep_days: after which a receipt is deleted; 0 keeps for ever. Where one file is opened with different ones,
            the longest holds.
    """
    found = _place(path)
    with _lock:
        shared = _open.get(found)
        if shared is None:
            shared = _open[found] = _Shared(found)
            shared.writer.keep_days = keep_days
        elif shared.writer.keep_days != keep_days:
            longest = 0 if 0 in (shared.writer.keep_days, keep_days) else max(shared.writer.keep_days, keep_days)
            _log.warning("%s is opened with different journal_keep_days: %d holds", named(found), longest)
            shared.writer.keep_days = longest
        shared.users += 1
    return Journal(shared)


class _Shared:
    """What all users of one file in this process have in common."""

    def __init__(self, path: Path) -> None:
        self.users = 0
        self.writer = Writer(path)
        self.questions = _Questions(path)


_lock = threading.Lock()
_open: dict[Path, _Shared] = {}
_hanging: dict[Path, Future[Path]] = {}
"""By path as given: what still waits for a disk to say where that leads."""


def _place(path: str | os.PathLike[str]) -> Path:
    """Return a journal's path, links followed; as it is given where the disk does not tell in time.

    A disk may hang (a network's, a worn card), and meters are driven without it. The writer waits for it, in a thread.

    Raises:
        ValueError: no file can have that name.
    """
    given = Path(path).absolute()
    if given not in _hanging or _hanging[given].done():
        found: Future[Path] = Future()

        def ask() -> None:
            try:
                found.set_result(resolved(given))
            except Exception as error:  # noqa: BLE001  it is raised to who opens the journal
                found.set_exception(error)

        threading.Thread(target=ask, name="journal-place", daemon=True).start()
        if wait({found}, PLACE_WITHIN_S).done:
            return found.result()
        _hanging[given] = found
    _log.error(
        "journal %s: its disk does not answer; receipts wait in memory until it does", printable(given, limit=300)
    )
    return given


def _let_go(shared: _Shared) -> Future[None] | None:
    """Have one user less. Returns, for the last one, a future that is done when the writer has ended."""
    with _lock:
        shared.users -= 1
        if shared.users:
            return None
        _open.pop(shared.writer.path, None)
    shared.questions.close()
    return shared.writer.close()


def _filing(kept: KeptReceipt, now: datetime) -> Work:
    """Return the work of filing a receipt; its row is made in the writer's thread, once."""
    receipt = kept.receipt
    rows: list[Row] = []

    def do(connection: sqlite3.Connection) -> str:
        if not rows:
            rows.append(Row.of(kept, now))
        return file_row(connection, rows[0])

    whose = receipt.meter_serial or kept.meter or kept.address
    what = printable(f"receipt {receipt.pagination or 'without PG'} of meter {whose}", limit=120)
    key = (receipt.text, kept.transaction_id, kept.outcome, kept.found)
    return Work(do, what, key, len(receipt.text))


class _Questions:
    """Asks one file, in a thread of its own that a disk may block. The thread starts with the first question."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._queue: deque[tuple[Future[Any], Callable[[sqlite3.Connection], Any], Any]] = deque()
        self._is_started = False
        self._is_closed = False

    def ask(self, question: Callable[[sqlite3.Connection], T], otherwise: T) -> Future[T]:
        """Ask a question; ``otherwise`` is the answer while there is no file.

        Raises:
            JournalError: the file does not answer, or is closed.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._is_closed or len(self._queue) >= QUESTIONS_AT_ONCE:
                why = "is closed" if self._is_closed else "does not answer"
                raise JournalError(f"{named(self._path)} {why}")
            self._queue.append((future, question, otherwise))
            if not self._is_started:
                self._is_started = True
                threading.Thread(target=self._run, name="journal-questions", daemon=True).start()
            self._changed.notify()
        return future

    def close(self) -> None:
        """Let the thread end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._is_closed)
                if not self._queue:
                    return
                future, question, otherwise = self._queue.popleft()
            # Nobody waits any more for one that took too long.
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._answer(question, otherwise))
                except Exception as error:  # noqa: BLE001  it is raised to the one who asked
                    future.set_exception(error)

    def _answer(self, question: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        if not self._path.exists():
            return otherwise
        try:
            with contextlib.closing(connect_for_reading(self._path)) as connection:
                return question(connection) if check_version(connection, self._path) else otherwise
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"{named(self._path)} cannot be read: {said(error)}") from error
