"""Which meter is accepted at an address, for whoever looks after a journal. Drivers may write it meanwhile."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from iem_dcr.errors import JournalError
from iem_dcr.journal import schema
from iem_dcr.journal.file import said
from iem_dcr.journal.records import clean, milliseconds
from iem_dcr.journal.schema import named

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def pins(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the serial number that is pinned for each address, ``host:port``.

    Raises:
        JournalError: there is no such journal, or it cannot be read.
    """
    with _used(path, "cannot be read") as found:
        connection, version = schema.open_to_read(found)
        with contextlib.closing(connection):
            question = "SELECT address, meter FROM pins WHERE meter <> '' ORDER BY address"
            return dict(connection.execute(question).fetchall()) if version else {}


def pin(path: str | os.PathLike[str], meter: str, addresses: Iterable[str]) -> None:
    """Have another meter accepted at addresses for which one is pinned; drivers that write wait meanwhile.

    Args:
        path: of the journal.
        meter: serial number of the meter.
        addresses: some of `pins`.

    Raises:
        JournalError: there is no such journal, or it cannot be written.
    """
    rows = [(clean(meter), milliseconds(datetime.now(UTC)), clean(address)) for address in addresses]
    with _used(path, "cannot be written") as found, contextlib.closing(schema.connect(found)) as connection:
        schema.version_of(connection, found)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("UPDATE pins SET meter = ?, noted_ms = ? WHERE address = ?", rows)
        connection.execute("COMMIT")


@contextlib.contextmanager
def _used(path: str | os.PathLike[str], problem: str) -> Iterator[Path]:
    found = schema.resolved(path)
    if not found.is_file():
        raise JournalError(f"{named(found)}: there is no such file")
    try:
        yield found
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
        raise JournalError(f"{named(found)} {problem}: {said(error)}") from error
