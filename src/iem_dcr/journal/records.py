"""What a journal writes and answers: receipts, entries of the ledger, refused ids, pins.

Every function runs inside its caller's transaction:

* A receipt is one row, however often it is seen. A later sighting adds what was not known: its transaction, the check
  of its signature, that it is superseded. It never changes the transaction and restores nothing that was erased.
* An entry is one row, named by meter, id and the host's time at which it was made; a later note of it updates that row.
  A receipt removes the entries of its id; a superseded receipt removes those before the latest.
* An entry that is noted as open (its B was answered 2xx) supersedes the receipts that are stored under its id.
* An id is either in the ledger or refused. A damaged row reads as nothing.
"""

from __future__ import annotations

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
    from collections.abc import Iterable, Iterator
    from decimal import Decimal

    from iem_dcr.driver.ports import KeptReceipt
    from iem_dcr.ocmf import Reading, Receipt

_log = logging.getLogger("iem_dcr.journal")

MAX_IDS: Final = 64
"""Ids kept per meter in the ledger, entries kept per id, and refused ids kept per address."""
MAX_RECALLED: Final = 64
"""Receipts returned by `recall`."""
FIRST_SANE: Final = datetime(FIRST_SANE_YEAR, 1, 1, tzinfo=UTC)
"""A clock that says less was never set."""
OPEN: Final = "open"
STATES: Final = frozenset({"uncertain", OPEN, "ended", "lost"})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_US = timedelta(microseconds=1)
_DELETE_REFUSED = (
    "DELETE FROM refused WHERE transaction_id = :transaction_id AND (meter = :meter OR address = :address)"
)
_CHECKED = (Outcome.VALID.value, Outcome.INVALID.value)


# --- receipts ---


def keep_receipt(connection: sqlite3.Connection, kept: KeptReceipt, now: datetime) -> str:
    """Write a receipt that was given at ``now``, the host's time, and settle the entries of its id.

    Returns:
        What is wrong with it beside what is in the journal already, or "".
    """
    values = _values_of(kept, now)
    if kept.transaction_id:
        _settle_entries(connection, values, clean(kept.meter))
    same = connection.execute(
        "SELECT id, transaction_id, superseded, outcome, found, erased_ms FROM receipts"
        " WHERE meter = :meter AND pagination = :pagination AND digest = :digest",
        values,
    ).fetchone()
    if same is not None:
        return "" if same[5] is not None else _see_again(connection, values, same[:5])
    other = connection.execute(
        "SELECT id FROM receipts WHERE meter = :meter AND pagination = :pagination LIMIT 1", values
    ).fetchone()
    connection.execute(
        f"INSERT INTO receipts ({', '.join(values)}) VALUES (:{', :'.join(values)})",  # noqa: S608  columns of ours
        values,
    )
    if other is None:
        return ""
    PG = values["pagination"] or "none"
    return f"meter {values['meter']} has given two different receipts with pagination {PG}; both are kept"


def receipt_of(connection: sqlite3.Connection, transaction_id: str, *, meter: str, address: str) -> FiledReceipt | None:
    """Return the latest whole receipt that answers a stop for an id, of a meter or of what was at its address."""
    rows = connection.execute(
        "SELECT tuple, digest, transaction_id, public_key, superseded FROM receipts"
        " WHERE transaction_id = ? AND transaction_id <> '' AND (meter = ? OR address = ?)"
        " AND superseded = 0 AND erased_ms IS NULL ORDER BY id DESC",
        (clean(transaction_id), clean(meter), clean(address)),
    )
    return next(_filed(rows), None)


def _filed(rows: Iterable[tuple[object, ...]]) -> Iterator[FiledReceipt]:
    for raw, digest, transaction_id, public_key, superseded in rows:
        if isinstance(raw, bytes) and hashlib.sha256(raw).digest() == digest:
            yield FiledReceipt(raw.decode("utf-8", "replace"), str(transaction_id), str(public_key), bool(superseded))


def _see_again(connection: sqlite3.Connection, values: dict[str, object], same: tuple[int, str, int, str, int]) -> str:
    number, transaction_id, superseded, outcome, found = same
    given = values["transaction_id"]
    changed: list[str] = []
    if given and not transaction_id:
        changed.append("transaction_id")
    if values["superseded"] and not superseded and given == (transaction_id or given):
        changed.append("superseded")
    if values["outcome"] in _CHECKED and outcome not in _CHECKED:
        changed += ["outcome", "accepted", "public_key", "findings"]
    if found and not values["found"]:
        changed.append("found")
    if changed:
        columns = ", ".join(f"{column} = :{column}" for column in changed)
        connection.execute(f"UPDATE receipts SET {columns} WHERE id = :id", values | {"id": number})  # noqa: S608
    if transaction_id and given not in ("", transaction_id):
        return (
            f"the receipt {values['pagination']} of meter {values['meter']} is in the journal as that of transaction"
            f" {transaction_id}, and was now given for transaction {given}; the first one stands"
        )
    return ""


