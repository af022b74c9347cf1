"""Putting receipts into an open journal, and asking it for one. Every function runs inside its caller's transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iem_dcr.journal.entry import COLUMNS, Entry, Row
from iem_dcr.journal.notes import has_receipt
from iem_dcr.ocmf import Outcome

if TYPE_CHECKING:
    import sqlite3

_SELECTED = ", ".join(COLUMNS)
_INSERT = f"INSERT INTO receipts ({', '.join(Row._fields)}) VALUES ({', '.join('?' * len(Row._fields))})"  # noqa: S608
_CHECKED = (Outcome.VALID.value, Outcome.INVALID.value)


def file_row(connection: sqlite3.Connection, row: Row) -> str:
    """File a receipt, once however often it is seen.

    A later sighting tells what was not known before: the transaction, the key and the outcome of the check. It never
    replaces a transaction by another one, and brings nothing back that was erased.

    Returns:
        What is wrong with it beside what is in the journal already, or "".
    """
    if row.transaction_id:
        has_receipt(connection, row.transaction_id, meter=row.meter, address=row.address)
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
