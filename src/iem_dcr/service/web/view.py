"""What a page shows at a moment: texts by name, and tables of rows. What changed of it is what goes over a stream.

The server writes every text; the browser only puts it where it belongs, as text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Cell:
    """A text.

    Attributes:
        text: fit to be shown.
        kind: how it is to look: a word of the style sheet's, or "".
        href: path on this page that it leads to, or "".
    """

    text: str
    kind: str = ""
    href: str = ""

    def to_json(self) -> object:
        """Return it as JSON types: a text alone where it is no more than that."""
        return [self.text, self.kind, self.href] if self.kind or self.href else self.text


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table; the key is its own in that table."""

    key: str
    cells: tuple[Cell, ...]
    kind: str = ""

    def to_json(self) -> object:
        """Return it as JSON types."""
        return {"key": self.key, "kind": self.kind, "cells": [cell.to_json() for cell in self.cells]}


@dataclass(frozen=True, slots=True)
class View:
    """What a page shows.

    Attributes:
        fields: texts by their names.
        tables: rows by the names of their tables.
    """

    fields: Mapping[str, Cell] = field(default_factory=dict)
    tables: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)

    def changes(self, before: View) -> dict[str, object]:
        """Return as JSON types what is new since another view of the same page; {} when nothing is.

        A table whose rows are others than before, or in another order, comes whole.
        """
        fields = {name: cell.to_json() for name, cell in self.fields.items() if cell != before.fields.get(name)}
        tables = {}
        for name, rows in self.tables.items():
            old = before.tables.get(name, ())
            if rows == old:
                continue
            is_same = [row.key for row in rows] == [row.key for row in old]
            changed = [row for row, was in zip(rows, old, strict=True) if row != was] if is_same else rows
            tables[name] = {"whole": not is_same, "rows": [row.to_json() for row in changed]}
        return ({"fields": fields} if fields else {}) | ({"tables": tables} if tables else {})


def text(value: str, kind: str = "") -> Cell:
    """Return a cell of a text."""
    return Cell(value, kind)
