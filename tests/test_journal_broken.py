"""A journal that cannot be written, is killed, locked, corrupt or taken away: nothing is lost, and nobody waits."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import iem_dcr.journal.schema
import iem_dcr.journal.writer
from iem_dcr.errors import JournalError
from iem_dcr.journal.writer import Work, Writer
from tests.support.journals import ADDRESS, entries, journal, kept, process, tuple_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iem_dcr.journal import Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "receipts.db"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the writer try again soon."""
    monkeypatch.setattr(iem_dcr.journal.writer, "RETRY_S", 0.05)


def paginations(path: Path) -> list[str]:
    return [entry.pagination for entry in entries(path)]


def assert_sound(path: Path) -> None:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()
    assert all(entry.is_whole for entry in entries(path))


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def keep_until_it_works(opened: Journal, number: int) -> None:
    while True:
        try:
            await opened.keep(kept(number))
        except JournalError:
            await asyncio.sleep(0.02)
        else:
            return


# --- killed ---


def test_a_process_that_is_killed_at_any_instant_loses_nothing_it_has_acknowledged(path: Path) -> None:
    chance = random.Random(7)
    acknowledged: list[int] = []
    for run in range(8):
        with process("write", path, run * 100_000, 100_000) as writer:
            assert writer.stdout is not None
            acknowledged += [int(writer.stdout.readline()) for _ in range(chance.randrange(1, 60))]
            writer.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
            assert writer.wait() == -signal.SIGKILL
    assert set(paginations(path)) >= {f"T{number}" for number in acknowledged}
    assert len(acknowledged) > 8
    assert_sound(path)


def test_a_process_that_is_killed_while_it_makes_the_file(path: Path) -> None:
    with process("killed-soon", path, 40) as killer:
        out, err = killer.communicate(timeout=100)
    assert (killer.returncode, err) == (0, "")
    *states, killed = out.splitlines()
    assert set(states) <= {f"{was_there} {[path.name]}" for was_there in (True, False)}
    assert int(killed) > 5


def ends(_: sqlite3.Connection) -> str:
    raise SystemExit


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("how", ["closed", "died"])
def test_a_writer_that_has_ended_takes_nothing_more(how: str, path: Path) -> None:
    before = set(threading.enumerate())
    writer = Writer(path)
    (thread,) = set(threading.enumerate()) - before
    if how == "closed":
        writer.close()
    else:
        writer.submit(Work(ends, "what ends the thread"))
    writer.ended.result(10)
    thread.join(10)  # what pytest has to say of its end is said within this test
    work = Work(lambda _: "", "receipt T1 of meter 1")
    with pytest.raises(JournalError, match="is closed; receipt T1 of meter 1 is not kept"):
        writer.submit(work)
    assert not work.done.done()


# --- several processes ---


def test_several_processes_write_one_file(path: Path) -> None:
    writers = [process("write", path, number * 1000, 60) for number in range(3)]
    for writer in writers:
        out, err = writer.communicate(timeout=100)
        assert len(out.split()) == 60
        assert err == ""
    assert len(entries(path)) == 180
    assert_sound(path)


def test_a_file_that_another_process_has_locked(
    path: Path, caplog: pytest.LogCaptureFixture, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iem_dcr.journal.schema, "BUSY_S", 0.05)

    async def main() -> None:
        async with journal(path) as opened:
            await opened.keep(kept(1))
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(JournalError, match="another process has it locked"):
                await opened.keep(kept(2))
            with pytest.raises(JournalError, match="another process has it locked"):
                await opened.keep(kept(3))
            other.close()
            await keep_until_it_works(opened, 4)

    asyncio.run(main())
    assert paginations(path) == ["T1", "T2", "T3", "T4"]
    assert len(errors(caplog)) == 1


# --- no room, no rights ---


def test_files_that_may_grow_no_further_and_then_may_again(path: Path) -> None:
    with process("small-files", path, 300_000) as writer:
        assert writer.stdout is not None
        last, first_refused = map(int, writer.stdout.readline().split())
        before = set(paginations(path))
        assert before == {f"T{number}" for number in range(1, first_refused)}
        out, err = writer.communicate("now\n", timeout=60)
        assert writer.returncode == 0
    assert set(paginations(path)) == {f"T{number}" for number in range(1, int(out) + 1)}
    assert int(out) > last
    lines = [line for line in err.splitlines() if line]
    assert [line.split()[0] for line in lines] == ["ERROR", "INFO"]
    assert "receipts wait in memory" in lines[0]
    assert "works again" in lines[1]
    assert_sound(path)


