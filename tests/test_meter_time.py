"""The meter's time: the instant is right and the offset is the one in force, wherever the host believes to be."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iem_dcr.meter_time import MeterTime, MeterZone, parse, rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUR = timedelta(hours=1)
MS = timedelta(milliseconds=1)
IANA = ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "UTC"]
OFFSETS = ["+0000", "+0100", "+0200", "+0545", "-0330", "+1400", "-1400", "+1459"]
WRITTEN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}[+-]\d{4}", re.ASCII)


def edges() -> list[datetime]:
    """Moments around every change of a zone's offset from 2020 to 2040."""
    found = []
    for zone in map(ZoneInfo, IANA):
        moments = [datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(21 * 366)]
        for day, after in pairwise(moments):
            if day.astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset():
                hours = [day + part * HOUR / 2 for part in range(49)]
                change = next(it for it in hours if it.astimezone(zone).utcoffset() != day.astimezone(zone).utcoffset())
                found += [change - HOUR / 2, change - HOUR / 2 - MS, change - MS, change, change + MS]
    return found


EDGES = edges()
assert len(EDGES) // 5 >= 3 * 2 * 21
assert datetime(2026, 3, 29, 1, tzinfo=UTC) in EDGES
anywhere = st.datetimes(datetime(2020, 1, 1), datetime(2040, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001  Hypothesis adds the zone
instants = anywhere | st.builds(
    lambda edge, off: edge + timedelta(milliseconds=off), st.sampled_from(EDGES), st.integers(-7_200_000, 7_200_000)
)
zone_names = st.sampled_from(IANA + OFFSETS)


def cut(instant: datetime) -> datetime:
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def zone_of(name: str, *, handle_dst: bool = True) -> MeterZone:
    return MeterZone.named(name, handle_dst=handle_dst)


@given(instant=instants, name=zone_names, handle_dst=st.booleans())
@example(instant=datetime(2026, 10, 25, 0, 59, 59, 999000, tzinfo=UTC), name="+0100", handle_dst=True)
@example(instant=datetime(2026, 10, 25, 1, 0, tzinfo=UTC), name="+0100", handle_dst=True)
def test_what_is_written_is_read_as_the_same_instant(instant: datetime, name: str, *, handle_dst: bool) -> None:
    zone = zone_of(name, handle_dst=handle_dst)
    text = zone.write(instant)
    assert WRITTEN.fullmatch(text)
    read = parse(text)
    assert read == MeterTime(cut(instant), "")
    assert read.instant.utcoffset() == zone.local(instant).utcoffset()


@pytest.mark.parametrize("name", IANA + OFFSETS)
def test_instants_around_every_change_of_offset_are_written_uniquely(name: str) -> None:
    for handle_dst in (True, False):
        zone = zone_of(name, handle_dst=handle_dst)
        moments = sorted({edge + by for edge in EDGES for by in (-HOUR, timedelta(0), HOUR)})
        texts = [zone.write(moment) for moment in moments]
        assert [parse(text).instant for text in texts] == [cut(moment) for moment in moments]
        assert len(set(texts)) == len({cut(moment) for moment in moments})


@given(instants, st.sampled_from(IANA))
def test_a_named_zone_has_its_own_rules(instant: datetime, name: str) -> None:
    local = zone_of(name).local(instant)
    assert local.astimezone(UTC) == instant
    assert local.utcoffset() == instant.astimezone(ZoneInfo(name)).utcoffset()
    assert zone_of(name, handle_dst=False).write(instant) == zone_of(name).write(instant)
    assert zone_of(name).warning == ""


@pytest.mark.parametrize(
    ("offset", "name"), [("+0000", "Europe/London"), ("+0100", "Europe/Berlin"), ("+0200", "Europe/Helsinki")]
)
def test_european_summer_time_is_that_of_a_country_which_has_it(offset: str, name: str) -> None:
    ours, countrys = zone_of(offset), zone_of(name)
    days = [datetime(2020, 1, 1, 12, tzinfo=UTC) + timedelta(days=day) for day in range(21 * 365)]
    for instant in (*EDGES, *days):
        assert ours.write(instant) == countrys.write(instant)


@pytest.mark.parametrize(("zone", "instant", "written"), [
    ("+0100", "2026-07-01T12:00:00.123999", "2026-07-01T14:00:00,123+0200"),
    ("+0100", "2026-01-01T12:00", "2026-01-01T13:00:00,000+0100"),
    ("+0100", "2026-03-29T00:59:59.999", "2026-03-29T01:59:59,999+0100"),
    ("+0100", "2026-03-29T01:00", "2026-03-29T03:00:00,000+0200"),
    ("+0100", "2026-10-25T00:30", "2026-10-25T02:30:00,000+0200"),
    ("+0100", "2026-10-25T01:30", "2026-10-25T02:30:00,000+0100"),
    ("-0000", "2026-07-01", "2026-07-01T01:00:00,000+0100"), ("-0330", "2026-01-01", "2025-12-31T20:30:00,000-0330"),
    ("Australia/Lord_Howe", "2026-01-01", "2026-01-01T11:00:00,000+1100"),
    ("Australia/Lord_Howe", "2026-07-01", "2026-07-01T10:30:00,000+1030"),
    ("Asia/Kolkata", "2026-07-01", "2026-07-01T05:30:00,000+0530"),
])  # fmt: skip
def test_the_offset_in_force_is_written(zone: str, instant: str, written: str) -> None:
    moment = datetime.fromisoformat(instant).replace(tzinfo=UTC)
    assert zone_of(zone).write(moment) == written
    if zone == "+0100":
        assert zone_of(zone, handle_dst=False).write(moment)[-5:] == zone


@pytest.mark.parametrize("name", OFFSETS)
def test_an_offset_without_european_summer_time_is_warned_of(name: str) -> None:
    zone = zone_of(name)
    assert zone.eu_summer_time is (name in ("+0000", "+0100", "+0200"))
    assert (name in zone.warning) is not zone.eu_summer_time
    assert zone_of(name, handle_dst=False).warning == ""
    if not zone.eu_summer_time:
        assert zone.write(datetime(2026, 7, 1, tzinfo=UTC))[-5:] == name


@pytest.mark.parametrize(
    "name", ["+1500", "+0160", "+9999", "+01:00", "+\uff11\uff12\uff10\uff10", "", "Mars/Olympus", "localtime"]
)
def test_invalid_zone(name: str) -> None:
    with pytest.raises(ValueError, match=r"no such offset|no zone of that name|not an IANA zone"):
        zone_of(name)


@given(st.text(max_size=30))
def test_any_name_is_a_zone_or_a_value_error(name: str) -> None:
    try:
        zone = zone_of(name)
    except ValueError:
        return
    assert zone.write(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(("text", "sync"), [
    *((f"2024-12-15T22:42:28,000+0200 {sync}", sync) for sync in "UISR"), ("2024-12-15T22:42:28,000+0200", ""),
    ("2024-12-15T22:42:28+0200", ""), (" 2024-12-15T20:42:28.000+00:00 S\r\n", "S"), ("2024-12-15T13:12:28,0-0730", ""),
])  # fmt: skip
def test_a_time_is_read(text: str, sync: str) -> None:
    assert parse(text) == MeterTime(datetime(2024, 12, 15, 20, 42, 28, tzinfo=UTC), sync)
    read = parse("2024-10-27T02:30:00,125+0200 S").instant
    assert (read.utcoffset(), rfc3339(read)) == (2 * HOUR, "2024-10-27T00:30:00.125Z")
    assert parse("2024-10-27T02:30:00,5+0100").instant.microsecond == 500_000


@pytest.mark.parametrize(
    "text",
    [
        "", "U", "2024-12-15", "2024-12-15T22:42:28,000", "2024-12-15T22:42:28,000+0200 X",
        "2024-12-15T22:42:28,000+0200U", "2024-12-15T22:42:28,000+0200 S S", "2024-02-30T00:00:00,000+0000",
        "2023-02-29T00:00:00,000+0000", "2024-12-15T24:00:00,000+0000", "2024-12-15T23:59:60,000+0000",
        "0000-01-01T00:00:00,000+0000", "2024-12-15T22:42:28,000+2400", "2024-12-15T22:42:28,000+0060",
        "0001-01-01T00:00:00,000+0100", "9999-12-31T23:59:59,999-0100", "\uff12024-12-15T22:42:28,000+0200",
        "2024-12-15T22:42:28,000+0200 S\n2024-12-15T22:42:28,000+0200", "2024-12-15t22:42:28,000+0200", "\0" * 50,
    ],
)  # fmt: skip
def test_invalid_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a time|no such offset|must be in|out of range"):
        parse(text)


nearly = st.from_regex(re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[,.]?\d{0,8}[+-]\d\d:?\d\d ?[A-Z]?"), fullmatch=True)


@given(st.text(st.characters(exclude_categories=())) | nearly)
def test_garbage_is_a_value_error(text: str) -> None:
    try:
        read = parse(text)
    except ValueError:
        return
    assert read.instant.utcoffset() is not None
    assert rfc3339(read.instant).endswith("Z")


@given(instants, st.integers(-14 * 60, 14 * 60))
def test_time_for_the_station(instant: datetime, minutes: int) -> None:
    text = rfc3339(instant.astimezone(timezone(timedelta(minutes=minutes))))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text, re.ASCII)
    assert datetime.fromisoformat(text) == cut(instant)


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kathmandu", "XYZ-13:45ABC,M3.2.0,M11.1.0"])
def host_zone(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


def test_the_hosts_own_zone_does_not_matter(host_zone: str) -> None:
    assert time.tzname[0] == {"America/New_York": "EST", "Asia/Kathmandu": "+0545"}.get(host_zone, host_zone[:3])
    summer, winter = datetime(2026, 7, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert zone_of("+0100").write(summer) == "2026-07-01T14:00:00,000+0200"
    assert zone_of("+0100").write(winter) == "2026-01-01T13:00:00,000+0100"
    assert zone_of("Europe/Berlin").write(summer) == "2026-07-01T14:00:00,000+0200"
    assert zone_of("-0330").write(summer) == "2026-07-01T08:30:00,000-0330"
    assert parse("2026-07-01T14:00:00,000+0200").instant == summer
    assert rfc3339(parse("2026-07-01T14:00:00,000+0200").instant) == "2026-07-01T12:00:00.000Z"
