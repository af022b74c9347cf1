"""The tables of a journal, their versions, the migration between them, and how a file is opened.

Version 2 is written. Version 1 (iem-dcr 0.1.0) is migrated in one transaction when it is opened for writing; readers
see it through views as if it were version 2. The head and the tables of a file have to agree: that finds a changed bit
in either, and keeps files of other programs from being taken for journals.

WAL, so that readers and the writer do not wait for each other; synchronous FULL, so that a commit survives a power cut;
secure_delete, so that deleted bytes are overwritten.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from iem_dcr.errors import JournalError, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

VERSION: Final = 2
"""PRAGMA user_version of a journal that this code writes."""
MAX_VERSION: Final = 100_000
"""A larger number is no version but damage."""
APPLICATION_ID: Final = 0x49454D4A
"""PRAGMA application_id of a journal: ``IEMJ``."""
FILE_MODE: Final = 0o600
"""Receipts hold ids of persons."""
BUSY_TIMEOUT_S: Final = 5.0
"""How long a connection waits for another one, of this process or another, that is writing."""
MAX_CHECKED_BYTES: Final = 256 * 1024 * 1024
"""Files up to this size are checked when they are opened for writing; for larger ones that takes too long."""
SIDE_FILES: Final = ("-wal", "-shm")
"""Files that SQLite keeps beside a journal while it is in use."""

_SWITCH_RETRY_S = 0.05

# --- tables; `iem_dcr.journal.maintenance.Entry` explains the columns of receipts ---

_RECEIPTS = """
    CREATE TABLE receipts (
        id INTEGER PRIMARY KEY,
        meter TEXT NOT NULL, pagination TEXT NOT NULL,
        digest BLOB NOT NULL,           -- SHA-256 of the tuple; it stays when the tuple is erased
        address TEXT NOT NULL, transaction_id TEXT NOT NULL,
        superseded INTEGER NOT NULL DEFAULT 0,  -- a later B under its id was answered 2xx: it answers no stop
        identification TEXT NOT NULL,
        begin_text TEXT NOT NULL, begin_ms INTEGER,  -- milliseconds since 1970 UTC
        end_text TEXT NOT NULL, end_ms INTEGER,
        begin_wh TEXT NOT NULL, end_wh TEXT NOT NULL, energy_wh TEXT NOT NULL,  -- exact decimals, '' without one
        tuple BLOB,                     -- NULL when it was erased
        public_key TEXT NOT NULL, outcome TEXT NOT NULL,
        findings TEXT NOT NULL,         -- JSON
        found INTEGER NOT NULL, kept_ms INTEGER NOT NULL,
        age_ms INTEGER,                 -- the time its age counts from; NULL where none is known
        erased_ms INTEGER,
        accepted INTEGER NOT NULL DEFAULT 1,
        UNIQUE (meter, pagination, digest)
    )"""
_REFUSED = """
    CREATE TABLE refused (              -- ids whose start failed with none of its B possibly acted on
        id INTEGER PRIMARY KEY,
        meter TEXT NOT NULL,            -- serial number, '' where it was not known
        address TEXT NOT NULL, transaction_id TEXT NOT NULL, noted_ms INTEGER NOT NULL
    )"""
_LEDGER = """
    CREATE TABLE ledger (               -- each B that may have been acted on and has no receipt here, in their order
        id INTEGER PRIMARY KEY,
        meter TEXT NOT NULL, address TEXT NOT NULL, transaction_id TEXT NOT NULL, identification TEXT NOT NULL,
        pagination_before TEXT,         -- PG of the receipt before; NULL where it is not known
        sent_text TEXT NOT NULL, answered_text TEXT NOT NULL,  -- the meter's time, ISO 8601, or ''
        state TEXT NOT NULL, noted_us INTEGER NOT NULL,  -- host's time, microseconds since 1970 UTC
        UNIQUE (meter, transaction_id, noted_us)
    )"""
_PINS = "CREATE TABLE pins (address TEXT PRIMARY KEY, meter TEXT NOT NULL, noted_ms INTEGER NOT NULL)"
_STATE = "CREATE TABLE state (name TEXT PRIMARY KEY, value INTEGER NOT NULL)"
_INDEXES_OF_1 = (
    "CREATE INDEX receipts_transaction ON receipts (transaction_id) WHERE transaction_id <> ''",
    "CREATE INDEX receipts_age ON receipts (age_ms)",
)
_INDEXES = (
    "CREATE INDEX receipts_meter ON receipts (meter)",
    "CREATE INDEX receipts_address ON receipts (address)",
)
_TABLES = (_RECEIPTS, _STATE, _REFUSED, _LEDGER, _PINS)

# --- version 1 ---

_ACCEPTED_OF_1 = """NOT (outcome = 'valid' AND findings LIKE '%"severity": "error"%')"""
# 0.1.0 withdrew the note of a B that was refused. So every note is a B that may have been acted on, and of a meter only
# the latest can still run.
_LEDGER_OF_1 = """
    SELECT id, meter, address, transaction_id, identification, pagination_before, began_text AS sent_text,
        '' AS answered_text, noted_ms * 1000 AS noted_us,
        CASE WHEN id IN (SELECT max(id) FROM main.begun GROUP BY meter) THEN 'uncertain' ELSE 'lost' END AS state
    FROM main.begun ORDER BY id
    """
_VIEWS_OF_1 = (
    f"CREATE TEMP VIEW receipts AS SELECT *, reused AS superseded, {_ACCEPTED_OF_1} AS accepted FROM main.receipts",  # noqa: S608
    f"CREATE TEMP VIEW ledger AS {_LEDGER_OF_1}",
    "CREATE TEMP VIEW pins AS SELECT '' AS address, '' AS meter, 0 AS noted_ms WHERE FALSE",
)
_FROM_1_TO_2 = (
    "ALTER TABLE receipts RENAME COLUMN reused TO superseded",
    "ALTER TABLE receipts ADD COLUMN accepted INTEGER NOT NULL DEFAULT 1",
    f"UPDATE receipts SET accepted = 0 WHERE NOT {_ACCEPTED_OF_1}",  # noqa: S608  a condition of ours
    _LEDGER,
    f"""INSERT OR REPLACE INTO ledger (id, meter, address, transaction_id, identification, pagination_before, sent_text,
        answered_text, noted_us, state) {_LEDGER_OF_1}""",
    "DROP TABLE begun",
    _PINS,
    *_INDEXES,
)


@cache
def _columns_by_version() -> dict[int, dict[str, set[str]]]:
    """Return the columns that each table has to have, by version."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for table in _TABLES:
            connection.execute(table)
        newest = _columns_of(connection)
    begun = newest["ledger"] - {"sent_text", "answered_text", "noted_us", "state"} | {"began_text", "noted_ms"}
    receipts = newest["receipts"] - {"superseded", "accepted"} | {"reused"}
    oldest = {"receipts": receipts, "state": newest["state"], "refused": newest["refused"], "begun": begun}
    return {1: oldest, VERSION: newest}


