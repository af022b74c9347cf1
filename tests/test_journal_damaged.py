"""A damaged journal is read as far as possible, or moved aside and created again; there is never a traceback."""

from __future__ import annotations

import fcntl
import os
import random
import re
import shutil
import tempfile
import threading
from pathlib import Path

import pytest

from iem_dcr.driver.ports import Recalled
from tests.support.command_line import run
from tests.support.driving import logged
from tests.support.journals import (
    ADDRESS,
    METER,
    Desk,
    changing,
    desk,
    entry,
    failure,
    kept,
    process,
    result,
    tuple_text,
)
from tests.support.profiles import times
from tests.test_journal_broken import ASKS, assert_sound, moved_aside, paginations


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
def test_damage_found_during_use_moves_the_file_aside(
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
def test_damage_found_by_the_check_after_a_failed_statement_moves_the_file_aside(
    damage: tuple[str, ...], path: Path, full: bytes, caplog: pytest.LogCaptureFixture, *, asks: bool
) -> None:
    path.write_bytes(full)
    with desk(path) as made:
        made.worker.run()
        for statement in damage:
            with changing(path) as connection:
                connection.execute("PRAGMA writable_schema=ON")
                connection.execute(statement)
        if asks:
            answer = made.journal.recall(meter=METER, address=ADDRESS)
            made.worker.step(failure("SQLITE_ERROR"))
            assert result(answer) == Recalled()
        made.journal.keep(kept(7, "T-7"))
        assert [one.text for one in made.recall().receipts] == [tuple_text(7)]
    assert len(moved_aside(path)) == len(logged(caplog)) == 1


def test_file_migrated_by_a_newer_program_is_not_moved_aside(
    path: Path, full: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(full)
    with desk(path) as made:
        made.worker.run()
        with changing(path) as connection:
            connection.executescript("ALTER TABLE receipts RENAME COLUMN found TO sighted; PRAGMA user_version=3")
        made.journal.keep(kept(100))
        assert made.recall() == Recalled()
        assert made.journal.unwritten == 1
    assert "install a newer iem-dcr" in logged(caplog)[0]
    assert moved_aside(path) == []


def outcome(path: Path, content: bytes) -> str:
    """Have a journal used as a process uses it; returns "read", "moved aside" or "refused"."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
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
        assert path.read_bytes() == content
        return "refused"
    assert "T1000" in paginations(path)
    return "moved aside" if moved_aside(path) else "read"


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Flip a bit in the header, in a key or anywhere, or cut the file and overwrite parts of it."""
    changed = bytearray(content)
    match chance.randrange(4):
        case 0:
            changed[chance.randrange(100)] ^= 1 << chance.randrange(8)
        case 1:
            keys = [match.start() for match in re.finditer(b"PRIMARY KEY", content)]
            changed[chance.choice(keys)] ^= 1 << chance.randrange(8)
        case 2:
            changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        case _:
            del changed[chance.choice([len(content), chance.randrange(200, len(content))]) :]
            for _ in range(chance.randrange(1, 10)):
                place = chance.randrange(chance.choice([120, len(changed)]))
                changed[place : place + 40] = chance.randbytes(len(changed[place : place + 40]))
    return bytes(changed)


@pytest.mark.parametrize(
    ("place", "what"), [(18, "moved aside"), (60, "moved aside"), (63, "refused"), (68, "moved aside")]
)
def test_flipped_bit_in_a_field_of_the_header_moves_the_file_aside(
    place: int, what: str, path: Path, full: bytes
) -> None:
    """Byte 18 has the write version, 60 to 63 the journal's, 68 to 71 the application id. 3 is a newer program's."""
    changed = bytearray(full)
    changed[place] ^= 1
    assert outcome(path, bytes(changed)) == what


@pytest.mark.parametrize("seed", range(times(4, 40)))
def test_damaged_file_is_read_or_moved_aside_and_never_a_traceback(
    seed: int, tmp_path: Path, full: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(seed)
    outcomes = set()
    for number in range(times(30, 100)):
        changed = damaged(full, chance)
        listed = tmp_path / "listed.db"
        listed.write_bytes(changed)
        done = run("receipts", "list", "--journal", str(listed))
        assert done.status in (0, 1, 2)
        assert "bug in the program" not in done.err
        what = outcome(tmp_path / str(number) / "receipts.db", changed)
        # A file of another version, or of another program, is left alone.
        assert what != "refused" or changed[60:64] != full[60:64] or changed[68:72] != full[68:72]
        outcomes.add(what)
    assert outcomes >= {"read", "moved aside"}
    assert "Traceback" not in caplog.text


def test_damaged_file_is_moved_aside_with_its_side_files(
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
    with changing(killed) as other:  # so that the side files stay
        other.execute("SELECT count(*) FROM sqlite_master").fetchone()
        again = Desk(killed)
        again.keep(kept(101))
    again.journal.abandon()
    assert paginations(killed) == ["T101"]
    (complaint,) = logged(caplog)
    aside = complaint.partition("it was moved to ")[2].partition(",")[0]
    assert {file.name for file in tmp_path.glob("killed*")} == {"killed.db", aside, f"{aside}-wal", f"{aside}-shm"}
    assert tuple_text(100).encode() in (tmp_path / f"{aside}-wal").read_bytes()


def test_flipped_bit_in_the_log_of_a_killed_process_loses_at_most_what_the_log_held(path: Path, full: bytes) -> None:
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


def test_file_that_replaced_a_damaged_one_is_not_moved(
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


def test_another_process_that_is_moving_the_file_is_waited_for(
    path: Path, full: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(full[:5000] + b"\xff" * 20_000 + full[25_000:])
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    threading.Timer(0.2, os.close, [folder]).start()
    with desk(path) as made:
        made.keep(kept(100))
    (complaint,) = logged(caplog)
    assert "it was moved to" in complaint
    assert paginations(path) == ["T100"]


def test_several_processes_that_find_the_file_damaged_move_it_once(path: Path, full: bytes) -> None:
    path.write_bytes(full[:5000] + b"\xff" * 20_000 + full[25_000:])
    writers = [process("write", path, number * 1000, 20) for number in (1, 2, 3)]
    for writer in writers:
        out, _ = writer.communicate(timeout=1000)
        assert len(out.split()) == 20
    assert len(moved_aside(path)) == 1
    assert len(paginations(path)) == 60
    assert_sound(path)