@contextlib.contextmanager
def small_disk(*, pages: int) -> Iterator[Path]:
    """Mount a disk of so many pages; the test is skipped where that is not allowed."""
    folder = Path(tempfile.mkdtemp())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={pages * os.sysconf('SC_PAGE_SIZE')}", "none", str(folder)]
    try:
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("a file system cannot be mounted here")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
    finally:
        folder.rmdir()


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def test_a_full_disk(caplog: pytest.LogCaptureFixture, soon: None) -> None:
    async def main(path: Path) -> int:
        refused = []
        async with journal(path) as opened:
            for number in range(2000):
                try:
                    await opened.keep(kept(number))
                except JournalError as error:
                    refused.append(str(error))
                if len(refused) == 5:
                    break
            assert "receipts wait in memory" in refused[0]
            (path.parent / "filler").unlink()
            await keep_until_it_works(opened, number + 1)
        return number + 1

    with small_disk(pages=300) as folder:
        path = folder / "receipts.db"
        (folder / "filler").write_bytes(b"x" * (folder.stat().st_blksize * 200))
        last = asyncio.run(main(path))
        assert set(paginations(path)) == {f"T{number}" for number in range(last + 1)}
        assert_sound(path)
    assert len(errors(caplog)) == 1
    assert "the disk is full" in errors(caplog)[0]


