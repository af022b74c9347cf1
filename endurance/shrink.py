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
_SESSION: Final = re.compile(r"(\d{1,6}):((?:\d{1,6}(?:-\d{1,6})?(?:,(?!$)|$))*)", re.ASCII)


def shrunk(plan: Plan, is_broken: Callable[[Plan], bool], most_runs: int = MOST_RUNS) -> Kept:
    """Return what has to be kept of a run so that it still breaks a promise.

    Args:
        plan: a run that breaks one.
        is_broken: carries out a run and tells whether it breaks one.
        most_runs: how many it may carry out.
    """
    runs = 0

    def breaks(kept: Kept) -> bool:
        nonlocal runs
        runs += 1
        return runs <= most_runs and is_broken(plan.only(kept))

    whole = plan.keeps_all()
    kept = {number: whole[number] for number in _fewest(list(whole), lambda some: breaks({n: whole[n] for n in some}))}
    for number, steps in list(kept.items()):
        others = kept
        kept = others | {number: _fewest(steps, lambda some, n=number, o=others: breaks(o | {n: some}))}  # type: ignore[misc]
    # A session that does nothing may have been needed for its time alone.
    for number in [number for number, steps in kept.items() if not steps]:
        fewer = {other: steps for other, steps in kept.items() if other != number}
        if fewer and breaks(fewer):
            kept = fewer
    return kept


def _fewest(parts: Sequence[int], suffices: Callable[[tuple[int, ...]], bool]) -> tuple[int, ...]:
    """Leave out as many parts as possible, the last ones first, in pieces that get smaller."""
    left = tuple(parts)
    size = len(left)
    while size:
        end = len(left)
        while end > 0:
            begin = max(0, end - size)
            fewer = left[:begin] + left[end:]
            if suffices(fewer):
                left = fewer
            end = begin
        size = min(size // 2, len(left))
    return left


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
        number = int(match[1])
        if number not in all_steps:
            raise ConfigError([f"KEEP: seed {plan.seed} has no session {number}"])
        steps: set[int] = set()
        for first, _, last in (span.partition("-") for span in match[2].split(",") if span):
            steps.update(range(int(first), int(last or first) + 1))
        if missing := steps - set(all_steps[number]):
            raise ConfigError([f"KEEP: session {number} of seed {plan.seed} has no step {min(missing)}"])
        kept[number] = tuple(sorted(steps))
    return kept


def _ranges(numbers: Sequence[int]) -> str:
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in spans)
