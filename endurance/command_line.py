"""The numbers on the command lines of this package, and the result that a command prints."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

N = TypeVar("N", int, float)

MAX_HOURS: Final = 9000.0
"""A year has 8,766."""


def number(kind: type[N], least: N, most: N) -> Callable[[str], N]:
    """Return a parser for argparse. It raises ArgumentTypeError for other text and for numbers out of range."""

    def parse(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expects a number from {least} to {most}")
        return value

    return parse


COUNT: Final = number(int, 1, 10**9)
SEED: Final = number(int, 0, 10**9)
HOURS: Final = number(float, 0.001, MAX_HOURS)


def verdict(broken: Sequence[str], success: str = "Nothing is broken.") -> int:
    """Print the broken promises, or ``success`` if there are none. Return the command's exit status."""
    for sentence in broken:
        print(f"BROKEN: {sentence}")
    print(f"{len(broken)} promises broken." if broken else success)
    return 1 if broken else 0
