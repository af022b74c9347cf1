"""Numbers as they are given on the command lines here."""

from __future__ import annotations

import argparse
import math
from typing import Final

MOST: Final = 9000


def at_least_one(text: str) -> int:
    """Read a whole number.

    Raises:
        argparse.ArgumentTypeError: it is none, or below 1.
    """
    return _at_least(text, 1)


def natural(text: str) -> int:
    """Read a whole number, 0 among them.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    return _at_least(text, 0)


def positive(text: str) -> float:
    """Read a time; it is below a year of hours.

    Raises:
        argparse.ArgumentTypeError: it is none, or not above 0.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < MOST:
        raise argparse.ArgumentTypeError(f"expects a number above 0 and below {MOST}")
    return number


def _at_least(text: str, least: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise argparse.ArgumentTypeError(f"expects a whole number, at least {least}")
    return int(text)
