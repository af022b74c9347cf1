"""What holds for all tests: how much they try, where their journals are, and what is said of those that did not run.

The state folder of a test is its own, and the first that is looked at: what a test before has kept would answer its
stops, and the user's own journal is no test's business.
"""

from __future__ import annotations

import itertools
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.profiles import load_profiles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

load_profiles()

if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup; the processes that are tested take that over
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

_numbers = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def state_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep what lives longer than a test away from the folders of this computer, too."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_DIRECTORY", str(folder))
        patch.setenv("XDG_STATE_HOME", str(folder / "home"))
        yield folder


@pytest.fixture(autouse=True)
def state_folder(state_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the programs that a test runs keep their journal, unless they are told another place."""
    folder = state_folders / str(next(_numbers))
    folder.mkdir()
    monkeypatch.setenv("STATE_DIRECTORY", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "home"))
    return folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file in which a test has its journal."""
    return tmp_path / "receipts.db"


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was not run, and why."""
    reasons = Counter(str(skipped.longrepr[2]) for skipped in terminalreporter.getreports("skipped"))
    told = [f"{count} ({reason.removeprefix('Skipped: ')})" for reason, count in reasons.most_common()]
    if told:
        terminalreporter.write_line(f"Not run: {', '.join(told)}", yellow=True)
