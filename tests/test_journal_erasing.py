"""Erasing on request, and deleting what is old: what goes is gone from the file, and no clock takes the rest along."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from iem_dcr.errors import JournalError
from iem_dcr.journal import forget, maintenance
from tests.support.driving import logged
from tests.support.journals import METER, NOW, Desk, changing, entries, entry, failure, journal, keep, kept, tuple_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = timedelta(days=1)
HOURS_S = 3600.0
NEVER_SET = datetime(1970, 1, 1, tzinfo=UTC)


# --- erasing ---


def files(path: Path) -> bytes:
    """Return the bytes of the file and of those beside it."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*")))


def test_erasing_removes_tuple_and_ids_and_keeps_energy(path: Path) -> None:
    keep(path, *(kept(number, f"transaction-{number}") for number in range(200)))
    before = entries(path)[77]
    erased = forget(path, identification="04AB000077")
    assert erased.is_overwritten
    assert erased.elsewhere == ()
    assert (erased.receipts, erased.notes) == (1, 0)
    gone = entries(path)[77]
    assert (gone.text, gone.identification, gone.transaction_id, gone.findings) == ("", "", "", ())
    assert gone.erased is not None
    same = ("id", "meter", "address", "pagination", "begin_text", "end_text", "begin", "end", "energy_wh", "public_key")
    assert [getattr(gone, name) for name in same] == [getattr(before, name) for name in same]
    rest = files(path)
    for text in ("04AB000077", "transaction-77", tuple_text(77), "300000004d"):
        assert text.encode() not in rest
    assert rest.count(b"OCMF|") == 199


def test_erasing_all_receipts_of_a_person_while_a_driver_writes(path: Path) -> None:
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
            assert (erased.receipts, erased.is_overwritten) == (200, True)
            assert b"the-person" not in files(path)
            assert await opened.receipt_of(f"t-{7919 % 1000}", meter=METER, address="") is None

    asyncio.run(main())
    assert len(entries(path)) == 320


def test_receipts_of_a_transaction_are_erased_and_do_not_come_back_when_the_meter_shows_them(path: Path) -> None:
    keep(path, kept(1, "T-1"), kept(2, "T-2"), kept(3, "T-2"))
    assert [forget(path, transaction_id="T-2").receipts for _ in range(2)] == [2, 0]
    assert forget(path).receipts == 0
    keep(path, kept(2, "T-2"), kept(3, found=True))
    assert [(found.text, found.transaction_id) for found in entries(path)] == [
        (tuple_text(1), "T-1"),
        ("", ""),
        ("", ""),
    ]
    assert b"04AB000002" not in files(path)


def test_erasing_is_not_reported_as_overwritten_while_a_reader_is_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "OVERWRITE_TIMEOUT_S", 0.0)
    keep(path, kept(1, "T-1"))
    with changing(path) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM receipts").fetchone() == (1,)
        assert not forget(path, transaction_id="T-1").is_overwritten
    assert forget(path, transaction_id="T-1").is_overwritten
    assert b"04AB000001" not in files(path)


def test_damaged_files_that_may_contain_the_receipt_are_named(path: Path) -> None:
    keep(path, kept(1, "T-1"))
    aside = path.with_name(f"{path.name}.corrupt-20260101T000000Z")
    aside.touch()
    aside.with_name(f"{aside.name}-wal").touch()
    assert forget(path, transaction_id="T-1").elsewhere == (aside,)


def test_erasing_in_a_file_that_is_no_journal(path: Path) -> None:
    with pytest.raises(JournalError, match="there is no such file"):
        forget(path, transaction_id="T-1")
    path.touch()
    assert forget(path, transaction_id="T-1").receipts == 0
    path.write_text("something else " * 100)
    with pytest.raises(JournalError, match="erasing was not completed"):
        forget(path, transaction_id="T-1")
    assert path.read_text() == "something else " * 100


# --- what is old ---


class Years(Desk):
    """A journal through which days pass."""

    def keep_at(self, number: int, now: datetime, **fields: str) -> None:
        self.now = now
        self.keep(kept(number, f"T-{number}", **fields))

    def prune(self, first: datetime, days: int = 1) -> int:
        """Let days pass from a time of the host on; returns how many receipts are deleted."""
        before = len(entries(self.path))
        for day in range(days):
            self.now = first + day * DAY
            self.worker.wait(24 * HOURS_S)
        return before - len(entries(self.path))

    @property
    def left(self) -> list[int]:
        return [int(found.pagination[1:]) for found in entries(self.path)]


