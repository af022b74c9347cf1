"""Puts something else into the place of a part of the program, as long as a context is entered."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from iem_dcr.driver.decisions import TABLE, Do, Event, State

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def instead(owner: Any, **named: Any) -> Iterator[None]:
    """Have other attributes in the place of an object's own."""
    before = {name: getattr(owner, name) for name in named}
    for name, value in named.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextmanager
def decides(changes: dict[tuple[State, Event], tuple[State, Do]]) -> Iterator[None]:
    """Have the table of decisions say something else."""
    table: Any = TABLE
    before = {(state, event): table[state][event] for state, event in changes}
    for (state, event), step in changes.items():
        table[state][event] = step
    try:
        yield
    finally:
        for (state, event), step in before.items():
            table[state][event] = step
