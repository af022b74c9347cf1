"""The file of a journal while it is in use: what an error on it means, and what follows.

* DAMAGE: SQLite calls the file corrupt, no database or of an unknown format; a constraint is broken (only a false
  index does that); a name or message of SQLite is not UTF-8 (all of ours are ASCII); head and tables do not agree. The
  file is moved aside and a new one begun. What it held counts as empty at once.
* REFUSED: the file belongs to another program or a newer version, or its folder is missing or forbidden. It stays as it
  is and counts as empty at once; writes are to be tried again.
* FAILURE: everything else that SQLite or the host reports: full, locked, read-only, an I/O error. Nothing is known of
  the content: questions are answered by a reader if it can, else to be asked again; writes are to be tried again.

An error for the values of one unit of work (`_is_own_fault`) is none of these: what the unit did is undone, and the
others go on. SQLITE_ERROR, a statement that does not fit the tables, has the file opened and checked anew.
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
"""A file that is damaged again so soon after the last was moved aside stays where it is: the disk is broken."""
ATTEMPTS: Final = 3
"""How often a commit is tried at once, in a file that was moved, deleted or replaced."""

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
    """A file that is opened when it is needed, and anew after an error or when another is in its place.

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
        """Do some units of work and commit them, in the file that stands at the path after that.

        Returns:
            For each unit what is to be logged as an error, "" or None, or the exception for which it was given up.

        Raises:
            Exception: nothing was written; `verdict` tells what it means. ``failure`` is raised as if by SQLite.
        """
        last: Exception = JournalError(
            f"{named(self._given)}: it is moved or deleted again and again; find out by whom"
        )
        for _ in range(ATTEMPTS):
            try:
                results = self._transaction(works, failure)
            except Exception as error:
                last, failure = error, None
                self.close()
                if verdict(error, self._path) is Verdict.DAMAGE:
                    self._move_aside(error)
                elif _code(error) != sqlite3.SQLITE_ERROR:
                    raise
                self._checked = None
            else:
                if self._is_in_place():
                    return results
        raise last

    def ask(self, question: Callable[[sqlite3.Connection], T], otherwise: T, failure: Exception | None = None) -> T:
        """Answer a question; ``otherwise`` is the answer of a file that counts as empty.

        Raises:
            JournalError: the file cannot be read now.
        """
        try:
            return question(self.opened(failure))
        except Exception as error:  # noqa: BLE001  all are judged
            self.close()
            found = verdict(error, self._path)
            if found is Verdict.DAMAGE:
                with contextlib.suppress(JournalError, OSError):  # the next write finds that out, and logs it
                    self._move_aside(error)
            if found is not Verdict.FAILURE:
                return otherwise
            if failure is not None:
                raise _unreadable(self._path, failure) from failure
        return self._ask_reader(question, otherwise)

    def opened(self, failure: Exception | None = None) -> sqlite3.Connection:
        """Return the connection to the file that is at the path now.

        Raises:
            Exception: it cannot be opened; `verdict` tells what that means. ``failure`` is raised as if by SQLite.
        """
        if failure is not None:
            raise failure
        if self._connection is None or not self._is_in_place():
            self._path = resolved(self._given)
            self._identity = identity(self._path)
            # Once per file: while a disk is full the check of a large file would come with every retry.
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
        _log.error("%s was moved or deleted while it was in use: a new one is begun", named(self._path))
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
        """Answer by a connection that only reads: nothing is known to be wrong but writing."""
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
                "%s is damaged (%s): it was moved to %s, and a new one is begun. What it holds can still be looked for",
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
        # Also where nothing is to be made: whether it can be written has to show now, not with the first receipt.
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
    """Return what an error of a file that is being opened means, where it is about the content of the file.

    SQLITE_ERROR is about its head: nothing was asked of it yet that a sound file does not know.
    """
    if isinstance(error, JournalError):
        return error
    if _code(error) != sqlite3.SQLITE_ERROR and verdict(error, path) is not Verdict.DAMAGE:
        return error
    head = _head(path)
    # It says so at the place of the application id, or is all zeros as a power cut leaves it.
    if head[68:72] == schema.APPLICATION_ID.to_bytes(4, "big") or (head and not head.strip(b"\0")):
        return DamagedError(f"{named(path)}: {said(error)}")
    return ForeignError(
        f"{named(path)}: this is no journal of receipts; change journal_path, or move the file away if it was one"
    )


# --- what an error means ---


def verdict(error: Exception, path: Path) -> Verdict:
    """Return what an error on a file means.

    The head of the file may be read, so this thread must have no connection to it: closing a file that is opened beside
    one drops its locks.
    """
    if isinstance(error, (ForeignError, NoFolderError)):
        return Verdict.REFUSED
    if isinstance(error, (DamagedError, UnicodeDecodeError)):
        return Verdict.DAMAGE
    code = _code(error)
    # A head with a write version that SQLite does not know makes a file read-only.
    is_strange = code == sqlite3.SQLITE_READONLY and _head(path)[18:20] not in (*_FORMAT_VERSIONS, b"")
    return Verdict.DAMAGE if is_strange or code in _DAMAGE_CODES else Verdict.FAILURE


def reason(error: Exception, path: Path) -> str:
    """Say what an error on a file is and what to do about it, without the name of the file."""
    if isinstance(error, JournalError):
        return str(error).removeprefix(f"{named(path)}: ")
    happened, do = _REASONS.get(_code(error), ("it cannot be used", "check its disk, or change journal_path"))
    return f"{happened} ({said(error)}); {do}"


def said(error: Exception) -> str:
    """Return what an error of SQLite's or the host's says, with its name."""
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
    """Return which file is at a path now, by device and inode; None where there is none.

    Raises:
        OSError: the disk does not tell.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
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
        # What was committed last is in the -wal; under its new name SQLite finds it again.
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
    """Enter while no other process moves a journal in this folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
