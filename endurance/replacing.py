"""Puts something else into the place of a part of the program, as long as a context is entered."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

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
