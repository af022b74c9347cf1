"""The file of a journal while it is in use: what an error means, and what follows from it.

* DAMAGE: SQLite reports that the file is corrupt, no database or of an unknown format; a constraint is broken (only a
  wrong index does that); a name or message of SQLite is not UTF-8 (all of ours are ASCII); head and tables disagree.
  The file is moved aside and a new one is created. Questions are answered as by an empty file, at once.
* REFUSED: the file belongs to another program or a newer version, or its folder is missing or forbidden. It is left
  alone. Questions are answered as by an empty file, at once; writes are retried.
* FAILURE: every other error of SQLite or the host: full, locked, read-only, I/O error. It says nothing about the
  content. Questions are answered by a read-only connection, or raise if that fails too; writes are retried.

An error caused by the values of one unit of work (`_is_own_fault`) is none of these: its changes are undone, and the
other units are committed. After SQLITE_ERROR, a statement that does not fit the tables, the file is opened and checked
again before it is judged.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from datetime import UTC
from enum import Enum
from itertools import chain, count
from typing import TYPE_CHECKING, Final, TypeVar

from iem_dcr.errors import ConfigError, JournalError, printable
from iem_dcr.journal import schema
from iem_dcr.journal.schema import SIDE_FILES, DamagedError, ForeignError, NoFolderError, named, resolved, side_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

T = TypeVar("T")

_log = logging.getLogger("iem_dcr.journal")

MOVED_AT_MOST_EVERY_S: Final = 60.0
"""A file that is damaged again within this time is not moved: the disk is broken."""
ATTEMPTS: Final = 3
"""How often a commit is tried at once when its file is moved, deleted, replaced or damaged."""

_DAMAGE_CODES = frozenset({
    sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
})  # fmt: skip
_FORMAT_VERSIONS = (b"\1\1", b"\2\2")
"""Write and read version in the head of a file: rollback journal, WAL."""
_REASONS = {
    sqlite3.SQLITE_FULL: ("the disk is full", "free some space"),
    sqlite3.SQLITE_BUSY: ("another process has it locked", "end the process that holds it, if this lasts"),
    sqlite3.SQLITE_READONLY: ("this user may not write it, or its disk is read-only", "change that, or journal_path"),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "check the rights of file and folder"),
    sqlite3.SQLITE_IOERR: ("its disk fails or is full", "check it, or change journal_path"),
}


class Verdict(Enum):
    """What an error means for a file; see above."""

    DAMAGE = "damage"
    REFUSED = "refused"
    FAILURE = "failure"


class JournalFile:
    """A file that is opened on demand, and reopened after an error or when it was replaced.

    Args:
        path: of the file.
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
        self._moved_s: float | None = None

    def commit(
        self, works: Sequence[Callable[[sqlite3.Connection], str | None]], failure: Exception | None = None
    ) -> list[str | Exception | None]:
        """Do some units of work and commit them, in the file that is at the path afterwards.

        Returns:
            For each unit a message to log as an error, "" or None, or the exception because of which it was undone.

        Raises:
            Exception: nothing was committed; see `verdict`. ``failure`` is raised as if by SQLite.
        """
        last: Exception = JournalError(f"{named(self._given)}: it keeps being moved or deleted; find out by what")
        for _ in range(ATTEMPTS):
            try:
                results = self._transaction(works, failure)
            except Exception as error:
                last, failure = error, None
                self.close()
                if verdict(error, self._path) is Verdict.DAMAGE:
                    self._move_aside(error)
                elif _code(error) != sqlite3.SQLITE_ERROR and not isinstance(error, FileNotFoundError):
                    raise  # what is not found was moved by another process between two looks at it
                self._checked = None
            else:
                if self._is_in_place():
                    return results
        raise last

    def ask(self, question: Callable[[sqlite3.Connection], T], otherwise: T, failure: Exception | None = None) -> T:
        """Answer a question; ``otherwise`` is the answer of an empty file.

        Raises:
            JournalError: the file cannot be read now.
        """
        try:
            return question(self.opened(failure))
        except Exception as error:  # noqa: BLE001  all are judged
            self.close()
            found = verdict(error, self._path)
            if found is Verdict.DAMAGE:
                with contextlib.suppress(JournalError, OSError):  # the next write fails as well, and logs it
                    self._move_aside(error)
            if found is not Verdict.FAILURE:
                return otherwise
            if failure is not None:
                raise _unreadable(self._path, failure) from failure
        return self._ask_reader(question, otherwise)

    def opened(self, failure: Exception | None = None) -> sqlite3.Connection:
        """Return the connection to the file that is at the path now.

        Raises:
            Exception: it cannot be opened; see `verdict`. ``failure`` is raised as if by SQLite.
        """
        if failure is not None:
            raise failure
        if self._connection is None or not self._is_in_place():
            self._path = resolved(self._given)
            self._identity = identity(self._path)
            # Checked once per file: on a full disk every retry would check a large file again.
            is_checked = self._identity is not None and self._identity == self._checked
            self._connection = open_for_writing(self._path, is_checked=is_checked)
            self._checked = self._identity = self._identity or identity(self._path)
        return self._connection

    def close(self) -> None:
        """Close the connection. What was not committed is rolled back by that."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _is_in_place(self) -> bool:
        if identity(self._path) == self._identity:
            return True
        self.close()
        _log.error("%s was moved or deleted while it was in use: a new one is created", named(self._path))
        return False

    def _transaction(
        self, works: Sequence[Callable[[sqlite3.Connection], str | None]], failure: Exception | None
    ) -> list[str | Exception | None]:
        connection = self.opened(failure)
        if not works:
            return []
        results: list[str | Exception | None] = []
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

    def _ask_reader(self, question: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """Answer by a connection that only reads; it works on a full or read-only disk."""
        try:
            if identity(self._path) is None:
                return otherwise
            connection, version = schema.open_to_read(self._path)
            with contextlib.closing(connection):
                return question(connection) if version else otherwise
        except Exception as error:
            if verdict(error, self._path) is not Verdict.FAILURE:
                return otherwise
            raise _unreadable(self._path, error) from error

    def _move_aside(self, error: Exception) -> None:
        now_s = self._monotonic()
        if self._moved_s is not None and now_s - self._moved_s < MOVED_AT_MOST_EVERY_S:
            raise JournalError(
                f"{named(self._path)}: it is damaged again at once ({said(error)}); check its disk"
            ) from error
        aside = move_aside(self._path, self._identity, self._wall())
        if aside is not None:
            self._moved_s = now_s
            _log.error(
                "%s is damaged (%s): it was moved to %s, and a new one is created. Its content is still there",
                named(self._path),
                said(error),
                printable(aside.name, limit=300),
            )


# --- opening ---


def open_for_writing(path: Path, *, is_checked: bool = False) -> sqlite3.Connection:
    """Open a journal for writing; an older one is migrated, and where there is no file, one of mode 0600 is made.

    Its pages are checked, unless they were before.

    Raises:
        DamagedError: it is damaged.
        ForeignError: it is another program's file, or of a newer version.
        NoFolderError: its folder is missing or forbidden.
        JournalError: this user may not write it.
        sqlite3.Error: it cannot be opened now.
    """
    schema.check_place(path)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, schema.FILE_MODE))
    connection = schema.connect(path)
    try:
        try:
            schema.prepare(connection, path, is_checked=is_checked)
        except Exception as error:
            connection.close()
            raise _judged(error, path) from error
        # Even without anything to change: a file that cannot be written has to show now, not with the first receipt.
        schema.bring_up_to_date(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def check_journal(path: str | os.PathLike[str]) -> None:
    """Check when a program starts whether a journal can be written. Makes no file.

    Raises:
        ConfigError: it cannot be, and why. A damaged one is no reason: the writer moves it aside.
    """
    found = resolved(path)
    try:
        schema.check_place(found)
        if found.exists():
            with contextlib.closing(schema.connect(found)) as connection:
                schema.version_of(connection, found)
    except (JournalError, sqlite3.Error, OSError, UnicodeDecodeError) as error:
        judged = _judged(error, found)
        if not isinstance(judged, DamagedError):
            raise ConfigError([f"journal_path: {named(found)}: {reason(judged, found)}"]) from error


def _judged(error: Exception, path: Path) -> Exception:
    """Return a `DamagedError` or `ForeignError` for an error at opening that is about the content of the file.

    SQLITE_ERROR is one: the statements so far fit every sound file.
    """
    if isinstance(error, JournalError):
        return error
    if _code(error) != sqlite3.SQLITE_ERROR and verdict(error, path) is not Verdict.DAMAGE:
        return error
    head = _head(path)
    # A journal has its application id there; a power cut leaves zeros.
    if head[68:72] == schema.APPLICATION_ID.to_bytes(4, "big") or (head and not head.strip(b"\0")):
        return DamagedError(f"{named(path)}: {said(error)}")
    return ForeignError(
        f"{named(path)}: this is no journal of receipts; change journal_path, or move the file away if it was one"
    )


# --- what an error means ---


def verdict(error: Exception, path: Path) -> Verdict:
    """Return what an error means for a file.

    Reads the head of the file, so call it without an open connection: closing a second descriptor drops POSIX locks.
    """
    if isinstance(error, (ForeignError, NoFolderError)):
        return Verdict.REFUSED
    if isinstance(error, (DamagedError, UnicodeDecodeError)):
        return Verdict.DAMAGE
    code = _code(error)
    # An unknown write version in the head makes a file read-only for SQLite.
    is_strange = code == sqlite3.SQLITE_READONLY and _head(path)[18:20] not in (*_FORMAT_VERSIONS, b"")
    return Verdict.DAMAGE if is_strange or code in _DAMAGE_CODES else Verdict.FAILURE


def reason(error: Exception, path: Path) -> str:
    """Describe an error and what to do about it, without the name of the file."""
    if isinstance(error, JournalError):
        return str(error).removeprefix(f"{named(path)}: ")
    happened, do = _REASONS.get(_code(error), ("it cannot be used", "check its disk, or change journal_path"))
    return f"{happened} ({said(error)}); {do}"


def said(error: Exception) -> str:
    """Return the message and the name of an error of SQLite or the host."""
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    return f"{printable(error, limit=200)}, {name}"


def _is_own_fault(error: Exception) -> bool:
    if isinstance(error, (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)):
        return True
    return not isinstance(error, (sqlite3.Error, OSError, MemoryError, UnicodeDecodeError, JournalError))


def _unreadable(path: Path, error: Exception) -> JournalError:
    return JournalError(f"{named(path)} cannot be read: {reason(error, path)}")


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _head(path: Path) -> bytes:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(4096)
    return b""


# --- moving a damaged file aside ---


def identity(path: Path) -> tuple[int, int] | None:
    """Return which file is at a path now, by device and inode; None where there is none, or its folder is forbidden.

    Raises:
        OSError: the disk does not tell.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    return found.st_dev, found.st_ino


def move_aside(path: Path, which: tuple[int, int] | None, now: datetime) -> Path | None:
    """Move a damaged journal aside, with the files beside it, unless another process has done so.

    Args:
        path: of the journal.
        which: the file that was found damaged, by `identity`.
        now: the host's time, for its new name; which is returned, or None where it was not there any more.

    Raises:
        OSError: it cannot be moved.
    """
    with _locked(path.parent):
        if which is None or identity(path) != which:
            return None
        name = f".corrupt-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
        names = chain([name], (f"{name}-{number}" for number in count(1)))
        aside = next(one for one in (side_file(path, name) for name in names) if not one.exists())
        # The -wal holds the latest commits; SQLite finds it under the new name.
        for suffix in SIDE_FILES:
            beside = side_file(path, suffix)
            if beside.exists():
                beside.rename(side_file(aside, suffix))
        path.rename(aside)
        return aside


def moved_aside(path: Path) -> tuple[Path, ...]:
    """Return the damaged journals that were moved aside from a path."""
    beginning = f"{path.name}.corrupt-"
    found = (other for other in path.parent.iterdir() if other.name.startswith(beginning))
    return tuple(sorted(other for other in found if not other.name.endswith(SIDE_FILES)))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock under which processes move journals in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
