"""Erasing on request: the tuple and whatever names a person go, meter, pagination, energies and times stay."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from iem_dcr.errors import JournalError
from iem_dcr.journal.entry import COLUMNS, Entry, clean, milliseconds
from iem_dcr.journal.schema import check_version, connect, make_notes, named, resolved, said
from iem_dcr.journal.upkeep import moved_aside

if TYPE_CHECKING:
    import os
    from pathlib import Path

OVERWRITTEN_WITHIN_S = 30.0
"""How long is waited for readers that still see what was erased."""
_TRIED_EVERY_S = 0.1
_WHICH = (
    "erased_ms IS NULL AND ((:transaction <> '' AND transaction_id = :transaction)"
    " OR (:person <> '' AND identification = :person))"
)


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased.

    Attributes:
        entries: the entries as they are now.
        is_overwritten: its bytes are gone from the file and from those beside it. False while somebody reads the file
            without end: erase again later.
        elsewhere: corrupt journals that were moved aside, in which it may still stand.
    """

    entries: tuple[Entry, ...]
    is_overwritten: bool
    elsewhere: tuple[Path, ...]


def forget(path: str | os.PathLike[str], *, identification: str = "", transaction_id: str = "") -> Erased:
    """Erase the receipts of a person's id, or of a transaction. They cannot be had back: evidence is destroyed.

    What stays keeps the meter's last tuple from being stored again when it is seen once more. Drivers may write
    meanwhile; they wait. The file is rebuilt, so it takes free space of its own size for a moment.

    Args:
        path: of the journal.
        identification: ID of the tuples, exactly as signed; "" for none.
        transaction_id: the station's id; "" for none.

    Raises:
        JournalError: there is no such journal, or it cannot be written; where entries were erased already and could
            not be overwritten yet, the message says so.
    """
    found = resolved(path)
    if not found.is_file():
        raise JournalError(f"{named(found)}: there is no such file")
    try:
        with contextlib.closing(connect(found)) as connection:
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA secure_delete=ON")
            if not check_version(connection, found):
                return Erased((), is_overwritten=True, elsewhere=moved_aside(found))
            which = {"transaction": clean(transaction_id), "person": clean(identification)}
            entries = _erase(connection, which, datetime.now(UTC))
            # Also where nothing is left to erase: an earlier call may have been cut short between the two.
            return Erased(entries, _overwrite(connection), moved_aside(found))
    except (sqlite3.Error, OSError) as error:
        raise JournalError(f"{named(found)}: erasing was not completed: {said(error)}. Do it again") from error


def _erase(connection: sqlite3.Connection, which: dict[str, str], now: datetime) -> tuple[Entry, ...]:
    connection.execute("BEGIN IMMEDIATE")
    numbers = [number for (number,) in connection.execute(f"SELECT id FROM receipts WHERE {_WHICH}", which)]  # noqa: S608
    make_notes(connection)
    connection.execute(
        "DELETE FROM begun WHERE (:transaction <> '' AND transaction_id = :transaction)"
        " OR (:person <> '' AND identification = :person)",
        which,
    )
    connection.execute("DELETE FROM refused WHERE :transaction <> '' AND transaction_id = :transaction", which)
    connection.executemany(
        "UPDATE receipts SET tuple = NULL, identification = '', transaction_id = '', findings = '[]', erased_ms = ?"
        " WHERE id = ?",
        [(milliseconds(now), number) for number in numbers],
    )
    question = f"SELECT {', '.join(COLUMNS)} FROM receipts WHERE id = ?"  # noqa: S608  columns of ours
    entries = tuple(Entry.of_row(connection.execute(question, (number,)).fetchone()) for number in numbers)
    connection.execute("COMMIT")
    return entries


def _overwrite(connection: sqlite3.Connection) -> bool:
    """Rebuild the file from what is left, for a page that was split may hold copies, and empty the -wal.

    Returns:
        Whether that was done; it is not while somebody reads what was there before.
    """
    connection.execute("VACUUM")
    ends_s = time.monotonic() + OVERWRITTEN_WITHIN_S
    while True:
        (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not is_busy:
            return True
        if time.monotonic() >= ends_s:
            return False
        time.sleep(_TRIED_EVERY_S)
