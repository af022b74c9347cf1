"""The meter's clock. It starts at power-up, is wrong until it is set, and shows whole seconds."""

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
"""Constant texts of TM before the clock is set, for a clock that does not run from 1970 or 2000. None omits TM."""


class MeterClock:
    """A clock driven by the caller's monotonic time.

    Attributes:
        flag: OCMF's clock state, "U" until the clock is set, then "I".
    """

    def __init__(self, unset_time: str, now_s: float) -> None:
        self.flag = "U"
        self._unset_time = unset_time
        self._instant = datetime(1970 if unset_time == "1970" else 2000, 1, 1, tzinfo=_ZONE)
        self._set_at_s = now_s

    def set(self, instant: datetime, now_s: float) -> None:
        """Set the clock. From now on it shows the UTC offset of ``instant``."""
        self.flag, self._instant, self._set_at_s = "I", instant, now_s

    def shift(self, by_s: float) -> None:
        """Add an error of ``by_s`` seconds to the clock."""
        self._instant += timedelta(seconds=by_s)

    def text(self, now_s: float, options: SimulatorOptions) -> str | None:
        """Return the time in the meter's format, ``YYYY-MM-DDTHH:MM:SS,000±HHMM X``, or None if TM is omitted."""
        if self.flag == "U" and self._unset_time in _STANDS:
            written = _STANDS[self._unset_time]
        else:
            instant = self._instant + timedelta(seconds=now_s - self._set_at_s)
            fraction = ",000" if options.milliseconds else ""
            written = f"{instant.replace(tzinfo=None, microsecond=0).isoformat()}{fraction}{instant:%z}"
        return f"{written} {self.flag}" if written and options.sync_flag else written


def parse_sent(text: str) -> datetime:
    """Parse TM of POST /gw and /datetime. It must have milliseconds and a UTC offset, and no sync flag.

    Years from 3000 on are rejected, so that a running clock cannot exceed the range of datetime.

    Raises:
        ValueError: the format is wrong, or the date or time does not exist.
    """
    if not _SENT.fullmatch(text):
        raise ValueError("TM is not of the form YYYY-MM-DDTHH:MM:SS,mmm+HHMM")
    return meter_time.parse(text).instant
