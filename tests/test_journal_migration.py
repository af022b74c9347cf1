"""A journal that was written by iem-dcr 0.1.0: nothing of it is lost, and what it noted counts."""

from __future__ import annotations

import hashlib
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from iem_dcr.driver.ports import FiledReceipt, NotedEntry, Recalled
from iem_dcr.journal import check_journal, count_to_forget, forget, pin, pins
from tests.support.bench import SERIAL
from tests.support.disks import small_disk
from tests.support.driving import live_bench, own_receipt, process, start, stop, stop_fails
from tests.support.journals import ADDRESS, METER, changing, desk, entries, kept, tuple_text, virtual_journal
from tests.support.virtual_time import virtual
from tests.test_journal_broken import assert_sound, moved_aside

if TYPE_CHECKING:
    from pathlib import Path

OLD_TABLES = """
    PRAGMA journal_mode=WAL;
    CREATE TABLE receipts (
        id INTEGER PRIMARY KEY,
        meter TEXT NOT NULL, pagination TEXT NOT NULL, digest BLOB NOT NULL, address TEXT NOT NULL,
        transaction_id TEXT NOT NULL, reused INTEGER NOT NULL DEFAULT 0, identification TEXT NOT NULL,
        begin_text TEXT NOT NULL, begin_ms INTEGER, end_text TEXT NOT NULL, end_ms INTEGER,
        begin_wh TEXT NOT NULL, end_wh TEXT NOT NULL, energy_wh TEXT NOT NULL, tuple BLOB, public_key TEXT NOT NULL,
        outcome TEXT NOT NULL, findings TEXT NOT NULL, found INTEGER NOT NULL, kept_ms INTEGER NOT NULL,
        age_ms INTEGER, erased_ms INTEGER, UNIQUE (meter, pagination, digest)
    );
    CREATE INDEX receipts_transaction ON receipts (transaction_id) WHERE transaction_id <> '';
    CREATE INDEX receipts_age ON receipts (age_ms);
    CREATE TABLE state (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS begun (
        id INTEGER PRIMARY KEY,
        meter TEXT NOT NULL, address TEXT NOT NULL, transaction_id TEXT NOT NULL, identification TEXT NOT NULL,
        pagination_before TEXT, began_text TEXT NOT NULL, noted_ms INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS refused (
        id INTEGER PRIMARY KEY,
        meter TEXT NOT NULL, address TEXT NOT NULL, transaction_id TEXT NOT NULL, noted_ms INTEGER NOT NULL
    );
    PRAGMA application_id=1229278538;
    PRAGMA user_version=1;
"""
OLD_ROWS = """
    INSERT INTO begun VALUES (1, '{meter}', '{address}', 'T-7', '04AB', 'T5', '2026-03-01T12:00:00+01:00', {noted_ms});
    INSERT INTO begun VALUES (2, 'another', 'elsewhere', 'T-7', '04AC', NULL, '', {noted_ms} + 1);
    INSERT INTO begun VALUES (3, '{meter}', '{address}', 'T-8', '04AD', NULL, '', {noted_ms} + 2);
    INSERT INTO begun VALUES (4, '{meter}', '{address}', 'T-8', '04ABT-8', '', '', {noted_ms} + 2000);
    INSERT INTO refused VALUES (1, '', '{address}', 'T-5', {noted_ms});
    INSERT INTO refused VALUES (2, '{meter}', '{address}', 'T-6', {noted_ms} + 1);
    INSERT INTO state VALUES ('trusted_clock_ms', {noted_ms}), ('pruned_ms', {noted_ms});
"""
NOTED_MS = 1_772_362_800_000
NOTED = datetime(2026, 3, 1, 11, tzinfo=UTC)
ERROR = '[{"code": "signature-form", "severity": "error", "reading": null, "field": "SD", "text": "x"}]'
INFO = '[{"code": "fiscal", "severity": "info", "reading": null, "field": "PG", "text": "x"}]'


@pytest.fixture
def old(path: Path) -> Path:
    write_old(path)
    return path


def write_old(path: Path, meter: str = METER, address: str = ADDRESS) -> None:
    """Write a journal as 0.1.0 has left it."""
    with changing(path) as connection:
        connection.executescript(OLD_TABLES)
        connection.executescript(OLD_ROWS.format(meter=meter, address=address, noted_ms=NOTED_MS))
        for number, (outcome, findings, reused) in enumerate(
            (("valid", INFO, 1), ("valid", ERROR, 0), ("invalid", ERROR, 0), ("", "[]", 0)), 1
        ):
            raw = tuple_text(number, meter=meter).encode()
            connection.execute(
                "INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?, ?, '', NULL, '', NULL, '', '', '5100.000', ?,"
                " '3059', ?, ?, 0, ?, ?, NULL)",
                (
                    number, meter, f"T{number}", hashlib.sha256(raw).digest(), address, "T-1" if number < 3 else "",
                    reused, f"04AB{number:06}", raw, outcome, findings, NOTED_MS, NOTED_MS,
                ),
            )  # fmt: skip


