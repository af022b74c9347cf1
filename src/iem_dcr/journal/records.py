"""The writes and questions of a journal: receipts, entries of the ledger, refused ids, pins.

Every function runs inside the caller's transaction.

* A receipt is one row, no matter how often it is seen. A later sighting adds missing facts: its transaction, the check
  of its signature, that it is superseded. It never changes a known transaction and restores nothing that was erased.
* An entry is one row. Meter, id and the host's time when it was made identify it. A later note updates that row.
  A receipt removes the entries of its id. A superseded receipt removes only those before the latest.
* An entry that is noted as open (its B was answered 2xx) supersedes the receipts that are stored under its id.
* An id is either in the ledger or refused. A damaged row is skipped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from iem_dcr.driver.ports import FiledReceipt, NotedEntry, Recalled
from iem_dcr.meter_time import FIRST_SANE_YEAR
from iem_dcr.ocmf import Outcome
from iem_dcr.ocmf.examination import examine

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping

    from iem_dcr.driver.ports import KeptReceipt
    from iem_dcr.ocmf import Reading, Receipt

_log = logging.getLogger("iem_dcr.journal")

MAX_NOTES: Final = 64
"""Entries kept per meter, and refused ids kept per address. The driver's ledger remembers no more."""
MAX_RECALLED: Final = 64
"""Receipts returned by `recall`."""
FIRST_SANE: Final = datetime(FIRST_SANE_YEAR, 1, 1, tzinfo=UTC)
"""A clock that shows an earlier time was never set."""
OPEN: Final = "open"
STATES: Final = frozenset({"uncertain", OPEN, "ended", "lost"})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_US = timedelta(microseconds=1)
_CHECKED = f"('{Outcome.VALID.value}', '{Outcome.INVALID.value}')"
_CHECKED_NOW = f"outcome NOT IN {_CHECKED} AND excluded.outcome IN {_CHECKED}"
_SEEN_AGAIN = f"""
    ON CONFLICT (meter, pagination, digest) DO UPDATE SET
        transaction_id = CASE transaction_id WHEN '' THEN excluded.transaction_id ELSE transaction_id END,
        superseded = superseded OR (excluded.superseded AND transaction_id IN ('', excluded.transaction_id)),
        found = found AND excluded.found,
        accepted = CASE WHEN {_CHECKED_NOW} THEN excluded.accepted ELSE accepted END,
        public_key = CASE WHEN {_CHECKED_NOW} THEN excluded.public_key ELSE public_key END,
        outcome = CASE WHEN {_CHECKED_NOW} THEN excluded.outcome ELSE outcome END
    WHERE erased_ms IS NULL"""
_OF_ID = "transaction_id = :transaction_id AND (meter = :meter OR address = :address)"
_FILED = "SELECT tuple, digest, transaction_id, public_key, superseded FROM receipts"


# --- receipts ---


def keep_receipt(connection: sqlite3.Connection, kept: KeptReceipt, now: datetime) -> str:
    """Write a receipt that came at ``now``, the host's time, and remove the entries of its id.

    Returns:
        A conflict with what the journal already has, for the log, or "".
    """
    values = _values_of(kept, now)
    meter, PG, given = values["meter"], values["pagination"], values["transaction_id"]
    if given:
        _settle_entries(connection, values | {"noted_meter": clean(kept.meter)})
    before = connection.execute(
        "SELECT digest = :digest AS is_same, transaction_id FROM receipts"
        " WHERE meter = :meter AND pagination = :pagination ORDER BY is_same DESC LIMIT 1",
        values,
    ).fetchone()
    _insert(connection, "receipts", values, _SEEN_AGAIN)
    if before is None:
        return ""
    is_same, owner = before
    if not is_same:
        return f"meter {meter} has given two different receipts with pagination {PG or 'none'}; both are kept"
    if not owner or given in ("", owner):
        return ""
    what = f"receipt {PG} of meter {meter} is in the journal under transaction {owner}"
    return f"{what}, but now came for transaction {given}; the journal keeps the first one"


def receipt_of(connection: sqlite3.Connection, transaction_id: str, *, meter: str, address: str) -> FiledReceipt | None:
    """Return the latest undamaged receipt that answers a stop for an id, of this meter or from this address."""
    rows = connection.execute(
        f"{_FILED} WHERE {_OF_ID} AND transaction_id <> '' AND superseded = 0 AND erased_ms IS NULL ORDER BY id DESC",
        {"transaction_id": clean(transaction_id), "meter": clean(meter), "address": clean(address)},
    )
    return next(_filed(rows), None)


def _filed(rows: Iterable[tuple[object, ...]]) -> Iterator[FiledReceipt]:
    for raw, digest, transaction_id, public_key, superseded in rows:
        if isinstance(raw, bytes) and hashlib.sha256(raw).digest() == digest:
            yield FiledReceipt(raw.decode("utf-8", "replace"), str(transaction_id), str(public_key), bool(superseded))


