"""Reading a journal while others write it. Nothing is made, and nothing in it is changed."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from iem_dcr.errors import JournalError
from iem_dcr.journal.entry import COLUMNS, Entry, clean, milliseconds
from iem_dcr.journal.schema import check_version, connect_for_reading, named, resolved, said

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

READ_AT_ONCE = 200
"""Entries in memory at a time; between two such portions others may write and clear up."""


class JournalReader:
    """A journal open for reading. Made by `open_for_reading`.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    def entries(
        self,
        begin: datetime | None = None,
        end: datetime | None = None,
        *,
        transaction_id: str | None = None,
        meter: str | None = None,
    ) -> Iterator[Entry]:
        """Yield entries in the order they were kept in, a few at a time from the file.

        Args:
            begin: from which on, aware; what counts is when the transaction ended, or where the tuple does not say so,
                when it was kept.
            end: before which.
            transaction_id: only those of this transaction.
            meter: only those of the meter with this serial number.

        Raises:
            JournalError: the file cannot be read.
        """
        conditions, values = _conditions(begin, end, transaction_id, meter)
        question = f"SELECT {', '.join(COLUMNS)} FROM receipts WHERE {conditions} ORDER BY id LIMIT ?"  # noqa: S608
        last = 0
        while rows := self._rows(question, (last, *values, READ_AT_ONCE)):
            for row in rows:
                entry = Entry.of_row(row)
                last = max(last, entry.id)
                yield entry

    def latest(self, meter: str, count: int) -> list[Entry]:
        """Return the entries of the meter with this serial number that were kept last, the newest first.

        Raises:
            JournalError: the file cannot be read.
        """
        # Backwards through the table, which ends at the first so many; an index would have all of the meter's sorted.
        question = (
            f"SELECT {', '.join(COLUMNS)} FROM receipts NOT INDEXED"  # noqa: S608  columns of ours
            " WHERE meter = ? ORDER BY id DESC LIMIT ?"
        )
        return [Entry.of_row(row) for row in self._rows(question, (clean(meter), count))]

    def entry(self, number: int) -> Entry | None:
        """Return the entry with this number, or None where there is none.

        Raises:
            JournalError: the file cannot be read.
        """
        question = f"SELECT {', '.join(COLUMNS)} FROM receipts WHERE id = ?"  # noqa: S608  as above
        return next((Entry.of_row(row) for row in self._rows(question, (number,))), None)

    def count(
        self,
        begin: datetime | None = None,
        end: datetime | None = None,
        *,
        transaction_id: str | None = None,
        meter: str | None = None,
    ) -> int:
        """Return how many entries `entries` would yield."""
        conditions, values = _conditions(begin, end, transaction_id, meter)
        question = f"SELECT count(*) FROM receipts WHERE {conditions}"  # noqa: S608  conditions of ours
        return int(self._rows(question, (0, *values))[0][0])

    def _rows(self, question: str, values: tuple[object, ...]) -> list[tuple[int, ...]]:
        try:
            return self._connection.execute(question, values).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"{named(self.path)} cannot be read: {said(error)}") from error


@contextlib.contextmanager
def open_for_reading(path: str | os.PathLike[str]) -> Iterator[JournalReader]:
    """Open a journal for reading, also while drivers write it. An empty one has no entries.

    Raises:
        JournalError: there is none, or it cannot be read, or it is of a newer version.
    """
    found = resolved(path)
    if not found.is_file():
        raise JournalError(f"{named(found)}: there is no such file")
    try:
        with contextlib.closing(connect_for_reading(found)) as connection:
            if not check_version(connection, found):
                raise JournalError(f"{named(found)}: the file is empty: nothing was ever kept in it")
            yield JournalReader(found, connection)
    except (sqlite3.Error, OSError) as error:
        raise JournalError(f"{named(found)} cannot be read: {said(error)}") from error


def _conditions(
    begin: datetime | None, end: datetime | None, transaction_id: str | None, meter: str | None
) -> tuple[str, tuple[object, ...]]:
    """Return the conditions of a question, of which the first is on the id, and the values of the others."""
    conditions, values = ["id > ?"], list[object]()
    for value, condition in (
        (None if begin is None else milliseconds(begin), "coalesce(end_ms, kept_ms) >= ?"),
        (None if end is None else milliseconds(end), "coalesce(end_ms, kept_ms) < ?"),
        (None if transaction_id is None else clean(transaction_id), "transaction_id = ?"),
        (None if meter is None else clean(meter), "meter = ?"),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    return " AND ".join(conditions), tuple(values)
