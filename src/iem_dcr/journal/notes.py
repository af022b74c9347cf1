"""Notes for the process that comes after this one: what was begun and has no receipt yet, and what was refused.

An id is in one of the two tables at most. Every function runs inside its caller's transaction.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from iem_dcr.journal.entry import clean, milliseconds

if TYPE_CHECKING:
    import sqlite3

    from iem_dcr.driver.station import NotedBegin

MOST_NOTED: Final = 64
"""So many ids of a meter are remembered whose receipts never came, and as many that were refused."""


class Awaited(NamedTuple):
    """A transaction whose receipt is not here; the names are those of `iem_dcr.driver.station.NotedBegin`."""

    transaction_id: str
    ID: str
    meter: str
    PG_before: str | None
    began: datetime | None


class Recalled(NamedTuple):
    """What is noted of a meter: see `iem_dcr.driver.station.RecalledNotes`."""

    awaited: tuple[Awaited, ...] = ()
    refused: tuple[str, ...] = ()


def note_begun(connection: sqlite3.Connection, noted: NotedBegin) -> str:
    """Note a new transaction of a meter: a receipt under its id is an older one's, its own is to come. Returns "".

    The note before it under the same id stays beneath it, in case this one is withdrawn.
    """
    meter, address, transaction_id = clean(noted.meter), clean(noted.address), clean(noted.transaction_id)
    connection.execute(
        "UPDATE receipts SET reused = 1 WHERE transaction_id = ? AND transaction_id <> '' AND meter = ? AND reused = 0",
        (transaction_id, meter),
    )
    _delete_refused(connection, transaction_id, meter=meter, address=address)
    connection.execute(
        "DELETE FROM begun WHERE meter = ? AND transaction_id = ?"
        " AND id < (SELECT max(id) FROM begun WHERE meter = ? AND transaction_id = ?)",
        (meter, transaction_id, meter, transaction_id),
    )
    connection.execute(
        "INSERT INTO begun (meter, address, transaction_id, identification, pagination_before, began_text, noted_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            meter,
            address,
            transaction_id,
            clean(noted.ID),
            None if noted.PG_before is None else clean(noted.PG_before),
            "" if noted.began is None else noted.began.isoformat(),
            milliseconds(noted.noted),
        ),
    )
    connection.execute(
        "DELETE FROM begun WHERE meter = ? AND transaction_id NOT IN"
        " (SELECT transaction_id FROM begun WHERE meter = ? GROUP BY transaction_id ORDER BY max(id) DESC LIMIT ?)",
        (meter, meter, MOST_NOTED),
    )
    return ""


def withdraw_begun(connection: sqlite3.Connection, noted: NotedBegin) -> str:
    """Take back this very note, if it is the latest under its id; the one beneath it counts again. Returns ""."""
    name = clean(noted.meter), clean(noted.transaction_id)
    connection.execute(
        "DELETE FROM begun WHERE id = (SELECT max(id) FROM begun WHERE meter = ? AND transaction_id = ?)"
        " AND noted_ms = ?",
        (*name, milliseconds(noted.noted)),
    )
    return ""


def note_refused(connection: sqlite3.Connection, transaction_id: str, *, meter: str, address: str, now_ms: int) -> str:
    """Note an id whose start was refused, unless something that was begun under it may have a receipt. Returns ""."""
    is_awaited = connection.execute(
        "SELECT 1 FROM begun WHERE transaction_id = ? AND (meter = ? OR address = ?)", (transaction_id, meter, address)
    ).fetchone()
    if is_awaited is not None:
        return ""
    _delete_refused(connection, transaction_id, meter=meter, address=address)
    connection.execute(
        "INSERT INTO refused (meter, address, transaction_id, noted_ms) VALUES (?, ?, ?, ?)",
        (meter, address, transaction_id, now_ms),
    )
    connection.execute(
        "DELETE FROM refused WHERE address = ?"
        " AND id NOT IN (SELECT id FROM refused WHERE address = ? ORDER BY id DESC LIMIT ?)",
        (address, address, MOST_NOTED),
    )
    return ""


def has_receipt(connection: sqlite3.Connection, transaction_id: str, *, meter: str, address: str) -> None:
    """Take note that the receipt of a transaction is there: no note under its id is needed any more."""
    connection.execute("DELETE FROM begun WHERE meter = ? AND transaction_id = ?", (meter, transaction_id))
    _delete_refused(connection, transaction_id, meter=meter, address=address)


def recall(connection: sqlite3.Connection, *, meter: str, address: str) -> Recalled:
    """Return what was begun on a meter, or at its address, and has no receipt yet, in order; and what was refused."""
    where = {"meter": meter, "address": address}
    awaited: tuple[Awaited, ...] = ()
    if _has_table(connection, "begun"):
        rows = connection.execute(
            "SELECT transaction_id, identification, meter, pagination_before, began_text FROM begun WHERE id IN"
            " (SELECT max(id) FROM begun WHERE meter = :meter OR address = :address GROUP BY meter, transaction_id)"
            " ORDER BY id",
            where,
        )
        awaited = tuple(
            Awaited(transaction_id, ID, serial, PG_before, _instant(began))
            for transaction_id, ID, serial, PG_before, began in rows
        )
    refused: tuple[str, ...] = ()
    if _has_table(connection, "refused"):
        rows = connection.execute(
            "SELECT transaction_id FROM refused WHERE meter = :meter OR address = :address ORDER BY id", where
        )
        refused = tuple(transaction_id for (transaction_id,) in rows)
    return Recalled(awaited, refused)


def _delete_refused(connection: sqlite3.Connection, transaction_id: str, *, meter: str, address: str) -> None:
    connection.execute(
        "DELETE FROM refused WHERE transaction_id = ? AND (meter = ? OR address = ?)", (transaction_id, meter, address)
    )


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None


def _instant(text: str) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant if instant.tzinfo is not None else None
