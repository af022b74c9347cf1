"""Where the journal is, and when it is opened; and that a Python without SQLite drives meters all the same."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

import pytest

from iem_dcr import journal, journaling
from iem_dcr.config import Settings
from iem_dcr.driver import Recalled
from iem_dcr.errors import ConfigError
from iem_dcr.journaling import Journals, LateJournal, check_journal_of, existing, place
from tests.support.command_line import PATIENCE_S
from tests.support.disks import small_disk
from tests.support.driving import logged
from tests.support.journals import ADDRESS, METER, entries, entry, kept, process
from tests.support.tools import UNMEASURED

if TYPE_CHECKING:
    from pathlib import Path

NAME = "receipts.db"


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The folders that `place` looks at; none of them is there yet."""
    folders = {"service": tmp_path / "service", "system": tmp_path / "system", "user": tmp_path / "home" / "iem-dcr"}
    monkeypatch.setenv("STATE_DIRECTORY", f"{folders['service']}:{tmp_path / 'second'}")
    monkeypatch.setattr(journaling, "SYSTEM_FOLDER", folders["system"])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    return folders


def settings(path: str | Path, **others: object) -> Settings:
    return Settings.of({"ip_address": "192.0.2.7", "journal_path": str(path)} | others)


def late(path: str | Path, journals: Journals | None = None) -> LateJournal:
    made = (journals or Journals(resolves_auto=True)).of(settings(path))
    assert made is not None
    return made


# --- where it is ---


