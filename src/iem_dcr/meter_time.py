"""The meter's way of writing time, and the zone rules behind it.

The meter writes ``YYYY-MM-DDTHH:MM:SS,mmm±HHMM X``: local time, milliseconds after a comma, the offset in force and
OCMF's flag of how well its clock is set (``U`` unknown, ``I`` informative, ``S`` synchronised, ``R`` relative; OCMF
1.4.1, reading, TM). The flag may be absent. What is sent to it (TM of /gw and /datetime) has no flag.

Nothing here asks the host for its zone: an instant and a zone go in, text comes out.
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
"""A clock that says less was never set: this program is younger."""
FIRST_SANE_YEAR = 2025
"""A clock that says less was never set: a host without a battery behind it, and no NTP yet."""

_TEXT = re.compile(
    r"(\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:\d\d(?:[,.]\d{1,6})?)\s?([+-](?:[01]\d|2[0-3]):?[0-5]\d)(?:\s+([UISR]))?",
    re.ASCII,
)
_FIRST_YEAR, _LAST_YEAR = 1, 9999
_OFFSET = re.compile(r"([+-])(\d\d)(\d\d)", re.ASCII)
_EU_SUMMER_TIME_OFFSETS = (timedelta(0), timedelta(hours=1), timedelta(hours=2))
_HOUR = timedelta(hours=1)
_NOT_IANA = re.compile(r"localtime|posixrules|right/.*", re.DOTALL)
"""Files beside the zones that are none of IANA's: the host's own zone, and zones that count leap seconds."""


@dataclass(frozen=True, slots=True)
class MeterTime:
    """A time as the meter said it.

    Attributes:
        instant: the moment, with the offset the meter wrote.
        sync: OCMF's clock state, one of ``U I S R``, or "" where the meter gave none.
    """

    instant: datetime
    sync: str = ""


def parse(text: str) -> MeterTime:
    """Read a time of the meter's, with or without the sync flag.

    Raises:
        ValueError: the text is not a time of that form, or no such moment exists.
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
            raise ValueError(f"outside the years that can be reckoned with: {text[:40]!r}") from error
    return MeterTime(instant, sync or "")


@dataclass(frozen=True, slots=True)
class MeterZone:
    """The zone in which a meter's time is written.

    Attributes:
        zone: normal offset, or the rules of an IANA zone.
        eu_summer_time: one hour is added from the last Sunday of March 01:00 UTC to the last Sunday of October
            01:00 UTC.
        warning: what the one who configured it should know, or "".
    """

    zone: tzinfo
    eu_summer_time: bool = False
    warning: str = ""

    @classmethod
    def named(cls, name: str, *, handle_dst: bool) -> MeterZone:
        """Build the zone of the settings ``timezone`` and ``timezone_handle_DST``.

        Args:
            name: ``±HHMM`` (hours to 14, minutes to 59) or an IANA name the host knows.
            handle_dst: apply the European summer time to an offset; an IANA name has rules of its own.

        Raises:
            ValueError: it is neither.
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
                warning=f"timezone {name} has no European summer time: normal time is written all year. For a zone "
                "with summer time of its own, give its IANA name (like Europe/Berlin)",
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
        """Write an instant as the meter reads it: ``YYYY-MM-DDTHH:MM:SS,mmm±HHMM``, milliseconds cut off."""
        local = self.local(instant)
        return local.replace(tzinfo=None).isoformat(timespec="milliseconds").replace(".", ",") + f"{local:%z}"


def rfc3339(instant: datetime) -> str:
    """Write an instant for a station: RFC 3339 in UTC, ``YYYY-MM-DDTHH:MM:SS.mmmZ``."""
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _iana(name: str) -> ZoneInfo:
    if _NOT_IANA.fullmatch(name):
        raise ValueError(f"not a zone of IANA's: {name[:40]!r}")
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