def _settle_entries(connection: sqlite3.Connection, values: Mapping[str, object]) -> None:
    """Remove the entries that a receipt closes. They may be noted under another serial than the receipt's."""
    which = "transaction_id = :transaction_id AND meter IN (:meter, :noted_meter)"
    if values["superseded"]:
        which += f" AND id < (SELECT max(id) FROM ledger WHERE {which})"
    else:
        connection.execute(f"DELETE FROM refused WHERE {_OF_ID}", values)
    connection.execute(f"DELETE FROM ledger WHERE {which}", values)


# --- the ledger ---


def note_entry(connection: sqlite3.Connection, entry: NotedEntry) -> None:
    """Write an entry or a later state of it."""
    values = {
        "meter": clean(entry.meter),
        "address": clean(entry.address),
        "transaction_id": clean(entry.transaction_id),
        "identification": clean(entry.ID),
        "pagination_before": None if entry.PG_before is None else clean(entry.PG_before),
        "sent_text": "" if entry.sent is None else entry.sent.isoformat(),
        "answered_text": "" if entry.answered is None else entry.answered.isoformat(),
        "state": clean(entry.state),
        "noted_us": microseconds(entry.noted),
    }
    connection.execute(f"DELETE FROM refused WHERE {_OF_ID}", values)
    changes = ", ".join(f"{column} = excluded.{column}" for column in values)
    _insert(connection, "ledger", values, f" ON CONFLICT (meter, transaction_id, noted_us) DO UPDATE SET {changes}")
    if entry.state == OPEN:
        connection.execute(
            "UPDATE receipts SET superseded = 1 WHERE transaction_id = :transaction_id AND transaction_id <> ''"
            " AND meter = :meter AND superseded = 0",
            values,
        )
    _keep_latest(connection, "ledger", "meter", values)


def withdraw_entry(connection: sqlite3.Connection, entry: NotedEntry) -> None:
    """Withdraw the entry of a B that was refused."""
    connection.execute(
        "DELETE FROM ledger WHERE meter = ? AND transaction_id = ? AND noted_us = ?",
        (clean(entry.meter), clean(entry.transaction_id), microseconds(entry.noted)),
    )


def note_refused(connection: sqlite3.Connection, transaction_id: str, meter: str, address: str, now: datetime) -> None:
    """Write the id of a start that was refused, unless the id has an entry."""
    texts = {"meter": clean(meter), "address": clean(address), "transaction_id": clean(transaction_id)}
    values = {**texts, "noted_ms": milliseconds(now)}
    if connection.execute(f"SELECT 1 FROM ledger WHERE {_OF_ID}", values).fetchone() is not None:
        return
    connection.execute(f"DELETE FROM refused WHERE {_OF_ID}", values)
    _insert(connection, "refused", values)
    _keep_latest(connection, "refused", "address", values)


def _keep_latest(connection: sqlite3.Connection, table: str, column: str, values: Mapping[str, object]) -> None:
    """Delete all but the latest rows of a table that have this value in a column."""
    rows = f"FROM {table} WHERE {column} = :{column}"
    connection.execute(f"DELETE {rows} AND id NOT IN (SELECT id {rows} ORDER BY id DESC LIMIT {MAX_NOTES})", values)


def note_pin(connection: sqlite3.Connection, address: str, meter: str, now: datetime) -> None:
    """Write the serial that is accepted at an address; "" for none."""
    connection.execute(
        "INSERT OR REPLACE INTO pins (address, meter, noted_ms) VALUES (?, ?, ?)",
        (clean(address), clean(meter), milliseconds(now)),
    )


def recall(connection: sqlite3.Connection, *, meter: str, address: str) -> Recalled:
    """Return what is known of a meter or of its address."""
    which = {"meter": clean(meter), "address": clean(address)}
    of_either = "WHERE meter = :meter OR address = :address ORDER BY id"
    entries = connection.execute(
        "SELECT transaction_id, identification, meter, address, pagination_before, sent_text, answered_text, state,"
        f" noted_us FROM ledger {of_either}",
        which,
    )
    refused = connection.execute(f"SELECT transaction_id FROM refused {of_either}", which)
    # Two searches by index, because a condition with OR would read the whole file for a meter with few receipts.
    latest = f"erased_ms IS NULL ORDER BY id DESC LIMIT {MAX_RECALLED}"
    receipts = connection.execute(
        f"{_FILED} WHERE id IN (SELECT id FROM (SELECT id FROM receipts WHERE meter = :meter AND {latest})"
        f" UNION SELECT id FROM (SELECT id FROM receipts WHERE address = :address AND {latest}))"
        f" ORDER BY id DESC LIMIT {MAX_RECALLED}",
        which,
    )
    # The newest host time from a set clock. A time after the year 9999 means a damaged row.
    (newest_us,) = connection.execute(
        "SELECT max(us) FROM (SELECT * FROM"
        " (SELECT kept_ms * 1000 AS us FROM receipts WHERE age_ms = kept_ms ORDER BY age_ms DESC LIMIT 1)"
        " UNION ALL SELECT noted_us FROM ledger UNION ALL SELECT noted_ms * 1000 FROM refused"
        " UNION ALL SELECT noted_ms * 1000 FROM pins) WHERE us < 253402300800000000"
    ).fetchone()
    pinned = connection.execute("SELECT meter FROM pins WHERE address = :address", which).fetchone()
    return Recalled(
        entries=tuple(entry for entry in map(_entry_of, entries) if entry is not None),
        refused=tuple(str(transaction_id) for (transaction_id,) in refused),
        receipts=tuple(_filed(receipts))[::-1],
        newest=instant_of(newest_us, _US),
        pinned="" if pinned is None else str(pinned[0]),
    )


