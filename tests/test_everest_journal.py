"""The EVerest module with a journal: what was answered is kept, also by a process that is killed right after."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from tests.support.command_line import Simulator
from tests.support.journals import entries
from tests.test_everest_module import assert_ended_well, live, module, receipt_of, start, stop

if TYPE_CHECKING:
    from pathlib import Path


def test_killed_module_leaves_its_receipts_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    with Simulator() as meter:
        texts = []
        with module(meter, journal_path=str(path)) as everest:
            live(everest)
            for name in ("T-1", "T-2"):
                assert everest.call("start_transaction", start(name))["status"] == "OK"
                texts.append(receipt_of(everest.call("stop_transaction", stop(name))).text)
            everest.kill()
        assert [(entry.transaction_id, entry.text) for entry in entries(path)] == list(
            zip(("T-1", "T-2"), texts, strict=True)
        )
        with module(meter, journal_path=str(path)) as everest:
            live(everest)
            for name, text in zip(("T-1", "T-2"), texts, strict=True):
                assert receipt_of(everest.call("stop_transaction", stop(name))).text == text
            assert_ended_well(everest)
        assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_default_journal_is_in_the_state_folder_and_opened_after_the_first_value(state_folder: Path) -> None:
    path = state_folder / "receipts.db"
    with Simulator() as meter:
        with module(meter) as everest:
            live(everest)
            everest.wait_for(lambda: [line for line in everest.log_lines if "receipts are kept" in line.text])
            told = [event.name for event in everest.events if event.name == "published" or "receipts are" in str(event)]
            assert told.index("published") < told.index("log")
            assert str(path) in next(line.text for line in everest.log_lines if "receipts are kept" in line.text)
            assert everest.call("start_transaction", start())["status"] == "OK"
            everest.kill()
        with module(meter) as everest:
            live(everest)
            assert receipt_of(everest.call("stop_transaction", stop("another"))).identification == "04ABT-1"
            assert receipt_of(everest.call("stop_transaction", stop())).identification == "04ABT-1"
            assert_ended_well(everest)
    assert [(entry.transaction_id, entry.found) for entry in entries(path)] == [("T-1", False)]


@pytest.mark.parametrize("trouble", ["no folder", "locked"])
def test_journal_that_cannot_be_written_is_an_error_and_fails_no_command(trouble: str, tmp_path: Path) -> None:
    path = tmp_path / ("missing/receipts.db" if trouble == "no folder" else "receipts.db")
    lock = None
    if trouble == "locked":
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
    with Simulator() as meter, module(meter, journal_path=str(path)) as everest:
        live(everest)
        assert everest.call("start_transaction", start())["status"] == "OK"
        for _ in range(2):
            assert receipt_of(everest.call("stop_transaction", stop())).identification == "04ABT-1"
        assert_ended_well(everest)
        lines = [line.text for line in everest.log_lines if line.level in ("error", "critical")]
        if trouble == "no folder":
            assert "its folder does not exist" in lines[0]
            assert "not written when the process ended" in lines[-1]
            assert "receipt T1" in lines[-1]
            assert len(lines) == 2
    if lock is not None:
        lock.close()
