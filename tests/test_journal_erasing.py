"""Erasing on request, and deleting what is old: what goes is gone from the file, and no clock takes the rest along."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import iem_dcr.journal.erasing
import iem_dcr.journal.upkeep
import iem_dcr.journal.writer
from iem_dcr.errors import JournalError
from iem_dcr.journal import forget, open_for_reading
from iem_dcr.journal.entry import Row
from iem_dcr.journal.filing import file_row
from iem_dcr.journal.schema import open_for_writing
from iem_dcr.journal.upkeep import CLOCK_STEP, PRUNED_AT_ONCE, trusted_clock
from tests.support.journals import METER, entries, journal, kept, tuple_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from iem_dcr.driver import KeptReceipt

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
NEVER_SET = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "receipts.db"


def keep(path: Path, *receipts: KeptReceipt) -> None:
    async def main() -> None:
        async with journal(path) as opened:
            await asyncio.gather(*(opened.keep(receipt) for receipt in receipts))

    asyncio.run(main())


# --- erasing ---


def files(path: Path) -> bytes:
    """Return the bytes of the file and of those beside it."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*")))


def test_the_tuple_and_the_ids_go_and_the_sums_stay(path: Path) -> None:
    keep(path, *(kept(number, f"transaction-{number}") for number in range(200)))
    before = entries(path)[77]
    erased = forget(path, identification="04AB000077")
    assert erased.is_overwritten
    assert erased.elsewhere == ()
    (entry,) = erased.entries
    assert entries(path)[77] == entry
    assert (entry.text, entry.identification, entry.transaction_id, entry.findings) == ("", "", "", ())
    assert entry.erased is not None
    same = ("id", "meter", "address", "pagination", "begin_text", "end_text", "begin", "end", "energy_wh", "public_key")
    assert [getattr(entry, name) for name in same] == [getattr(before, name) for name in same]
    rest = files(path)
    for gone in ("04AB000077", "transaction-77", tuple_text(77), "300000004d"):
        assert gone.encode() not in rest
    assert rest.count(b"OCMF|") == 199


def test_every_receipt_of_a_person_goes_also_where_pages_were_split_and_a_driver_writes(path: Path) -> None:
    async def main() -> None:
        async with journal(path) as opened:
            for first in range(0, 300, 100):
                receipts = [
                    kept(n, f"t-{n * 7919 % 1000}", ID="the-person" if n % 3 else None)
                    for n in range(first, first + 100)
                ]
                await asyncio.gather(*(opened.keep(receipt) for receipt in receipts))
            loop = asyncio.get_running_loop()
            erasing = loop.run_in_executor(None, lambda: forget(path, identification="the-person"))
            await asyncio.gather(*(opened.keep(kept(number)) for number in range(1000, 1020)))
            erased = await erasing
            assert len(erased.entries) == 200
            assert erased.is_overwritten
            assert b"the-person" not in files(path)
            assert await opened.receipt_of(f"t-{7919 % 1000}", meter=METER, address="") is None

    asyncio.run(main())
    assert len(entries(path)) == 320


def test_erasing_by_transaction(path: Path) -> None:
    keep(path, kept(1, "T-1"), kept(2, "T-2"), kept(3, "T-2"))
    assert [entry.pagination for entry in forget(path, transaction_id="T-2").entries] == ["T2", "T3"]
    assert [entry.text for entry in entries(path)] == [tuple_text(1), "", ""]
    assert forget(path, transaction_id="T-2").entries == ()
    assert forget(path).entries == ()


def test_what_was_erased_does_not_come_back_when_the_meter_shows_it_again(path: Path) -> None:
    keep(path, kept(1, "T-1"))
    forget(path, transaction_id="T-1")
    keep(path, kept(1, "T-1"), kept(1, found=True))
    (entry,) = entries(path)
    assert (entry.text, entry.transaction_id) == ("", "")
    assert b"04AB000001" not in files(path)


def test_while_somebody_reads_it_is_not_said_to_be_overwritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iem_dcr.journal.erasing, "OVERWRITTEN_WITHIN_S", 0.0)
    monkeypatch.setattr("iem_dcr.journal.schema.BUSY_S", 0.05)
    keep(path, kept(1, "T-1"))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM receipts").fetchone() == (1,)
    assert not forget(path, transaction_id="T-1").is_overwritten
    reader.close()
    assert forget(path, transaction_id="T-1").is_overwritten
    assert b"04AB000001" not in files(path)


def test_corrupt_files_in_which_it_may_still_stand_are_named(path: Path) -> None:
    keep(path, kept(1, "T-1"))
    aside = path.with_name(f"{path.name}.corrupt-20260101T000000Z")
    aside.touch()
    aside.with_name(f"{aside.name}-wal").touch()
    assert forget(path, transaction_id="T-1").elsewhere == (aside,)


def test_a_journal_that_is_none(path: Path) -> None:
    with pytest.raises(JournalError, match="there is no such file"):
        forget(path, transaction_id="T-1")
    path.write_text("something else " * 100)
    with pytest.raises(JournalError, match="erasing was not completed"):
        forget(path, transaction_id="T-1")
    assert path.read_text() == "something else " * 100


# --- what is old ---


@pytest.fixture
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    connection = open_for_writing(path)
    yield connection
    connection.close()


def file_at(connection: sqlite3.Connection, number: int, when: datetime, **fields: str) -> None:
    file_row(connection, Row.of(kept(number, f"T-{number}", **fields), when))


def left(path: Path) -> list[int]:
    return [int(entry.pagination[1:]) for entry in entries(path)]


def prune(connection: sqlite3.Connection, path: Path, keep_days: int, now: datetime) -> int:
    counts = list(iem_dcr.journal.upkeep.prune(connection, path, keep_days, now))
    assert all(count <= PRUNED_AT_ONCE for count in counts)
    return sum(counts)


