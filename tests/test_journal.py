"""The journal: every receipt once, byte for byte, with what is known of it; found again by its transaction."""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
import threading
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

import iem_dcr.journal.journal
import iem_dcr.journal.writer
from iem_dcr import ocmf
from iem_dcr.driver import KeptReceipt
from iem_dcr.errors import ConfigError, JournalError
from iem_dcr.journal import check_journal, forget, open_for_reading, open_journal
from iem_dcr.journal.entry import milliseconds
from iem_dcr.journal.schema import APPLICATION_ID, VERSION
from iem_dcr.ocmf import Outcome
from tests.support.journals import ADDRESS, METER, entries, journal, kept, noted, tuple_text
from tests.support.shared import shared

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "receipts.db"


def keep(path: Path, *receipts: KeptReceipt) -> None:
    async def main() -> None:
        async with journal(path) as opened:
            for receipt in receipts:
                await opened.keep(receipt)

    asyncio.run(main())


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# --- what is kept ---


def test_a_receipt_is_kept_byte_for_byte_with_all_that_is_known_of_it(path: Path) -> None:
    keep(path, kept(4, "T-1"))
    (entry,) = entries(path)
    assert entry.text == tuple_text(4)
    assert (entry.meter, entry.address, entry.pagination, entry.transaction_id) == (METER, ADDRESS, "T4", "T-1")
    assert entry.identification == "04AB000004"
    assert (entry.begin_text, entry.end_text) == ("2026-03-01T12:00:00,000+0100 S", "2026-03-01T12:30:00,500+0100 S")
    assert entry.begin is not None
    assert entry.begin.isoformat() == "2026-03-01T11:00:00+00:00"
    assert entry.end is not None
    assert milliseconds(entry.end) - milliseconds(entry.begin) == 1800500
    assert [str(wh) for wh in (entry.begin_wh, entry.end_wh, entry.energy_wh)] == [
        "451795.000",
        "456895.000",
        "5100.000",
    ]
    assert (entry.public_key, entry.outcome, entry.found, entry.erased) == ("3059", Outcome.VALID, False, None)
    assert entry.is_whole
    assert {finding["code"] for finding in entry.findings} == {"signature-form", "left-out"}


def test_a_genuine_receipt(path: Path) -> None:
    receipt = ocmf.parse(shared("receipts/iem-dcr-2025-unpadded-der.ocmf").read_text("utf-8"))
    keep(path, KeptReceipt(receipt, "T-1", "", None, ADDRESS, ""))
    (entry,) = entries(path)
    assert entry.text == receipt.text
    assert entry.energy_wh == receipt.energy_wh
    assert entry.begin_text in receipt.text
    assert entry.begin_text != ""
    assert entry.outcome is None


@pytest.mark.parametrize(
    "text",
    [
        "OCMF|{}|{}",
        'OCMF|{"RD":[]}|{}',
        'OCMF|{"RD":[1,{"TX":"B"},null,{"TM":3,"TX":"E"}],"PG":7,"MS":null}|{"SD":4}',
        'OCMF|{"ID":"\\ud800","MS":"\\u0000","PG":"' + "9" * 3000 + '"}|{}',
        'OCMF|{"RD":[{"TX":"B","RI":"1.8.0","RU":"kWh","RV":"1e99"},{"TX":"E","RV":"-1e-99"}]}|{}',
        'OCMF|{"TT":"€ä🎉"}|{}',
    ],
)
def test_odd_tuples_are_kept_too(text: str, path: Path) -> None:
    keep(path, KeptReceipt(ocmf.parse(text), "\ud800", "\ud800", None, "\ud800", "\ud800"))
    (entry,) = entries(path)
    assert entry.text == text
    assert entry.is_whole
    assert entry.transaction_id == "\\ud800"


def test_nobody_else_may_read_the_file(path: Path) -> None:
    async def main() -> None:
        async with journal(path) as opened:
            await opened.keep(kept(1))
            assert {file.name for file in path.parent.iterdir()} == {path.name, f"{path.name}-wal", f"{path.name}-shm"}
            assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}

    asyncio.run(main())
    assert path.stat().st_mode & 0o777 == 0o600


def test_its_pragmas(path: Path) -> None:
    keep(path, kept(1))
    connection = sqlite3.connect(path)
    try:
        found = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("user_version", "application_id", "journal_mode", "integrity_check")
        ]
    finally:
        connection.close()
    assert found == [VERSION, APPLICATION_ID, "wal", "ok"]


# --- the same once ---


