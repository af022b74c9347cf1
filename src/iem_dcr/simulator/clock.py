"""The meter's clock: it runs from power-up, is wrong until it is set, and shows whole seconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from iem_dcr import meter_time

_SENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}[+-]\d{4}", re.ASCII)


class MeterClock:
    """A clock on the monotonic time of the caller.

    Attributes:
        flag: OCMF's clock state: "U" until it is set, then "I".
    """

    def __init__(self, instant: datetime, now_s: float) -> None:
        self.flag = "U"
        self._instant = instant
        self._set_at_s = now_s

    def set(self, instant: datetime, now_s: float) -> None:
        """Set it; from now on it is written with the offset of ``instant``."""
        self.flag = "I"
        self._instant = instant
        self._set_at_s = now_s

    def shift(self, by_s: float) -> None:
        """Make it wrong by so many seconds more, without anybody having set it."""
        self._instant = _moved(self._instant, by_s)

    def text(self, now_s: float, *, with_flag: bool = True) -> str:
        """Write its time as the meter does: ``YYYY-MM-DDTHH:MM:SS,000±HHMM X``."""
        instant = _moved(self._instant, now_s - self._set_at_s).replace(microsecond=0)
        written = instant.replace(tzinfo=None).isoformat(timespec="milliseconds").replace(".", ",") + f"{instant:%z}"
        return f"{written} {self.flag}" if with_flag else written


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