def recall(path: Path, **which: str) -> Recalled:
    with desk(path) as made:
        return made.recall(**which)


def noted(transaction_id: str, ID: str, PG_before: str | None, state: str, after_ms: int) -> NotedEntry:
    when = NOTED + timedelta(milliseconds=after_ms)
    return NotedEntry(transaction_id, ID, METER, ADDRESS, PG_before, None, None, state, when)


BEGAN = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=1)))
EXPECTED = Recalled(
    entries=(
        NotedEntry("T-7", "04AB", METER, ADDRESS, "T5", BEGAN, None, "lost", NOTED),
        noted("T-8", "04AD", None, "lost", 2),
        noted("T-8", "04ABT-8", "", "uncertain", 2000),
    ),
    refused=("T-5", "T-6"),
    receipts=(
        FiledReceipt(tuple_text(1), "T-1", "3059", superseded=True),
        FiledReceipt(tuple_text(2), "T-1", "3059"),
        FiledReceipt(tuple_text(3), "", "3059"),
        FiledReceipt(tuple_text(4), "", "3059"),
    ),
    newest=NOTED + timedelta(seconds=2),
)
"""Only the latest that was begun at a meter can still run: 0.1.0 took back the notes of what was refused."""


def version(path: Path) -> int:
    with changing(path) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_driver_migrates_the_file_and_recalls_its_notes(old: Path) -> None:
    check_journal(old)
    content, before = old.read_bytes(), entries(old)
    assert [(one.transaction_id, one.text, one.accepted) for one in before] == [
        ("T-1", tuple_text(1), True), ("T-1", tuple_text(2), False), ("", tuple_text(3), True),
        ("", tuple_text(4), True),
    ]  # fmt: skip
    assert (count_to_forget(old, transaction_id="T-1"), pins(old)) == ((2, 0), {})
    assert old.read_bytes() == content, "reading changes nothing"
    for _ in range(2):
        assert recall(old) == EXPECTED
        assert (version(old), entries(old)) == (2, before)
    assert [one.state for one in recall(old, meter="another", address="").entries] == ["uncertain"]
    assert_sound(old)


@virtual
async def test_driver_acts_on_migrated_notes(path: Path) -> None:
    async with live_bench() as b:
        await start(b, "T-8", for_s=2)
        write_old(path, SERIAL, b.driver.address)
        async with virtual_journal(path) as journal, process(b, journal) as (made, _):
            for refused in ("T-5", "T-6"):
                assert "was refused" in await stop_fails(made, refused)
            assert b.meter.running
            await own_receipt(made, "T-8")
            assert (await stop(made, "T-1")).text == tuple_text(2, meter=SERIAL)
            await own_receipt(made, "T-8")
    assert version(path) == 2


def test_file_on_a_read_only_disk_is_read() -> None:
    with small_disk(pages=300) as folder:
        write_old(folder / "receipts.db")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        assert recall(folder / "receipts.db") == EXPECTED


def test_reader_does_not_prevent_migration(old: Path) -> None:
    with changing(old) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM receipts").fetchone()
        assert recall(old) == EXPECTED
    assert version(old) == 2


def test_failed_migration_changes_nothing_and_is_tried_again() -> None:
    with small_disk(pages=80) as folder:
        path = folder / "receipts.db"
        write_old(path)
        before = entries(path)
        ballast = folder / "ballast"
        # What is left is enough to open it, and not for a migration.
        ballast.write_bytes(b"x" * (70 * folder.stat().st_blksize - path.stat().st_size))
        with desk(path) as made:
            made.journal.keep(kept(5))
            made.worker.run()
            assert made.journal.unwritten == 1
            assert version(path) == 1
            assert entries(path) == before
            ballast.unlink()
            made.worker.wait(3)
        assert version(path) == 2
        assert len(entries(path)) == 5


def test_erasing_does_not_migrate(old: Path) -> None:
    """A driver of version 1 that still runs could not write a migrated file."""
    pin(old, METER, [ADDRESS])
    erased = [forget(old, transaction_id=name) for name in ("T-1", "T-8", "T-5", "T-1")]
    assert [(one.receipts, one.notes) for one in erased] == [(2, 0), (0, 2), (0, 1), (0, 0)]
    assert version(old) == 1
    recalled = recall(old)
    assert [one.transaction_id for one in recalled.entries] == ["T-7"]
    assert recalled.refused == ("T-6",)
    assert [one.text for one in recalled.receipts] == [tuple_text(3), tuple_text(4)]


@pytest.mark.parametrize("damage", ["DROP TABLE begun", "ALTER TABLE receipts RENAME reused TO reuzed"])
def test_file_with_wrong_tables_for_its_version_is_moved_aside(damage: str, old: Path) -> None:
    with changing(old) as connection:
        connection.execute(damage)
    assert recall(old) == Recalled()
    assert len(moved_aside(old)) == 1
