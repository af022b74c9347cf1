"""The page on the architecture names what there is."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"


def test_every_file_of_the_driver_is_named() -> None:
    page = PAGE.read_text(encoding="utf-8")
    folder = PAGE.parents[1] / "src" / "iem_dcr" / "driver"
    assert [file.name for file in folder.glob("[a-z]*.py") if file.name not in page] == []


def test_every_file_that_is_named_exists() -> None:
    source = PAGE.parents[1] / "src" / "iem_dcr"
    walk = PAGE.read_text(encoding="utf-8").partition("## A start, walked")[2].partition("## The house")[0]
    named = re.findall(r"`(\w+/\w+\.py)`", walk)
    assert len(named) > 10
    assert [name for name in named if not (source / name).is_file()] == []
