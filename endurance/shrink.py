"""Makes a run that breaks a promise shorter: steps are left out, as long as a promise is still broken.

A shortened run is written as its seed and the numbers of the steps that are kept of it, ``0-2,5``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from iem_dcr.errors import ConfigError, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from endurance.plan import Plan

Kept = tuple[int, ...]

MOST_RUNS: Final = 200
"""So many shortened runs are made at most; each takes a fraction of a second."""
_SPANS: Final = re.compile(r"\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*", re.ASCII)


def shrunk(plan: Plan, is_broken: Callable[[Plan], bool], most_runs: int = MOST_RUNS) -> Kept:
    """Return which steps have to be kept of a run so that it still breaks a promise.

    The last ones are left out first, in pieces that get smaller.

    Args:
        plan: a run that breaks one.
        is_broken: carries out a run and tells whether it breaks one.
        most_runs: how many it may carry out.
    """
    kept = tuple(range(plan.steps))
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
    """Write what is kept."""
    spans: list[list[int]] = []
    for number in kept:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in spans)


def from_text(text: str, plan: Plan) -> Kept:
    """Read what is kept of a run.

    Raises:
        ConfigError: it is not written so, or the run has no such step.
    """
    if _SPANS.fullmatch(text) is None:
        raise ConfigError([f"KEEP: {printable(text)} is not of the form 0-2,5 (numbers of steps)"])
    kept: set[int] = set()
    for first, _, last in (span.partition("-") for span in text.split(",")):
        kept.update(range(int(first), int(last or first) + 1))
    if missing := kept - set(range(plan.steps)):
        raise ConfigError([f"KEEP: seed {plan.seed} has no step {min(missing)}"])
    return tuple(sorted(kept))
