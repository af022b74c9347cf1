"""The page on the architecture says what the code does: its diagram is the table of transitions."""

from __future__ import annotations

import re
from pathlib import Path

from iem_dcr.driver.transitions import TABLE

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"


def test_the_diagram_has_every_arrow_of_the_table_and_no_other() -> None:
    shown = set(re.findall(r"^ {4}([A-Z]+) --> ([A-Z]+): (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    table = {
        (state.name, to.name, event.name.lower().replace("_", " "))
        for state, row in TABLE.items()
        for event, to in row.items()
    }
    assert shown == table


def test_every_file_of_the_driver_is_named() -> None:
    page = PAGE.read_text(encoding="utf-8")
    folder = PAGE.parents[1] / "src" / "iem_dcr" / "driver"
    assert [file.name for file in folder.glob("[a-z]*.py") if file.name not in page] == []
