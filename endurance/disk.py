"""The journal on its real file, with the thread that writes it taken into the loop: a kill can come between any two."""

from __future__ import annotations

import asyncio
import sqlite3
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from iem_dcr.journal.journal import Journal, _Questions, _Shared
from iem_dcr.journal.writer import LARGEST_BATCH, RETRY_S, Work, Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

T = TypeVar("T")

QUICK_S = 0.004


class Disk:
    """The disk a journal lies on.

    Attributes:
        full: nothing can be written.
        slow_s: seconds that writing takes.
        troubled: when it was full or slow: pairs of beginning and end, seconds; the last may be open.
    """

    def __init__(self) -> None:
        self.full = False
        self.slow_s = QUICK_S

    @property
    def is_well(self) -> bool:
        """Whether it writes, and at once."""
        return not self.full and self.slow_s <= QUICK_S

    def heal(self) -> None:
        """Be well again."""
        self.full, self.slow_s = False, QUICK_S


class _SteppedWriter(Writer):
    def __init__(self, path: Path, disk: Disk) -> None:
        self._disk = disk
        self._due: asyncio.TimerHandle | None = None
        self._dead = False
        super().__init__(path)

    def _begin(self) -> None:
        self.ended.set_running_or_notify_cancel()

    def submit(self, work: Work) -> Future[None]:
        try:
            return super().submit(work)
        finally:
            self._call(self._disk.slow_s)

    def close(self) -> Future[None]:
        ended = super().close()
        if not self._dead:
            self._step()
            self._end()
        return ended

    def kill(self) -> None:
        """Do nothing any more; what was not committed is gone."""
        self._dead = True
        self._drop()

    def _call(self, after_s: float) -> None:
        if self._due is None and not self._dead:
            self._due = asyncio.get_running_loop().call_later(after_s, self._step)

    def _step(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._dead or not self._queue:
            return
        self._attempt(list(islice(self._queue, LARGEST_BATCH)))
        if self._queue:
            self._call(RETRY_S if self._failing else self._disk.slow_s)

    def _write(self, batch: list[Work]) -> list[str | Exception]:
        if self._disk.full:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return super()._write(batch)

    def _end(self) -> None:
        self._dead = True
        self._drop()
        self._say_what_is_lost()
        if not self.ended.done():
            self.ended.set_result(None)


class _SteppedQuestions(_Questions):
    def ask(self, question: Callable[[sqlite3.Connection], T], otherwise: T) -> Future[T]:
        from concurrent.futures import Future  # noqa: PLC0415  the name is the type's above

        future: Future[T] = Future()
        loop = asyncio.get_running_loop()

        def answer() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._answer(question, otherwise))
                except Exception as error:  # noqa: BLE001  it is raised to the one who asked
                    future.set_exception(error)

        loop.call_later(QUICK_S, answer)
        return future


class SteppedJournal(Journal):
    """A journal whose process may be killed."""

    def __init__(self, path: Path, disk: Disk) -> None:
        shared: Any = _Shared.__new__(_Shared)
        shared.users, shared.writer, shared.questions = 1, _SteppedWriter(path, disk), _SteppedQuestions(path)
        super().__init__(shared)

    @property
    def unwritten(self) -> int:
        """How much waits."""
        return self._shared.writer.waiting

    def kill(self) -> None:
        """Have the process end here."""
        writer: Any = self._shared.writer
        writer.kill()
