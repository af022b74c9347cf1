"""The journal on its real file, driven by the run's virtual time. A kill can come between any two units of its work."""

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
WRITTEN_AFTER_S: Final = 6.0
"""Maximum time from the end of a disk failure until all waiting entries are written: the journal retries every 3 s."""
ERRORS: Final = {"full": "SQLITE_FULL", "broken": "SQLITE_IOERR"}


class Disk:
    """The journal's disk. It executes the journal's units in the loop's time.

    Attributes:
        trouble: "" while the disk works. "full" (refuses writes) and "writes slowly" affect writes only. "slow",
            "silent" (no answer) and "broken" (an error) affect reads as well.
        troubles: begin and end of each past failure.
    """

    def __init__(self) -> None:
        self.trouble = ""
        self.troubles: list[tuple[float, float]] = []
        self._began_s = 0.0
        self._waiting: list[Callable[[], None]] = []
        self._next: asyncio.TimerHandle | None = None

    def fail(self, trouble: str) -> None:
        if not self.trouble:
            self._began_s = self.time()
            if self.troubles and self._began_s < self.troubles[-1][1] + WRITTEN_AFTER_S:
                self._began_s = self.troubles[-1][0]  # entries that waited then may still wait
        self.trouble = trouble

    def dropped_by_kill(self) -> list[tuple[float, float]]:
        """Return the periods whose entries may be lost if the process ends now."""
        now_s = self.time()
        is_now = [(self._began_s, now_s)] if self.trouble else []
        return is_now + [(begin_s, now_s) for begin_s, end_s in self.troubles if now_s < end_s + WRITTEN_AFTER_S]

    def heal(self) -> None:
        """End the failure and execute the waiting units."""
        if self.trouble:
            self.troubles.append((self._began_s, self.time()))
        self.trouble = ""
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            asyncio.get_running_loop().call_soon(work)

    # --- the journal's `Worker` ---

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def submit(self, unit: Unit, after_s: float, *, writes: bool) -> None:
        if self._next is not None:
            self._next.cancel()  # a new unit replaces the pending one
        self._next = asyncio.get_running_loop().call_later(after_s, self._take, unit, writes)

    def stop(self) -> None:
        """Do nothing: after the end of the journal a unit has no effect."""

    def _take(self, unit: Unit, writes: bool) -> None:  # noqa: FBT001  call_later passes no names
        work = partial(self._do, unit, writes=writes)
        if self.trouble == "silent":
            self._waiting.append(work)
            return
        is_slow = self.trouble == "slow" or (writes and self.trouble == "writes slowly")
        asyncio.get_running_loop().call_later(SLOW_S if is_slow else QUICK_S, work)

    def _do(self, unit: Unit, *, writes: bool) -> None:
        error = None
        if self.trouble == "broken" or (self.trouble == "full" and writes):
            error = sqlite3.OperationalError(f"the disk is {self.trouble}")
            error.sqlite_errorname = ERRORS[self.trouble]
            error.sqlite_errorcode = getattr(sqlite3, error.sqlite_errorname)
        unit(error)


class SteppedJournal(Journal):
    """A journal whose process may be killed. ``dropped`` is called if it ends before everything was written."""

    def __init__(self, path: Path, disk: Disk, wall: Callable[[], datetime], dropped: Callable[[], None]) -> None:
        super().__init__(path, worker=disk, wall=wall)
        self._dropped = dropped

    async def close(self, timeout_s: float = 2.0) -> None:
        """Close the journal at the end of its process. Entries that are then unwritten are lost."""
        await super().close(timeout_s)
        self.kill()

    def kill(self) -> None:
        if self.abandon():
            self._dropped()
