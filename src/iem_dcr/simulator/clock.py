"""The meter's clock: it runs from power-up, is wrong until it is set, and shows whole seconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from iem_dcr import meter_time

_SENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}[+-]\d{4}", re.ASCII)
_ZONE: Final = timezone(timedelta(hours=1))
_STARTS: Final = {"1970": datetime(1970, 1, 1, tzinfo=_ZONE)}
_2000: Final = datetime(2000, 1, 1, tzinfo=_ZONE)
_STANDS: Final = {"zeros": "0000-00-00T00:00:00,000+0000", "dashes": "----------T--------", "empty": ""}
"""What TM may read for as long as it is not set, where it does not run from a date of its own."""


class MeterClock:
    """A clock on the monotonic time of the caller.

    Attributes:
        flag: OCMF's clock state: "U" until it is set, then "I".
    """

    def __init__(self, unset_time: str, now_s: float) -> None:
        self.flag = "U"
        self._unset_time = unset_time
        self._instant = _STARTS.get(unset_time, _2000)
        self._set_at_s = now_s

    def set(self, instant: datetime, now_s: float) -> None:
        """Set it; from now on it is written with the offset of ``instant``."""
        self.flag = "I"
        self._instant = instant
        self._set_at_s = now_s

    def shift(self, by_s: float) -> None:
        """Make it wrong by so many seconds more."""
        self._instant = _moved(self._instant, by_s)

    def text(self, now_s: float, *, sync_flag: bool = True, milliseconds: bool = True) -> str | None:
        """Write its time as the meter does: ``YYYY-MM-DDTHH:MM:SS,000±HHMM X``; None where TM is left out."""
        if self.flag == "U" and self._unset_time == "missing":
            return None
        if self.flag == "U" and self._unset_time in _STANDS:
            written = _STANDS[self._unset_time]
        else:
            instant = _moved(self._instant, now_s - self._set_at_s)
            fraction = ",000" if milliseconds else ""
            written = f"{instant.replace(tzinfo=None, microsecond=0).isoformat()}{fraction}{instant:%z}"
        return f"{written} {self.flag}" if sync_flag and written else written


def parse_sent(text: str) -> datetime:
    """Read TM of POST /gw and /datetime: milliseconds and offset must be there, a sync flag must not.

    Raises:
        ValueError: it is written otherwise, or no such moment exists.
    """
    if not _SENT.fullmatch(text):
        raise ValueError("TM is not of the form YYYY-MM-DDTHH:MM:SS,mmm+HHMM")
    return meter_time.parse(text).instant


def _moved(instant: datetime, by_s: float) -> datetime:
    try:
        moved = instant + timedelta(seconds=by_s)
        moved.astimezone(UTC)
    except OverflowError:
        return instant
    return moved