@pytest.fixture
def years(path: Path) -> Iterator[Years]:
    made = Years(path)
    made.worker.run()
    yield made
    made.journal.abandon()


def test_receipts_older_than_keep_days_are_deleted_and_overwritten(
    years: Years, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "iem_dcr.journal")
    for number in range(500):
        years.keep_at(number, NOW - (500 - number) * DAY)
    years.now = NOW
    years.worker.wait(0.9 * HOURS_S)
    assert len(years.left) == 500
    years.worker.wait(0.2 * HOURS_S)
    assert years.left == list(range(135, 500))
    (told,) = logged(caplog, level=logging.INFO)
    assert told.endswith(": 135 receipts older than 365 days were deleted")
    years.journal.keep_days = 30
    assert years.prune(NOW + DAY / 2) == 0
    assert years.prune(NOW + DAY) == 336
    years.journal.keep_days = 0
    assert years.prune(NOW + 5000 * DAY) == 0
    years.journal.abandon()
    assert files(years.path).count(b"OCMF|") == 29


def test_erased_receipt_is_not_pruned(years: Years) -> None:
    for number in range(3):
        years.keep_at(number, NOW - (400 - number) * DAY)
    forget(years.path, transaction_id="T-1")
    years.keep_at(4, NOW)
    assert years.prune(NOW) == 2
    assert years.left == [1, 4]


def test_host_without_a_clock_prunes_nothing(years: Years) -> None:
    years.journal.keep_days = 1
    years.journal.note(entry("N-1", noted=NEVER_SET))
    for number in range(3):
        years.keep_at(number, NEVER_SET + number * DAY, end="1970-01-02T00:00:00,000")
    assert years.prune(NEVER_SET + 4 * DAY) == 0
    years.journal.keep_days = 30
    years.keep_at(3, NOW)
    assert years.prune(NOW, 29) == 0
    assert years.prune(NOW + 29 * DAY, 3) == 4
    assert [one.transaction_id for one in years.recall().entries] == ["N-1"]


def test_entries_and_refused_ids_are_pruned_too(years: Years) -> None:
    years.now = NOW - 400 * DAY
    years.journal.note(entry("N-1", noted=years.now))
    years.refuse("R-1")
    years.now = NOW
    years.journal.note(entry("N-2", noted=NOW))
    years.refuse("R-2")
    years.keep_at(1, NOW)
    years.prune(NOW)
    recalled = years.recall()
    assert [one.transaction_id for one in recalled.entries] == ["N-2"]
    assert recalled.refused == ("R-2",)


def test_time_of_the_meter_counts_if_the_host_had_none(years: Years) -> None:
    years.journal.keep_days = 120
    years.keep_at(1, NEVER_SET, end="2026-01-01T00:00:00,000")
    years.keep_at(2, NOW)
    assert years.prune(NOW) == 1
    assert years.left == [2]


def test_clock_that_leaps_ahead_prunes_nothing(years: Years, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(100):
        years.keep_at(number, NOW - (100 - number) * DAY)
    assert years.prune(NOW) == 0
    leapt = datetime(2080, 1, 1, tzinfo=UTC)
    years.keep_at(100, leapt)
    assert years.prune(leapt, 30) == 0
    assert "the host's clock is far ahead" in caplog.text
    years.keep_at(101, NOW + 30 * DAY)
    assert years.prune(NOW + 30 * DAY, 200) == 0
    assert len(years.left) == 102
    # Kept at a time that never came, it is as old as what stands behind it.
    assert years.prune(NOW + 230 * DAY, 400) == 102


def test_journal_unused_for_years_is_not_pruned_at_once(years: Years) -> None:
    years.journal.keep_days = 30
    years.keep_at(1, NOW)
    assert years.prune(NOW) == 0
    assert years.prune(NOW + 1000 * DAY) == 0
    assert years.prune(NOW + 1001 * DAY, 10) == 1


def test_failed_pruning_is_tried_again_hours_later(years: Years, caplog: pytest.LogCaptureFixture) -> None:
    years.keep_at(1, NOW - 400 * DAY)
    years.keep_at(2, NOW)
    years.worker.now_s += HOURS_S
    assert years.worker.step(failure("SQLITE_FULL"))
    assert "old receipts were not deleted: the disk is full" in caplog.text
    assert years.left == [1, 2]
    years.worker.wait(6 * HOURS_S)
    assert years.left == [2]
