"""Maintenance of a journal while drivers write it: reading, erasing, pinning, deleting old receipts.

* Reading changes nothing. Rows are fetched a few at a time, so that a reader does not prevent the writer from
  checkpointing. A damaged row is read as far as possible.
* Erasing removes the tuple and everything that names a person. Meter, pagination, times and energies stay. The digest
  prevents the tuple from being stored again. The file is rebuilt, because split pages may hold copies.
* Age is judged by a clock that cannot leap. It follows the host's clock by at most a week per pruning, and pruning is
  daily, so a wrong year does not delete everything. A receipt that was kept while the host's clock was not set, or was
  ahead, is deleted with its neighbours. A host whose clock is not set deletes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from iem_dcr.errors import JournalError
from iem_dcr.journal import schema
from iem_dcr.journal.file import moved_aside
from iem_dcr.journal.records import FIRST_SANE, clean, instant_of, milliseconds
from iem_dcr.journal.schema import describe, named
from iem_dcr.ocmf import Outcome

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_log = logging.getLogger("iem_dcr.journal")

READ_AT_ONCE: Final = 200
"""Entries in memory at a time."""
PRUNING_INTERVAL: Final = timedelta(hours=20)
CLOCK_STEP: Final = timedelta(days=7)
"""The trusted clock, which decides what is old, moves at most this far from one pruning to the next."""
OVERWRITE_TIMEOUT_S: Final = 2.0
"""How long erasing waits for readers that still see the erased data. Drivers cannot write meanwhile."""

_UNREADABLE = " cannot be read: {}; is it a journal, and may this user read it?"
_NOT_ERASED = ": erasing was not completed: {}. Do it again"
_TRUSTED = "trusted_clock_ms"
_PRUNED = "pruned_ms"
_TEXTS = ("meter", "address", "pagination", "transaction_id", "identification", "begin_text", "end_text", "public_key")
_OF_ID = ":transaction <> '' AND transaction_id = :transaction"
_OF_BOTH = f"(({_OF_ID}) OR (:person <> '' AND identification = :person))"
_TO_FORGET = {"receipts": f"erased_ms IS NULL AND {_OF_BOTH}", "ledger": _OF_BOTH, "refused": _OF_ID}
"""The tables that name a person, each with the condition of the rows to erase."""


# --- reading ---


@dataclass(frozen=True, slots=True)
class Entry:
    """One receipt in the journal.

    Attributes:
        id: number of the entry in its file; a later one is larger.
        meter: serial number of the meter.
        address: address of the meter, ``host:port``.
        pagination: PG, or "".
        transaction_id: the station's id, or "" if it is unknown or was erased.
        identification: ID of the tuple, or "" if it has none or was erased.
        begin_text: TM of the begin reading, as the meter wrote it; "" without one.
        begin: the same as an instant in UTC, or None.
        end_text: TM of the end reading.
        end: the same as an instant in UTC, or None.
        begin_wh: import register at the beginning, Wh, exact; None if the tuple has none.
        end_wh: the same at the end.
        energy_wh: imported energy, Wh, exact.
        text: the tuple byte for byte, or "" if it was erased.
        public_key: hex of the meter's DER key, or "".
        outcome: result of the signature check, or None if it was not checked.
        accepted: False if the signature is valid but the transparency software refuses the receipt.
        findings: further findings when it was kept: objects with code, severity, reading, field and text.
        found: the receipt was found on the meter and never delivered to the station.
        kept: host's time when it was first kept.
        erased: host's time when it was erased on request, or None.
        is_whole: the tuple is the one that was kept. False if the file was damaged or the tuple erased.
    """

    id: int
    meter: str
    address: str
    pagination: str
    transaction_id: str
    identification: str
    begin_text: str
    begin: datetime | None
    end_text: str
    end: datetime | None
    begin_wh: Decimal | None
    end_wh: Decimal | None
    energy_wh: Decimal | None
    text: str
    public_key: str
    outcome: Outcome | None
    accepted: bool
    findings: tuple[Mapping[str, object], ...]
    found: bool
    kept: datetime
    erased: datetime | None
    is_whole: bool


def _entry_of(row: sqlite3.Row) -> Entry:
    """Make an entry from a row. A damaged value reads as empty."""
    texts = {name: "" if row[name] is None else str(row[name]) for name in _TEXTS}
    raw = row["tuple"] if isinstance(row["tuple"], bytes) else str(row["tuple"] or "").encode()
    return Entry(
        id=row["id"],
        **texts,
        begin=instant_of(row["begin_ms"]),
        end=instant_of(row["end_ms"]),
        begin_wh=_decimal(row["begin_wh"]),
        end_wh=_decimal(row["end_wh"]),
        energy_wh=_decimal(row["energy_wh"]),
        text=raw.decode("utf-8", "replace"),
        outcome=next((outcome for outcome in Outcome if outcome.value == row["outcome"]), None),
        accepted=bool(row["accepted"]),
        findings=_findings(row["findings"]),
        found=bool(row["found"]),
        kept=instant_of(row["kept_ms"]) or datetime.fromtimestamp(0, UTC),
        erased=instant_of(row["erased_ms"]),
        is_whole=hashlib.sha256(raw).digest() == row["digest"],
    )


def _findings(text: str) -> tuple[Mapping[str, object], ...]:
    try:
        return tuple(one for one in json.loads(text) if isinstance(one, dict))
    except (ValueError, TypeError, RecursionError):
        return ()


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text) if text else None
    except (ArithmeticError, TypeError):
        return None


class JournalReader:
    """A journal open for reading, made by `open_for_reading`. A read error raises `JournalError`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    def entries(
        self,
        begin: datetime | None = None,
        end: datetime | None = None,
        *,
        transaction_id: str | None = None,
        meter: str | None = None,
    ) -> Iterator[Entry]:
        """Yield entries in the order in which they were kept, a few at a time from the file.

        Args:
            begin: only entries from this time on, aware. The time of an entry is the end of its transaction, or the
                time when it was kept if the tuple has no end.
            end: only entries before this time.
            transaction_id: only entries of this transaction.
            meter: only entries of the meter with this serial number.
        """
        conditions: dict[str, object] = {
            "coalesce(end_ms, kept_ms) >= ?": begin and milliseconds(begin),
            "coalesce(end_ms, kept_ms) < ?": end and milliseconds(end),
            "transaction_id = ?": None if transaction_id is None else clean(transaction_id),
            "meter = ?": None if meter is None else clean(meter),
        }
        given = {condition: value for condition, value in conditions.items() if value is not None}
        question = f"WHERE {' AND '.join(['id > ?', *given])} ORDER BY id LIMIT {READ_AT_ONCE}"
        last = 0
        while found := self._rows(question, last, *given.values()):
            yield from found
            last = found[-1].id

    def latest(self, meter: str, count: int) -> list[Entry]:
        """Return the latest entries of the meter with this serial number, the newest first."""
        return self._rows("WHERE meter = ? ORDER BY id DESC LIMIT ?", clean(meter), count)

    def entry(self, number: int) -> Entry | None:
        """Return the entry with this number, or None."""
        return next(iter(self._rows("WHERE id = ?", number)), None)

    def _rows(self, which: str, *values: object) -> list[Entry]:
        with _journal(self._path):
            return [_entry_of(row) for row in self._connection.execute(f"SELECT * FROM receipts {which}", values)]