def test_the_same_receipt_is_there_once_however_often_it_is_seen(path: Path) -> None:
    keep(path, *[kept(4, "T-1")] * 5)
    keep(path, kept(4, "T-1"), kept(4))
    assert [entry.transaction_id for entry in entries(path)] == ["T-1"]


def test_a_later_sighting_tells_what_was_not_known(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(path, kept(4, found=True, outcome=Outcome.NOT_CHECKED, public_key=""))
    assert [(entry.found, entry.outcome) for entry in entries(path)] == [(True, Outcome.NOT_CHECKED)]
    keep(path, kept(4, "T-1"))
    (entry,) = entries(path)
    assert (entry.transaction_id, entry.found, entry.outcome, entry.public_key) == ("T-1", False, Outcome.VALID, "3059")
    keep(path, kept(4, found=True, outcome=None, public_key=""))
    assert entries(path) == [entry]
    assert errors(caplog) == []


def test_a_transaction_is_never_replaced_by_another(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(path, kept(4, "T-1"), kept(4, "T-2"))
    assert [entry.transaction_id for entry in entries(path)] == ["T-1"]
    (error,) = errors(caplog)
    assert "T4 of meter" in error
    assert "that of transaction T-1, and was now given for transaction T-2" in error


def test_another_tuple_of_the_same_pagination_is_kept_too_and_is_an_error(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep(path, kept(4, "T-1"), kept(4, "T-2", ID="another"))
    assert [entry.identification for entry in entries(path)] == ["04AB000004", "another"]
    (error,) = errors(caplog)
    assert "two different receipts with pagination T4; both are kept" in error


def test_two_meters_may_have_the_same_paginations(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(path, kept(4, "T-1"), kept(4, "T-2", meter="1TST0000000002"))
    assert len(entries(path)) == 2
    assert errors(caplog) == []


# --- found again ---


def asked(path: Path, transaction_id: str, meter: str = METER, address: str = ADDRESS) -> str | None:
    async def main() -> str | None:
        async with journal(path) as opened:
            entry = await opened.receipt_of(transaction_id, meter=meter, address=address)
            return None if entry is None else entry.text

    return asyncio.run(main())


def test_a_receipt_is_found_by_its_transaction(path: Path) -> None:
    keep(path, kept(1, "T-1"), kept(2, "T-2"), kept(3))
    assert asked(path, "T-1") == tuple_text(1)
    assert asked(path, "T-2", address="") == tuple_text(2)
    assert asked(path, "T-2", meter="another, after it was exchanged") == tuple_text(2)
    assert asked(path, "T-2", meter="another", address="elsewhere") is None
    assert asked(path, "T-3") is None
    assert asked(path, "") is None


def test_an_id_that_was_given_to_another_transaction_has_the_receipt_of_that_one_only(path: Path) -> None:
    async def main() -> None:
        async with journal(path) as opened:
            await opened.keep(kept(1, "T-1"))
            await opened.begun(noted("T-1", meter="another"))
            assert await opened.receipt_of("T-1", meter=METER, address="") is not None
            await opened.begun(noted("T-1"))
            assert await opened.receipt_of("T-1", meter=METER, address="") is None
            assert await opened.is_of_another(kept(1).receipt, "T-1", meter=METER)
            await opened.keep(kept(2, "T-1"))
            found = await opened.receipt_of("T-1", meter=METER, address="")
            assert found is not None
            assert found.text == tuple_text(2)

    asyncio.run(main())


def test_whose_receipt_it_is(path: Path) -> None:
    async def main() -> None:
        async with journal(path) as opened:
            await opened.keep(kept(1, "T-1"))
            await opened.keep(kept(2))
            assert await opened.is_of_another(kept(1).receipt, "T-2", meter="")
            assert not await opened.is_of_another(kept(1).receipt, "T-1", meter="")
            assert not await opened.is_of_another(kept(2).receipt, "T-1", meter="")
            assert not await opened.is_of_another(kept(3).receipt, "T-1", meter="")

    asyncio.run(main())


def test_a_damaged_tuple_is_not_found(path: Path) -> None:
    keep(path, kept(1, "T-1"))
    connection = sqlite3.connect(path)
    connection.execute("UPDATE receipts SET tuple = replace(CAST(tuple AS TEXT), '451', '351')")
    connection.commit()
    connection.close()
    assert asked(path, "T-1") is None
    (entry,) = entries(path)
    assert not entry.is_whole
    assert '"00000351.795"' in entry.text


# --- a disk that does not answer ---


def test_a_disk_that_hangs_holds_nobody_up_who_opens_a_journal(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = threading.Event()
    asked: list[object] = []

    def hanging(found: object) -> Path:
        asked.append(found)
        answers.wait(30)
        return path

    monkeypatch.setattr(iem_dcr.journal.journal, "resolved", hanging)
    monkeypatch.setattr(iem_dcr.journal.journal, "PLACE_WITHIN_S", 0.01)

    async def main() -> None:
        first, second = open_journal(path), open_journal(path)
        assert not answers.is_set()
        assert len(asked) == 1  # the second meter does not wait for what the first waited for in vain
        assert first.path == path
        await first.keep(kept(4))
        await first.close()
        await second.close()

    try:
        asyncio.run(main())
    finally:
        answers.set()
    assert len(entries(path)) == 1
    assert "its disk does not answer" in errors(caplog)[0]


def test_a_name_that_no_file_can_have_is_said_to_who_opens_it() -> None:
    """And is no thread's traceback, nor a disk that does not answer."""
    with pytest.raises(ValueError, match="null byte"):
        open_journal("receipts\0.db")


# --- one writer for many ---


def test_all_journals_of_one_file_share_a_writer_and_a_commit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    commit = iem_dcr.journal.writer.Writer._commit

    def counted(connection: sqlite3.Connection, batch: list[iem_dcr.journal.writer.Work]) -> list[str | Exception]:
        sizes.append(len(batch))
        return commit(connection, batch)

    monkeypatch.setattr(iem_dcr.journal.writer.Writer, "_commit", staticmethod(counted))
    (path.parent / "link").symlink_to(path)

    async def main() -> None:
        first, second = open_journal(path), open_journal(path.parent / "link")
        assert len([thread for thread in threading.enumerate() if thread.name == "journal"]) == 1
        await asyncio.gather(*(first.keep(kept(number)) for number in range(600)))
        await first.close()
        await first.close()
        await second.keep(kept(600))
        with pytest.raises(JournalError, match="closed"):
            await first.keep(kept(601))
        await second.close()

    asyncio.run(main())
    assert len(entries(path)) == 601
    assert sum(sizes) >= 601
    assert max(sizes) > 50


def test_different_days_to_keep_in_one_process_are_said_and_the_longest_holds(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        journals = [open_journal(path, days) for days in (30, 30, 365, 0, 5)]
        assert journals[0]._shared.writer.keep_days == 0
        for opened in journals:
            await opened.close()

    asyncio.run(main())
    assert [record.getMessage().partition("journal_keep_days: ")[2] for record in caplog.records] == [
        "365 holds", "0 holds", "0 holds",
    ]  # fmt: skip


def test_closing_writes_what_waits_and_a_wait_that_was_given_up_changes_nothing(path: Path) -> None:
    async def main() -> None:
        opened = open_journal(path)
        waiting = [asyncio.create_task(opened.keep(kept(number))) for number in range(50)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await opened.close()

    asyncio.run(main())
    assert len(entries(path)) == 50
    assert not (path.parent / f"{path.name}-wal").exists()


def test_a_journal_serves_several_loops(path: Path) -> None:
    async def main() -> None:
        opened = open_journal(path)
        loop = asyncio.get_running_loop()
        works = [functools.partial(asyncio.run, opened.keep(kept(number))) for number in range(5)]
        await asyncio.gather(*(loop.run_in_executor(None, work) for work in works))
        await opened.close()

    asyncio.run(main())
    assert len(entries(path)) == 5


# --- files that are none ---


def test_a_newer_version_is_refused_and_left_as_it_is(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(path, kept(1))
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={VERSION + 1}")
    connection.close()
    before = path.read_bytes()

    async def main() -> None:
        async with journal(path) as opened:
            with pytest.raises(JournalError, match=f"of version {VERSION + 1}.*install a newer iem-dcr"):
                await opened.keep(kept(2))

    asyncio.run(main())
    assert path.read_bytes() == before
    assert len(errors(caplog)) == 2
    assert "were not written when the process ended" in errors(caplog)[-1]
    assert "receipt T2" in errors(caplog)[-1]
    with pytest.raises(ConfigError, match="install a newer iem-dcr"):
        check_journal(path)
    with pytest.raises(JournalError, match="install a newer iem-dcr"):
        entries(path)
    with pytest.raises(JournalError, match="install a newer iem-dcr"):
        forget(path, transaction_id="T-1")


def foreign_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (x)")
    connection.commit()
    connection.close()


def foreign_text(path: Path) -> None:
    path.write_text("root:x:0:0:root:/root:/bin/sh\n" * 100)


@pytest.mark.parametrize("make", [foreign_database, foreign_text])
def test_another_programs_file_is_refused_and_left_as_it_is(make: Callable[[Path], None], path: Path) -> None:
    make(path)
    before = path.read_bytes()

    async def main() -> None:
        async with journal(path) as opened:
            with pytest.raises(JournalError, match="no journal of receipts; change journal_path"):
                await opened.keep(kept(2))

    asyncio.run(main())
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with pytest.raises(JournalError):
        entries(path)


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("nowhere/receipts.db", "its folder does not exist; create it"),
        (".", "this is no file"),
        ("file/receipts.db", "its folder does not exist"),
    ],
)
def test_a_place_where_no_file_can_be(tmp_path: Path, place: str, what: str) -> None:
    (tmp_path / "file").touch()

    async def main() -> None:
        async with journal(tmp_path / place) as opened:
            with pytest.raises(JournalError, match=what):
                await opened.keep(kept(2))

    asyncio.run(main())
    with pytest.raises(ConfigError, match=what):
        check_journal(tmp_path / place)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_file_of_another_kind_does_not_pass_the_check(path: Path) -> None:
    content = bytes(range(255, 0, -1)) * 20
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"journal_path: .*: this is no journal of receipts; change journal_path"):
        check_journal(path)
    assert path.read_bytes() == content


def test_what_can_be_a_journal_passes_the_check(path: Path) -> None:
    check_journal(path)
    assert not path.exists()
    path.touch()
    check_journal(path)
    keep(path, kept(1))
    check_journal(path)
    path.write_bytes(b"\0" * 8192)
    check_journal(path)
    assert entries_or_error(path) == "cannot be read"


def entries_or_error(path: Path) -> str:
    with pytest.raises(JournalError) as error:
        entries(path)
    return "cannot be read" if "cannot be read" in str(error.value) else str(error.value)


# --- reading ---


def test_reading_a_part(path: Path) -> None:
    receipts = [kept(number, f"T-{number % 3}", end=f"2026-03-0{number + 1}T10:00:00,000") for number in range(9)]
    other = replace(kept(20, "T-9"), receipt=ocmf.parse('OCMF|{"MS":"other","PG":"T20"}|{}'))
    keep(path, *receipts, other)
    all_entries = entries(path)
    assert [entry.pagination for entry in all_entries] == [*(f"T{number}" for number in range(9)), "T20"]
    assert [entry.pagination for entry in entries(path, transaction_id="T-1")] == ["T1", "T4", "T7"]
    assert [entry.pagination for entry in entries(path, meter="other")] == ["T20"]
    third, fifth = all_entries[2].end, all_entries[4].end
    assert [entry.pagination for entry in entries(path, begin=third, end=fifth)] == ["T2", "T3"]
    assert [entry.pagination for entry in entries(path, begin=all_entries[9].kept)] == ["T20"]
    with open_for_reading(path) as reader:
        assert reader.count(transaction_id="T-1", begin=third) == 2
        assert reader.count() == 10


def test_reading_goes_on_while_it_is_written_and_holds_nothing_up(path: Path) -> None:
    async def main() -> None:
        async with journal(path) as opened:
            await asyncio.gather(*(opened.keep(kept(number)) for number in range(300)))
            with open_for_reading(path) as reader:
                reading = reader.entries()
                assert next(reading).pagination == "T0"
                await opened.keep(kept(300))
                assert sum(1 for _ in reading) == 300

    asyncio.run(main())


def test_reading_makes_nothing_and_leaves_nothing_behind(path: Path) -> None:
    with pytest.raises(JournalError, match="there is no such file"), open_for_reading(path):
        pass
    assert list(path.parent.iterdir()) == []
    path.touch()
    with pytest.raises(JournalError, match="nothing was ever kept in it"), open_for_reading(path):
        pass
    keep(path, kept(1))
    before = path.read_bytes()
    assert len(entries(path)) == 1
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_energies_are_exact(path: Path) -> None:
    text = (
        'OCMF|{"PG":"T1","RD":[{"TX":"B","RI":"1.8.0","RU":"Wh","RV":0.1},'
        '{"TX":"E","RI":"1.8.0","RU":"Wh","RV":12345678901234567890.123456789}]}|{}'
    )
    keep(path, KeptReceipt(ocmf.parse(text), "", "", None))
    (entry,) = entries(path)
    assert entry.energy_wh == Decimal("12345678901234567890.023456789")
