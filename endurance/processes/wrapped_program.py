"""The real service or EVerest module, with a disk that can be slow or full, and with counts of tasks and objects.

Usage: python endurance/processes/wrapped_program.py run FILE    iem-dcr with these arguments
       python endurance/processes/wrapped_program.py             the EVerest module, as its manager starts it

Environment variables switch these on. Each names a file:

IEM_DCR_ENDURANCE_DISK    state of the journal's disk, written by a `FailingDisk` in the process that starts it
IEM_DCR_ENDURANCE_COUNTS  replaced on SIGUSR1 by a JSON object with the numbers of tasks and Python objects
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import os
import runpy
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import iem_dcr.everest

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

MODULE_PY: Final = Path(iem_dcr.everest.__file__).parent / "IsabellenhuetteIemDcr" / "module.py"
WRITER_RETRY_S: Final = 4.0
"""Seconds after a trouble in which a process may still have entries to write: it retries every three seconds."""


class FailingDisk:
    """The disk of a journal.

    Attributes:
        file: tells the wrapped programs the state of the disk.
        has_troubles: whether this run lets the disk fail.
        troubles: begin and end of each trouble, by `time.monotonic`.
    """

    def __init__(self, journal: Path, *, has_troubles: bool) -> None:
        self.journal = journal
        self.file = journal.with_suffix(".disk")
        self.has_troubles = has_troubles
        self.troubles: list[tuple[float, float]] = []

    @property
    def well_s(self) -> float:
        return self.troubles[-1][1] if self.troubles else 0.0

    def start_random_trouble(self, chance: random.Random) -> str:
        """Make the disk slow or full for a few seconds. Return which of the two."""
        is_full = chance.random() < 0.4
        self.start_trouble(chance.uniform(1.0, 5.0), wait_s=chance.choice((0.2, 0.7, 1.5, 4.0)), is_full=is_full)
        return "disk full" if is_full else "disk slow"

    def start_trouble(self, lasts_s: float, *, wait_s: float, is_full: bool) -> None:
        """Start a trouble: reads and writes take ``wait_s``, and all writes to a full disk fail."""
        begin_s = time.monotonic()
        self.troubles.append((begin_s, begin_s + lasts_s))
        replace(self.file, {"end_s": begin_s + lasts_s, "wait_s": wait_s, "is_full": is_full})

    def dropped_by_kill(self) -> list[tuple[float, float]]:
        """Return the periods whose entries may be lost if the process is killed now."""
        now_s = time.monotonic()
        return [(begin_s, now_s) for begin_s, end_s in self.troubles if now_s < end_s + WRITER_RETRY_S]


class Connection(sqlite3.Connection):
    """A connection to a journal on such a disk.

    It waits at its first use, which is the only one that a reader has, and at each commit. Half of the wait is before
    and half after the operation, so that a kill can come before or after the write.
    """

    disk_file: Path
    _is_used = False

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        with self._disk_works(is_commit=sql.strip().upper().startswith("COMMIT")):
            return super().execute(sql, *parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        with self._disk_works(is_commit=False):
            return super().executemany(sql, parameters)

    def commit(self) -> None:
        with self._disk_works(is_commit=True):
            super().commit()

    @contextlib.contextmanager
    def _disk_works(self, *, is_commit: bool) -> Iterator[None]:
        wait_s = self._wait_s(is_commit=is_commit)
        time.sleep(wait_s / 2)
        yield
        time.sleep(wait_s / 2)

    def _wait_s(self, *, is_commit: bool) -> float:
        """Return the delay of an operation in seconds.

        Raises:
            sqlite3.OperationalError: the disk is full.
        """
        if self._is_used and not is_commit:
            return 0.0
        self._is_used = True
        try:
            disk = json.loads(self.disk_file.read_text("utf-8"))
        except FileNotFoundError:
            return 0.0
        left_s = max(0.0, float(disk["end_s"]) - time.monotonic())
        if left_s and is_commit and disk["is_full"]:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_FULL, "SQLITE_FULL"
            raise error
        return min(float(disk["wait_s"]), left_s)


def write_counts(file: Path, *_signal: object) -> None:
    """Write the numbers of tasks and objects, including the objects that the garbage collector has frozen."""
    replace(file, {"tasks": len(asyncio.all_tasks()), "objects": len(gc.get_objects()) + gc.get_freeze_count()})


def replace(file: Path, content: object) -> None:
    """Replace a file atomically by JSON."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps(content), "utf-8")
    new.replace(file)


if __name__ == "__main__":
    if disk_file := os.environ.get("IEM_DCR_ENDURANCE_DISK"):
        Connection.disk_file = Path(disk_file)
        sqlite3.connect = functools.partial(sqlite3.connect, factory=Connection)  # type: ignore[assignment]
    if counts_file := os.environ.get("IEM_DCR_ENDURANCE_COUNTS"):
        signal.signal(signal.SIGUSR1, functools.partial(write_counts, Path(counts_file)))
    if len(sys.argv) > 1:
        runpy.run_module("iem_dcr", run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(str(MODULE_PY), run_name="__main__")
