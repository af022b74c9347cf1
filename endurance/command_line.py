"""The numbers on the command lines of this package, and the result that a command prints."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_HOURS: Final = 9000
"""A year has 8,766."""


def at_least(least: int) -> Callable[[str], int]:
    """Return a parser of whole numbers. It raises ArgumentTypeError for other text and numbers below ``least``."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"expects a whole number, at least {least}")
        return int(text)

    return parse


def positive(text: str) -> float:
    """Parse a number above 0 and below `MAX_HOURS`.

    Raises:
        argparse.ArgumentTypeError: the text is not such a number.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < MAX_HOURS:
        raise argparse.ArgumentTypeError(f"expects a number above 0 and below {MAX_HOURS}")
    return number


def verdict(broken: Sequence[str], success: str = "Nothing is broken.") -> int:
    """Print the broken promises, or ``success`` if there are none. Return the command's exit status."""
    for sentence in broken:
        print(f"BROKEN: {sentence}")
    print(f"{len(broken)} promises broken." if broken else success)
    return 1 if broken else 0
