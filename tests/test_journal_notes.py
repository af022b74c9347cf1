"""What a journal notes of transactions for the next process: begun and without a receipt yet, or refused."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from iem_dcr.errors import JournalError
from iem_dcr.journal import forget
from iem_dcr.journal.journal import REFUSALS_WAIT_WITH
from iem_dcr.journal.notes import recall
from iem_dcr.journal.schema import connect_for_reading
from tests.support.journals import ADDRESS, METER, entries, journal, kept, noted, written

if TYPE_CHECKING:
    from pathlib import Path

    from iem_dcr.journal import Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "receipts.db"


def test_what_was_begun_is_awaited_until_its_receipt_is_there(path: Path) -> None:
    began = datetime(2026, 3, 1, 12, tzinfo=UTC)

    async def main() -> None:
        async with journal(path) as opened:
            for note in (noted("T-1"), noted("T-2", began=began, PG_before=None), noted("T-3", meter="another"),
                         noted("T-4", meter="elsewhere", address="192.0.2.9:80"), noted("T-1")):  # fmt: skip
                await opened.begun(note)
            await opened.keep(kept(1, "T-3", meter="another"))
        async with journal(path) as opened:
            found = (await opened.recall(meter=METER, address=ADDRESS)).awaited
            assert [(each.transaction_id, each.ID, each.meter, each.PG_before, each.began) for each in found] == [
                ("T-2", "04AB000001", METER, None, began),
                ("T-1", "04AB000001", METER, "T0", None),
            ]
            await opened.keep(kept(2, "T-2"))
            assert [each.transaction_id for each in (await opened.recall(meter=METER, address="")).awaited] == ["T-1"]
        assert not forget(path, identification="04AB000001").elsewhere
        async with journal(path) as opened:
            assert await opened.recall(meter=METER, address=ADDRESS) == ((), ())
            for number in range(100):
                await opened.begun(noted(f"N-{number}"))
            found = (await opened.recall(meter=METER, address="")).awaited
            assert [each.transaction_id for each in found] == [f"N-{number}" for number in range(36, 100)]

    asyncio.run(main())


def test_a_note_is_withdrawn_once_and_no_other_with_it(path: Path) -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    first, second, third = (
        noted("T-1", PG_before=f"T{number}", noted=at + timedelta(seconds=number)) for number in range(3)
    )

    async def standing(opened: Journal) -> list[tuple[str, str | None]]:
        await written(opened)
        return [(one.transaction_id, one.PG_before) for one in (await opened.recall(meter=METER, address="")).awaited]

    async def main() -> None:
        async with journal(path) as opened:
            for note in (first, noted("T-2"), second):
                await opened.begun(note)
            assert await standing(opened) == [("T-2", "T0"), ("T-1", "T1")]
            for _ in range(3):
                opened.withdraw(second)
                assert await standing(opened) == [("T-1", "T0"), ("T-2", "T0")]
            await opened.begun(third)
            opened.withdraw(first)
            opened.withdraw(second)
            assert await standing(opened) == [("T-2", "T0"), ("T-1", "T2")]
            await opened.keep(kept(3, "T-1"))
            assert await standing(opened) == [("T-2", "T0")]
            opened.withdraw(noted("T-2", meter="another"))
            assert await standing(opened) == [("T-2", "T0")]

    asyncio.run(main())


def test_a_withdrawal_comes_after_its_note_and_before_the_next_however_long_the_disk_takes(path: Path) -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)

    async def main() -> None:
        async with journal(path) as opened:
            await written(opened)
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as locked:
                locked.execute("BEGIN IMMEDIATE")
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(opened.begun(noted("T-1", noted=at)), 0.01)
                opened.withdraw(noted("T-1", noted=at))
                opened.refused("T-1", meter=METER, address=ADDRESS)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(opened.begun(noted("T-2", noted=at)), 0.01)
                opened.withdraw(noted("T-2", noted=at))
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(opened.begun(noted("T-2", noted=at, PG_before="T9")), 0.01)
                locked.execute("COMMIT")
            await written(opened)
            found = await opened.recall(meter=METER, address="")
            assert [(one.transaction_id, one.PG_before) for one in found.awaited] == [("T-2", "T9")]
            assert found.refused == ("T-1",)

    asyncio.run(main())


def test_an_id_is_refused_until_something_is_begun_under_it(path: Path) -> None:
    async def refused(opened: Journal, meter: str = METER, address: str = "") -> tuple[str, ...]:
        await written(opened)
        return (await opened.recall(meter=meter, address=address)).refused

    async def main() -> None:
        async with journal(path) as opened:
            for transaction_id in ("T-1", "T-2", "T-3", "T-1"):
                opened.refused(transaction_id, meter="", address=ADDRESS)
            opened.refused("T-4", meter="another", address="elsewhere")
            assert await refused(opened, address=ADDRESS) == ("T-2", "T-3", "T-1")
            await opened.begun(noted("T-2"))
            await opened.keep(kept(1, "T-3"))
            assert await refused(opened, address=ADDRESS) == ("T-1",)
            opened.refused("T-2", meter="", address=ADDRESS)
            opened.refused("T-2", meter=METER, address="elsewhere")
            assert await refused(opened, address=ADDRESS) == ("T-1",)
            assert await refused(opened, meter="another") == ("T-4",)
            for number in range(100):
                opened.refused(f"N-{number}", meter=METER, address=ADDRESS)
            assert await refused(opened) == tuple(f"N-{number}" for number in range(36, 100))
        forget(path, transaction_id="N-99")
        async with journal(path) as opened:
            assert (await refused(opened))[-2:] == ("N-97", "N-98")

    asyncio.run(main())


def test_refused_starts_leave_room_for_receipts_however_many_wait(path: Path) -> None:
    async def main() -> None:
        async with journal(path) as opened:
            await written(opened)
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as locked:
                locked.execute("BEGIN IMMEDIATE")
                for number in range(REFUSALS_WAIT_WITH):
                    opened.refused(f"N-{number}", meter=METER, address=ADDRESS)
                with pytest.raises(JournalError, match="not noted"):
                    opened.refused("one too many", meter=METER, address=ADDRESS)
                keeping = asyncio.create_task(opened.keep(kept(1, "T-1")))
                await asyncio.sleep(0)
                locked.execute("COMMIT")
            await keeping
        assert [entry.transaction_id for entry in entries(path)] == ["T-1"]

    asyncio.run(main())


def test_a_journal_of_before_such_notes_were_made_awaits_nothing(path: Path) -> None:
    async def keep_one() -> None:
        async with journal(path) as opened:
            await opened.keep(kept(1, "T-1"))

    asyncio.run(keep_one())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE begun; DROP TABLE refused")
    with contextlib.closing(connect_for_reading(path)) as connection:
        assert recall(connection, meter=METER, address=ADDRESS) == ((), ())
    assert len(forget(path, transaction_id="T-1").entries) == 1
