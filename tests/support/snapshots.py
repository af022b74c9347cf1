"""Output that is pinned: a text file for each, written anew with IEM_DCR_UPDATE_SNAPSHOTS=1 in the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SNAPSHOTS = Path(__file__).parents[1] / "snapshots"


def assert_snapshot(name: str, text: str) -> None:
    """See that a text is what lies in ``tests/snapshots/NAME``; what differs from run to run is taken out before."""
    path = SNAPSHOTS / name
    if os.environ.get("IEM_DCR_UPDATE_SNAPSHOTS") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if not path.is_file():
        pytest.fail(f"there is no snapshot {name}; IEM_DCR_UPDATE_SNAPSHOTS=1 makes it")
    assert text == path.read_text(encoding="utf-8"), (
        f"differs from snapshot {name}; IEM_DCR_UPDATE_SNAPSHOTS=1 takes it"
    )