def _settle_entries(connection: sqlite3.Connection, values: dict[str, object], meter: str) -> None:
    """Remove the entries that a receipt is for; ``meter`` is the serial under which they were noted."""
    which = "transaction_id = :transaction_id AND meter IN (:meter, :noted_meter)"
    if values["superseded"]:
        which += f" AND id < (SELECT max(id) FROM ledger WHERE {which})"  # noqa: S608  a condition of ours
    else:
        connection.execute(_DELETE_REFUSED, values)
    connection.execute(f"DELETE FROM ledger WHERE {which}", values | {"noted_meter": meter})  # noqa: S608  as above


# --- the ledger ---


def note_entry(connection: sqlite3.Connection, entry: NotedEntry) -> None:
    """Write an entry, or a later state of it."""
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
    connection.execute(_DELETE_REFUSED, values)
    connection.execute(
        f"INSERT INTO ledger ({', '.join(values)}) VALUES (:{', :'.join(values)})"  # noqa: S608  columns of ours
        " ON CONFLICT (meter, transaction_id, noted_us) DO UPDATE SET "
        + ", ".join(f"{column} = excluded.{column}" for column in values),
        values,
    )
    if entry.state == OPEN:
        connection.execute(
            "UPDATE receipts SET superseded = 1 WHERE transaction_id = :transaction_id AND transaction_id <> ''"
            " AND meter = :meter AND superseded = 0",
            values,
        )
    of_meter = "FROM ledger WHERE meter = :meter"
    connection.execute(
        f"DELETE {of_meter} AND (transaction_id NOT IN"
        f" (SELECT transaction_id {of_meter} GROUP BY transaction_id ORDER BY max(id) DESC LIMIT {MAX_IDS})"
        f" OR transaction_id = :transaction_id AND id NOT IN"
        f" (SELECT id {of_meter} AND transaction_id = :transaction_id ORDER BY id DESC LIMIT {MAX_IDS}))",
        values,
    )


def withdraw_entry(connection: sqlite3.Connection, entry: NotedEntry) -> None:
    """Take back the entry of a B that was refused."""
    connection.execute(
        "DELETE FROM ledger WHERE meter = ? AND transaction_id = ? AND noted_us = ?",
        (clean(entry.meter), clean(entry.transaction_id), microseconds(entry.noted)),
    )


def note_refused(
    connection: sqlite3.Connection, transaction_id: str, *, meter: str, address: str, now: datetime
) -> None:
    """Write an id whose start was refused, unless an entry stands under it."""
    values = {
        "meter": clean(meter),
        "address": clean(address),
        "transaction_id": clean(transaction_id),
        "noted_ms": milliseconds(now),
    }
    entry = "SELECT 1 FROM ledger WHERE transaction_id = :transaction_id AND (meter = :meter OR address = :address)"
    if connection.execute(entry, values).fetchone() is not None:
        return
    connection.execute(_DELETE_REFUSED, values)
    connection.execute(
        "INSERT INTO refused (meter, address, transaction_id, noted_ms)"
        " VALUES (:meter, :address, :transaction_id, :noted_ms)",
        values,
    )
    of_address = "FROM refused WHERE address = :address"
    connection.execute(
        f"DELETE {of_address} AND id NOT IN (SELECT id {of_address} ORDER BY id DESC LIMIT {MAX_IDS})", values
    )


def note_pin(connection: sqlite3.Connection, address: str, meter: str, now: datetime) -> None:
    """Write the serial that is accepted at an address; "" for none."""
    connection.execute(
        "INSERT OR REPLACE INTO pins (address, meter, noted_ms) VALUES (?, ?, ?)",
        (clean(address), clean(meter), milliseconds(now)),
    )


def recall(connection: sqlite3.Connection, *, meter: str, address: str) -> Recalled:
    """Return what is known of a meter or of its address."""
    which = {"meter": clean(meter), "address": clean(address), "max": MAX_RECALLED}
    entries = connection.execute(
        "SELECT transaction_id, identification, meter, address, pagination_before, sent_text, answered_text, state,"
        " noted_us FROM ledger WHERE meter = :meter OR address = :address ORDER BY id",
        which,
    )
    refused = connection.execute(
        "SELECT transaction_id FROM refused WHERE meter = :meter OR address = :address ORDER BY id", which
    )
    # Two searches by index: a condition with OR would read the whole file for a meter with few receipts.
    receipts = connection.execute(
        "SELECT tuple, digest, transaction_id, public_key, superseded FROM receipts WHERE id IN ("
        " SELECT id FROM (SELECT id FROM receipts WHERE meter = :meter AND erased_ms IS NULL"
        " ORDER BY id DESC LIMIT :max)"
        " UNION SELECT id FROM (SELECT id FROM receipts WHERE address = :address AND erased_ms IS NULL"
        " ORDER BY id DESC LIMIT :max))"
        " ORDER BY id DESC LIMIT :max",
        which,
    )
    pinned = connection.execute("SELECT meter FROM pins WHERE address = :address", which).fetchone()
    return Recalled(
        entries=tuple(entry for entry in map(_entry_of, entries) if entry is not None),
        refused=tuple(str(transaction_id) for (transaction_id,) in refused),
        receipts=tuple(_filed(receipts))[::-1],
        newest=_newest(connection),
        pinned="" if pinned is None else str(pinned[0]),
    )