def _columns_of(connection: sqlite3.Connection) -> dict[str, set[str]]:
    columns: dict[str, set[str]] = {}
    question = "SELECT m.name, c.name FROM sqlite_master AS m LEFT JOIN pragma_table_info(m.name) AS c"
    for table, column in connection.execute(question):
        columns.setdefault(table, set()).add(column)
    return {table: found for table, found in columns.items() if not table.startswith("sqlite_")}


class DamagedError(JournalError):
    """The file is a journal, and it is damaged."""


class ForeignError(JournalError):
    """The file is no journal, or one of a newer version."""


class NoFolderError(JournalError):
    """The folder of the file is missing, or this user may not use it."""


def resolved(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a journal's file, symbolic links followed."""
    return Path(os.path.realpath(path))


def named(path: Path) -> str:
    """Return how a message names a journal."""
    return f"journal {printable(path, limit=300)}"


def side_file(path: Path, suffix: str) -> Path:
    """Return the path of a file beside the journal's."""
    return path.with_name(path.name + suffix)


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of an open journal; 0 for an empty file.

    Raises:
        DamagedError: its head and its tables do not agree.
        ForeignError: it is another program's, or of a newer version.
        sqlite3.Error: it cannot be read.
    """
    ((version,), (application,)) = (
        connection.execute(f"PRAGMA {number}").fetchone() for number in ("user_version", "application_id")
    )
    columns = _columns_of(connection)
    if not (version or application or columns):
        return 0
    known = [
        number
        for number, tables in _columns_by_version().items()
        if all(columns.get(table, set()) >= needed for table, needed in tables.items())
    ]
    if application != APPLICATION_ID:
        if known:
            raise DamagedError(f"{named(path)}: its head is damaged: it does not say that it is a journal")
        raise ForeignError(f"{named(path)}: this is another program's database; change journal_path")
    if VERSION < version <= MAX_VERSION:
        raise ForeignError(
            f"{named(path)}: it is of version {version}, and this program knows versions up to {VERSION}; "
            "install a newer iem-dcr, or change journal_path"
        )
    if version not in known:
        raise DamagedError(f"{named(path)}: its tables are not those of version {version}")
    return int(version)


# --- opening ---


def connect(path: Path, mode: str = "rw", *, is_immutable: bool = False) -> sqlite3.Connection:
    """Open a file as SQLite's, for reading or for writing; never makes one.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    uri = f"file:{quote(os.fsencode(path))}?mode={mode}" + ("&immutable=1" if is_immutable else "")
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    # A damaged text must not keep the rest of its row from being read.
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection


def open_to_read(path: Path) -> tuple[sqlite3.Connection, int]:
    """Open a journal for reading without leaving files behind; version 1 looks like version 2.

    SQLite keeps side files while a journal is open. A connection that may write removes them again, one that may not
    leaves them. A read-only medium has none and needs none.

    Returns:
        The connection, and the version of the file; 0 for an empty one.

    Raises:
        JournalError: it is damaged, another program's, or of a newer version.
        sqlite3.Error, UnicodeDecodeError: it cannot be read.
    """
    try:
        return _opened_to_read(path, "rw", is_immutable=False)
    except sqlite3.Error:
        return _opened_to_read(path, "ro", is_immutable=not side_file(path, "-wal").exists())


def _opened_to_read(path: Path, mode: str, *, is_immutable: bool) -> tuple[sqlite3.Connection, int]:
    connection = connect(path, mode, is_immutable=is_immutable)
    try:
        version = version_of(connection, path)
        if version == 1:
            _run(connection, ("PRAGMA temp_store=MEMORY", *_VIEWS_OF_1))
        connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    return connection, version


def prepare(connection: sqlite3.Connection, path: Path, *, is_checked: bool) -> None:
    """Check a file that was connected for writing, and set the modes in which a journal is written.

    Raises:
        DamagedError, ForeignError, sqlite3.Error: it cannot be used.
    """
    connection.execute("PRAGMA cell_size_check=ON")
    if version_of(connection, path) and not is_checked and path.stat().st_size <= MAX_CHECKED_BYTES:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found is None or found[0] != "ok":
            raise DamagedError(f"{named(path)}: {printable(found[0] if found else 'no answer to the check')}")
    ends_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # SQLite does not wait when two processes switch a new file at once.
            if (error.sqlite_errorcode & 0xFF) != sqlite3.SQLITE_BUSY or time.monotonic() >= ends_s:
                raise
        time.sleep(_SWITCH_RETRY_S)
    _run(connection, ("PRAGMA synchronous=FULL", "PRAGMA secure_delete=ON"))


def bring_up_to_date(connection: sqlite3.Connection, path: Path) -> None:
    """Create or migrate the tables in one transaction, unless another process has done so.

    Raises:
        sqlite3.Error: that is not possible now; nothing is changed.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = version_of(connection, path)
        if version != VERSION:
            _run(connection, (*_TABLES, *_INDEXES_OF_1, *_INDEXES) if version == 0 else _FROM_1_TO_2)
            _run(connection, (f"PRAGMA application_id={APPLICATION_ID}", f"PRAGMA user_version={VERSION}"))
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _run(connection: sqlite3.Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        connection.execute(statement)


def check_place(path: Path) -> None:
    """Check that a file is or can be at a path, and can be written, as far as rights tell.

    Raises:
        NoFolderError: its folder is missing or forbidden.
        ForeignError: what is there is no file.
        JournalError: this user may not write it.
        OSError: the disk does not tell.
    """
    forbidden = f"{named(path)}: this user may not use its folder; change its rights, or journal_path"
    try:
        mode = path.stat().st_mode
    except PermissionError:
        raise NoFolderError(forbidden) from None
    except (FileNotFoundError, NotADirectoryError):
        if not path.parent.is_dir():
            raise NoFolderError(
                f"{named(path)}: its folder does not exist; create it, or change journal_path"
            ) from None
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise NoFolderError(forbidden) from None
        return
    if not stat.S_ISREG(mode):
        raise ForeignError(f"{named(path)}: this is no file; change journal_path")
    if not os.access(path, os.W_OK):
        raise JournalError(f"{named(path)}: this user may not write it; change its rights, or journal_path")