@contextlib.contextmanager
def open_for_reading(path: str | os.PathLike[str]) -> Iterator[JournalReader]:
    """Open a journal for reading, also while drivers write it.

    Raises:
        JournalError: the file is absent, empty, unreadable or of a newer version.
    """
    with contextlib.ExitStack() as stack:
        with _journal(path) as found:
            connection, version = stack.enter_context(schema.reading(found))
            if not version:
                raise JournalError("the file is empty: nothing was ever kept in it")
            connection.execute("COMMIT")
            connection.row_factory = sqlite3.Row
        yield JournalReader(found, connection)


def pins(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the serial number that is pinned for each address, ``host:port``.

    Raises:
        JournalError: there is no such journal, or it cannot be read.
    """
    with _journal(path) as found, schema.reading(found) as (connection, version):
        question = "SELECT address, meter FROM pins WHERE meter <> '' ORDER BY address"
        return dict(connection.execute(question).fetchall()) if version else {}


@contextlib.contextmanager
def _journal(path: str | os.PathLike[str], problem: str = _UNREADABLE) -> Iterator[Path]:
    """Yield the path of an existing journal, links followed. Errors on it become a `JournalError` that names it."""
    found = schema.resolved(path)
    if not found.is_file():
        raise JournalError(f"{named(found)}: there is no such file")
    try:
        yield found
    except JournalError as error:
        raise JournalError(f"{named(found)}: {error}") from error
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
        raise JournalError(f"{named(found)}{problem.format(describe(error))}") from error


# --- changing on request ---


def pin(path: str | os.PathLike[str], meter: str, addresses: Iterable[str]) -> None:
    """Pin another meter at addresses that have a pin. Drivers that write wait meanwhile.

    Args:
        path: path of the journal.
        meter: serial number of the meter.
        addresses: keys of `pins`.

    Raises:
        JournalError: there is no such journal, or it cannot be written.
    """
    rows = [(clean(meter), milliseconds(datetime.now(UTC)), clean(address)) for address in addresses]
    with (
        _journal(path, " cannot be written: {}") as found,
        contextlib.closing(schema.connect(found)) as connection,
        connection,
    ):
        if _begin(connection) == schema.VERSION:  # others have no pins
            connection.executemany("UPDATE pins SET meter = ?, noted_ms = ? WHERE address = ?", rows)


def count_to_forget(
    path: str | os.PathLike[str], *, identification: str = "", transaction_id: str = ""
) -> tuple[int, int]:
    """Return how many receipts `forget` would erase, and how many notes of transactions without a receipt.

    Raises:
        JournalError: there is no such journal, or it cannot be read.
    """
    which = {"transaction": clean(transaction_id), "person": clean(identification)}
    with _journal(path) as found, schema.reading(found) as (connection, version):
        questions = [f"SELECT count(*) FROM {table} WHERE {rows}" for table, rows in _TO_FORGET.items()]
        receipts, *notes = (connection.execute(each, which).fetchone()[0] if version else 0 for each in questions)
        return receipts, sum(notes)


@dataclass(frozen=True, slots=True)
class Erased:
    """The result of erasing.

    Attributes:
        receipts: number of erased receipts.
        notes: number of deleted notes of transactions without a receipt.
        is_overwritten: the bytes are gone from the file and its side files. False if another process reads the file for
            too long; erase again later.
        elsewhere: damaged journals that were moved aside, which may still contain the data.
    """

    receipts: int
    notes: int
    is_overwritten: bool
    elsewhere: tuple[Path, ...]


def forget(path: str | os.PathLike[str], *, identification: str = "", transaction_id: str = "") -> Erased:
    """Erase the receipts of a person's id or of a transaction. The erased evidence cannot be restored.

    Drivers that write wait meanwhile. Rebuilding the file needs free space of its own size.

    Args:
        path: path of the journal.
        identification: ID of the tuples, exactly as signed; "" for none.
        transaction_id: the station's id; "" for none.

    Raises:
        JournalError: there is no such journal, or it cannot be written. The message says if entries were erased but
            not overwritten yet.
    """
    which = {"transaction": clean(transaction_id), "person": clean(identification)}
    with _journal(path, _NOT_ERASED) as found:
        with contextlib.closing(schema.connect(found)) as connection:
            with connection:
                version = _begin(connection)
                receipts, notes = _erase(connection, which, version) if version else (0, 0)
            # Done even if nothing was left to erase: an earlier call may have been interrupted before this.
            connection.execute("VACUUM")
            connection.execute(f"PRAGMA busy_timeout={OVERWRITE_TIMEOUT_S * 1000:.0f}")
            (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return Erased(receipts, notes, not is_busy, moved_aside(found))


def _begin(connection: sqlite3.Connection) -> int:
    """Begin a transaction that writes. Returns the version of the file, 0 for an empty one."""
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("BEGIN IMMEDIATE")
    return schema.version_of(connection)


def _erase(connection: sqlite3.Connection, which: dict[str, str], version: int) -> tuple[int, int]:
    receipts = connection.execute(
        "UPDATE receipts SET tuple = NULL, identification = '', transaction_id = '', findings = '[]',"
        f" erased_ms = :now WHERE {_TO_FORGET['receipts']}",
        {**which, "now": milliseconds(datetime.now(UTC))},
    )
    ledger = "begun" if version == 1 else "ledger"
    entries = connection.execute(f"DELETE FROM {ledger} WHERE {_TO_FORGET['ledger']}", which)
    refused = connection.execute(f"DELETE FROM refused WHERE {_TO_FORGET['refused']}", which)
    return receipts.rowcount, entries.rowcount + refused.rowcount


# --- deleting what is old ---


def prune(connection: sqlite3.Connection, path: Path, keep_days: int, now: datetime) -> None:
    """Delete receipts older than ``keep_days``, unless that was done today; 0 deletes nothing.

    Runs inside the caller's transaction.
    """
    state = dict(connection.execute("SELECT name, value FROM state").fetchall())
    pruned = instant_of(state.get(_PRUNED))
    if now < FIRST_SANE or (pruned is not None and timedelta() <= now - pruned < PRUNING_INTERVAL):
        return
    (newest_ms,) = connection.execute("SELECT max(age_ms) FROM receipts").fetchone()
    known = instant_of(state.get(_TRUSTED)) or instant_of(newest_ms) or now
    clock = min(now, known + CLOCK_STEP)
    values = {
        "cutoff": milliseconds(clock - timedelta(days=keep_days)),
        "clock": milliseconds(clock),
        "first": milliseconds(FIRST_SANE),
    }
    connection.executemany(
        "INSERT OR REPLACE INTO state (name, value) VALUES (?, ?)",
        [(_TRUSTED, values["clock"]), (_PRUNED, milliseconds(now))],
    )
    if not keep_days:
        return
    if clock < now:
        what = "%s: the host's clock is far ahead of the last receipt: old receipts are deleted gradually"
        _log.warning(what, named(path))
    # A note from before the host's clock was set has no known age. Later ids displace it.
    connection.execute("DELETE FROM ledger WHERE noted_us >= :first * 1000 AND noted_us < :cutoff * 1000", values)
    connection.execute("DELETE FROM refused WHERE noted_ms >= :first AND noted_ms < :cutoff", values)
    deleted = connection.execute(
        "DELETE FROM receipts WHERE id <= (SELECT max(id) FROM receipts WHERE age_ms < :cutoff) AND erased_ms IS NULL"
        " AND (age_ms < :cutoff OR age_ms IS NULL OR age_ms > :clock)",
        values,
    ).rowcount
    if deleted:
        _log.info("%s: %d receipts older than %d days were deleted", named(path), deleted, keep_days)