def test_the_first_folder_that_is_there_is_taken(homes: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    assert place() == homes["user"] / NAME
    assert homes["user"].stat().st_mode & 0o777 == 0o700
    homes["system"].mkdir()
    assert place() == homes["system"] / NAME
    homes["service"].touch()
    assert place() == homes["system"] / NAME, "a file is no folder"
    assert existing() is None
    homes["service"].unlink()
    (homes["service"] / NAME).mkdir(parents=True)
    assert place() == homes["service"] / NAME, "although the file is bad"
    for name in ("user", "system"):
        (homes[name] / NAME).touch()
        assert existing() == homes[name] / NAME
    assert logged(caplog) == []


def test_a_state_home_that_is_relative_is_ignored(
    homes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place() == tmp_path / ".local" / "state" / "iem-dcr" / NAME


@UNMEASURED
@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_that_is_forbidden_is_passed_over_and_a_file_in_it_counts_as_empty(
    is_there: bool,  # noqa: FBT001  a table's column
    tmp_path: Path,
) -> None:
    path = tmp_path / "folder" / NAME
    path.parent.mkdir()
    if is_there:
        path.touch()
    path.parent.chmod(0o000)
    with process("forbidden", path) as user:
        out, err = user.communicate(timeout=60)
    path.parent.chmod(0o700)
    assert out.split() == ["0", "1", "None"]
    (first,) = err.splitlines()
    assert first.startswith(f"WARNING journal {path}: this user may not use its folder; change its rights")


def test_on_a_read_only_disk_a_journal_stays_the_journal_and_an_empty_folder_is_passed_over(
    homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(pages=300) as disk:
        (disk / "with").mkdir()
        (disk / "with" / NAME).touch()
        (disk / "without").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        monkeypatch.setenv("STATE_DIRECTORY", str(disk / "without"))
        assert place() == homes["user"] / NAME
        monkeypatch.setenv("STATE_DIRECTORY", str(disk / "with"))
        assert place() == disk / "with" / NAME


def test_a_journal_that_cannot_be_is_refused_by_the_check(tmp_path: Path, homes: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="its folder does not exist"):
        check_journal_of(settings(tmp_path / "none" / NAME))
    for none in ("", "off", "auto"):
        check_journal_of(settings(none))
    assert not any(folder.exists() for folder in homes.values())


# --- who has one ---


def test_only_auto_that_is_resolved_and_a_path_are_a_journal() -> None:
    assert Settings.of().journal_path == "auto"
    assert [Journals(resolves_auto=True).of(settings(path)) is None for path in ("", "off", "auto", "/a")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert Journals().of(Settings.of()) is None


def test_auto_is_found_when_it_is_turned_to_and_said(homes: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = homes["user"] / NAME

    async def main() -> None:
        made = late("auto")
        await made.close()
        assert not file.parent.exists()
        assert (await made.recall(meter=METER, address=ADDRESS)) == Recalled()
        assert made.path == file
        await made.keep(kept(1, "T-1"))
        found = await made.receipt_of("T-1", meter=METER, address=ADDRESS)
        assert found is not None
        assert found.text == kept(1).receipt.text
        other = late(file)
        await other.keep(kept(2, "T-2"))
        await asyncio.gather(made.close(), other.close())

    asyncio.run(main())
    assert caplog.text.count(f"receipts are kept in journal {file}") == 1, "whichever meters share it"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [one.transaction_id for one in entries(file)] == ["T-1", "T-2"]


def test_no_folder_is_one_warning_for_all_meters_and_an_empty_journal(
    homes: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    homes["user"].parent.touch()
    journals = Journals(resolves_auto=True)

    async def main() -> None:
        for one in (late("auto", journals), late("auto", journals)):
            await one.keep(kept(1, "T-1"))
            assert (await one.recall(meter=METER, address=ADDRESS)) == Recalled()
            assert await one.receipt_of("T-1", meter=METER, address=ADDRESS) is None
            assert one.path is None
            await one.close()

    asyncio.run(main())
    (warning,) = logged(caplog)
    assert warning.startswith("no folder for the journal of receipts")
    assert "set journal_path to a file" in warning


def of_a_process(program: str, *words: Path) -> subprocess.CompletedProcess[str]:
    """Run the body of a coroutine in another process, with ``sys.argv[1:]``."""
    imports = "asyncio, logging, sys, time; logging.basicConfig(format='%(levelname)s %(message)s')\n"
    ours = "from iem_dcr.config import Settings; from iem_dcr.journaling import MAX_WAITING, Journals\n"
    code = f"import {imports}{ours}async def main():\n{textwrap.indent(program, '    ')}\nasyncio.run(main())\n"
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )


def test_a_python_without_sqlite_is_one_warning_for_all_meters(tmp_path: Path) -> None:
    program = """
sys.modules["sqlite3"] = sys.modules["_sqlite3"] = None
journals = Journals(resolves_auto=True)
for path in ("auto", sys.argv[1]):
    one = journals.of(Settings.of({"journal_path": path}))
    print(await one.recall(meter="", address="a") == await one.recall(meter="", address="b"), one.path)
"""
    done = of_a_process(program, tmp_path / NAME)
    assert done.stdout == "True None\n" * 2
    (warning,) = done.stderr.splitlines()
    assert warning.startswith("WARNING receipts are not kept: this Python has no SQLite")
    assert "install python3-sqlite3" in warning


def test_what_fails_at_opening_is_said_and_takes_nobody_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(journal, "open_journal", fails)

    async def main() -> None:
        assert (await late(tmp_path / NAME).recall(meter=METER, address=ADDRESS)) == Recalled()

    asyncio.run(main())
    assert len(logged(caplog)) == 1
    assert "cannot be opened: receipts are not kept" in caplog.text


# --- when it is opened ---
@UNMEASURED
def test_sqlite_is_loaded_by_the_first_that_turns_to_a_journal(tmp_path: Path) -> None:
    program = """
one = Journals().of(Settings.of({"journal_path": sys.argv[1]}))
print("sqlite3" in sys.modules)
await one.recall(meter="", address="a")
print("sqlite3" in sys.modules)
await one.close()
"""
    assert of_a_process(program, tmp_path / NAME).stdout == "False\nTrue\n"


def test_what_is_written_before_it_is_open_waits_in_its_order_and_holds_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that hangs hangs in a thread; who gave up waiting takes nothing back."""
    over = threading.Event()
    makes = journal.open_journal

    def slow(*found: object) -> journal.Journal:
        over.wait(60)
        return makes(*found)  # type: ignore[arg-type]

    monkeypatch.setattr(journal, "open_journal", slow)
    first = entry("T-1")

    async def main() -> None:
        made = late(tmp_path / NAME)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(made.recall(meter=METER, address=ADDRESS), 0.01)
        made.note(first)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_done(made.withdraw(first)), 0.01)
        made.note(entry("T-2"))
        made.refused("T-3", meter=METER, address=ADDRESS)
        made.pin(ADDRESS, METER)
        asking = asyncio.create_task(made.recall(meter=METER, address=ADDRESS))
        await asyncio.sleep(0)
        over.set()
        recalled = await asking
        assert [one.transaction_id for one in recalled.entries] == ["T-2"]
        assert recalled.refused == ("T-3",)
        assert recalled.pinned == METER
        await made.close()

    try:
        asyncio.run(main())
    finally:
        over.set()


async def _done(writing: object) -> None:
    await writing  # type: ignore[misc]


def test_a_file_that_is_never_open_takes_so_many_writes_and_keeps_no_process_from_ending(tmp_path: Path) -> None:
    program = """
from iem_dcr import errors, journal
journal.open_journal = lambda *_: time.sleep(10_000)
one = Journals().of(Settings.of({"journal_path": sys.argv[1]}))
for _ in range(MAX_WAITING):
    one.pin("a", "b")
try:
    await one.pin("a", "b")
except errors.JournalError as error:
    print(error)
await one.close(timeout_s=0.1)
"""
    done = of_a_process(program, tmp_path / NAME)
    assert "NOT kept" in done.stdout
    assert done.stderr == "ERROR the journal of receipts was not open in time: 10000 waiting writes are lost\n"
