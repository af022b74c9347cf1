"""The check of a meter's clock."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from iem_dcr.diagnostics import status
from iem_dcr.diagnostics.report import Line, State
from iem_dcr.meter_time import FIRST_SANE_YEAR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iem_dcr.config import Settings
    from iem_dcr.diagnostics.evidence import Evidence, Timed
    from iem_dcr.meter_time import MeterTime

WRONG_AFTER_S: Final = 60.0
WATCHED_S: Final = 2.0
"""A clock that shows whole seconds has moved after so long."""
FURTHEST_ZONE_H: Final = 14

_STATES: Final = {"U": "not set since power-up", "I": "set", "S": "synchronised", "R": "relative"}


def clock(evidence: Evidence, settings: Settings | None) -> Line:
    """Judge the clock: that it moves, its difference to this host's, its sync flag and its zone."""
    if not evidence.values:
        return Line("clock", State.FAILED, "not seen, because there is no live value")
    last = evidence.values[-1]
    time = last.value.TM
    if time is None or last.clock_offset is None:
        to_do = "Start what drives the meter: it sets the clock before a transaction begins."
        return Line("clock", State.WARNING, "its time cannot be read: it was not set since power-up", to_do)
    flag = f"{time.sync}, {_STATES[time.sync]}" if time.sync else "none"
    off_s = last.clock_offset.total_seconds()
    text = f"{status.clock_difference(last.clock_offset)}; sync flag {flag}"
    values: dict[str, object] = {
        "ahead_s": round(off_s, 3),
        "sync": time.sync or None,
        "TM": time.instant.isoformat(timespec="seconds"),
    }
    state, what, to_do = next(_problems(evidence, last, time, off_s, settings), (State.OK, "", ""))
    return Line("clock", state, f"{text}: {what}" if what else text, to_do, values)


def _problems(
    evidence: Evidence, last: Timed, time: MeterTime, off_s: float, settings: Settings | None
) -> Iterator[tuple[State, str, str]]:
    """Yield what is wrong, the most telling first."""
    first = evidence.values[0]
    if last.read_s - first.read_s >= WATCHED_S and time == first.value.TM:
        yield State.FAILED, "it stands still", "Power the meter off and on. If it stays so, the meter is defective."
    if last.host.year < FIRST_SANE_YEAR:
        yield State.WARNING, f"this host believes to be in {last.host.year}", "Set this host's clock, then ask again."
    if abs(off_s) > status.CLOCK_TOLERANCE_S:
        yield _difference(time, off_s)
    if time.sync == "U":
        yield State.WARNING, "by chance right", "Start what drives the meter: it sets the clock."
    if time.sync == "R":
        yield State.WARNING, "it counts from a start of its own", "Receipts with such a time may be refused."
    if not time.sync:
        yield State.WARNING, "it has no flag", "The transparency software refuses a receipt whose begin has none."
    if settings is not None:
        yield from _zone(last, time, settings)


def _difference(time: MeterTime, off_s: float) -> tuple[State, str, str]:
    drive = "Start what drives the meter: it sets the clock before a transaction begins."
    if time.instant.year < FIRST_SANE_YEAR or time.sync == "U":
        return State.WARNING, f"it shows {time.instant:%Y-%m-%d %H:%M}", drive
    hours = round(off_s / 3600)
    if hours and abs(hours) <= FURTHEST_ZONE_H and abs(off_s - hours * 3600) <= status.CLOCK_TOLERANCE_S:
        what = f"that is {abs(hours)} h to the second: a time zone or summer time, not a clock that is wrong"
        to_do = (
            "Who sets it writes a wrong offset from UTC: set timezone and timezone_handle_DST, best an IANA name as "
            "Europe/Berlin; and see that this host's own zone and time are right (timedatectl)."
        )
        return State.FAILED, what, to_do
    to_do = "See that this host's clock is right (timedatectl), and that what drives the meter runs."
    return State.FAILED if abs(off_s) > WRONG_AFTER_S else State.WARNING, "it is wrong", to_do


def _zone(last: Timed, time: MeterTime, settings: Settings) -> Iterator[tuple[State, str, str]]:
    written = time.instant.utcoffset() or timedelta(0)
    wanted = settings.zone().local(last.host).utcoffset() or timedelta(0)
    if written != wanted:
        what = f"its time is written with {time.instant:%z}, the configuration has {_offset(wanted)} now"
        yield State.WARNING, what, "Who drives it sets that with the clock; see that it has this configuration."


def _offset(offset: timedelta) -> str:
    minutes = round(offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}{abs(minutes) % 60:02}"
