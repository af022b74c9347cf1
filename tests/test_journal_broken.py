"""A journal that cannot be written, is killed, damaged or taken away: nothing is lost, and nothing waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import shutil
import signal
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from iem_dcr.driver.ports import Recalled
from iem_dcr.errors import JournalError
from iem_dcr.journal import Journal
from iem_dcr.journal.store import MAX_QUESTIONS, MAX_WAITING, MAX_WAITING_BYTES, MAX_WAITING_NOTES
from tests.support.driving import logged
from tests.support.journals import (
    ADDRESS,
    METER,
    Desk,
    LoopWorker,
    desk,
    entries,
    entry,
    failure,
    journal,
    kept,
    process,
    result,
    tuple_text,
)
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from iem_dcr.journal.worker import Unit

ASKS = pytest.mark.parametrize("asks", [False, True], ids=["writes", "asks"])
"""Whether the journal is asked something first, or written at once."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "receipts.db"


def paginations(path: Path) -> list[str]:
    return [found.pagination for found in entries(path)]


def moved_aside(path: Path) -> list[Path]:
    return [file for file in path.parent.glob("*.corrupt-*") if file.name[-4:] not in ("-wal", "-shm")]


def assert_sound(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert all(found.is_whole for found in entries(path))


# --- killed ---


def test_a_process_that_is_killed_at_any_instant_loses_nothing_it_has_acknowledged(path: Path) -> None:
    chance = random.Random(7)
    acknowledged: list[int] = []
    for run in range(3):
        with process("write", path, run * 100_000, 100_000) as writer:
            assert writer.stdout is not None
            acknowledged += [int(writer.stdout.readline()) for _ in range(chance.randrange(1, 60))]
            writer.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
            assert writer.wait() == -signal.SIGKILL
    assert set(paginations(path)) >= {f"T{number}" for number in acknowledged}
    assert len(acknowledged) > 3
    assert_sound(path)


def test_a_process_that_is_killed_while_it_makes_the_file_leaves_one_that_the_next_can_write(path: Path) -> None:
    with process("killed-soon", path, 40) as killer:
        out, err = killer.communicate(timeout=1000)
    assert killer.returncode == 0
    assert {line.split()[0] for line in err.splitlines()} == {"INFO"}
    *states, killed = out.splitlines()
    assert set(states) <= {f"{was_there} {[path.name]}" for was_there in (True, False)}
    assert int(killed) > 5


# --- the end ---


class SilentWorker(LoopWorker):
    """A disk that does not answer."""

    def submit(self, unit: Unit, after_s: float, *, writes: bool) -> None:
        pass


@virtual
async def test_a_disk_that_is_silent_keeps_nothing_waiting_for_more_than_two_seconds(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Journal(path, worker=SilentWorker())
    opened.keep(kept(4))
    for number in range(3):
        opened.note(entry(f"T-{number}"))
    questions = [opened.recall(meter=METER, address=ADDRESS) for _ in range(MAX_QUESTIONS + 1)]
    with pytest.raises(JournalError, match=f"{path} does not answer"):
        await questions[-1]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(questions[0], 0.5)
    begins_s = asyncio.get_running_loop().time()
    await opened.close()
    assert asyncio.get_running_loop().time() - begins_s == 2.0
    lost = f"receipt T4 of meter {METER}, 3 notes on transactions"
    assert logged(caplog) == [f"journal {path} does not answer: {lost} may be lost; check its disk"]


def test_what_failed_a_moment_ago_is_tried_once_more_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "later" / "receipts.db"

    async def main() -> None:
        async with journal(path) as opened:
            with pytest.raises(JournalError, match="its folder does not exist"):
                await opened.keep(kept(1))
            path.parent.mkdir()

    asyncio.run(main())
    assert paginations(path) == ["T1"]
    assert len(logged(caplog)) == 1


def test_what_cannot_be_written_at_the_end_is_named(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with desk(path) as made:
        for number in range(25):
            made.journal.keep(kept(number))
        ended = made.journal.end()
        made.worker.run(failure("SQLITE_IOERR"))
        assert ended.done()
        assert made.journal.unwritten == 25
        names = ", ".join(f"receipt T{number} of meter {METER}" for number in range(20))
        first, *_, last = logged(caplog)
        assert last == f"journal {path}: not written when the process ended: {names}, 5 more receipts"
        assert "its disk fails or is full (made by a test, SQLITE_IOERR); check it" in first
        with pytest.raises(JournalError, match="is closed"):
            result(made.journal.keep(kept(30)))


# --- failures ---


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (failure("SQLITE_FULL"), "the disk is full .*; free some space"),
        (failure("SQLITE_BUSY"), "another process has it locked"),
        (failure("SQLITE_READONLY"), "this user may not write it, or its disk is read-only"),
        (failure("SQLITE_IOERR"), "its disk fails or is full .*; check it"),
        (failure("SQLITE_ERROR"), "it is sound, but a statement fails on it .*; report this error"),
        (failure("SQLITE_CONSTRAINT"), "it is sound, but a statement fails on it"),
        (OSError(5, "Input/output error"), "it cannot be used .*Input/output error, OSError"),
        (MemoryError(), "it cannot be used"),
    ],
    ids=lambda value: getattr(value, "sqlite_errorname", type(value).__name__),
)
def test_what_cannot_be_written_waits_and_is_written_in_order_when_it_can_be(
    error: Exception, said: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "iem_dcr.journal")
    with desk(path) as made:
        made.worker.run()
        first = made.journal.keep(kept(1, "T-1"))
        made.worker.step(error)
        waits = "Writes wait in memory and are retried every 3 s"
        with pytest.raises(JournalError, match=f"journal {path}: {said}.*{waits}"):
            result(first)
        made.journal.note(entry("T-2"))
        assert made.journal.unwritten == 2
        assert made.recall() == Recalled(), "what waits is not in it"
        for _ in range(5):
            made.worker.now_s += 3
            made.worker.step(error)
        asking = made.journal.receipt_of("T-1", meter=METER, address="")
        assert not made.worker.writes
        made.worker.step(error)
        with pytest.raises(JournalError, match=f"journal {path} cannot be read"):
            result(asking)
        made.worker.wait(2.9)
        assert made.journal.unwritten == 2
        made.worker.wait(0.2)
        assert made.journal.unwritten == 0
        assert len(made.recall().receipts) == 1
    complaint, recovery = logged(caplog, level=logging.INFO)
    assert complaint.endswith(f"; a kill now loses receipt T1 of meter {METER}")
    assert recovery == f"journal {path} works again: 2 queued writes are committed"
    assert_sound(path)


def test_a_file_that_another_process_has_locked_is_written_when_it_is_free(path: Path) -> None:
    async def main() -> None:
        async with journal(path) as opened:
            await opened.keep(kept(1))
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                waiting = opened.keep(kept(2))
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(waiting, 0.05)
                other.execute("COMMIT")
            await waiting

    asyncio.run(main())
    assert paginations(path) == ["T1", "T2"]


def test_several_processes_write_one_file(path: Path) -> None:
    writers = [process("write", path, number * 1000, 40) for number in range(3)]
    for writer in writers:
        out, err = writer.communicate(timeout=1000)
        assert len(out.split()) == 40
        assert err.count("INFO receipts are kept in") == err.count("\n") == 1
    assert len(entries(path)) == 120
    assert_sound(path)


# --- bounds ---


def test_the_queue_is_bounded_and_notes_leave_room_for_receipts(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with desk(path) as made:
        made.worker.step(failure("SQLITE_FULL"))
        for number in range(MAX_WAITING_NOTES + 2):
            made.journal.note(entry(f"N-{number}"))
        with pytest.raises(JournalError, match=r"the disk is full.*: the refused transaction R is NOT kept"):
            result(made.refuse("R"))
        assert made.journal.unwritten == MAX_WAITING_NOTES
        for number in range(MAX_WAITING - MAX_WAITING_NOTES):
            made.journal.keep(kept(0, f"T-{number}"))
        with pytest.raises(JournalError, match=r"the disk is full.*: receipt T7 of meter .* is NOT kept"):
            result(made.journal.keep(kept(7)))
        assert made.journal.unwritten == MAX_WAITING
        made.worker.wait(3)
        assert made.journal.unwritten == 0
        made.refuse("R")
        recalled = made.recall()
    assert (len(recalled.receipts), recalled.refused, len(recalled.entries)) == (1, ("R",), 64)
    complaints = [message for message in logged(caplog) if "the journal keeps the first one" not in message]
    assert [message.endswith("is NOT kept") for message in complaints] == [False, True]


def test_receipts_that_wait_take_a_bounded_room(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with desk(path) as made:
        for number in range(6):
            made.journal.keep(kept(number, ID="x" * (MAX_WAITING_BYTES // 5)))
        assert made.journal.unwritten == 4
    (complaint,) = logged(caplog)
    assert "the queue in memory is full: receipt T4 of meter" in complaint


# --- a unit that cannot be done ---


def test_a_unit_that_cannot_be_done_leaves_no_trace_and_does_not_keep_the_others_from_it(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with desk(path) as made:
        made.journal.note(entry("T-1"))
        odd = kept(1, public_key=7), kept(2, "T-1", found=object())
        first, *answers, last = [made.journal.keep(receipt) for receipt in (kept(0), *odd, kept(3))]
        made.worker.run()
        assert (result(first), result(last)) == (None, None)
        for answer, pagination in zip(answers, ("T1", "T2"), strict=True):
            with pytest.raises(JournalError, match=f"receipt {pagination} of meter .* is not kept"):
                result(answer)
        assert [one.transaction_id for one in made.recall().entries] == ["T-1"]
    assert paginations(path) == ["T0", "T3"]
    assert len(logged(caplog)) == 2


# --- taken away ---


@ASKS
@pytest.mark.parametrize("way", ["deleted", "moved", "replaced"])
def test_a_file_that_is_taken_away_while_it_is_in_use_is_made_anew(
    way: str, path: Path, caplog: pytest.LogCaptureFixture, *, asks: bool
) -> None:
    with desk(path) as made:
        made.keep(kept(1))
        path.rename(path.with_name("moved.db"))
        if way != "moved":
            path.with_name("moved.db").unlink()
        if way == "replaced":
            path.touch()
        if asks:
            assert made.recall() == Recalled()
        made.keep(kept(2))
        made.keep(kept(3))
    assert paginations(path) == ["T2", "T3"]
    assert logged(caplog) == [f"journal {path} was moved or deleted while it was in use: a new one is created"]


class Deleting(str):
    """A key that deletes the journal while its receipt is written."""

    __slots__ = ("path",)
    path: Path

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        self.path.unlink(missing_ok=True)
        return super().encode(encoding, errors)


def test_what_was_committed_to_a_file_that_is_deleted_meanwhile_is_written_anew(path: Path) -> None:
    with desk(path) as made:
        made.worker.run()
        key = Deleting("3059")
        key.path = path
        answer = made.journal.keep(kept(1, public_key=key))
        made.journal.keep(kept(2))
        made.worker.run()
        with pytest.raises(JournalError, match="it keeps being moved or deleted"):
            result(answer)
        assert made.journal.unwritten == 2
        key.path = path.with_name("none")
        made.worker.wait(3)
    assert paginations(path) == ["T1", "T2"]


# --- damaged ---


@pytest.fixture(scope="module")
def full() -> bytes:
    """A journal of 60 receipts and some notes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "receipts.db"
        with desk(path) as made:
            for number in range(60):
                made.journal.keep(kept(number, f"T-{number}"))
                made.journal.note(entry(f"N-{number}"))
                made.refuse(f"R-{number}")
            made.worker.run()
        return path.read_bytes()


DAMAGE = [
    failure("SQLITE_CORRUPT"), failure("SQLITE_NOTADB"), failure("SQLITE_FORMAT"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "made by a test"),
]  # fmt: skip


@ASKS
@pytest.mark.parametrize("error", DAMAGE, ids=lambda error: getattr(error, "sqlite_errorname", "text"))
def test_damage_found_while_it_is_in_use_moves_it_aside_and_it_counts_as_empty(
    error: Exception, path: Path, full: bytes, caplog: pytest.LogCaptureFixture, *, asks: bool
) -> None:
    path.write_bytes(full)
    with desk(path) as made:
        made.worker.run()
        if asks:
            answer = made.journal.recall(meter=METER, address=ADDRESS)
            made.worker.step(error)
            assert result(answer) == Recalled()
        made.journal.keep(kept(100))
        made.worker.step(None if asks else error)
        assert [one.text for one in made.recall().receipts] == [tuple_text(100)]
        (aside,) = moved_aside(path)
        assert aside.read_bytes() == full
        (complaint,) = logged(caplog)
        assert f"it was moved to {aside.name}, and a new one is created" in complaint
        made.journal.keep(kept(101))
        made.worker.step(error)
        assert "it is damaged again soon" in logged(caplog)[-1]
        assert len(moved_aside(path)) == 1
        made.worker.wait(60)
        assert made.journal.unwritten == 0


NOT_NULL, MAY_BE_NULL = "superseded INTEGER NOT NULL", "superseded INTEGER /* NULL */"
RENAMED = ("ALTER TABLE receipts RENAME COLUMN found TO sighted",)
NULLED = (
    f"UPDATE sqlite_schema SET sql = replace(sql, '{NOT_NULL}', '{MAY_BE_NULL}')",  # noqa: S608  of two constants
    "UPDATE receipts SET superseded = NULL",
    f"UPDATE sqlite_schema SET sql = replace(sql, '{MAY_BE_NULL}', '{NOT_NULL}')",  # noqa: S608  likewise
)


@ASKS
@pytest.mark.parametrize("damage", [RENAMED, NULLED], ids=["a column renamed", "a column nulled"])
def test_a_statement_that_fails_because_of_what_a_check_finds_moves_the_file_aside(
    damage: tuple[str, ...], path: Path, full: bytes, caplog: pytest.LogCaptureFixture, *, asks: bool
) -> None:
    path.write_bytes(full)
    with desk(path) as made:
        made.worker.run()
        for statement in damage:
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute("PRAGMA writable_schema=ON")
                connection.execute(statement)
        if asks:
            answer = made.journal.recall(meter=METER, address=ADDRESS)
            made.worker.step(failure("SQLITE_ERROR"))
            assert result(answer) == Recalled()
        made.journal.keep(kept(7, "T-7"))
        assert [one.text for one in made.recall().receipts] == [tuple_text(7)]
    assert len(moved_aside(path)) == len(logged(caplog)) == 1


def test_a_statement_that_does_not_fit_the_tables_has_the_file_checked_and_stays(
    path: Path, full: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a newer program has migrated the file meanwhile: it must not be moved aside for that."""
    path.write_bytes(full)
    with desk(path) as made:
        made.worker.run()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.executescript("ALTER TABLE receipts RENAME COLUMN found TO sighted; PRAGMA user_version=3")
        made.journal.keep(kept(100))
        assert made.recall() == Recalled()
        assert made.journal.unwritten == 1
    assert "install a newer iem-dcr" in logged(caplog)[0]
    assert moved_aside(path) == []


def outcome(path: Path, changed: bytes) -> str:
    """Have a changed journal used as a process uses it; returns "read", "moved aside" or "refused"."""
    path.write_bytes(changed)
    with desk(path) as made:
        recalling = made.journal.recall(meter=METER, address=ADDRESS)
        asking = made.journal.receipt_of("T-7", meter=METER, address=ADDRESS)
        made.journal.keep(kept(1000))
        made.journal.note(entry("N-7", "open"))
        made.journal.keep(kept(7, "T-7"))
        made.worker.run()
        assert {one.text for one in result(recalling).receipts} <= {tuple_text(number) for number in range(110)}
        seventh = result(asking)
        assert seventh is None or seventh.text == tuple_text(7)
        is_refused = bool(made.journal.unwritten)
    if is_refused:
        assert path.read_bytes() == changed
        return "refused"
    assert "T1000" in paginations(path)
    return "moved aside" if moved_aside(path) else "read"


USER_VERSION = range(60, 64)
"""Another number there is another version, and refused."""


def test_a_flipped_bit_in_the_header_or_a_key_is_read_over_or_the_file_is_moved_aside(
    full: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(11)
    outcomes = {}
    for place in (*range(100), *(match.start() for match in re.finditer(b"PRIMARY KEY", full))):
        changed = bytearray(full)
        changed[place] ^= 1 << chance.randrange(8)
        with tempfile.TemporaryDirectory() as folder:
            outcomes[place] = outcome(Path(folder) / "receipts.db", bytes(changed))
    assert {place for place, what in outcomes.items() if what == "refused"} <= set(USER_VERSION)
    assert {"read", "moved aside"} <= set(outcomes.values())
    assert "Traceback" not in caplog.text


def test_bytes_that_changed_anywhere_lead_to_no_traceback(full: bytes, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(12)
    for _ in range(40):
        changed = bytearray(full[: chance.choice([len(full), chance.randrange(len(full))])])
        for _ in range(chance.randrange(1, 10)):
            place = chance.randrange(chance.choice([120, len(full)]))
            changed[place : place + 40] = chance.randbytes(len(changed[place : place + 40]))
        with tempfile.TemporaryDirectory() as folder:
            what = outcome(Path(folder) / "receipts.db", bytes(changed))
        # Without its application id it cannot be told from another program's file, and is left alone.
        assert what != "refused" or changed[68:72] != full[68:72] or changed[60:64] != full[60:64]
    assert "Traceback" not in caplog.text


def test_a_damaged_file_is_moved_aside_with_what_belongs_to_it(
    path: Path, tmp_path: Path, full: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    killed = tmp_path / "killed.db"
    path.write_bytes(full)
    with desk(path) as made:
        made.keep(kept(100))
        for suffix in ("", "-wal", "-shm"):
            shutil.copy(path.with_name(path.name + suffix), killed.with_name(killed.name + suffix))
    with killed.open("r+b") as file:
        file.seek(4096 * 5)
        file.write(b"nothing that SQLite knows" * 1000)
    with contextlib.closing(sqlite3.connect(killed)) as other:  # so that the side files stay
        other.execute("SELECT count(*) FROM sqlite_master").fetchone()
        again = Desk(killed)
        again.keep(kept(101))
    again.journal.abandon()
    assert paginations(killed) == ["T101"]
    (complaint,) = logged(caplog)
    aside = complaint.partition("it was moved to ")[2].partition(",")[0]
    assert {file.name for file in tmp_path.glob("killed*")} == {"killed.db", aside, f"{aside}-wal", f"{aside}-shm"}
    assert tuple_text(100).encode() in (tmp_path / f"{aside}-wal").read_bytes()


def test_a_flipped_bit_in_the_log_of_a_killed_process_loses_what_it_held_at_most(path: Path, full: bytes) -> None:
    """SQLite ends the -wal where its checksums end."""
    path.write_bytes(full)
    with desk(path) as made:
        for number in range(100, 110):
            made.keep(kept(number))
        whole, log = path.read_bytes(), path.with_name(f"{path.name}-wal").read_bytes()
    chance = random.Random(13)
    for _ in range(30):
        changed = bytearray(log)
        changed[chance.randrange(len(log))] ^= 1 << chance.randrange(8)
        with tempfile.TemporaryDirectory() as folder:
            other = Path(folder) / "receipts.db"
            other.with_name(f"{other.name}-wal").write_bytes(changed)
            assert outcome(other, whole) == "read"


def test_a_file_that_took_the_place_of_a_damaged_one_is_not_moved(
    path: Path, full: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(full)
    with desk(path) as made:
        made.worker.run()
        other = path.with_name("other.db")
        other.write_bytes(full)
        other.replace(path)
        made.journal.keep(kept(100))
        made.worker.step(failure("SQLITE_CORRUPT"))
    assert len(paginations(path)) == 61
    assert moved_aside(path) == []
    assert logged(caplog) == []


def test_two_processes_that_find_the_file_damaged_move_it_once(path: Path, full: bytes) -> None:
    path.write_bytes(full[:5000] + b"\xff" * 20_000 + full[25_000:])
    writers = [process("write", path, number * 1000, 20) for number in (1, 2, 3)]
    for writer in writers:
        out, _ = writer.communicate(timeout=1000)
        assert len(out.split()) == 20
    assert len(moved_aside(path)) == 1
    assert len(entries(path)) == 60
    assert_sound(path)
