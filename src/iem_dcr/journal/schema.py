"""The file: its tables, its version, and how a connection to it is opened.

WAL, so that reading and writing do not wait for each other; synchronous FULL, so that what was committed stands after a
power cut; secure_delete, so that what was deleted is overwritten.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from iem_dcr.errors import ConfigError, JournalError, printable

VERSION = 1
"""PRAGMA user_version of a journal this code writes."""
NO_VERSION = 100_000
"""A version beyond this is no version but damage."""
APPLICATION_ID = 0x49454D4A
"""PRAGMA application_id of a journal: ``IEMJ``."""
FILE_MODE = 0o600
"""Receipts hold the ids of persons."""
BUSY_S = 5.0
"""How long a connection waits for another one, of this process or another, that is writing."""
CHECKED_BYTES = 256 * 1024 * 1024
"""Up to this size a file is checked when it is opened for writing; beyond it the check would take too long."""
_SWITCH_EVERY_S = 0.05
SIDE_FILES = ("-wal", "-shm")
"""Files that SQLite keeps beside the one of the journal while it is in use."""

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT)
"""What a corrupt file leads to. No constraint is ever broken by what is written: then an index is not true any more."""

_FOREIGN = "{}: this is no journal of receipts; change journal_path"
_WRITE_AND_READ_VERSIONS = (b"\1\1", b"\2\2")
_TRACES = (b"OCMF|{", b"CREATE TABLE receipts")
"""What nobody else's file has in it."""

_TABLES = (
    """
    CREATE TABLE receipts (
        id INTEGER PRIMARY KEY,
        meter TEXT NOT NULL,            -- serial number: MS of the tuple, or that of the meter that gave it
        pagination TEXT NOT NULL,       -- PG, or '' where there is none
        digest BLOB NOT NULL,           -- SHA-256 of the tuple; it stays when the tuple is erased
        address TEXT NOT NULL,          -- of the meter, host:port
        transaction_id TEXT NOT NULL,   -- the station's, or '' where it is not known
        reused INTEGER NOT NULL DEFAULT 0,  -- the station has begun another transaction under the same id since
        identification TEXT NOT NULL,   -- ID of the tuple
        begin_text TEXT NOT NULL,       -- TM of the reading that begins, as the meter wrote it
        begin_ms INTEGER,               -- the same, milliseconds since 1970 UTC
        end_text TEXT NOT NULL,
        end_ms INTEGER,
        begin_wh TEXT NOT NULL,         -- exact decimals, '' where there is none
        end_wh TEXT NOT NULL,
        energy_wh TEXT NOT NULL,
        tuple BLOB,                     -- byte for byte; NULL when it was erased
        public_key TEXT NOT NULL,
        outcome TEXT NOT NULL,          -- of the check of its signature, '' where there was none
        findings TEXT NOT NULL,         -- JSON
        found INTEGER NOT NULL,         -- it was only found in the meter, and handed to nobody
        kept_ms INTEGER NOT NULL,       -- host's time at which it was kept first
        age_ms INTEGER,                 -- the time its age counts from; NULL where none is known
        erased_ms INTEGER,
        UNIQUE (meter, pagination, digest)
    )
    """,
    "CREATE INDEX receipts_transaction ON receipts (transaction_id) WHERE transaction_id <> ''",
    "CREATE INDEX receipts_age ON receipts (age_ms)",
    "CREATE TABLE state (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
)


_NOTES = (
    """
    CREATE TABLE IF NOT EXISTS begun (
        id INTEGER PRIMARY KEY,
        meter TEXT NOT NULL,            -- serial number
        address TEXT NOT NULL,          -- host:port
        transaction_id TEXT NOT NULL,   -- the station's
        identification TEXT NOT NULL,   -- ID that was assigned
        pagination_before TEXT,         -- PG of the tuple before; NULL where it is not known
        began_text TEXT NOT NULL,       -- the meter's time, ISO 8601, or ''
        noted_ms INTEGER NOT NULL       -- host's time
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS refused (
        id INTEGER PRIMARY KEY,
        meter TEXT NOT NULL,            -- serial number, '' where it was not known
        address TEXT NOT NULL,          -- host:port
        transaction_id TEXT NOT NULL,   -- the station's
        noted_ms INTEGER NOT NULL       -- host's time
    )
    """,
)
"""What a process that is started again has to know: whose receipts are still to come, and which ids have none."""


