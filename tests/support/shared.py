"""Genuine answers and receipts of the meter: no part of the project, they lie in a folder beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


def shared(path: str) -> Path:
    """A path in the folder `shared` beside the checkout.

    The test is skipped where there is no such folder; with IEM_DCR_REQUIRE_ALL=1 in the environment it fails instead.
    """
    if not SHARED.is_dir():
        missing = "the folder 'shared' with the genuine receipts is not beside the checkout"
        if os.environ.get("IEM_DCR_REQUIRE_ALL") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return SHARED / path