def run_daily(connection: sqlite3.Connection, path: Path, keep_days: int, first: datetime, days: int) -> int:
    return sum(prune(connection, path, keep_days, first + number * DAY) for number in range(days))


def test_what_is_older_than_the_days_goes(
    opened: sqlite3.Connection, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "iem_dcr.journal")
    for number in range(500):
        file_at(opened, number, NOW - (500 - number) * DAY)
    assert prune(opened, path, 365, NOW) == 135
    assert left(path) == list(range(135, 500))
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "135 receipts older than 365 days were deleted"
    ]
    assert prune(opened, path, 30, NOW + DAY / 2) == 0
    assert prune(opened, path, 30, NOW + DAY) == 336
    assert prune(opened, path, 0, NOW + 5000 * DAY) == 0


def test_what_was_erased_stays_so_that_it_does_not_come_back(opened: sqlite3.Connection, path: Path) -> None:
    for number in range(3):
        file_at(opened, number, NOW - (400 - number) * DAY)
    forget(path, transaction_id="T-1")
    file_at(opened, 4, NOW)
    assert prune(opened, path, 365, NOW) == 2
    assert left(path) == [1, 4]


def test_a_host_without_a_clock_deletes_nothing_and_what_it_kept_is_not_old_when_it_has_one(
    opened: sqlite3.Connection, path: Path
) -> None:
    for number in range(3):
        file_at(opened, number, NEVER_SET + number * DAY, end="1970-01-02T00:00:00,000")
    assert prune(opened, path, 1, NEVER_SET + 4 * DAY) == 0
    file_at(opened, 3, NOW)
    assert run_daily(opened, path, 30, NOW, 29) == 0
    assert left(path) == [0, 1, 2, 3]
    assert run_daily(opened, path, 30, NOW + 29 * DAY, 3) == 4


def test_the_meters_time_counts_where_the_host_had_none(opened: sqlite3.Connection, path: Path) -> None:
    file_at(opened, 1, NEVER_SET, end="2026-01-01T00:00:00,000")
    file_at(opened, 2, NOW)
    assert prune(opened, path, 120, NOW) == 1
    assert left(path) == [2]


def test_a_clock_that_leaps_ahead_does_not_take_everything_along(
    opened: sqlite3.Connection, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(100):
        file_at(opened, number, NOW - (100 - number) * DAY)
    assert prune(opened, path, 365, NOW) == 0
    leapt = datetime(2080, 1, 1, tzinfo=UTC)
    file_at(opened, 100, leapt)
    assert run_daily(opened, path, 365, leapt, 30) == 0
    assert "the host's clock is far ahead" in caplog.text
    file_at(opened, 101, NOW + 30 * DAY)
    assert run_daily(opened, path, 365, NOW + 30 * DAY, 200) == 0
    assert len(left(path)) == 102
    # Kept at a time that never came, it is as old as what stands behind it.
    assert run_daily(opened, path, 365, NOW + 230 * DAY, 400) == 102


def test_a_journal_that_lay_for_years_is_cleared_up_little_by_little(opened: sqlite3.Connection, path: Path) -> None:
    file_at(opened, 1, NOW)
    assert prune(opened, path, 30, NOW) == 0
    assert prune(opened, path, 30, NOW + 1000 * DAY) == 0
    assert run_daily(opened, path, 30, NOW + 1001 * DAY, 10) == 1


moments = st.datetimes(datetime(1970, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@settings(deadline=None)
@given(st.lists(moments, min_size=1, max_size=30), moments)
def test_the_trusted_clock_never_leaps_and_is_never_ahead_of_the_hosts(nows: list[datetime], newest: datetime) -> None:
    before: datetime | None = None
    for now in nows:
        clock = trusted_clock(now, before, newest)
        if clock is None:
            assert now.year < 2025
            continue
        assert clock <= now
        assert clock <= (newest if before is None else before) + CLOCK_STEP
        before = clock


def test_a_process_prunes_when_it_has_run_for_a_while(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iem_dcr.journal.writer, "FIRST_PRUNING_S", 0.1)
    connection = open_for_writing(path)
    file_at(connection, 1, datetime.now(UTC) - 366 * DAY)
    file_at(connection, 2, datetime.now(UTC) - 364 * DAY)
    file_at(connection, 3, datetime.now(UTC))
    connection.close()

    async def main() -> None:
        async with journal(path):
            while left(path) != [2, 3]:
                await asyncio.sleep(0.02)

    asyncio.run(main())


def test_a_long_pruning_lets_receipts_through(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iem_dcr.journal.writer, "FIRST_PRUNING_S", 0.1)
    monkeypatch.setattr(iem_dcr.journal.upkeep, "PRUNED_AT_ONCE", 1)
    connection = open_for_writing(path)
    connection.execute("BEGIN")
    for number in range(300):
        file_at(connection, number, datetime.now(UTC) - 366 * DAY)
    file_at(connection, 300, datetime.now(UTC))
    connection.execute("COMMIT")
    connection.close()

    async def main() -> None:
        async with journal(path) as opened:
            while len(entries(path)) > 290:
                await asyncio.sleep(0)
            await opened.keep(kept(301))
            assert len(entries(path)) > 2
            while left(path) != [300, 301]:
                await asyncio.sleep(0.02)

    asyncio.run(main())


def test_what_was_deleted_is_overwritten(opened: sqlite3.Connection, path: Path) -> None:
    for number in range(50):
        file_at(opened, number, NOW - 400 * DAY)
    file_at(opened, 50, NOW)
    assert prune(opened, path, 365, NOW) == 50
    opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert files(path).count(b"OCMF|") == 1
    with open_for_reading(path) as reader:
        assert reader.count() == 1
