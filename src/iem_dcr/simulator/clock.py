"""The meter's clock: it runs from power-up, is wrong until it is set, and shows whole seconds."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final

from iem_dcr import meter_time

if TYPE_CHECKING:
    from iem_dcr.simulator.options import SimulatorOptions

_SENT: Final = re.compile(r"[12]\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}[+-]\d{4}", re.ASCII)
_ZONE: Final = timezone(timedelta(hours=1))
_STANDS: Final = {
    "zeros": "0000-00-00T00:00:00,000+0000",
    "dashes": "----------T--------",
    "empty": "",
    "missing": None,
}
"""What TM reads until it is set where it does not run from 1970 or 2000; None: TM is left out."""


class MeterClock:
    """A clock on the monotonic time of the caller.

    Attributes:
        flag: OCMF's clock state: "U" until it is set, then "I".
    """

    def __init__(self, unset_time: str, now_s: float) -> None:
        self.flag = "U"
        self._unset_time = unset_time
        self._instant = datetime(1970 if unset_time == "1970" else 2000, 1, 1, tzinfo=_ZONE)
        self._set_at_s = now_s

    def set(self, instant: datetime, now_s: float) -> None:
        """Set it; from now on it is written with the offset of ``instant``."""
        self.flag, self._instant, self._set_at_s = "I", instant, now_s

    def shift(self, by_s: float) -> None:
        """Make it wrong by so many seconds more."""
        self._instant += timedelta(seconds=by_s)

    def text(self, now_s: float, options: SimulatorOptions) -> str | None:
        """Write its time as the meter does: ``YYYY-MM-DDTHH:MM:SS,000±HHMM X``; None where TM is left out."""
        if self.flag == "U" and self._unset_time in _STANDS:
            written = _STANDS[self._unset_time]
        else:
            instant = self._instant + timedelta(seconds=now_s - self._set_at_s)
            fraction = ",000" if options.milliseconds else ""
            written = f"{instant.replace(tzinfo=None, microsecond=0).isoformat()}{fraction}{instant:%z}"
        return f"{written} {self.flag}" if written and options.sync_flag else written


def parse_sent(text: str) -> datetime:
    """Read TM of POST /gw and /datetime: milliseconds and offset must be there, a sync flag must not.

    A year from 3000 on is none, so that no clock leaves the calendar.

    Raises:
        ValueError: it is written otherwise, or no such moment exists.
    """
    if not _SENT.fullmatch(text):
        raise ValueError("TM is not of the form YYYY-MM-DDTHH:MM:SS,mmm+HHMM")
    return meter_time.parse(text).instant
