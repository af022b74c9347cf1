"""Tools a test needs beside Python."""

from __future__ import annotations

import os
import shutil

import pytest


def needs_tool(name: str) -> str:
    """Return a tool's path; skip the test where it is not installed, but fail where everything is required."""
    path = shutil.which(name)
    if path is None:
        if os.environ.get("IEM_DCR_REQUIRE_ALL") == "1":
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return path
