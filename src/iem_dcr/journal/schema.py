"""The tables of a journal, the migration between their versions, and how a file is opened.

This code writes version 2. It migrates version 1 (iem-dcr 0.1.0) when it opens the file for writing, in the transaction
that would otherwise create the tables. A reader sees version 1 through views as if it were version 2. The version of a
file is read in one transaction, because other processes create and migrate files too. Erasing does not migrate a file:
the process that writes version 1 may still run, and could not use the file any more.

WAL lets readers and the writer work without waiting for each other. Synchronous FULL lets a commit survive a power cut.
Secure_delete overwrites deleted bytes. A file is checked as a whole when it is opened for writing, because data written
to a damaged file might never be readable again.

Errors raised here do not name the file. Their handlers add the name (`named`).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from iem_dcr.errors import JournalError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION: Final = 2
"""PRAGMA user_version of a journal that this code writes."""
MAX_VERSION: Final = 100_000
"""A larger number means damage."""
APPLICATION_ID: Final = 0x49454D4A
"""PRAGMA application_id of a journal: ``IEMJ``."""
BUSY_TIMEOUT_S: Final = 5.0
"""How long a connection waits for another one, of this process or another."""
MAX_CHECKED_BYTES: Final = 256 * 1024 * 1024
"""Larger files are not checked when they are opened: that would delay the first receipt too long."""
SIDE_FILES: Final = ("-wal", "-shm")
"""Files that SQLite keeps beside a journal while it is in use."""
_SWITCH_RETRY_S: Final = 0.05

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
        age_ms INTEGER,                 -- its age counts from this time; NULL if unknown
        erased_ms INTEGER,
        accepted INTEGER NOT NULL DEFAULT 1,
        UNIQUE (meter, pagination, digest)
    )"""
_REFUSED = """
    CREATE TABLE refused (              -- ids of starts that failed without the meter acting on a B
        id INTEGER PRIMARY KEY,
        meter TEXT NOT NULL,            -- serial number, '' if unknown
        address TEXT NOT NULL, transaction_id TEXT NOT NULL, noted_ms INTEGER NOT NULL
    )"""
_LEDGER = """
    CREATE TABLE ledger (               -- each B that may have been acted on and has no receipt here, in order
        id INTEGER PRIMARY KEY,
        meter TEXT NOT NULL, address TEXT NOT NULL, transaction_id TEXT NOT NULL, identification TEXT NOT NULL,
        pagination_before TEXT,         -- PG of the previous receipt; NULL if unknown
        sent_text TEXT NOT NULL, answered_text TEXT NOT NULL,  -- the meter's time, ISO 8601, or ''
        state TEXT NOT NULL, noted_us INTEGER NOT NULL,  -- host's time, microseconds since 1970 UTC
        UNIQUE (meter, transaction_id, noted_us)
    )"""
_PINS = "CREATE TABLE pins (address TEXT PRIMARY KEY, meter TEXT NOT NULL, noted_ms INTEGER NOT NULL)"
_STATE = "CREATE TABLE state (name TEXT PRIMARY KEY, value INTEGER NOT NULL)"
_TABLES = (_RECEIPTS, _STATE, _REFUSED, _LEDGER, _PINS)
_OF_EVERY_VERSION = {"receipts", "state", "refused"}
_INDEXES_OF_1 = (
    "CREATE INDEX receipts_transaction ON receipts (transaction_id) WHERE transaction_id <> ''",
    "CREATE INDEX receipts_age ON receipts (age_ms)",
)
_INDEXES = (
    "CREATE INDEX receipts_meter ON receipts (meter)",
    "CREATE INDEX receipts_address ON receipts (address)",
)

# --- version 1 ---

_ACCEPTED_OF_1 = """NOT (outcome = 'valid' AND findings LIKE '%"severity": "error"%')"""
# 0.1.0 withdrew the note of a refused B. So every note is a B that may have been acted on. Only the latest of a meter
# can still run.
_LEDGER_OF_1 = """
    SELECT id, meter, address, transaction_id, identification, pagination_before, began_text AS sent_text,
        '' AS answered_text, noted_ms * 1000 AS noted_us,
        CASE WHEN id IN (SELECT max(id) FROM main.begun GROUP BY meter) THEN 'uncertain' ELSE 'lost' END AS state
    FROM main.begun ORDER BY id
    """
_VIEWS_OF_1 = (
    f"CREATE TEMP VIEW receipts AS SELECT *, reused AS superseded, {_ACCEPTED_OF_1} AS accepted FROM main.receipts",
    f"CREATE TEMP VIEW ledger AS {_LEDGER_OF_1}",
    "CREATE TEMP VIEW pins AS SELECT '' AS address, '' AS meter, 0 AS noted_ms WHERE FALSE",
)
_FROM_1_TO_2 = (
    "ALTER TABLE receipts RENAME COLUMN reused TO superseded",
    "ALTER TABLE receipts ADD COLUMN accepted INTEGER NOT NULL DEFAULT 1",
    f"UPDATE receipts SET accepted = 0 WHERE NOT {_ACCEPTED_OF_1}",
    _LEDGER,
    f"""INSERT OR REPLACE INTO ledger (id, meter, address, transaction_id, identification, pagination_before, sent_text,
        answered_text, noted_us, state) {_LEDGER_OF_1}""",
    "DROP TABLE begun",
    _PINS,
    *_INDEXES,
)
_STAMP = (f"PRAGMA application_id={APPLICATION_ID}", f"PRAGMA user_version={VERSION}")
_MIGRATIONS = {0: (*_TABLES, *_INDEXES_OF_1, *_INDEXES, *_STAMP), 1: (*_FROM_1_TO_2, *_STAMP), VERSION: ()}


