"""A journal that cannot be written, is killed, damaged or taken away: nothing is lost, and nothing waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import re
import shutil
import signal
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from iem_dcr.driver.ports import Recalled
from iem_dcr.errors import JournalError
from iem_dcr.journal import Journal
from iem_dcr.journal.store import MAX_QUESTIONS, MAX_WAITING, MAX_WAITING_BYTES, MAX_WAITING_NOTES
from tests.support.journals import (
    ADDRESS,
    METER,
    LoopWorker,
    StepWorker,
    entries,
    entry,
    journal,
    kept,
    process,
    result,
    tuple_text,
)
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from iem_dcr.journal.worker import Unit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "receipts.db"


def failure(name: str) -> Exception:
    """Make an error as SQLite raises it."""
    error: Any = sqlite3.DatabaseError("made by a test")
    error.sqlite_errorcode, error.sqlite_errorname = getattr(sqlite3, name), name
    return error  # type: ignore[no-any-return]


def paginations(path: Path) -> list[str]:
    return [found.pagination for found in entries(path)]


def assert_sound(path: Path) -> None:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()
    assert all(found.is_whole for found in entries(path))


def logged(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


def recall(opened: Journal, worker: StepWorker) -> Recalled:
    answer = opened.recall(meter=METER, address=ADDRESS)
    worker.run()
    return result(answer)


# --- killed ---


def test_a_kill_between_any_two_units_of_work_loses_nothing_that_was_acknowledged(path: Path) -> None:
    for units in itertools.count():
        for file in path.parent.iterdir():
            file.unlink()
        worker = StepWorker()
        opened = Journal(path, worker=worker)
        answers, done = [], 0
        for number in range(6):
            answers.append(opened.keep(kept(number, f"T-{number}")))
            opened.note(entry(f"N-{number}"))
            if number % 2:
                opened.recall(meter=METER, address=ADDRESS)
            while done < units and worker.step(failure("SQLITE_FULL") if done == 2 else None):
                done += 1
        worker.now_s += 3
        while done < units and worker.step():
            done += 1
        unwritten = opened.abandon()
        assert not worker.step()

        worker = StepWorker()
        after = Journal(path, worker=worker)
        recalled = recall(after, worker)
        after.abandon()
        there = [one.text for one in recalled.receipts]
        assert there == [tuple_text(number) for number in range(len(there))]
        assert [one.transaction_id for one in recalled.entries] == [f"N-{number}" for number in range(len(there))]
        assert len(there) * 2 + unwritten == 12
        if not unwritten:
            assert units > 5
            return


def test_a_process_that_is_killed_at_any_instant_loses_nothing_it_has_acknowledged(path: Path) -> None:
    chance = random.Random(7)
    acknowledged: list[int] = []
    for run in range(4):
        with process("write", path, run * 100_000, 100_000) as writer:
            assert writer.stdout is not None
            acknowledged += [int(writer.stdout.readline()) for _ in range(chance.randrange(1, 60))]
            writer.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
            assert writer.wait() == -signal.SIGKILL
    assert set(paginations(path)) >= {f"T{number}" for number in acknowledged}
    assert len(acknowledged) > 4
    assert_sound(path)


def test_a_process_that_is_killed_while_it_makes_the_file(path: Path) -> None:
    with process("killed-soon", path, 40) as killer:
        out, err = killer.communicate(timeout=100)
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
    worker = StepWorker()
    opened = Journal(path, worker=worker)
    for number in range(25):
        opened.keep(kept(number))
    ended = opened.end()
    worker.run(failure("SQLITE_IOERR"))
    assert ended.done()
    assert opened.unwritten == 25
    names = ", ".join(f"receipt T{number} of meter {METER}" for number in range(20))
    assert logged(caplog)[-1] == f"journal {path}: not written when the process ended: {names}, 5 more receipts"
    assert "its disk fails or is full (made by a test, SQLITE_IOERR); check it" in logged(caplog)[0]
    with pytest.raises(JournalError, match="is closed"):
        result(opened.keep(kept(30)))


# --- failures ---

FAILURES = [
    (failure("SQLITE_FULL"), "the disk is full .*; free some space"),
    (failure("SQLITE_BUSY"), "another process has it locked"),
    (failure("SQLITE_READONLY"), "this user may not write it, or its disk is read-only"),
    (failure("SQLITE_IOERR"), "its disk fails or is full .*; check it"),
    (failure("SQLITE_ERROR"), "it is sound, and a statement fails on it .*; report this error"),
    (failure("SQLITE_CONSTRAINT"), "it is sound, and a statement fails on it"),
    (OSError(5, "Input/output error"), "it cannot be used .*Input/output error, OSError"),
    (MemoryError(), "it cannot be used"),
]


@pytest.mark.parametrize(("error", "said"), FAILURES)
def test_what_cannot_be_written_waits_and_is_written_in_order_when_it_can_be(
    error: Exception, said: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "iem_dcr.journal")
    worker = StepWorker()
    opened = Journal(path, worker=worker)
    worker.run()
    first = opened.keep(kept(1, "T-1"))
    worker.step(error)
    with pytest.raises(JournalError, match=f"journal {path}: {said}.*Writes wait in memory and are retried every 3 s"):
        result(first)
    opened.note(entry("T-2"))
    assert opened.unwritten == 2
    assert recall(opened, worker) == Recalled()  # what waits is not in it
    for _ in range(5):
        worker.now_s += 3
        worker.step(error)
    assert recall(opened, worker).entries == ()
    worker.wait(2.9)
    assert opened.unwritten == 2
    worker.wait(0.2)
    assert opened.unwritten == 0
    assert len(recall(opened, worker).receipts) == 1
    complaint, recovery = logged(caplog, logging.INFO)
    assert complaint.endswith(f"; a kill now loses receipt T1 of meter {METER}")
    assert recovery == f"journal {path} works again: 2 queued writes are committed"
    opened.abandon()
    assert_sound(path)


@pytest.mark.parametrize("error", [error for error, _ in FAILURES])
def test_a_question_that_fails_is_to_be_asked_again(error: Exception, path: Path) -> None:
    worker = StepWorker()
    opened = Journal(path, worker=worker)
    opened.keep(kept(1, "T-1"))
    worker.run()
    answer = opened.receipt_of("T-1", meter=METER, address="")
    assert not worker.writes
    worker.step(error)
    with pytest.raises(JournalError, match=f"journal {path} cannot be read"):
        result(answer)
    assert len(recall(opened, worker).receipts) == 1
    opened.abandon()


def test_a_file_that_another_process_has_locked(path: Path) -> None:
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
    writers = [process("write", path, number * 1000, 60) for number in range(3)]
    for writer in writers:
        out, err = writer.communicate(timeout=100)
        assert len(out.split()) == 60
        assert err.count("INFO receipts are kept in") == err.count("\n") == 1
    assert len(entries(path)) == 180
    assert_sound(path)


def test_files_that_may_grow_no_further_and_then_may_again(path: Path) -> None:
    with process("small-files", path, 300_000) as writer:
        assert writer.stdout is not None
        last, first_refused = map(int, writer.stdout.readline().split())
        assert set(paginations(path)) == {f"T{number}" for number in range(1, first_refused)}
        out, err = writer.communicate("now\n", timeout=60)
        assert writer.returncode == 0
    assert set(paginations(path)) == {f"T{number}" for number in range(1, int(out) + 1)}
    assert int(out) > last
    lines = [line for line in err.splitlines() if line]
    assert [line.split()[0] for line in lines] == ["INFO", "ERROR", "INFO"]
    assert "a kill now loses receipt T" in lines[1]
    assert "works again" in lines[2]
    assert_sound(path)


# --- bounds ---


def test_the_queue_is_bounded_and_notes_leave_room_for_receipts(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    worker = StepWorker()
    opened = Journal(path, worker=worker)
    worker.step(failure("SQLITE_FULL"))
    for number in range(MAX_WAITING_NOTES + 2):
        opened.note(entry(f"N-{number}"))
    with pytest.raises(JournalError, match=r"the disk is full.*: the refused transaction R is NOT kept"):
        result(opened.refused("R", meter=METER, address=ADDRESS))
    assert opened.unwritten == MAX_WAITING_NOTES
    for number in range(MAX_WAITING - MAX_WAITING_NOTES):
        opened.keep(kept(0, f"T-{number}"))
    with pytest.raises(JournalError, match=r"the disk is full.*: receipt T7 of meter .* is NOT kept"):
        result(opened.keep(kept(7)))
    assert opened.unwritten == MAX_WAITING
    worker.wait(3)
    assert opened.unwritten == 0
    opened.refused("R", meter=METER, address=ADDRESS)
    recalled = recall(opened, worker)
    assert (len(recalled.receipts), recalled.refused, len(recalled.entries)) == (1, ("R",), 64)
    complaints = [message for message in logged(caplog) if "the first one stands" not in message]
    assert [message.endswith("is NOT kept") for message in complaints] == [False, True]
    opened.abandon()


def test_receipts_that_wait_take_a_bounded_room(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    worker = StepWorker()
    opened = Journal(path, worker=worker)
    size = MAX_WAITING_BYTES // 5
    for number in range(6):
        opened.keep(kept(number, ID="x" * size))
    assert opened.unwritten == 4
    assert "the queue in memory is full: receipt T4 of meter" in logged(caplog)[0]
    assert len(logged(caplog)) == 1
    opened.abandon()


# --- a unit that cannot be done ---


def test_a_unit_that_cannot_be_done_leaves_no_trace_and_does_not_keep_the_others_from_it(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = StepWorker()
    opened = Journal(path, worker=worker)
    opened.note(entry("T-1"))
    answers = [
        opened.keep(receipt) for receipt in (kept(0), kept(1, public_key=7), kept(2, "T-1", found=object()), kept(3))
    ]
    worker.run()
    for answer, pagination in zip(answers, (None, "T1", "T2", None), strict=True):
        with (
            contextlib.nullcontext()
            if pagination is None
            else pytest.raises(JournalError, match=f"receipt {pagination} of meter .* is not kept")
        ):
            result(answer)
    assert [one.transaction_id for one in recall(opened, worker).entries] == ["T-1"]
    opened.abandon()
    assert paginations(path) == ["T0", "T3"]
    assert len(logged(caplog)) == 2


# --- taken away ---


def take_away(path: Path, way: str) -> None:
    if way == "moved":
        path.rename(path.with_name("moved.db"))
    else:
        path.unlink()
    if way == "replaced":
        path.touch()


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("way", ["deleted", "moved", "replaced"])
def test_a_file_that_is_taken_away_while_it_is_in_use(
    way: str,
    asks: bool,  # noqa: FBT001  a table's column
    path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = StepWorker()
    opened = Journal(path, worker=worker)
    opened.keep(kept(1))
    worker.run()
    take_away(path, way)
    if asks:
        assert recall(opened, worker) == Recalled()
    for number in (2, 3):
        opened.keep(kept(number))
        worker.run()
    opened.abandon()
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
    worker = StepWorker()
    opened = Journal(path, worker=worker)
    worker.run()
    key = Deleting("3059")
    key.path = path
    answer = opened.keep(kept(1, public_key=key))
    opened.keep(kept(2))
    worker.run()
    with pytest.raises(JournalError, match="it keeps being moved or deleted"):
        result(answer)
    assert opened.unwritten == 2
    key.path = path.with_name("none")
    worker.wait(3)
    opened.abandon()
    assert paginations(path) == ["T1", "T2"]


def test_a_unit_that_another_took_the_place_of_does_nothing(path: Path) -> None:
    """A disk that was silent may call all that it was given at once."""
    worker, units = StepWorker(), []
    submit = worker.submit

    def remembered(unit: Unit, after_s: float, *, writes: bool) -> None:
        units.append(unit)
        submit(unit, after_s, writes=writes)

    worker.submit = remembered  # type: ignore[method-assign]
    opened = Journal(path, worker=worker)
    opened.keep(kept(1))
    worker.step(failure("SQLITE_FULL"))
    answer = opened.recall(meter=METER, address=ADDRESS)
    for unit in (*units, *units, *units):
        unit(None)
    assert result(answer) == Recalled()
    assert opened.unwritten == 1
    opened.abandon()
    for unit in units:
        unit(None)
    assert opened.unwritten == 1


# --- damaged ---


@pytest.fixture(scope="module")
def full() -> bytes:
    """A journal of 60 receipts and some notes."""
    with tempfile.TemporaryDirectory() as folder:
        path, worker = Path(folder) / "receipts.db", StepWorker()
        opened = Journal(path, worker=worker)
        for number in range(60):
            opened.keep(kept(number, f"T-{number}"))
            opened.note(entry(f"N-{number}"))
            opened.refused(f"R-{number}", meter=METER, address=ADDRESS)
        worker.run()
        opened.abandon()
        return path.read_bytes()


DAMAGE = [
    failure("SQLITE_CORRUPT"), failure("SQLITE_NOTADB"), failure("SQLITE_FORMAT"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "made by a test"),
]  # fmt: skip


@pytest.mark.parametrize("error", DAMAGE)
@pytest.mark.parametrize("asks", [False, True])
def test_damage_found_while_it_is_in_use_moves_it_aside_and_it_counts_as_empty(
    error: Exception,
    asks: bool,  # noqa: FBT001  a table's column
    path: Path,
    full: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path.write_bytes(full)
    worker = StepWorker()
    opened = Journal(path, worker=worker)
    worker.run()
    if asks:
        answer = opened.recall(meter=METER, address=ADDRESS)
        worker.step(error)
        assert result(answer) == Recalled()
    opened.keep(kept(100))
    worker.step(None if asks else error)
    assert [one.text for one in recall(opened, worker).receipts] == [tuple_text(100)]
    (aside,) = path.parent.glob("*.corrupt-*")
    assert aside.read_bytes() == full
    (complaint,) = logged(caplog)
    assert f"it was moved to {aside.name}, and a new one is created" in complaint
    opened.keep(kept(101))
    worker.step(error)
    assert "it is damaged again at once" in logged(caplog)[-1]
    assert len([*path.parent.glob("*.corrupt-*")]) == 1
    worker.wait(60)
    assert opened.unwritten == 0
    opened.abandon()


NOT_NULL, MAY_BE_NULL = "superseded INTEGER NOT NULL", "superseded INTEGER /* NULL */"
RENAMED = ("ALTER TABLE receipts RENAME COLUMN found TO sighted",)
NULLED = (
    f"UPDATE sqlite_schema SET sql = replace(sql, '{NOT_NULL}', '{MAY_BE_NULL}')",  # noqa: S608  of two constants
    "UPDATE receipts SET superseded = NULL",
    f"UPDATE sqlite_schema SET sql = replace(sql, '{MAY_BE_NULL}', '{NOT_NULL}')",  # noqa: S608  likewise
)


@pytest.mark.parametrize("damage", [RENAMED, NULLED])
@pytest.mark.parametrize("asks", [False, True])
def test_a_statement_that_fails_because_of_what_a_check_finds_moves_the_file_aside(
    damage: tuple[str, ...],
    asks: bool,  # noqa: FBT001  a table's column
    path: Path,
    full: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path.write_bytes(full)
    worker = StepWorker()
    opened = Journal(path, worker=worker)
    worker.run()
    for statement in damage:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema=ON")
            connection.execute(statement)
    if asks:
        answer = opened.recall(meter=METER, address=ADDRESS)
        worker.step(failure("SQLITE_ERROR"))
        assert result(answer) == Recalled()
    opened.keep(kept(7, "T-7"))
    worker.run()
    assert [one.text for one in recall(opened, worker).receipts] == [tuple_text(7)]
    assert len([*path.parent.glob("*.corrupt-*")]) == 1
    assert len(logged(caplog)) == 1
    opened.abandon()


def test_a_statement_that_does_not_fit_the_tables_has_the_file_checked_and_stays(
    path: Path, full: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a newer program has migrated the file meanwhile: it must not be moved aside for that."""
    path.write_bytes(full)
    worker = StepWorker()
    opened = Journal(path, worker=worker)
    worker.run()
    connection = sqlite3.connect(path)
    connection.executescript("ALTER TABLE receipts RENAME COLUMN found TO sighted; PRAGMA user_version=3")
    connection.close()
    opened.keep(kept(100))
    worker.run()
    assert recall(opened, worker) == Recalled()
    assert opened.unwritten == 1
    assert "install a newer iem-dcr" in logged(caplog)[0]
    assert [file.name for file in path.parent.glob("*.corrupt-*")] == []
    opened.abandon()


