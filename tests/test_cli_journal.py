"""iem-dcr session with a journal: every receipt is kept, and what was kept before is no news."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.bench import CI
from tests.support.command_line import Done, Simulator, run
from tests.support.journals import entries

if TYPE_CHECKING:
    from pathlib import Path


def session(simulator: Simulator, path: Path, *options: str) -> Done:
    return run(
        "session", simulator.address, "--id", "04A2", "--evse-id", CI, "--seconds", "0.2",
        "--set", f"journal_path={path}", *options,
    )  # fmt: skip


def test_every_session_is_kept_and_shows_its_own_receipt_only(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    with Simulator() as simulator:
        for name in ("T-1", "T-2"):
            done = session(simulator, path, "--json", "--transaction-id", name)
            assert (done.status, done.err) == (0, "")
            assert done.only("receipt")["ocmf"] == entries(path)[-1].text
        done = session(simulator, path, "--transaction-id", "T-3")
        assert done.status == 0
        assert "The receipt of a transaction that was ended before" not in done.out
    assert [(entry.pagination, entry.transaction_id) for entry in entries(path)] == [
        ("T1", "T-1"), ("T2", "T-2"), ("T3", "T-3"),
    ]  # fmt: skip
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_journal_that_cannot_be_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with Simulator() as simulator:
        for path, what in (
            (tmp_path / "no" / "file", "its folder does not exist"),
            (tmp_path, "it is not a regular file"),
        ):
            done = session(simulator, path)
            assert done.status == 2
            assert done.out == ""
            assert what in " ".join(done.err.split())
        assert simulator.posts == []
