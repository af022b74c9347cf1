"""Time for the driver. Its monotonic clock is the event loop's own, so that a loop with virtual time drives it."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

_NOTHING_LEFT_S = 0.001
"""Less than this is no time: nothing can be done in it, and a rounding error must not be waited for."""


def now_s() -> float:
    """Return the loop's monotonic time, seconds."""
    return asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment by which all of something has to be over; handed to every wait and request in it.

    Attributes:
        at_s: the moment, on the loop's clock.
    """

    at_s: float

    @classmethod
    def after(cls, delay_s: float) -> Deadline:
        """Return the deadline so many seconds from now."""
        return cls(now_s() + delay_s)

    def within(self, delay_s: float) -> Deadline:
        """Return this deadline, or the one so many seconds from now if that is earlier."""
        return Deadline(min(self.at_s, now_s() + delay_s))

    @property
    def left_s(self) -> float:
        """Seconds left; 0.0 when it has passed."""
        left_s = self.at_s - now_s()
        return left_s if left_s > _NOTHING_LEFT_S else 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing is left."""
        return self.left_s <= 0


class Schedule:
    """A fixed grid of moments. One that was missed is skipped, so the grid never drifts and never catches up.

    Args:
        period_s: between two moments.
        phase: where in the periods of the loop's clock the moments are, 0.0 to below 1.0. Many schedules of one process
            get different ones, so that they do not come due together. None has the grid begin now.

    Attributes:
        next_s: the next moment, on the loop's clock; at most a period from now.
    """

    def __init__(self, period_s: float, phase: float | None = None) -> None:
        self._period_s = period_s
        self._origin_s = now_s()
        if phase is not None:
            self._origin_s -= (self._origin_s - phase * period_s) % period_s
        self.next_s = self._origin_s + period_s

    def advance(self) -> None:
        """Go on to the first moment of the grid that is still to come."""
        passed = math.floor((now_s() + _NOTHING_LEFT_S - self._origin_s) / self._period_s)
        self.next_s = self._origin_s + (passed + 1) * self._period_s


def seconds_since(moment_s: float | None) -> float:
    """Return the seconds since a moment on the loop's clock; without one, more than any interval."""
    return float("inf") if moment_s is None else now_s() - moment_s
