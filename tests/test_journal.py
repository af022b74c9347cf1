"""The journal: every receipt once, byte for byte, with what is known of it; found again by its transaction."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from iem_dcr import ocmf
from iem_dcr.driver.ports import FiledReceipt, KeptReceipt
from iem_dcr.errors import ConfigError, JournalError
from iem_dcr.journal import check_journal, forget, open_for_reading, open_journal, pins, records
from iem_dcr.journal.schema import APPLICATION_ID, VERSION
from iem_dcr.ocmf import Outcome
from tests.support.driving import logged
from tests.support.journals import ADDRESS, METER, changing, desk, entries, journal, keep, kept, result, tuple_text

if TYPE_CHECKING:
    from pathlib import Path

    from iem_dcr.driver import ports


# --- what is kept ---


def test_receipt_is_kept_byte_for_byte_with_its_data(path: Path) -> None:
    keep(path, kept(4, "T-1", accepted=False))
    (found,) = entries(path)
    assert found.text == tuple_text(4)
    assert (found.meter, found.address, found.pagination, found.transaction_id) == (METER, ADDRESS, "T4", "T-1")
    assert found.identification == "04AB000004"
    assert (found.begin_text, found.end_text) == ("2026-03-01T12:00:00,000+0100 S", "2026-03-01T12:30:00,500+0100 S")
    assert found.begin == datetime.fromisoformat("2026-03-01T11:00:00+00:00")
    assert found.end == found.begin + timedelta(seconds=1800.5)
    energies = [str(wh) for wh in (found.begin_wh, found.end_wh, found.energy_wh)]
    assert energies == ["451795.000", "456895.000", "5100.000"]
    assert (found.public_key, found.outcome, found.accepted) == ("3059", Outcome.VALID, False)
    assert (found.found, found.erased, found.is_whole) == (False, None, True)
    assert {finding["code"] for finding in found.findings} == {"signature-form", "left-out"}
    assert found.findings[0]["severity"] == "error"


def test_receipt_that_cannot_be_examined_is_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(records, "examine", lambda _: 1 / 0)
    keep(path, kept(1))
    assert [(found.text, found.findings) for found in entries(path)] == [(tuple_text(1), ())]
    assert "kept without findings" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "OCMF|{}|{}",
        'OCMF|{"RD":[1,{"TX":"B"},null,{"TM":3,"TX":"E"}],"PG":7,"MS":null}|{"SD":4}',
        'OCMF|{"ID":"\\ud800","MS":"\\u0000","PG":"' + "9" * 3000 + '"}|{}',
        'OCMF|{"RD":[{"TX":"B","RI":"1.8.0","RU":"kWh","RV":"1e99"},{"TX":"E","RV":"-1e-99"}]}|{}',
        'OCMF|{"TT":"€ä🎉"}|{}',
    ],
    ids=["empty", "wrong types", "surrogates", "huge numbers", "beyond ASCII"],
)
def test_odd_tuples_are_kept_too(text: str, path: Path) -> None:
    keep(path, KeptReceipt(ocmf.parse(text), "\ud800", "\ud800", None, address="\ud800", meter="\ud800"))
    (found,) = entries(path)
    assert (found.text, found.is_whole, found.transaction_id) == (text, True, "\\ud800")


def test_only_its_user_may_read_the_file(path: Path) -> None:
    async def main() -> None:
        async with journal(path) as opened:
            await opened.keep(kept(1))
            assert {file.name for file in path.parent.iterdir()} == {path.name, f"{path.name}-wal", f"{path.name}-shm"}
            assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}

    asyncio.run(main())
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o600
    pragmas = {"user_version": VERSION, "application_id": APPLICATION_ID, "journal_mode": "wal"}
    with changing(path) as connection:
        assert {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas} == pragmas


# --- the same once ---


def test_receipt_is_kept_once_and_a_later_sighting_adds_what_was_not_known(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep(path, *[kept(4, found=True, outcome=Outcome.NOT_CHECKED, public_key="")] * 2)
    assert [(one.found, one.outcome) for one in entries(path)] == [(True, Outcome.NOT_CHECKED)]
    keep(path, kept(4, "T-1", accepted=False))
    (one,) = entries(path)
    assert (one.transaction_id, one.found, one.outcome, one.public_key) == ("T-1", False, Outcome.VALID, "3059")
    assert not one.accepted
    keep(path, kept(4, found=True, outcome=None, public_key=""))
    assert entries(path) == [one]
    assert logged(caplog, level=logging.ERROR) == []


@pytest.mark.parametrize(
    ("second", "ids", "said"),
    [
        (kept(4, "T-2"), ["T-1"], "T4 of meter .* under transaction T-1, but now came for transaction T-2"),
        (kept(4, "T-2", ID="another"), ["T-1", "T-2"], "two different receipts with pagination T4; both are kept"),
        (kept(4, "T-2", meter="1TST0000000002"), ["T-1", "T-2"], ""),
    ],
    ids=["another id", "another receipt", "another meter"],
)
def test_conflict_with_a_kept_receipt_is_an_error_and_both_are_kept(
    second: KeptReceipt, ids: list[str], said: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep(path, kept(4, "T-1"), second)
    assert [found.transaction_id for found in entries(path)] == ids
    errors = logged(caplog, level=logging.ERROR)
    assert len(errors) == bool(said)
    assert not said or re.search(said, errors[0])


# --- found again ---


def asked(path: Path, transaction_id: str, meter: str = METER, address: str = ADDRESS) -> FiledReceipt | None:
    with desk(path) as made:
        return made.receipt_of(transaction_id, meter, address)


def test_receipt_is_found_by_its_transaction(path: Path) -> None:
    keep(path, kept(1, "T-1"), kept(2, "T-2"), kept(3))
    assert asked(path, "T-1") == FiledReceipt(tuple_text(1), "T-1", "3059")
    second = FiledReceipt(tuple_text(2), "T-2", "3059")
    assert asked(path, "T-2", address="") == second
    assert asked(path, "T-2", meter="another, after it was exchanged") == second
    assert asked(path, "T-2", meter="another", address="elsewhere") is None
    assert asked(path, "T-3") is None
    assert asked(path, "") is None


@pytest.mark.parametrize("value", ["7", "x'ff'", "'x'", "-1e300", "9223372036854775807", "'{\"a\": 1}'"])
def test_damaged_row_is_read_as_far_as_possible(value: str, path: Path) -> None:
    keep(path, kept(1, "T-1"), kept(2, "T-2"), kept(3, "T-3"))
    columns = ["id", "meter", "pagination", "digest", "transaction_id", "tuple"]
    with changing(path) as connection:
        others = {column for _, column, *_ in connection.execute("PRAGMA table_info(receipts)")} - {*columns}
        changes = ", ".join(f"{column} = {value}" for column in others if column != "erased_ms")
        connection.execute(f"UPDATE receipts SET {changes} WHERE id = 1")  # noqa: S608
        connection.execute(f"UPDATE receipts SET digest = {value}, tuple = {value} WHERE id = 2")  # noqa: S608
        connection.execute(
            "UPDATE receipts SET tuple = CAST(replace(CAST(tuple AS TEXT), '451', '351') AS BLOB) WHERE id = 3"
        )
    first, second, third = entries(path)
    assert (first.text, first.is_whole, first.transaction_id, first.findings) == (tuple_text(1), True, "T-1", ())
    assert (second.is_whole, second.energy_wh) == (False, Decimal("3100.000"))
    assert (third.is_whole, '"00000351.795"' in third.text) == (False, True)
    assert [asked(path, name) for name in ("T-2", "T-3")] == [None, None]


# --- one for many ---


def test_all_users_of_a_file_share_one_journal_and_its_thread(path: Path) -> None:
    async def main() -> None:
        first, second = open_journal(path), open_journal(path)
        port: ports.Journal = first
        assert len([thread for thread in threading.enumerate() if thread.name == "journal"]) == 1
        await asyncio.gather(*(first.keep(kept(number)) for number in range(600)))
        await first.close()
        await second.keep(kept(600))
        await second.close()
        with pytest.raises(JournalError, match=r"is closed: receipt T601 of meter .* is NOT kept"):
            await port.keep(kept(601))
        with pytest.raises(JournalError, match="is closed"):
            await port.recall(meter=METER, address=ADDRESS)

    asyncio.run(main())
    assert len(entries(path)) == 601


def test_waiting_writes_are_one_commit(path: Path) -> None:
    with desk(path) as made:
        for number in range(600):
            made.journal.keep(kept(number))
        assert made.worker.step()
        assert made.journal.unwritten == 100
        assert len(entries(path)) == 500


def test_longest_journal_keep_days_of_a_process_applies(path: Path) -> None:
    async def main() -> None:
        journals = [open_journal(path, days) for days in (30, 365, 5)]
        assert journals[0].keep_days == 365
        journals.append(open_journal(path, 0))
        assert journals[0].keep_days == 0
        for opened in journals:
            await opened.close()

    asyncio.run(main())


def test_closing_writes_what_waits_also_for_callers_that_gave_up(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "iem_dcr.journal")

    async def main() -> None:
        opened = open_journal(path)
        waiting = [asyncio.ensure_future(opened.keep(kept(number))) for number in range(50)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        opened.keep(kept(50))
        await opened.close()

    asyncio.run(main())
    assert len(entries(path)) == 51
    assert not (path.parent / f"{path.name}-wal").exists()
    assert logged(caplog, level=logging.INFO) == [f"receipts are kept in journal {path}"]


def test_journal_serves_several_loops(path: Path) -> None:
    async def main() -> None:
        opened = open_journal(path)
        loop = asyncio.get_running_loop()
        works = [functools.partial(result, opened.keep(kept(number))) for number in range(5)]
        await asyncio.gather(*(loop.run_in_executor(None, work) for work in works))
        await opened.close()

    asyncio.run(main())
    assert len(entries(path)) == 5


# --- files that are none ---


def test_newer_version_is_refused_and_left_unchanged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(path, kept(1))
    with changing(path) as connection:
        connection.execute(f"PRAGMA user_version={VERSION + 1}")
    before = path.read_bytes()

    async def main() -> None:
        async with journal(path) as opened:
            assert (await opened.recall(meter=METER, address=ADDRESS)).receipts == ()
            with pytest.raises(JournalError, match=f"has version {VERSION + 1}.*install a newer iem-dcr"):
                await opened.keep(kept(2))

    asyncio.run(main())
    assert path.read_bytes() == before
    errors = logged(caplog, level=logging.ERROR)
    assert len(errors) == 3  # at the start, and once more for the last try
    assert f"{path}: not written when the process ended: receipt T2 of meter {METER}" in errors[-1]
    for use in (check_journal, entries, pins, forget):
        with pytest.raises((ConfigError, JournalError), match="install a newer iem-dcr"):
            use(path)


@pytest.mark.parametrize("what", ["a database", "a text", "bytes"])
def test_file_of_another_program_is_refused_and_left_unchanged(what: str, path: Path) -> None:
    if what == "a database":
        with changing(path) as connection:
            connection.execute("CREATE TABLE mine (x)")
    else:
        path.write_bytes(
            b"root:x:0:0:root:/root:/bin/sh\n" * 100 if what == "a text" else bytes(range(255, 0, -1)) * 20
        )
    before = path.read_bytes()
    problem = "(not a journal of receipts|another program's database); change journal_path"
    with desk(path) as made:
        assert made.recall().entries == ()
        assert made.receipt_of("T-1") is None
        answer = made.journal.keep(kept(2))
        made.worker.run()
        with pytest.raises(JournalError, match=problem):
            result(answer)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with pytest.raises(JournalError):
        entries(path)
    with pytest.raises(ConfigError, match=f"journal_path: journal {path}: .*{problem}"):
        check_journal(path)


@pytest.mark.parametrize(
    ("place", "what", "level"),
    [
        ("nowhere/receipts.db", "its folder does not exist; create it", logging.WARNING),
        (".", "it is not a regular file", logging.ERROR),
        ("file/receipts.db", "its folder does not exist", logging.WARNING),
    ],
)
def test_path_where_no_file_can_be(
    tmp_path: Path, place: str, what: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with desk(tmp_path / place) as made:
        assert made.recall().entries == ()
        with pytest.raises(JournalError, match=what):
            result(made.journal.keep(kept(2)))
        for _ in range(10):
            made.worker.wait(3)
        assert made.journal.unwritten == 1
    assert [record.levelno for record in caplog.records if record.levelno > logging.DEBUG] == [level]
    assert "a kill now loses" in caplog.text
    with pytest.raises(ConfigError, match=what):
        check_journal(tmp_path / place)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_check_accepts_what_can_be_a_journal(path: Path) -> None:
    check_journal(path)
    assert not path.exists()
    path.touch()
    check_journal(path)
    keep(path, kept(1))
    check_journal(path)
    path.write_bytes(b"\0" * 8192)
    check_journal(path)
    with pytest.raises(JournalError, match=f"journal {path} cannot be read"):
        entries(path)


# --- reading ---


def test_reader_filters_entries(path: Path) -> None:
    receipts = [kept(number, f"T-{number % 3}", end=f"2026-03-0{number + 1}T10:00:00,000") for number in range(9)]
    other = replace(kept(20, "T-9"), receipt=ocmf.parse('OCMF|{"MS":"other","PG":"T20"}|{}'))
    keep(path, *receipts)
    with changing(path) as connection:
        connection.execute("UPDATE receipts SET kept_ms = kept_ms - 1000")
    keep(path, other)
    all_entries = entries(path)

    def paginations(**conditions: object) -> list[str]:
        return [found.pagination for found in entries(path, **conditions)]

    assert paginations() == [*(f"T{number}" for number in range(9)), "T20"]
    assert paginations(transaction_id="T-1") == ["T1", "T4", "T7"]
    assert paginations(meter="other") == ["T20"]
    assert paginations(begin=all_entries[2].end, end=all_entries[4].end) == ["T2", "T3"]
    assert paginations(begin=all_entries[9].kept) == ["T20"]
    with open_for_reading(path) as reader:
        assert [found.pagination for found in reader.latest(METER, 2)] == ["T8", "T7"]
        assert reader.entry(all_entries[3].id) == all_entries[3]
        assert reader.entry(1000) is None


def test_reader_and_writer_do_not_block_each_other(path: Path) -> None:
    with desk(path) as made:
        made.keep(*(kept(number) for number in range(300)))
        with open_for_reading(path) as reader:
            reading = reader.entries()
            assert next(reading).pagination == "T0"
            made.keep(kept(300))
            assert sum(1 for _ in reading) == 300


def test_reading_creates_and_changes_no_file(path: Path) -> None:
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
