"""Putting receipts into an open journal, and asking it for one. Every function runs inside its caller's transaction."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from iem_dcr.journal.entry import COLUMNS, Entry, Row, clean
from iem_dcr.ocmf import Outcome

if TYPE_CHECKING:
    import sqlite3

    from iem_dcr.driver.station import NotedBegin

MOST_AWAITED: Final = 64
"""Transactions of a meter whose receipts never came that are remembered."""

_SELECTED = ", ".join(COLUMNS)
_INSERT = f"INSERT INTO receipts ({', '.join(Row._fields)}) VALUES ({', '.join('?' * len(Row._fields))})"  # noqa: S608
_CHECKED = (Outcome.VALID.value, Outcome.INVALID.value)


class Awaited(NamedTuple):
    """A transaction whose receipt is not here; the names are those of `iem_dcr.driver.station.NotedBegin`."""

    transaction_id: str
    ID: str
    meter: str
    PG_before: str | None
    began: datetime | None


def file_row(connection: sqlite3.Connection, row: Row) -> str:
    """File a receipt, once however often it is seen.

    A later sighting tells what was not known before: the transaction, the key and the outcome of the check. It never
    replaces a transaction by another one, and brings nothing back that was erased.

    Returns:
        What is wrong with it beside what is in the journal already, or "".
    """
    if row.transaction_id:
        connection.execute("DELETE FROM begun WHERE meter = ? AND transaction_id = ?", (row.meter, row.transaction_id))
    stood = connection.execute(
        "SELECT id, transaction_id, outcome, found, erased_ms FROM receipts"
        " WHERE meter = ? AND pagination = ? AND digest = ?",
        (row.meter, row.pagination, row.digest),
    ).fetchone()
    if stood is not None:
        return "" if stood[4] is not None else _seen_again(connection, row, stood[:4])
    other = connection.execute(
        "SELECT id FROM receipts WHERE meter = ? AND pagination = ? LIMIT 1", (row.meter, row.pagination)
    ).fetchone()
    connection.execute(_INSERT, row)
    if other is None:
        return ""
    return (
        f"meter {row.meter} has given two different receipts with pagination {row.pagination or 'none'}; both are kept"
    )


def note_begun(connection: sqlite3.Connection, noted: NotedBegin, now_ms: int) -> str:
    """Note a new transaction of a meter: a receipt under its id is an older one's, its own is to come. Returns ""."""
    meter, transaction_id = clean(noted.meter), clean(noted.transaction_id)
    connection.execute(
        "UPDATE receipts SET reused = 1 WHERE transaction_id = ? AND transaction_id <> '' AND meter = ? AND reused = 0",
        (transaction_id, meter),
    )
    connection.execute("DELETE FROM begun WHERE meter = ? AND transaction_id = ?", (meter, transaction_id))
    connection.execute(
        "INSERT INTO begun (meter, address, transaction_id, identification, pagination_before, began_text, noted_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            meter,
            clean(noted.address),
            transaction_id,
            clean(noted.ID),
            None if noted.PG_before is None else clean(noted.PG_before),
            "" if noted.began is None else noted.began.isoformat(),
            now_ms,
        ),
    )
    connection.execute(
        "DELETE FROM begun WHERE meter = ?"
        " AND id NOT IN (SELECT id FROM begun WHERE meter = ? ORDER BY id DESC LIMIT ?)",
        (meter, meter, MOST_AWAITED),
    )
    return ""


def awaited(connection: sqlite3.Connection, *, meter: str, address: str) -> tuple[Awaited, ...]:
    """Return what was begun on a meter, or at its address, and has no receipt yet, in order."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'begun'").fetchone() is None:
        return ()
    rows = connection.execute(
        "SELECT transaction_id, identification, meter, pagination_before, began_text FROM begun"
        " WHERE meter = ? OR address = ? ORDER BY id",
        (meter, address),
    )
    return tuple(
        Awaited(transaction_id, ID, serial, PG_before, _instant(began))
        for transaction_id, ID, serial, PG_before, began in rows
    )


def _instant(text: str) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant if instant.tzinfo is not None else None


def receipt_of(connection: sqlite3.Connection, transaction_id: str, *, meter: str, address: str) -> Entry | None:
    """Return the latest whole receipt of a transaction of a meter, or of what was at its address before."""
    rows = connection.execute(
        f"SELECT {_SELECTED} FROM receipts WHERE transaction_id = ? AND transaction_id <> ''"  # noqa: S608  columns of ours
        " AND (meter = ? OR address = ?) AND reused = 0 AND erased_ms IS NULL ORDER BY id DESC",
        (transaction_id, meter, address),
    )
    return next((entry for entry in map(Entry.of_row, rows) if entry.is_whole), None)


def is_of_another(
    connection: sqlite3.Connection, digest: bytes, transaction_id: str, *, meter: str, pagination: str
) -> bool:
    """Tell whether a tuple is known to be another transaction's: one of another id, or an older one of the same."""
    row = connection.execute(
        "SELECT transaction_id, reused FROM receipts WHERE meter = ? AND pagination = ? AND digest = ?",
        (meter, pagination, digest),
    ).fetchone()
    return row is not None and row[0] != "" and (row[0] != transaction_id or bool(row[1]))


def _seen_again(connection: sqlite3.Connection, row: Row, stood: tuple[int, str, str, int]) -> str:
    number, transaction_id, outcome, found = stood
    changes: dict[str, object] = {}
    if row.transaction_id and not transaction_id:
        changes["transaction_id"] = row.transaction_id
    if row.outcome in _CHECKED and outcome not in _CHECKED:
        changes |= {"outcome": row.outcome, "public_key": row.public_key, "findings": row.findings}
    if found and not row.found:
        changes["found"] = 0
    if changes:
        columns = ", ".join(f"{column} = ?" for column in changes)
        connection.execute(f"UPDATE receipts SET {columns} WHERE id = ?", (*changes.values(), number))  # noqa: S608
    if transaction_id and row.transaction_id not in ("", transaction_id):
        return (
            f"the receipt {row.pagination} of meter {row.meter} is in the journal as that of transaction"
            f" {transaction_id}, and was now given for transaction {row.transaction_id}; the first one stands"
        )
    return ""