def _entry_of(row: tuple[object, ...]) -> NotedEntry | None:
    transaction_id, ID, meter, address, PG_before, sent, answered, state, noted_us = row
    noted = instant_of(noted_us, _US)
    if noted is None or state not in STATES:
        return None
    return NotedEntry(
        transaction_id=str(transaction_id),
        ID=str(ID),
        meter=str(meter),
        address=str(address),
        PG_before=None if PG_before is None else str(PG_before),
        sent=_time_of(sent),
        answered=_time_of(answered),
        state=str(state),
        noted=noted,
    )


def _newest(connection: sqlite3.Connection) -> datetime | None:
    """Return the newest host time that a set clock has left in the file."""
    questions = (
        ("SELECT kept_ms FROM receipts WHERE age_ms = kept_ms ORDER BY age_ms DESC LIMIT 1", _MS),
        ("SELECT max(noted_us) FROM ledger", _US),
        ("SELECT max(noted_ms) FROM refused", _MS),
        ("SELECT max(noted_ms) FROM pins", _MS),
    )
    rows = ((connection.execute(question).fetchone(), unit) for question, unit in questions)
    times = (instant_of(row[0], unit) for row, unit in rows if row is not None)
    return max((time for time in times if time is not None), default=None)


# --- values ---


def clean(text: str) -> str:
    """Make text from a station or a host fit for the file: half surrogate pairs are written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def milliseconds(instant: datetime) -> int:
    """Return an instant as whole milliseconds since 1970 UTC."""
    return (instant - _EPOCH) // _MS


def microseconds(instant: datetime) -> int:
    """Return an instant as microseconds since 1970 UTC."""
    return (instant - _EPOCH) // _US


def instant_of(number: object, unit: timedelta = _MS) -> datetime | None:
    """Return the instant that is so many units after 1970 UTC, or None where that is none."""
    try:
        return _EPOCH + number * unit if isinstance(number, int) else None
    except OverflowError:
        return None


def _time_of(text: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo is not None else None


def _values_of(kept: KeptReceipt, now: datetime) -> dict[str, object]:
    """Return what is written of a receipt, by column."""
    receipt = kept.receipt
    raw = receipt.text.encode()
    begin, end = receipt.begin, receipt.end
    kept_ms, end_ms = milliseconds(now), _ms_of(end)
    # While the host's clock is not set, the age counts from the end of the transaction, if the meter's clock was.
    ages_ms = (ms for ms in (kept_ms, end_ms) if ms is not None and ms >= milliseconds(FIRST_SANE))
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
        "begin_wh": _exact(begin.energy_wh if begin else None),
        "end_wh": _exact(end.energy_wh if end else None),
        "energy_wh": _exact(receipt.energy_wh),
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


def _exact(energy_wh: Decimal | None) -> str:
    return "" if energy_wh is None else f"{energy_wh:f}"


def _TM_text(receipt: Receipt, reading: Reading | None) -> str:  # noqa: N802  TM is OCMF's name
    """Return the TM of a reading as the tuple has it; one that is left out is that of the reading before."""
    rows = receipt.payload.get("RD")
    if reading is None or not isinstance(rows, list):
        return ""
    text = ""
    for row, made in zip(rows, receipt.readings, strict=False):
        if isinstance(row, dict) and "TM" in row:
            text = row["TM"] if isinstance(row["TM"], str) else ""
        elif not isinstance(row, dict):
            text = ""
        if made is reading:
            break
    return clean(text)


def _findings(receipt: Receipt) -> str:
    """Return what there is to say of a receipt beside its signature, as JSON."""
    names = ("code", "severity", "reading", "field", "text")
    try:
        found = [{name: getattr(finding, name) for name in names} for finding in examine(receipt)]
        return clean(json.dumps(found, ensure_ascii=False, default=lambda severity: severity.value))
    except Exception:  # noqa: BLE001  the receipt is worth more than what is said of it
        _log.exception("a receipt could not be examined; it is kept without findings")
        return "[]"
