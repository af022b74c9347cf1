"""The journal on its real file, stepped in the time of the run: a kill can come between any two units of its work."""

from __future__ import annotations

import asyncio
import sqlite3
from functools import partial
from typing import TYPE_CHECKING, Final

from iem_dcr.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from iem_dcr.journal.worker import Unit

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

    def does(self, unit: Unit, *, writes: bool) -> None:
        """Have a unit of work done when the disk gets to it."""
        work = partial(self._do, unit, writes=writes)
        if self.trouble == "silent":
            self._waiting.append(work)
            return
        is_slow = self.trouble == "slow" or (writes and self.trouble == "writes slowly")
        asyncio.get_running_loop().call_later(SLOW_S if is_slow else QUICK_S, work)

    def _do(self, unit: Unit, *, writes: bool) -> None:
        if self.trouble == "broken" or (writes and self.trouble == "full"):
            is_full = self.trouble == "full"
            error = sqlite3.OperationalError("database or disk is full" if is_full else "disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL if is_full else sqlite3.SQLITE_IOERR
            error.sqlite_errorname = "SQLITE_FULL" if is_full else "SQLITE_IOERR"
            unit(error)
        else:
            unit(None)


class _Worker:
    """Has the units of a journal done by a disk, in the time of the loop."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def submit(self, unit: Unit, after_s: float, *, writes: bool) -> None:
        asyncio.get_running_loop().call_later(after_s, partial(self._disk.does, unit, writes=writes))

    def stop(self) -> None:
        """A unit that is called later does nothing."""


class SteppedJournal(Journal):
    """A journal whose process may be killed. ``dropped`` hears that it ended before all was written."""

    def __init__(self, path: Path, disk: Disk, wall: Callable[[], datetime], dropped: Callable[[], None]) -> None:
        super().__init__(path, worker=_Worker(disk), wall=wall)
        self._dropped = dropped

    async def close(self, timeout_s: float = 2.0) -> None:
        """End as the last thing that its process does: what is not written then never is."""
        await super().close(timeout_s)
        self.kill()

    def kill(self) -> None:
        """Have the process end here."""
        if self.abandon():
            self._dropped()