def test_a_disk_that_is_full_from_the_beginning(soon: None) -> None:
    async def main(path: Path) -> None:
        async with journal(path) as opened:
            with pytest.raises(JournalError):
                await opened.keep(kept(1))
            (path.parent / "filler").unlink()
            await keep_until_it_works(opened, 2)

    with small_disk(pages=300) as folder:
        with (folder / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
            filler.writelines(itertools.repeat(b"x" * 4096))
        asyncio.run(main(folder / "receipts.db"))
        assert paginations(folder / "receipts.db") == ["T1", "T2"]


def test_a_disk_that_nobody_may_write(soon: None) -> None:
    async def main(path: Path) -> None:
        async with journal(path) as opened:
            with pytest.raises(JournalError, match="may not write it"):
                await opened.keep(kept(2))
            found = await opened.receipt_of("T-1", meter="", address=ADDRESS)
            assert found is not None
            assert found.text == tuple_text(1)
            assert before == paginations(path)
            remount(path.parent, "rw")
            await keep_until_it_works(opened, 3)

    with small_disk(pages=300) as folder:
        path = folder / "receipts.db"

        async def begin() -> None:
            async with journal(path) as opened:
                await opened.keep(kept(1, "T-1"))

        asyncio.run(begin())
        remount(folder, "ro")
        before = paginations(path)
        assert before == ["T1"]
        asyncio.run(main(path))
        assert paginations(path) == ["T1", "T2", "T3"]


def test_a_folder_that_comes_later(tmp_path: Path, caplog: pytest.LogCaptureFixture, soon: None) -> None:
    path = tmp_path / "data" / "receipts.db"

    async def main() -> None:
        async with journal(path) as opened:
            for number in range(20):
                with pytest.raises(JournalError, match="its folder does not exist"):
                    await opened.keep(kept(number))
                with pytest.raises(JournalError, match="its folder does not exist"):
                    await opened.keep(kept(number))
            assert opened._shared.writer.waiting == 20
            assert await opened.receipt_of("T-1", meter="", address=ADDRESS) is None
            path.parent.mkdir()
            await keep_until_it_works(opened, 20)

    asyncio.run(main())
    assert paginations(path) == [f"T{number}" for number in range(21)]
    assert len(errors(caplog)) == 1


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
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize(("name", "value"), [("LONGEST_QUEUE", 5), ("LARGEST_QUEUE_BYTES", 5 * len(tuple_text(1)) + 9)])
def test_what_waits_in_memory_is_bounded_and_what_is_beyond_is_refused(
    tmp_path: Path, name: str, value: int, monkeypatch: pytest.MonkeyPatch, soon: None
) -> None:
    monkeypatch.setattr(iem_dcr.journal.writer, name, value)
    path = tmp_path / "data" / "receipts.db"

    async def main() -> None:
        async with journal(path) as opened:
            with pytest.raises(JournalError, match="its folder does not exist"):
                await opened.keep(kept(0))
            for number in range(1, 10):
                expected = "receipts wait in memory" if number < 5 else f"receipt T{number} of meter .* is NOT kept"
                with pytest.raises(JournalError, match=expected):
                    await opened.keep(kept(number))
            path.parent.mkdir()
            await keep_until_it_works(opened, 20)

    asyncio.run(main())
    assert paginations(path) == ["T0", "T1", "T2", "T3", "T4", "T20"]


def test_a_piece_of_work_that_cannot_be_done_does_not_keep_the_others_from_it(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with journal(path) as opened:
            poison = kept(1, public_key=7)
            works = [opened.keep(receipt) for receipt in (kept(0), poison, kept(2))]
            results = await asyncio.gather(*works, return_exceptions=True)
            assert [type(result) for result in results] == [type(None), JournalError, type(None)]
            await opened.keep(kept(3))

    asyncio.run(main())
    assert paginations(path) == ["T0", "T2", "T3"]
    (error,) = errors(caplog)
    assert "receipt T1 of meter" in error


# --- taken away, corrupt ---


def take_away(path: Path, way: str) -> None:
    if way == "moved":
        path.rename(path.with_name("moved.db"))
    else:
        path.unlink()
    if way == "replaced":
        path.touch()


@pytest.mark.parametrize("way", ["deleted", "moved", "replaced"])
def test_a_file_that_is_taken_away_while_it_is_in_use(way: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with journal(path) as opened:
            await opened.keep(kept(1))
            take_away(path, way)
            await opened.keep(kept(2))
            await opened.keep(kept(3))

    asyncio.run(main())
    assert paginations(path) == ["T2", "T3"]
    assert len(errors(caplog)) == 1
    assert "was moved or deleted while it was in use: a new one is begun" in errors(caplog)[0]


def full_journal(path: Path) -> bytes:
    async def main() -> None:
        async with journal(path) as opened:
            await asyncio.gather(*(opened.keep(kept(number, f"T-{number}")) for number in range(60)))

    asyncio.run(main())
    return path.read_bytes()


@pytest.fixture(scope="module")
def full() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return full_journal(Path(folder) / "receipts.db")


USER_VERSION = range(60, 64)
"""Another number there is another version, and refused."""


@settings(deadline=None, max_examples=60, database=None)
@given(
    damage=st.lists(
        st.tuples(
            st.one_of(st.integers(0, 120), st.integers(0, 70_000)).filter(lambda at: at not in USER_VERSION),
            st.binary(min_size=1, max_size=40),
        ),
        min_size=1,
        max_size=10,
    ),
    cut=st.one_of(st.just(70_000), st.integers(0, 70_000)),
)
def test_bytes_that_changed_anywhere(full: bytes, damage: list[tuple[int, bytes]], cut: int) -> None:
    changed = bytearray(full[:cut])
    for at, new in damage:
        kept_version = changed[60:64]
        changed[at : at + len(new)] = new[: max(0, len(changed) - at)]
        changed[60:64] = kept_version
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "receipts.db"
        path.write_bytes(changed)

        async def main() -> None:
            async with journal(path) as opened:
                await opened.keep(kept(1000))
                found = await opened.receipt_of("T-7", meter="", address=ADDRESS)
                assert found is None or found.text == tuple_text(7)

        if b"OCMF|{" not in changed and b"CREATE TABLE receipts" not in changed and changed[68:72] != full[68:72]:
            # Nothing is left by which it could be told from another program's file.
            with contextlib.suppress(JournalError):
                asyncio.run(main())
            return
        asyncio.run(main())
        assert "T1000" in paginations(path)
        for file in path.parent.glob("*.corrupt-*Z"):
            assert file.read_bytes()[:4] == changed[:4]


@pytest.mark.parametrize("is_in_use", [False, True])
def test_a_corrupt_file_is_moved_aside_with_what_belongs_to_it(
    is_in_use: bool,  # noqa: FBT001  a table's column
    path: Path,
    tmp_path: Path,
    full: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    killed = tmp_path / "killed.db"

    async def main() -> None:
        async with journal(path) as opened:
            await opened.keep(kept(100))
            for suffix in ("", "-wal", "-shm"):
                shutil.copy(path.with_name(path.name + suffix), killed.with_name(killed.name + suffix))

    path.write_bytes(full)
    asyncio.run(main())
    with killed.open("r+b") as file:
        file.seek(4096 * 5)
        file.write(b"nothing that SQLite knows" * 1000)

    other = sqlite3.connect(killed) if is_in_use else None
    if other is not None:
        other.execute("SELECT count(*) FROM sqlite_master").fetchone()

    async def go_on() -> None:
        async with journal(killed) as opened:
            await opened.keep(kept(101))
            if other is not None:
                other.close()
            await opened.keep(kept(102))

    asyncio.run(go_on())
    assert paginations(killed) == ["T101", "T102"]
    (error,) = errors(caplog)
    aside = error.partition("it was moved to ")[2].partition(",")[0]
    moved = {file.name for file in tmp_path.glob("killed*")} - {"killed.db"}
    assert moved == ({aside, f"{aside}-wal", f"{aside}-shm"} if is_in_use else {aside})
    assert tuple_text(100).encode() in (tmp_path / (f"{aside}-wal" if is_in_use else aside)).read_bytes()


def test_two_processes_that_find_the_file_corrupt_move_it_once(path: Path, full: bytes) -> None:
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
