"""Where the journal is: the order of the folders, and that a Python without SQLite drives meters all the same."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from iem_dcr import journaling
from iem_dcr.config import Settings
from iem_dcr.errors import ConfigError
from iem_dcr.journaling import check_journal_of, existing, journal_of, place
from tests.support.journals import process


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The folders that `place` looks at; none of them is there yet."""
    folders = {"service": tmp_path / "service", "system": tmp_path / "system", "user": tmp_path / "home" / "iem-dcr"}
    monkeypatch.setenv("STATE_DIRECTORY", f"{folders['service']}:{tmp_path / 'second'}")
    monkeypatch.setattr(journaling, "SYSTEM_FOLDER", folders["system"])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    return folders


def settings(path: str) -> Settings:
    return Settings.of({"ip_address": "192.0.2.7", "journal_path": path})


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("setting", ["", "off"])
def test_none_is_kept_where_none_is_wanted(setting: str, homes: dict[str, Path]) -> None:
    assert place(setting) is None
    assert journal_of(settings(setting), resolves_auto=True) is None
    check_journal_of(settings(setting), resolves_auto=True)
    assert not any(folder.exists() for folder in homes.values())


def test_a_path_is_taken_as_it_is() -> None:
    assert place("/data/receipts.db") == Path("/data/receipts.db")
    assert place("receipts.db") == Path("receipts.db")


def test_the_first_folder_that_is_there_is_taken(homes: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    assert place("auto") == homes["user"] / "receipts.db"
    assert homes["user"].stat().st_mode & 0o777 == 0o700
    homes["system"].mkdir()
    assert place("auto") == homes["system"] / "receipts.db"
    homes["service"].mkdir()
    assert place("auto") == homes["service"] / "receipts.db"
    assert warnings(caplog) == []


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_that_is_forbidden_is_passed_over_and_a_file_in_it_counts_as_empty(
    is_there: bool,  # noqa: FBT001  a table's column
    tmp_path: Path,
) -> None:
    path = tmp_path / "folder" / "receipts.db"
    path.parent.mkdir()
    if is_there:
        path.touch()
    path.parent.chmod(0o000)
    with process("forbidden", path) as user:
        out, err = user.communicate(timeout=60)
    path.parent.chmod(0o700)
    assert out.split() == ["0", "1", "None"]
    first, second = err.splitlines()
    assert first.startswith(f"WARNING journal {path}: this user may not use its folder; change its rights")
    assert second.startswith("WARNING no folder for the journal of receipts")


def test_a_file_in_the_place_of_a_folder_is_passed_over(homes: dict[str, Path]) -> None:
    homes["service"].touch()
    assert place("auto") == homes["user"] / "receipts.db"


def test_a_file_that_cannot_be_used_stays_the_journal(homes: dict[str, Path]) -> None:
    homes["service"].mkdir()
    (homes["service"] / "receipts.db").mkdir()
    assert place("auto") == homes["service"] / "receipts.db"


def test_a_state_home_that_is_relative_is_ignored(
    homes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place("auto") == tmp_path / ".local" / "state" / "iem-dcr" / "receipts.db"


def test_no_folder_is_one_warning_and_no_journal(
    homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    homes["user"].parent.touch()
    assert journal_of(settings("auto"), resolves_auto=True) is None
    (warning,) = warnings(caplog)
    assert "set journal_path to a file" in warning


def test_auto_is_for_those_that_resolve_it(homes: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert journal_of(settings("auto")) is None
    check_journal_of(settings("auto"))
    assert not homes["user"].exists()

    async def main() -> None:
        opened = journal_of(settings("auto"), resolves_auto=True)
        assert opened is not None
        assert opened.path == homes["user"] / "receipts.db"
        await opened.pin("192.0.2.7:80", "1TST0000000001")
        await opened.close()

    asyncio.run(main())
    assert f"receipts are kept in journal {homes['user'] / 'receipts.db'}" in caplog.text
    assert (homes["user"] / "receipts.db").stat().st_mode & 0o777 == 0o600


def test_the_first_that_exists_is_found(homes: dict[str, Path]) -> None:
    assert existing() is None
    homes["service"].mkdir()
    for name in ("user", "system"):
        homes[name].mkdir(parents=True)
        (homes[name] / "receipts.db").touch()
        assert existing() == homes[name] / "receipts.db"


def test_a_journal_that_cannot_be_is_refused_by_the_check(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its folder does not exist"):
        check_journal_of(settings(str(tmp_path / "none" / "receipts.db")))


def test_a_python_without_sqlite_is_one_warning(tmp_path: Path) -> None:
    code = (
        "import logging, sys; logging.basicConfig(format='%(levelname)s %(message)s')\n"
        "sys.modules['sqlite3'] = sys.modules['_sqlite3'] = None\n"
        "from iem_dcr.config import Settings; from iem_dcr.journaling import journal_of\n"
        f"path = {str(tmp_path / 'receipts.db')!r}\n"
        "print(journal_of(Settings.of({'ip_address': '192.0.2.7', 'journal_path': path})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
    assert done.stderr.startswith("WARNING receipts are not kept in ")
    assert "install python3-sqlite3" in done.stderr
    assert done.stderr.count("\n") == 1


def test_sqlite_is_loaded_by_the_first_journal_only() -> None:
    code = "import sys, iem_dcr.journaling, iem_dcr.driver.ports; print('sqlite3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