class DamagedError(JournalError):
    """The file is a journal, and it is corrupt."""


class ForeignError(JournalError):
    """The file is no journal."""


def resolved(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a journal's file, symbolic links followed."""
    return Path(os.path.realpath(path))


def named(path: Path) -> str:
    """Return how a message names a journal."""
    return f"journal {printable(path, limit=300)}"


def side_file(path: Path, suffix: str) -> Path:
    """Return the path of a file beside the journal's."""
    return path.with_name(path.name + suffix)


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open a journal for writing; where there is no file, make one that nobody else may read.

    Raises:
        DamagedError: it is corrupt.
        JournalError: it is another file, or of a newer version, or its folder is missing.
        sqlite3.Error: it cannot be opened now.
    """
    _check_place(path)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE))
    connection = connect(path)
    try:
        _prepare(connection, path)
    except BaseException as error:
        connection.close()
        _judge(error, path)
        raise
    return connection


def connect(path: Path, mode: str = "rw", *, is_immutable: bool = False) -> sqlite3.Connection:
    """Open the file as SQLite's, for reading or for writing; never makes one.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    uri = f"file:{quote(os.fsencode(path))}?mode={mode}" + ("&immutable=1" if is_immutable else "")
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    # A damaged text shall be read all the same, and the others beside it.
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return connection


def connect_for_reading(path: Path) -> sqlite3.Connection:
    """Open the file in the way that leaves nothing behind.

    SQLite keeps files beside it while it is open. A connection that may write takes them away again; one that may not
    leaves them. On a medium that nobody writes there are none, and none are needed.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    try:
        return _reading(path, "rw", is_immutable=False)
    except sqlite3.Error:
        return _reading(path, "ro", is_immutable=not side_file(path, "-wal").exists())


def is_damage(error: Exception, path: Path) -> bool:
    """Tell whether an error says that the file is corrupt.

    The file may be looked at, so no connection to it may be open in this thread: closing it would drop their locks.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if code is None or (code & 0xFF) != sqlite3.SQLITE_READONLY:
        return isinstance(error, DamagedError) or (code is not None and (code & 0xFF) in _DAMAGED)
    # A head with a write version that SQLite does not know makes a file read-only.
    with path.open("rb") as file:
        return file.read(20)[18:] not in _WRITE_AND_READ_VERSIONS


def check_version(connection: sqlite3.Connection, path: Path) -> bool:
    """Check that an open file is a journal that can be read. Returns False for an empty one.

    Raises:
        JournalError: it is another program's, or of a newer version.
        sqlite3.Error: it cannot be read.
    """
    version = _number(connection, "PRAGMA user_version")
    application = _number(connection, "PRAGMA application_id")
    tables = _number(connection, "SELECT count(*) FROM sqlite_master")
    if not (version or application or tables):
        return False
    if application != APPLICATION_ID or version > NO_VERSION:
        raise ForeignError(f"{named(path)}: this is another program's database; change journal_path")
    if version > VERSION:
        raise JournalError(
            f"{named(path)}: it is of version {version}, and this program knows versions up to {VERSION}; "
            "install a newer iem-dcr, or change journal_path"
        )
    return True


def check_journal(path: str | os.PathLike[str]) -> None:
    """Check at a program's start that a journal can be written. Makes no file.

    Raises:
        ConfigError: it cannot be, and why. A corrupt one is no reason: the writer moves it aside.
    """
    path = resolved(path)
    try:
        _check_place(path)
        if path.exists():
            with contextlib.closing(connect(path)) as connection:
                check_version(connection, path)
    except JournalError as error:
        raise ConfigError([f"journal_path: {error}"]) from error
    except (sqlite3.Error, OSError) as error:
        if not is_damage(error, path):
            raise ConfigError([f"journal_path: {named(path)}: it cannot be opened: {said(error)}"]) from error
        if not _may_be_a_journal(path):
            raise ConfigError([f"journal_path: {_FOREIGN.format(named(path))}"]) from error


def said(error: Exception) -> str:
    """Return what an error of SQLite's or the host's says, with its name."""
    name = getattr(error, "sqlite_errorname", None)
    text = printable(error, limit=200)
    return f"{text} ({name})" if name else text


def _reading(path: Path, mode: str, *, is_immutable: bool) -> sqlite3.Connection:
    connection = connect(path, mode, is_immutable=is_immutable)
    try:
        connection.execute("PRAGMA query_only=ON")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _check_place(path: Path) -> None:
    if not path.parent.is_dir():
        raise JournalError(f"{named(path)}: its folder does not exist; create it, or change journal_path")
    if path.exists() and not path.is_file():
        raise JournalError(f"{named(path)}: this is no file; change journal_path")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise JournalError(f"{named(path)}: this user may not write it; change its rights, or journal_path")


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Bring a fresh connection into the state to write with, and an empty file into that of a journal."""
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    is_journal = check_version(connection, path)
    if is_journal and path.stat().st_size <= CHECKED_BYTES:
        _check(connection, path)
    _make_wal(connection)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA secure_delete=ON")
    # Also where nothing is to be made: whether it can be written shall come out now, not with the first receipt.
    _create(connection, path)


def _judge(error: BaseException, path: Path) -> None:
    """Raise what an error at the opening of a file means, where it is about the file.

    Nothing was asked of it yet that a sound file does not know, so SQLITE_ERROR is about its head.
    """
    if isinstance(error, sqlite3.Error):
        if not is_damage(error, path) and getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR:
            return
    elif not isinstance(error, ForeignError):
        return
    if _may_be_a_journal(path):
        raise DamagedError(f"{named(path)}: {said(error)}") from error
    raise ForeignError(_FOREIGN.format(named(path))) from error


def _make_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. Two processes that do so at once with a new file are told to try again; SQLite does not wait."""
    ends_s = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if (error.sqlite_errorcode & 0xFF) != sqlite3.SQLITE_BUSY or time.monotonic() >= ends_s:
                raise
            time.sleep(_SWITCH_EVERY_S)
        else:
            return


def _check(connection: sqlite3.Connection, path: Path) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found is None or found[0] != "ok":
        raise DamagedError(f"{named(path)}: {printable(found[0] if found else 'no answer to the check')}")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables >= {"receipts", "state"}:
        raise DamagedError(f"{named(path)}: its tables are missing")


def make_notes(connection: sqlite3.Connection) -> None:
    """Make the tables of what was begun and refused in a journal that has none yet."""
    for statement in _NOTES:
        connection.execute(statement)


def _create(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables, unless another process has."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not check_version(connection, path):
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={VERSION}")
        make_notes(connection)
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _number(connection: sqlite3.Connection, question: str) -> int:
    return int(connection.execute(question).fetchone()[0])


def _may_be_a_journal(path: Path) -> bool:
    """Tell whether a file that is no database any more may have been a journal, and not some other file.

    It may when it says so at the place of the application id, is all zeros as a power cut leaves it, or has traces of
    one.
    """
    with path.open("rb") as file:
        head = file.read(4096)
        if head[68:72] == APPLICATION_ID.to_bytes(4, "big") or not head.strip(b"\0"):
            return True
        before = head
        for _ in range(CHECKED_BYTES // 65536):
            if any(trace in before for trace in _TRACES):
                return True
            piece = file.read(65536)
            if not piece:
                return False
            before = before[-32:] + piece
    return False
