"""Tools a test needs beside Python."""

from __future__ import annotations

import importlib
import os
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

_SYSTEM = "/usr/local/sbin:/usr/sbin"
"""Where daemons lie; not everybody has these folders in PATH."""

IS_MEASURED = "COVERAGE_RUN" in os.environ
UNMEASURED = pytest.mark.skipif(
    IS_MEASURED,
    reason="coverage loads SQLite, writes a file in each process and slows its start, and this test forbids that",
)


def needs_tool(name: str) -> str:
    """Return a tool's path; skip the test where it is not installed, but fail where everything is required."""
    path = shutil.which(name) or shutil.which(name, path=_SYSTEM)
    if path is None:
        if os.environ.get("IEM_DCR_REQUIRE_ALL") == "1":
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return path


def needs_module(name: str) -> ModuleType:
    """Import a package a test needs; skip the test where it is not installed, but fail where everything is required."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if os.environ.get("IEM_DCR_REQUIRE_ALL") == "1":
            pytest.fail(f"the package {name} is not installed")
        pytest.skip(f"the package {name} is not installed")
