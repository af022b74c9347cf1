"""The meter's time format, and its zone rules.

The meter writes ``YYYY-MM-DDTHH:MM:SS,mmm±HHMM X``: local time, milliseconds after a comma, the offset in force, and
OCMF's flag for the state of its clock (``U`` unknown, ``I`` informative, ``S`` synchronised, ``R`` relative; OCMF
1.4.1, reading, TM). The flag may be absent. Times that are sent to the meter (TM of /gw and /datetime) have no flag.

This module never uses the host's time zone. It converts an instant and a zone to text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from datetime import tzinfo

RELEASED = datetime(2026, 1, 1, tzinfo=UTC)
"""A clock that shows an earlier time is not set: this program is newer."""
FIRST_SANE_YEAR = 2025
"""A clock that shows an earlier year was never set: the host's clock has no battery, and NTP has not set it yet."""

_TEXT = re.compile(
    r"(\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:\d\d(?:[,.]\d{1,6})?)\s?([+-](?:[01]\d|2[0-3]):?[0-5]\d)(?:\s+([UISR]))?",
    re.ASCII,
)
_FIRST_YEAR, _LAST_YEAR = 1, 9999
_OFFSET = re.compile(r"([+-])(\d\d)(\d\d)", re.ASCII)
_EU_SUMMER_TIME_OFFSETS = (timedelta(0), timedelta(hours=1), timedelta(hours=2))
_HOUR = timedelta(hours=1)
_NOT_IANA = re.compile(r"localtime|posixrules|right/.*", re.DOTALL)
"""Files in the zone folder that are not IANA zones: the host's own zone, and zones that count leap seconds."""


@dataclass(frozen=True, slots=True)
class MeterTime:
    """A time as the meter wrote it.

    Attributes:
        instant: the moment, with the offset that the meter wrote.
        sync: OCMF's clock state, one of ``U I S R``, or "" without a flag.
    """

    instant: datetime
    sync: str = ""


def parse(text: str) -> MeterTime:
    """Read a time of the meter, with or without the flag.

    Raises:
        ValueError: the text does not have the meter's form, or there is no such moment.
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a time of the form YYYY-MM-DDTHH:MM:SS,mmm±HHMM: {text[:40]!r}")
    time, offset, sync = match.groups()
    instant = datetime.fromisoformat(time + offset)
    if not _FIRST_YEAR < instant.year < _LAST_YEAR:
        try:
            instant.astimezone(UTC)
        except OverflowError as error:
            raise ValueError(f"the year is out of range: {text[:40]!r}") from error
    return MeterTime(instant, sync or "")


@dataclass(frozen=True, slots=True)
class MeterZone:
    """The zone in which a meter's time is written.

    Attributes:
        zone: standard offset, or the rules of an IANA zone.
        eu_summer_time: add one hour from the last Sunday of March 01:00 UTC to the last Sunday of October 01:00 UTC.
        warning: a warning about the configured zone, or "".
    """

    zone: tzinfo
    eu_summer_time: bool = False
    warning: str = ""

    @classmethod
    def named(cls, name: str, *, handle_dst: bool) -> MeterZone:
        """Build the zone of the settings ``timezone`` and ``timezone_handle_DST``.

        Args:
            name: ``±HHMM`` (hours to 14, minutes to 59), or an IANA name that the host knows.
            handle_dst: apply European summer time to an offset. An IANA name has its own rules.

        Raises:
            ValueError: the name is neither.
        """
        match = _OFFSET.fullmatch(name)
        if match is None:
            return cls(_iana(name))
        sign, hours, minutes = match.groups()
        if int(hours) > 14 or int(minutes) > 59:
            raise ValueError(f"no such offset: {name!r}")
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        offset = -offset if sign == "-" else offset
        if not handle_dst:
            return cls(timezone(offset))
        if offset not in _EU_SUMMER_TIME_OFFSETS:
            return cls(
                timezone(offset),
                warning=f"timezone {name} has no European summer time: standard time is written all year. For a zone "
                "with its own summer time, give its IANA name (like Europe/Berlin)",
            )
        return cls(timezone(offset), eu_summer_time=True)

    def local(self, instant: datetime) -> datetime:
        """Return the same instant with the offset in force in this zone."""
        local = instant.astimezone(self.zone)
        if self.eu_summer_time and _is_eu_summer(instant):
            summer = timezone((local.utcoffset() or timedelta(0)) + _HOUR)
            return instant.astimezone(summer)
        return local

    def write(self, instant: datetime) -> str:
        """Write an instant in the meter's form: ``YYYY-MM-DDTHH:MM:SS,mmm±HHMM``, truncated to milliseconds."""
        local = self.local(instant)
        return local.replace(tzinfo=None).isoformat(timespec="milliseconds").replace(".", ",") + f"{local:%z}"


def rfc3339(instant: datetime) -> str:
    """Write an instant for a station: RFC 3339 in UTC, ``YYYY-MM-DDTHH:MM:SS.mmmZ``."""
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _iana(name: str) -> ZoneInfo:
    if _NOT_IANA.fullmatch(name):
        raise ValueError(f"not an IANA zone: {name[:40]!r}")
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"no zone of that name on this host: {name[:40]!r}") from error


def _is_eu_summer(instant: datetime) -> bool:
    utc = instant.astimezone(UTC)
    return _last_sunday_1am(utc.year, 3) <= utc < _last_sunday_1am(utc.year, 10)


def _last_sunday_1am(year: int, month: int) -> datetime:
    last_day = datetime(year, month, 31, 1, tzinfo=UTC)
    return last_day - timedelta(days=last_day.isoweekday() % 7)
