"""Shows and changes which meter is accepted at an address. Drivers may write the journal at the same time."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from iem_dcr.journal import schema
from iem_dcr.journal.maintenance import existing, naming
from iem_dcr.journal.records import clean, milliseconds

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable


def pins(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the serial number that is pinned for each address, ``host:port``.

    Raises:
        JournalError: there is no such journal, or it cannot be read.
    """
    found = existing(path)
    with naming(found):
        connection, version = schema.open_to_read(found)
        with contextlib.closing(connection):
            question = "SELECT address, meter FROM pins WHERE meter <> '' ORDER BY address"
            return dict(connection.execute(question).fetchall()) if version else {}


def pin(path: str | os.PathLike[str], meter: str, addresses: Iterable[str]) -> None:
    """Pin another meter at addresses that have a pin. Drivers that write wait meanwhile.

    Args:
        path: path of the journal.
        meter: serial number of the meter.
        addresses: keys of `pins`.

    Raises:
        JournalError: there is no such journal, or it cannot be written.
    """
    found = existing(path)
    rows = [(clean(meter), milliseconds(datetime.now(UTC)), clean(address)) for address in addresses]
    with naming(found, " cannot be written: {}"), contextlib.closing(schema.connect(found)) as connection, connection:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        schema.version_of(connection)
        connection.executemany("UPDATE pins SET meter = ?, noted_ms = ? WHERE address = ?", rows)