def outcome(path: Path, changed: bytes) -> str:
    """Have a changed journal used as a process uses it; returns "read", "moved aside" or "refused"."""
    path.write_bytes(changed)
    worker = StepWorker()
    opened = Journal(path, worker=worker)
    recalling = opened.recall(meter=METER, address=ADDRESS)
    asking = opened.receipt_of("T-7", meter=METER, address=ADDRESS)
    opened.keep(kept(1000))
    opened.note(entry("N-7", "open"))
    opened.keep(kept(7, "T-7"))
    worker.run()
    recalled, seventh = result(recalling), result(asking)
    assert {one.text for one in recalled.receipts} <= {tuple_text(number) for number in range(110)}
    assert seventh is None or seventh.text == tuple_text(7)
    is_refused = bool(opened.unwritten)
    opened.abandon()
    if is_refused:
        assert path.read_bytes() == changed
        return "refused"
    assert "T1000" in paginations(path)
    return "moved aside" if [*path.parent.glob("*.corrupt-*")] else "read"


USER_VERSION = range(60, 64)
"""Another number there is another version, and refused."""


def test_a_flipped_bit_anywhere_is_read_over_or_the_file_is_moved_aside(
    full: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(11)
    schema = range(100, 4096)
    keys = [match.start() for match in re.finditer(b"PRIMARY KEY", full)]
    places = [*range(100), *keys, *chance.sample(schema, 80), *chance.sample(range(4096, len(full)), 120)]
    outcomes = {}
    for place in places:
        changed = bytearray(full)
        changed[place] ^= 1 << chance.randrange(8)
        with tempfile.TemporaryDirectory() as folder:
            outcomes[place] = outcome(Path(folder) / "receipts.db", bytes(changed))
    assert len(outcomes) >= 300
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
    worker = StepWorker()
    opened = Journal(path, worker=worker)
    opened.keep(kept(100))
    worker.run()
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(path.with_name(path.name + suffix), killed.with_name(killed.name + suffix))
    opened.abandon()
    with killed.open("r+b") as file:
        file.seek(4096 * 5)
        file.write(b"nothing that SQLite knows" * 1000)
    with contextlib.closing(sqlite3.connect(killed)) as other:  # so that the side files stay
        other.execute("SELECT count(*) FROM sqlite_master").fetchone()
        again = Journal(killed, worker=worker)
        again.keep(kept(101))
        worker.run()
    again.abandon()
    assert paginations(killed) == ["T101"]
    (complaint,) = logged(caplog)
    aside = complaint.partition("it was moved to ")[2].partition(",")[0]
    moved = {file.name for file in tmp_path.glob("killed*")} - {"killed.db"}
    assert moved == {aside, f"{aside}-wal", f"{aside}-shm"}
    assert tuple_text(100).encode() in (tmp_path / f"{aside}-wal").read_bytes()


def test_a_flipped_bit_in_the_log_of_a_killed_process_loses_what_it_held_at_most(path: Path, full: bytes) -> None:
    """SQLite ends the -wal where its checksums end."""
    path.write_bytes(full)
    worker = StepWorker()
    opened = Journal(path, worker=worker)
    for number in range(100, 110):
        opened.keep(kept(number))
        worker.run()
    whole, log = path.read_bytes(), path.with_name(f"{path.name}-wal").read_bytes()
    opened.abandon()
    chance = random.Random(13)
    for _ in range(40):
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
    worker = StepWorker()
    opened = Journal(path, worker=worker)
    worker.run()
    other = path.with_name("other.db")
    other.write_bytes(full)
    other.replace(path)
    opened.keep(kept(100))
    worker.step(failure("SQLITE_CORRUPT"))
    opened.abandon()
    assert len(paginations(path)) == 61
    assert [*path.parent.glob("*.corrupt-*")] == []
    assert logged(caplog) == []


def test_two_processes_that_find_the_file_damaged_move_it_once(path: Path, full: bytes) -> None:
    path.write_bytes(full[:5000] + b"\xff" * 20_000 + full[25_000:])
    writers = [process("write", path, number * 1000, 20) for number in (1, 2, 3)]
    for writer in writers:
        out, _ = writer.communicate(timeout=60)
        assert len(out.split()) == 20
    aside = [
        file for file in path.parent.iterdir() if ".corrupt-" in file.name and file.name[-4:] not in ("-wal", "-shm")
    ]
    assert len(aside) == 1
    assert len(entries(path)) == 60
    assert_sound(path)
