"""The file of a journal while it is in use: what an error on it means, and what the journal does then.

* DAMAGE (`DamagedError`): SQLite reports that the file is corrupt, is not a database, or has an unknown format. Or a
  name or message of SQLite is not UTF-8 (all of ours are ASCII). Or a statement fails and a check of the file shows
  why. The file is moved aside and a new one is created. Questions are answered as for an empty file.
* REFUSAL (`RefusedError`): the file is not marked as a journal, has a newer version, or its folder is missing or
  forbidden. The file is left alone. Questions are answered as for an empty file. Writes are retried.
* FAILURE (any other `JournalError`): the disk is full, locked, read-only or broken, or a statement fails on a sound
  file. It says nothing about the content. Questions raise it and should be asked again. Writes are retried.

A file that was opened a while ago may have been moved or migrated since. So an error is judged only if it comes from
the file that is at the path now. An error caused by the values of one unit of work (`_is_own_fault`) undoes only that
unit. Questions use a connection of their own, which also works on a full or read-only disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import sqlite3
import stat
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final, TypeVar

from iem_dcr.errors import ConfigError, JournalError, printable
from iem_dcr.journal import schema
from iem_dcr.journal.schema import (
    DamagedError,
    NoFolderError,
    RefusedError,
    code_of,
    describe,
    named,
    resolved,
    side_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

T = TypeVar("T")

_log = logging.getLogger("iem_dcr.journal")

FILE_MODE: Final = 0o600
"""Receipts contain ids of persons."""
MOVED_AT_MOST_EVERY_S: Final = 60.0
"""A file that is damaged again within this time is not moved, because the disk must be broken."""
ATTEMPTS: Final = 3
"""How often a commit is tried in a row if its file is moved, deleted, replaced or damaged."""

_FORBIDDEN = "this user may not use its folder; change its rights, or journal_path"
_ASIDE = ".corrupt-"
_STATEMENT_FAILED = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH})
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, *_STATEMENT_FAILED})
_FORMAT_VERSIONS = (b"\1\1", b"\2\2", b"")
"""Write and read version in the head of a file: rollback journal, WAL, an empty file."""
_FAILURES = {
    sqlite3.SQLITE_FULL: ("the disk is full", "free some space"),
    sqlite3.SQLITE_BUSY: ("another process has it locked", "end the process that holds it, if this lasts"),
    sqlite3.SQLITE_READONLY: ("this user may not write it, or its disk is read-only", "change that, or journal_path"),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "check the rights of file and folder"),
    sqlite3.SQLITE_IOERR: ("its disk fails or is full", "check it, or change journal_path"),
}


# --- what an error means ---


def diagnose(error: Exception, path: Path) -> JournalError:
    """Return what an error on a file means and what to do, as the module describes. The file is not named.

    May read the head of the file. Call it without an open connection, because closing a second descriptor drops POSIX
    locks.
    """
    if code_of(error) in _STATEMENT_FAILED:
        try:
            with schema.reading(path, "integrity_check"):
                pass
        except Exception as found:  # noqa: BLE001  the finding of the check replaces the error
            error = found
        else:
            return JournalError(f"it is sound, but a statement fails on it ({describe(error)}); report this error")
    if isinstance(error, JournalError):
        return error
    code = code_of(error)
    is_damage = code in _DAMAGE or isinstance(error, UnicodeDecodeError)
    head = b""
    if is_damage or code == sqlite3.SQLITE_READONLY:
        with contextlib.suppress(OSError), path.open("rb") as file:
            head = file.read(4096)
    # An unknown write version in the head makes a file read-only for SQLite.
    if is_damage or head[18:20] not in _FORMAT_VERSIONS:
        # A journal has its application id there; a power cut leaves zeros.
        if head[68:72] == schema.APPLICATION_ID.to_bytes(4, "big") or not head.strip(b"\0"):
            return DamagedError(describe(error))
        return RefusedError("it is not a journal of receipts; change journal_path, or move the file away if it was one")
    happened, do = _FAILURES.get(code, ("it cannot be used", "check its disk, or change journal_path"))
    return JournalError(f"{happened} ({describe(error)}); {do}")


def _is_own_fault(error: Exception) -> bool:
    if isinstance(error, (sqlite3.ProgrammingError, sqlite3.DataError)):
        return True
    return not isinstance(error, (sqlite3.DatabaseError, OSError, MemoryError, UnicodeDecodeError))


def check_journal(path: str | os.PathLike[str]) -> None:
    """Check at the start of a program whether a journal can be written. Creates no file.

    Raises:
        ConfigError: the journal cannot be written, and why. A damaged journal is accepted: the writer moves it aside.
    """
    found = resolved(path)
    try:
        if _is_there(found):
            with schema.reading(found):
                pass
    except Exception as error:
        judgement = diagnose(error, found)
        if not isinstance(judgement, DamagedError):
            raise ConfigError([f"journal_path: {named(found)}: {judgement}"]) from error


def _is_there(path: Path) -> bool:
    """Return whether there is a file at a path. Raises `JournalError` if none can be written there."""
    try:
        mode = path.stat().st_mode
    except PermissionError:
        raise NoFolderError(_FORBIDDEN) from None
    except (FileNotFoundError, NotADirectoryError):
        if not path.parent.is_dir():
            raise NoFolderError("its folder does not exist; create it, or change journal_path") from None
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise NoFolderError(_FORBIDDEN) from None
        return False
    if not stat.S_ISREG(mode):
        raise RefusedError("it is not a regular file; change journal_path")
    if not os.access(path, os.W_OK):
        raise JournalError("this user may not write it; change its rights, or journal_path")
    return True


# --- the file in use ---


class JournalFile:
    """A file that is opened on demand, and reopened after an error or after it was replaced.

    Args:
        path: path of the file.
        wall: the host's clock; aware datetimes.
        monotonic: seconds that never run backwards.
    """

    def __init__(self, path: Path, wall: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        self._given = self._path = path
        self._wall = wall
        self._monotonic = monotonic
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._checked: tuple[int, int] | None = None
        self._moved_s = -math.inf

    def commit(self, works: Sequence[Callable[[sqlite3.Connection], Any]], failure: Exception | None) -> list[Any]:
        """Do units of work and commit them to the file that is at the path afterwards.

        Returns the result of each unit, or the exception that undid it. Raises what `diagnose` makes of an error; then
        nothing is committed. ``failure`` is treated as if SQLite had raised it.
        """
        for _ in range(ATTEMPTS):
            try:
                _raise(failure)
                results = self._committed(works)
                if self._is_in_place():
                    return results
            except Exception as error:
                failure = None
                judgement = self._diagnose(error, self._identity)
                if not isinstance(judgement, DamagedError) and identity(self._path) == self._identity:
                    raise judgement from error
        raise JournalError("it keeps being moved or deleted; find out which program does that")

    def ask(self, question: Callable[[sqlite3.Connection], T], otherwise: T, failure: Exception | None) -> T:
        """Answer a question; ``otherwise`` is the answer for an empty file. Raises `JournalError` after a failure."""
        self._path, which = resolved(self._given), None
        try:
            which = identity(self._path)
            _raise(failure)
            if which is None:
                return otherwise
            with schema.reading(self._path) as (connection, version):
                return question(connection) if version else otherwise
        except Exception as error:
            try:
                judgement = self._diagnose(error, which)
            except (JournalError, OSError):  # it cannot be moved; the next write fails too and logs that
                return otherwise
            if isinstance(judgement, (DamagedError, RefusedError)):
                return otherwise
            raise JournalError(f"{named(self._path)} cannot be read: {judgement}") from error

    def close(self) -> None:
        """Close the connection, which rolls back uncommitted work."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _committed(self, works: Sequence[Callable[[sqlite3.Connection], Any]]) -> list[Any]:
        connection = self._opened()
        results: list[Any] = []
        connection.execute("BEGIN IMMEDIATE")
        for work in works:
            connection.execute("SAVEPOINT unit")
            try:
                results.append(work(connection))
            except Exception as error:
                if not _is_own_fault(error):
                    raise
                connection.execute("ROLLBACK TO unit")
                results.append(error)
            connection.execute("RELEASE unit")
        connection.execute("COMMIT")
        return results

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None or not self._is_in_place():
            self._path = resolved(self._given)
            self._identity = identity(self._path)
            if not _is_there(self._path):
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE))
                self._identity = identity(self._path)
            # Each file is checked once. Otherwise a large one would be checked at every retry on a full disk.
            self._connection = schema.open_to_write(self._path, is_checked=self._identity == self._checked)
            self._checked = self._identity
        return self._connection

    def _is_in_place(self) -> bool:
        if identity(self._path) == self._identity:
            return True
        self.close()
        _log.error("%s was moved or deleted while it was in use: a new one is created", named(self._path))
        return False

    def _diagnose(self, error: Exception, which: tuple[int, int] | None) -> JournalError:
        """Close the file, and move it aside if it is damaged. Returns what the error means."""
        self.close()
        judgement = diagnose(error, self._path)
        if isinstance(judgement, DamagedError):
            self._move_aside(judgement, which)
        return judgement

    def _move_aside(self, error: DamagedError, which: tuple[int, int] | None) -> None:
        """Move a damaged file aside, with the files beside it, unless another process has done so."""
        path, now_s = self._path, self._monotonic()
        if now_s - self._moved_s < MOVED_AT_MOST_EVERY_S:
            raise JournalError(f"it is damaged again soon after the last time ({error}); check its disk") from error
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # another process may be moving it, which takes no time
            if which is None or identity(path) != which:
                return
            aside = side_file(path, f"{_ASIDE}{self._wall().astimezone(UTC):%Y%m%dT%H%M%S.%fZ}")
            # The -wal holds the latest commits; SQLite finds it under the new name.
            for suffix in schema.SIDE_FILES:
                with contextlib.suppress(FileNotFoundError):
                    side_file(path, suffix).rename(side_file(aside, suffix))
            path.rename(aside)
        finally:
            os.close(folder)
        self._moved_s = now_s
        what = "%s is damaged (%s): it was moved to %s, and a new one is created. Its content is still there"
        _log.error(what, named(path), error, printable(aside.name, limit=300))


def _raise(failure: Exception | None) -> None:
    if failure is not None:
        raise failure


def identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of the file at a path; None if there is none, or its folder is forbidden."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def moved_aside(path: Path) -> tuple[Path, ...]:
    """Return the damaged journals that were moved aside from a path."""
    found = (other for other in path.parent.iterdir() if other.name.startswith(f"{path.name}{_ASIDE}"))
    return tuple(sorted(other for other in found if not other.name.endswith(schema.SIDE_FILES)))
