"""Shortens a run that breaks a promise: removes steps as long as a promise is still broken.

A shortened run is written as its seed and the numbers of the remaining steps, such as ``0,1,5``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iem_dcr.errors import ConfigError, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from endurance.plan import Plan

Kept = tuple[int, ...]

MOST_RUNS: Final = 200
"""Maximum number of shortened runs. Each takes a fraction of a second."""


def shrunk(plan: Plan, is_broken: Callable[[Plan], bool], most_runs: int = MOST_RUNS) -> Kept:
    """Return the numbers of the steps with which a run still breaks a promise.

    Steps are removed in groups of decreasing size, from the end of the run to its beginning.

    Args:
        plan: a run that breaks a promise.
        is_broken: carries out a run and returns whether it breaks a promise.
        most_runs: maximum number of runs.
    """
    kept = tuple(range(plan.step_count))
    size, runs = len(kept), 0
    while size:
        end = len(kept)
        while end > 0 and runs < most_runs:
            begin = max(0, end - size)
            fewer = kept[:begin] + kept[end:]
            runs += 1
            if is_broken(plan.only(fewer)):
                kept = fewer
            end = begin
        size = min(size // 2, len(kept))
    return kept


def to_text(kept: Kept) -> str:
    """Format the numbers of steps."""
    return ",".join(map(str, kept))


def from_text(text: str, plan: Plan) -> Kept:
    """Parse the numbers of steps.

    Raises:
        ConfigError: the text has another format, or the run has no such step.
    """
    try:
        kept = {int(number) for number in text.split(",")}
    except ValueError:
        raise ConfigError([f"KEEP: {printable(text)} is not of the form 0,1,5 (numbers of steps)"]) from None
    if missing := kept - set(range(plan.step_count)):
        raise ConfigError([f"KEEP: seed {plan.seed} has no step {min(missing)}"])
    return tuple(sorted(kept))
