"""The host's clock, and whether it can be trusted.

A host whose clock has no battery starts in 1970, or at the time of its last shutdown. Its clock counts as set when it
is later than this program's release and later than the newest time in the journal. A journal time more than a year
after the release may be wrong itself. It is ignored while the kernel says that the clock is synchronised.
"""

from __future__ import annotations

import ctypes
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from iem_dcr.driver.timing import now_s
from iem_dcr.meter_time import RELEASED

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

STEP: Final = timedelta(seconds=10)
"""A host clock that moves further than this against the loop's clock was set."""
_YEAR: Final = timedelta(days=365)
_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 512


class HostClock:
    """The host's clock.

    Attributes:
        now: returns the host's time; aware datetimes.
        newest: the newest host time in the journal, or None.
    """

    def __init__(self, wall: Callable[[], datetime], is_synchronised: Callable[[], bool] | None = None) -> None:
        self.newest: datetime | None = None
        self.now = wall
        self._is_synchronised = is_synchronised or kernel_is_synchronised
        self._start: datetime | None = None

    @property
    def is_set(self) -> bool:
        """Whether the clock can be trusted."""
        now = self.now()
        if now < RELEASED:
            return False
        if self.newest is None or now >= self.newest:
            return True
        return self.newest > RELEASED + _YEAR and self._is_synchronised()

    def was_stepped(self) -> bool:
        """Return whether the clock was set since the last call."""
        start = self.now() - timedelta(seconds=now_s())
        before, self._start = self._start, start
        return before is not None and abs(start - before) > STEP


def kernel_is_synchronised() -> bool:
    """Return whether the kernel says that the clock is synchronised (adjtimex); False if it cannot be asked."""
    try:
        state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (AttributeError, OSError):
        return False
    return 0 <= state < _TIME_ERROR