def _entry_of(row: tuple[object, ...]) -> NotedEntry | None:
    transaction_id, ID, meter, address, PG_before, sent, answered, state, noted_us = row
    noted = instant_of(noted_us, _US)
    if noted is None or state not in STATES:
        return None
    PG_before = None if PG_before is None else str(PG_before)
    times = _time_of(sent), _time_of(answered)
    return NotedEntry(str(transaction_id), str(ID), str(meter), str(address), PG_before, *times, str(state), noted)


# --- values ---


def clean(text: str) -> str:
    """Return text from a station or a host that the file can store: lone surrogates are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def milliseconds(instant: datetime) -> int:
    """Return an instant as whole milliseconds since 1970 UTC."""
    return (instant - _EPOCH) // _MS


def microseconds(instant: datetime) -> int:
    """Return an instant as microseconds since 1970 UTC."""
    return (instant - _EPOCH) // _US


def instant_of(number: object, unit: timedelta = _MS) -> datetime | None:
    """Return the instant that is this many units after 1970 UTC, or None if there is no such instant."""
    try:
        return _EPOCH + number * unit if isinstance(number, int) else None
    except OverflowError:
        return None


def _time_of(text: object) -> datetime | None:
    with contextlib.suppress(ValueError):
        time = datetime.fromisoformat(str(text))
        return time if time.tzinfo is not None else None
    return None


def _insert(connection: sqlite3.Connection, table: str, values: Mapping[str, object], or_else: str = "") -> None:
    columns = f"({', '.join(values)}) VALUES (:{', :'.join(values)})"
    connection.execute(f"INSERT INTO {table} {columns}{or_else}", values)


def _values_of(kept: KeptReceipt, now: datetime) -> dict[str, object]:
    """Return the row of a receipt, by column."""
    receipt = kept.receipt
    raw = receipt.text.encode()
    begin, end = receipt.begin, receipt.end
    kept_ms, end_ms = milliseconds(now), _ms_of(end)
    # If the host's clock is not set, the age counts from the end of the transaction, provided the meter's clock is set.
    ages_ms = (ms for ms in (kept_ms, end_ms) if ms is not None and ms >= milliseconds(FIRST_SANE))
    energies = (begin and begin.energy_wh, end and end.energy_wh, receipt.energy_wh)
    begin_wh, end_wh, energy_wh = ("" if energy is None else f"{energy:f}" for energy in energies)
    return {
        "meter": clean(receipt.meter_serial or kept.meter),
        "pagination": receipt.pagination or "",
        "digest": hashlib.sha256(raw).digest(),
        "address": clean(kept.address),
        "transaction_id": clean(kept.transaction_id),
        "superseded": kept.superseded,
        "identification": receipt.identification or "",
        "begin_text": _TM_text(receipt, begin),
        "begin_ms": _ms_of(begin),
        "end_text": _TM_text(receipt, end),
        "end_ms": end_ms,
        "begin_wh": begin_wh,
        "end_wh": end_wh,
        "energy_wh": energy_wh,
        "tuple": raw,
        "public_key": clean(kept.public_key),
        "outcome": kept.outcome.value if kept.outcome is not None else "",
        "accepted": kept.accepted,
        "findings": _findings(receipt),
        "found": kept.found,
        "kept_ms": kept_ms,
        "age_ms": next(ages_ms, None),
    }


def _ms_of(reading: Reading | None) -> int | None:
    return milliseconds(reading.TM.instant) if reading is not None and reading.TM is not None else None


def _TM_text(receipt: Receipt, reading: Reading | None) -> str:  # noqa: N802  TM is OCMF's name
    """Return the TM of a reading as the tuple has it. A reading without a TM has that of the previous one."""
    rows = receipt.payload.get("RD")
    if reading is None or not isinstance(rows, list):
        return ""
    rows = rows[: receipt.readings.index(reading) + 1]
    texts = [row["TM"] for row in rows if isinstance(row, dict) and "TM" in row]
    return clean(texts[-1]) if texts and isinstance(texts[-1], str) else ""


def _findings(receipt: Receipt) -> str:
    """Return the findings on a receipt apart from its signature, as JSON."""
    names = ("code", "severity", "reading", "field", "text")
    try:
        found = [{name: getattr(finding, name) for name in names} for finding in examine(receipt)]
        return clean(json.dumps(found, ensure_ascii=False, default=lambda severity: severity.value))
    except Exception:  # noqa: BLE001  the receipt matters more than its findings
        _log.exception("a receipt could not be examined; it is kept without findings")
        return "[]"
