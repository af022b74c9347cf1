"""Numbers as they are given on the command lines here."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_HOURS: Final = 9000


def at_least(least: int) -> Callable[[str], int]:
    """Return what reads a whole number of a command line.

    Raises:
        argparse.ArgumentTypeError: when it is called, with what is none, or is below that.
    """

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"expects a whole number, at least {least}")
        return int(text)

    return read


def positive(text: str) -> float:
    """Read a time; it is below a year of hours.

    Raises:
        argparse.ArgumentTypeError: it is none, or not above 0.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < MOST_HOURS:
        raise argparse.ArgumentTypeError(f"expects a number above 0 and below {MOST_HOURS}")
    return number