class DamagedError(JournalError):
    """The file is a damaged journal."""


class RefusedError(JournalError):
    """The file is not a journal, or has a newer version, or its folder cannot be used."""


class NoFolderError(RefusedError):
    """The folder of the file is missing, or this user may not use it."""


def named(path: Path) -> str:
    """Return how a message names a journal."""
    return f"journal {printable(path, limit=300)}"


def resolved(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a journal's file, symbolic links followed."""
    return Path(os.path.realpath(path))


def side_file(path: Path, suffix: str) -> Path:
    """Return the path of a file beside the journal's."""
    return path.with_name(path.name + suffix)


def describe(error: Exception) -> str:
    """Return message and name of an error of SQLite or the host."""
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    return f"{printable(error, limit=200)}, {name}"


def code_of(error: Exception) -> int:
    """Return SQLite's primary code of an error; 0 for other errors."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


# --- opening ---


def connect(path: Path, *, is_immutable: bool = False) -> sqlite3.Connection:
    """Open a database file, for writing if it may be written. Never creates one."""
    uri = f"file:{quote(os.fsencode(path))}?mode=rw" + ("&immutable=1" if is_immutable else "")
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    # The rest of a row must be readable if one text is damaged.
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    _run(connection, "PRAGMA trusted_schema=OFF", "PRAGMA cell_size_check=ON", "PRAGMA temp_store=MEMORY")
    return connection


def version_of(connection: sqlite3.Connection) -> int:
    """Return the version of a journal, 0 for an empty file. Called within a transaction.

    Raises:
        DamagedError, RefusedError, sqlite3.Error: the file is not a readable journal.
    """
    pragmas = ("user_version", "application_id")
    version, application = (int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in pragmas)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not (version or application or tables):
        return 0
    if application != APPLICATION_ID:
        if tables >= _OF_EVERY_VERSION:
            raise DamagedError("its head is damaged: the application id is missing")
        raise RefusedError("it is another program's database; change journal_path")
    if not 1 <= version <= MAX_VERSION:
        raise DamagedError(f"its head is damaged: it gives version {version}")
    if version > VERSION:
        raise RefusedError(
            f"it has version {version}, but this program only knows versions up to {VERSION}; install a newer iem-dcr, "
            "or change journal_path"
        )
    return version


@contextlib.contextmanager
def reading(path: Path, check: str = "") -> Iterator[tuple[sqlite3.Connection, int]]:
    """Open a journal for reading, within a transaction. Yields the connection and the version.

    SQLite needs side files beside an open journal. In a folder that cannot be written it is opened immutable instead,
    without side files and locks. Elsewhere locks are needed: a file that another process writes would look damaged.

    Args:
        path: path of the file.
        check: the pragma that checks the file: "quick_check" or "integrity_check"; "" checks its head only.

    Raises:
        DamagedError, RefusedError, sqlite3.Error, OSError: the file cannot be read.
    """
    is_writable = os.access(path.parent, os.W_OK)
    is_immutable = not is_writable and not side_file(path, "-wal").exists()
    with contextlib.closing(connect(path, is_immutable=is_immutable)) as connection:
        connection.execute("BEGIN")
        version = version_of(connection)
        _run(connection, *(_VIEWS_OF_1 if version == 1 else ()))
        if version and check and path.stat().st_size <= MAX_CHECKED_BYTES:
            _check(connection, check)
        connection.execute("PRAGMA query_only=ON")
        yield connection, version


def open_to_write(path: Path, *, is_checked: bool) -> sqlite3.Connection:
    """Open a journal for writing: check it, unless ``is_checked``, and migrate it to version 2.

    Raises:
        DamagedError, RefusedError, sqlite3.Error, OSError: the file cannot be used. It is unchanged.
    """
    with reading(path, "" if is_checked else "quick_check"):
        pass
    connection = connect(path)
    try:
        _switch_to_wal(connection)
        # Done even if nothing changes: a file that cannot be written must fail before the first receipt.
        _run(connection, "PRAGMA synchronous=FULL", "PRAGMA secure_delete=ON", "BEGIN IMMEDIATE")
        version = version_of(connection)
        _run(connection, *_MIGRATIONS[version], "COMMIT")
        if not version:  # so that the file itself contains the application id, not only the -wal
            connection.execute("PRAGMA wal_checkpoint")
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, pragma: str) -> None:
    (found,) = connection.execute(f"PRAGMA {pragma}(1)").fetchone()
    if found != "ok":
        raise DamagedError(printable(found))
    # SQLite reads any other word there as part of the type, and then rows have no number.
    numbered = "SELECT count(*) FROM sqlite_master WHERE sql LIKE '%id INTEGER PRIMARY KEY,%'"
    if connection.execute(numbered).fetchone() != (3,):  # in every version
        raise DamagedError("its tables have lost their keys")
    with contextlib.closing(sqlite3.connect(":memory:")) as sound:
        _run(sound, *_TABLES)
        columns = "SELECT m.name, group_concat(c.name) FROM sqlite_master m, pragma_table_info(m.name) c GROUP BY 1"
        tables = sound.execute(columns).fetchall()
    _run(connection, *(f"SELECT {columns} FROM {table} LIMIT 0" for table, columns in tables))


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    ends_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            # SQLite does not wait if two processes switch a new file at the same time.
            if code_of(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= ends_s:
                raise
            time.sleep(_SWITCH_RETRY_S)
        else:
            return


def _run(connection: sqlite3.Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(statement)
