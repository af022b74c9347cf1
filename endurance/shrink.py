"""Makes a run that breaks a promise shorter: sessions are left out, then steps, as long as a promise is still broken.

A shortened run is written as its seed and what is kept of it, ``4:0-2,5;7:1``: of session 4 the steps 0 to 2 and 5, of
session 7 the step 1, and no other session.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from iem_dcr.errors import ConfigError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from endurance.plan import Plan

Kept = dict[int, tuple[int, ...]]

MOST_RUNS: Final = 200
"""So many shortened runs are made at most; each takes a fraction of a second."""
_SESSION: Final = re.compile(r"(\d{1,6}):((?:\d{1,6}(?:-\d{1,6})?(?:,\d{1,6}(?:-\d{1,6})?)*)?)", re.ASCII)


def shrunk(plan: Plan, is_broken: Callable[[Plan], bool], most_runs: int = MOST_RUNS) -> Kept:
    """Return what has to be kept of a run so that it still breaks a promise.

    Args:
        plan: a run that breaks one.
        is_broken: carries out a run and tells whether it breaks one.
        most_runs: how many it may carry out.
    """
    tries = _Tries(plan, is_broken, most_runs)
    kept = plan.keeps_all()
    kept = tries.without(kept, sorted(kept), lambda some: {number: kept[number] for number in some})
    for number in sorted(kept):
        steps = kept[number]
        before = dict(kept)
        kept = tries.without(kept, steps, lambda some, n=number, b=before: b | {n: tuple(some)})  # type: ignore[misc]
    # A session that does nothing may have been needed for its time alone.
    for number in [number for number, steps in kept.items() if not steps]:
        fewer = {other: steps for other, steps in kept.items() if other != number}
        if fewer and tries.breaks(fewer):
            kept = fewer
    return kept


class _Tries:
    """The runs that are made, which are counted."""

    def __init__(self, plan: Plan, is_broken: Callable[[Plan], bool], most: int) -> None:
        self._plan = plan
        self._is_broken = is_broken
        self._left = most

    def breaks(self, kept: Kept) -> bool:
        if self._left <= 0:
            return False
        self._left -= 1
        return self._is_broken(self._plan.only(kept))

    def without(self, kept: Kept, parts: Sequence[int], made: Callable[[Sequence[int]], Kept]) -> Kept:
        """Leave out as many parts as possible, the last ones first, in pieces that get smaller."""
        left = list(parts)
        size = len(left)
        while size:
            end = len(left)
            while end > 0:
                begin = max(0, end - size)
                fewer = left[:begin] + left[end:]
                if len(fewer) < len(left) and self.breaks(made(fewer)):
                    left, kept = fewer, made(fewer)
                end = begin
            size = min(size // 2, len(left))
        return kept


def to_text(kept: Kept) -> str:
    """Write what is kept."""
    return ";".join(f"{number}:{_ranges(steps)}" for number, steps in sorted(kept.items()))


def from_text(text: str, plan: Plan) -> Kept:
    """Read what is kept of a run.

    Raises:
        ConfigError: it is not written so, or the run has no such session or step.
    """
    all_steps = plan.keeps_all()
    kept: Kept = {}
    for part in text.split(";"):
        match = _SESSION.fullmatch(part.strip())
        if match is None:
            raise ConfigError([f"KEEP: {printable(part)} is not of the form 4:0-2,5 (a session and its steps)"])
        number, steps = int(match[1]), _numbers(match[2])
        if number not in all_steps:
            raise ConfigError([f"KEEP: seed {plan.seed} has no session {number}"])
        missing = [step for step in steps if step not in all_steps[number]]
        if missing:
            raise ConfigError([f"KEEP: session {number} of seed {plan.seed} has no step {missing[0]}"])
        kept[number] = steps
    return kept


def _ranges(numbers: Sequence[int]) -> str:
    written: list[list[int]] = []
    for number in sorted(numbers):
        if written and number == written[-1][1] + 1:
            written[-1][1] = number
        else:
            written.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in written)


def _numbers(text: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return tuple(sorted(set(numbers)))
