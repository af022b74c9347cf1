"""A journal that cannot be written, is killed or disappears: nothing is lost, and nothing waits for it."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
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
    LoopWorker,
    changing,
    desk,
    entries,
    entry,
    failure,
    journal,
    kept,
    process,
    result,
)
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path

    from iem_dcr.journal.worker import Unit

ASKS = pytest.mark.parametrize("asks", [False, True], ids=["writes", "asks"])
"""Whether the journal is asked something first, or written at once."""


def paginations(path: Path) -> list[str]:
    return [found.pagination for found in entries(path)]


def moved_aside(path: Path) -> list[Path]:
    return [file for file in path.parent.glob("*.corrupt-*") if file.name[-4:] not in ("-wal", "-shm")]


def assert_sound(path: Path) -> None:
    with changing(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert all(found.is_whole for found in entries(path))


# --- killed ---


def test_killed_process_loses_nothing_it_has_acknowledged(path: Path) -> None:
    chance = random.Random(7)
    acknowledged: list[int] = []
    for first in (0, 100_000, 200_000):
        with process("write", path, first, 100_000) as writer:
            assert writer.stdout is not None
            acknowledged += [int(writer.stdout.readline()) for _ in range(chance.randrange(1, 60))]
            writer.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
            assert writer.wait() == -signal.SIGKILL
    assert set(paginations(path)) >= {f"T{number}" for number in acknowledged}
    assert len(acknowledged) > 3
    assert_sound(path)


def test_process_killed_while_it_creates_the_file_leaves_a_usable_one(path: Path) -> None:
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
async def test_closing_waits_two_seconds_at_most_for_a_silent_disk(
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


def test_closing_names_what_cannot_be_written(path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
def test_failed_writes_wait_and_are_written_in_order(
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


def test_locked_file_is_written_when_it_is_free(path: Path) -> None:
    async def main() -> None:
        async with journal(path) as opened:
            await opened.keep(kept(1))
            with changing(path) as other:
                other.execute("BEGIN IMMEDIATE")
                waiting = opened.keep(kept(2))
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(waiting, 0.05)
                other.execute("COMMIT")
            await waiting

    asyncio.run(main())
    assert paginations(path) == ["T1", "T2"]


# --- bounds ---


def test_queue_is_bounded_and_notes_leave_room_for_receipts(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with desk(path) as made:
        made.worker.step(failure("SQLITE_FULL"))
        for number in range(MAX_WAITING_NOTES):
            made.journal.note(entry(f"N-{number}"))
        with pytest.raises(JournalError, match=r"the disk is full.*: the refused transaction R is NOT kept"):
            result(made.refuse("R"))
        for _ in range(MAX_WAITING - MAX_WAITING_NOTES):
            made.journal.keep(kept(0))
        with pytest.raises(JournalError, match=r"the disk is full.*: receipt T7 of meter .* is NOT kept"):
            result(made.journal.keep(kept(7)))
        assert made.journal.unwritten == MAX_WAITING
        made.worker.wait(3)
        assert made.journal.unwritten == 0
        made.refuse("R")
        recalled = made.recall()
    assert (len(recalled.receipts), recalled.refused, len(recalled.entries)) == (1, ("R",), 64)
    assert [message.endswith("is NOT kept") for message in logged(caplog)] == [False, True, True]


def test_waiting_receipts_take_bounded_memory(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with desk(path) as made:
        for number in range(5):
            made.journal.keep(kept(number, ID="x" * (MAX_WAITING_BYTES // 5)))
        assert made.journal.unwritten == 4
    (complaint,) = logged(caplog)
    assert "the queue in memory is full: receipt T4 of meter" in complaint


# --- a unit that cannot be done ---


def test_write_that_cannot_be_done_does_not_stop_the_others(path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
def test_file_that_disappears_is_created_again(
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


def test_commit_to_a_file_deleted_meanwhile_is_written_again(path: Path) -> None:
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
