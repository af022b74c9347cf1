"""Time for the driver. Its monotonic clock is the event loop's, so that tests can use a loop with virtual time."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

_NOTHING_LEFT_S = 0.001
"""Less than this counts as zero: it is too short to do anything, and may be a rounding error."""


def now_s() -> float:
    """Return the loop's monotonic time, seconds."""
    return asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment by which a piece of work must be over. It is passed to every wait and request in that work.

    Attributes:
        at_s: the moment, on the loop's clock.
    """

    at_s: float

    @classmethod
    def after(cls, delay_s: float) -> Deadline:
        """Return the deadline `delay_s` from now."""
        return cls(now_s() + delay_s)

    def within(self, delay_s: float) -> Deadline:
        """Return this deadline, or the one `delay_s` from now if that is earlier."""
        return Deadline(min(self.at_s, now_s() + delay_s))

    @property
    def left_s(self) -> float:
        """Seconds left; 0.0 after the deadline."""
        left_s = self.at_s - now_s()
        return left_s if left_s > _NOTHING_LEFT_S else 0.0

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.left_s <= 0


class Schedule:
    """A fixed grid of moments. A missed moment is skipped, so the grid never drifts and never catches up.

    Args:
        period_s: time between two moments.
        phase: position of the moments within the periods of the loop's clock, 0.0 to below 1.0. The schedules of one
            process get different phases, so that they are not due together. None starts the grid now.

    Attributes:
        next_s: the next moment, on the loop's clock; at most one period from now.
    """

    def __init__(self, period_s: float, phase: float | None = None) -> None:
        self._period_s = period_s
        self._origin_s = now_s()
        if phase is not None:
            self._origin_s -= (self._origin_s - phase * period_s) % period_s
        self.next_s = self._origin_s + period_s

    def advance(self) -> None:
        """Set `next_s` to the first moment of the grid in the future."""
        passed = math.floor((now_s() + _NOTHING_LEFT_S - self._origin_s) / self._period_s)
        self.next_s = self._origin_s + (passed + 1) * self._period_s


def seconds_since(moment_s: float | None) -> float:
    """Return the seconds since a moment on the loop's clock; infinity for None."""
    return float("inf") if moment_s is None else now_s() - moment_s
