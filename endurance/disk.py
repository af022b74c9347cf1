"""The journal on its real file, with its threads taken into the loop: a kill can come between any two writes."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import Future
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from iem_dcr.journal.journal import Journal, _Questions, _Shared
from iem_dcr.journal.writer import LARGEST_BATCH, RETRY_S, Work, Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

QUICK_S: Final = 0.004
SLOW_S: Final = 1.5
TROUBLES: Final = ("full", "writes slowly", "slow", "silent", "broken")
"""What a disk may do: it takes no write; it takes its time to write; it takes its time; it does not answer at all; it
answers with an error. The last three hit reads as well.
"""


class Disk:
    """The disk that a journal lies on.

    Attributes:
        trouble: one of `TROUBLES`, or "" while it is well.
    """

    def __init__(self) -> None:
        self.trouble = ""
        self._waiting: list[Callable[[], None]] = []

    @property
    def is_well(self) -> bool:
        """Whether it reads and writes, and at once."""
        return not self.trouble

    def heal(self) -> None:
        """Be well again; what waits for an answer gets it."""
        self.trouble = ""
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            asyncio.get_running_loop().call_soon(work)

    def does(self, work: Callable[[], None], *, writing: bool) -> None:
        """Have some work done when the disk gets to it."""
        if self.trouble == "silent":
            self._waiting.append(work)
            return
        is_slow = self.trouble == "slow" or (writing and self.trouble == "writes slowly")
        asyncio.get_running_loop().call_later(SLOW_S if is_slow else QUICK_S, work)

    def check(self, *, writing: bool) -> None:
        """Fail as SQLite does on this disk.

        Raises:
            sqlite3.OperationalError: the disk is full or broken.
        """
        if self.trouble == "broken" or (writing and self.trouble == "full"):
            is_full = self.trouble == "full"
            error = sqlite3.OperationalError("database or disk is full" if is_full else "disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL if is_full else sqlite3.SQLITE_IOERR
            raise error


class _SteppedWriter(Writer):
    def __init__(self, path: Path, disk: Disk) -> None:
        self._disk = disk
        self._is_called = False
        self._dead = False
        super().__init__(path)

    def _begin(self) -> None:
        self.ended.set_running_or_notify_cancel()

    def submit(self, work: Work) -> Future[None]:
        try:
            return super().submit(work)
        finally:
            self._call()

    def close(self) -> Future[None]:
        ended = super().close()
        if not self._dead:
            if self._disk.trouble != "silent":
                self._step()
            self._end()
        return ended

    def kill(self) -> bool:
        """Do nothing any more; what was not committed is gone. Returns whether there was any."""
        self._dead = True
        dropped = self.waiting > 0
        self._drop()
        return dropped

    def _call(self) -> None:
        if not self._is_called and not self._dead:
            self._is_called = True
            self._disk.does(self._step, writing=True)

    def _step(self) -> None:
        self._is_called = False
        if self._dead or not self._queue:
            return
        self._attempt(list(islice(self._queue, LARGEST_BATCH)))
        if self._queue and self._failing:
            asyncio.get_running_loop().call_later(RETRY_S, self._call)
        elif self._queue:
            self._call()

    def _write(self, batch: list[Work]) -> list[str | Exception]:
        self._disk.check(writing=True)
        return super()._write(batch)

    def _end(self) -> None:
        self._dead = True
        self._drop()
        self._say_what_is_lost()
        if not self.ended.done():
            self.ended.set_result(None)


class _SteppedQuestions(_Questions):
    def __init__(self, path: Path, disk: Disk) -> None:
        self._disk = disk
        super().__init__(path)

    def ask(self, question: Callable[[sqlite3.Connection], T], otherwise: T) -> Future[T]:
        future: Future[T] = Future()

        def checked(connection: sqlite3.Connection) -> T:
            self._disk.check(writing=False)
            return question(connection)

        def answer() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._answer(checked, otherwise))
                except Exception as error:  # noqa: BLE001  it is raised to the one who asked
                    future.set_exception(error)

        self._disk.does(answer, writing=False)
        return future


class SteppedJournal(Journal):
    """A journal whose process may be killed."""

    def __init__(self, path: Path, disk: Disk) -> None:
        shared: Any = _Shared.__new__(_Shared)
        shared.users, shared.writer, shared.questions = 1, _SteppedWriter(path, disk), _SteppedQuestions(path, disk)
        super().__init__(shared)

    @property
    def unwritten(self) -> int:
        """How much waits."""
        return self._shared.writer.waiting

    def kill(self) -> bool:
        """Have the process end here. Returns whether something had not been written."""
        writer: Any = self._shared.writer
        return bool(writer.kill())
