"""The meaning of OCMF's codes in a reading, in words (OCMF 1.4.1, Readings)."""

from __future__ import annotations

_FLAGS = {"E": "energy is not reliable", "t": "the time is not reliable"}
_ENDS = {"L": "locally", "R": "remotely", "A": "by an abort", "P": "by a power failure"}


def meaning_of_flags(EF: str) -> str:
    """Return the meaning of each error flag, or "" for no flag."""
    return " and ".join(_FLAGS.get(flag, "unknown") for flag in EF)


def how_ended(TX: str) -> str:
    """Return how a transaction ended by the TX of its last reading, or "" for an ordinary end."""
    return _ENDS.get(TX, "")
