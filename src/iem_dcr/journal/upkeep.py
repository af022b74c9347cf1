"""What keeps a journal in order over the years: a corrupt file is moved aside, old receipts are deleted."""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from iem_dcr.errors import printable
from iem_dcr.journal.entry import FIRST_SANE, milliseconds
from iem_dcr.journal.schema import SIDE_FILES, named, side_file

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

_log = logging.getLogger("iem_dcr.journal")

PRUNED_AT_ONCE = 200
"""Receipts deleted in one transaction, so that nobody waits long for it."""
PRUNED_EVERY = timedelta(hours=20)
CLOCK_STEP = timedelta(days=7)
"""How far the time that decides what is old goes on from one pruning to the next, at most."""
_TRUSTED = "trusted_clock_ms"
_PRUNED = "pruned_ms"


def identity(path: Path) -> tuple[int, int] | None:
    """Return which file is at a path now, by device and inode; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def move_aside(path: Path, which: tuple[int, int] | None, now: datetime) -> Path | None:
    """Move a corrupt journal aside, with the files beside it, unless another process has done so.

    Args:
        path: of the journal.
        which: the file that was found corrupt.
        now: the host's time.

    Returns:
        Where it is now, or None where it was not there any more.

    Raises:
        OSError: it cannot be moved.
    """
    with _folder_locked(path.parent):
        if which is None or identity(path) != which:
            return None
        aside = side_file(path, f".corrupt-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}")
        number = 0
        while aside.exists():
            number += 1
            aside = side_file(path, f".corrupt-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{number}")
        # What was committed last is in the -wal; under its new name SQLite finds it again.
        for suffix in SIDE_FILES:
            beside = side_file(path, suffix)
            if beside.exists():
                beside.rename(side_file(aside, suffix))
        path.rename(aside)
        return aside


def moved_aside(path: Path) -> tuple[Path, ...]:
    """Return the corrupt journals that were moved aside from a path."""
    beginning = f"{path.name}.corrupt-"
    found = (other for other in path.parent.iterdir() if other.name.startswith(beginning))
    return tuple(sorted(other for other in found if not other.name.endswith(SIDE_FILES)))


@contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    """Enter while no other process moves a journal in this folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


# --- old receipts ---


def trusted_clock(now: datetime, before: datetime | None, newest: datetime | None) -> datetime | None:
    """Return the time that decides what is old, or None where the host has none.

    A host whose clock leapt ahead would have everything deleted at once. So this time follows the host's by at most a
    week for every pruning, which is made once a day; what was leapt over comes to be old weeks later at the worst.

    Args:
        now: the host's time.
        before: what this returned for the last pruning, or None for the first.
        newest: the latest time at which a receipt was kept, or None.
    """
    if now < FIRST_SANE:
        return None
    known = before if before is not None else newest
    return now if known is None else min(now, known + CLOCK_STEP)


def prune(connection: sqlite3.Connection, path: Path, keep_days: int, now: datetime) -> Iterator[int]:
    """Delete what is older than so many days, if that was not done today.

    Of receipts whose age is not known (kept at a time that no clock had been set) those go that stand before one that
    goes. An erased receipt stays: it keeps what was erased from being stored again.

    Yields:
        How many receipts were deleted in a transaction: few, so that others can be served between two of them.

    Raises:
        sqlite3.Error: the file could not be read or written; what was deleted until then is.
    """
    state = dict(connection.execute("SELECT name, value FROM state").fetchall())
    now_ms = milliseconds(now)
    pruned_ms = state.get(_PRUNED, 0)
    if 0 <= now_ms - pruned_ms < PRUNED_EVERY // timedelta(milliseconds=1):
        return
    clock_ms = _trusted_ms(connection, state, now)
    if clock_ms is None:
        return
    connection.executemany(
        "INSERT OR REPLACE INTO state (name, value) VALUES (?, ?)", [(_TRUSTED, clock_ms), (_PRUNED, now_ms)]
    )
    if keep_days == 0:
        return
    if clock_ms < now_ms:
        _log.warning(
            "%s: the host's clock is far ahead of the last receipt: what is old is deleted little by little",
            named(path),
        )
    cutoff_ms = clock_ms - keep_days * (timedelta(days=1) // timedelta(milliseconds=1))
    connection.execute("DELETE FROM begun WHERE noted_ms < ?", (cutoff_ms,))
    connection.execute("DELETE FROM refused WHERE noted_ms < ?", (cutoff_ms,))
    count = 0
    for deleted in _delete(connection, cutoff_ms, clock_ms):
        count += deleted
        yield deleted
    if count:
        _log.info("%s: %d receipts older than %d days were deleted", named(path), count, keep_days)


def _trusted_ms(connection: sqlite3.Connection, state: dict[str, int], now: datetime) -> int | None:
    before_ms = state.get(_TRUSTED)
    (newest_ms,) = connection.execute("SELECT max(age_ms) FROM receipts").fetchone()
    clock = trusted_clock(now, _instant(before_ms), _instant(newest_ms))
    return None if clock is None else milliseconds(clock)


def _delete(connection: sqlite3.Connection, cutoff_ms: int, clock_ms: int) -> Iterator[int]:
    (last,) = connection.execute("SELECT max(id) FROM receipts WHERE age_ms < ?", (cutoff_ms,)).fetchone()
    deleted = 0 if last is None else PRUNED_AT_ONCE
    while deleted == PRUNED_AT_ONCE:
        deleted = connection.execute(
            "DELETE FROM receipts WHERE id IN (SELECT id FROM receipts WHERE id <= ? AND erased_ms IS NULL"
            " AND (age_ms < ? OR age_ms IS NULL OR age_ms > ?) ORDER BY id LIMIT ?)",
            (last, cutoff_ms, clock_ms, PRUNED_AT_ONCE),
        ).rowcount
        yield deleted


def _instant(ms: int | None) -> datetime | None:
    try:
        return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        _log.warning("a time in the journal is none: %s", printable(ms))
        return None
