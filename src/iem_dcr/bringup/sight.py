"""What there is to see of a meter at a moment, and what is wrong with it. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Final

from iem_dcr.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta
    from decimal import Decimal

    from iem_dcr.device.messages import Gateway, MeterValue

CLOCK_TOLERANCE_S: Final = 5.0
"""A meter's clock that is further off than this from the host's is said to be wrong."""
OLD_AFTER_S: Final = 3.0
"""A live value that is older than this is said to be old."""
STANDS_AFTER_S: Final = 5.0
"""A meter whose time has been the same for so long, although it answers, is said to stand."""
LONGEST_TEXT: Final = 250


def number(value: Decimal | None) -> float:
    """Return a number as the charts need it: ``nan`` where the meter gave none."""
    return nan if value is None else float(value)


def measured(value: Decimal | None, unit: str, decimals: int = 1) -> str:
    """Write a number with its unit; a dash where the meter gave none."""
    return f"- {unit}" if value is None else f"{value:.{decimals}f} {unit}"


@dataclass(frozen=True, slots=True)
class Sample:
    """A live value as the charts need it: when it was read on the loop's clock, watts, volts, amperes, or ``nan``."""

    at_s: float
    power_w: float
    voltage_v: float
    current_a: float


@dataclass(frozen=True, slots=True)
class SeenTransaction:
    """A transaction that was seen running.

    Attributes:
        since: the host's time at which it was first seen running.
        begin_seen: it was seen to begin; otherwise it has run for longer than since then.
        charged_wh: what the meter says it has imported in it, watt hours; where it does not say, what the register has
            grown by since it was first seen.
    """

    since: datetime
    begin_seen: bool
    charged_wh: Decimal


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong: a fault of the meter's, or else what somebody should know."""

    text: str
    is_fault: bool = True


@dataclass(frozen=True, slots=True)
class Sight:
    """What there is to see of one meter.

    Attributes:
        address: of the meter, ``host:port``.
        now_s: the moment, on the loop's clock.
        value: the last live value, or None before the first.
        read_at: the host's time at which it was read.
        age_s: seconds since then.
        stands_s: seconds for which the meter's time has not moved although it answers.
        clock_off: how far its clock was ahead of the host's then.
        problem: why the last question for a value had no answer, or "".
        silent_since: the host's time since which it has not answered, or None.
        silent_s: seconds since then.
        gateway: the last answer of GET /gw, or None.
        other_problems: why there is no answer of ``/gw`` or ``/publickey``, by node.
        transaction: that runs, as far as is known.
        samples: of the last minutes, oldest first.
    """

    address: str
    now_s: float
    value: MeterValue | None = None
    read_at: datetime | None = None
    age_s: float | None = None
    stands_s: float = 0.0
    clock_off: timedelta | None = None
    problem: str = ""
    silent_since: datetime | None = None
    silent_s: float | None = None
    gateway: Gateway | None = None
    other_problems: tuple[tuple[str, str], ...] = ()
    transaction: SeenTransaction | None = None
    samples: tuple[Sample, ...] = ()


def shown(text: object) -> str:
    """Make a text of the meter's fit to be shown: no control characters, not without end."""
    return printable(text, limit=LONGEST_TEXT)


def troubles(sight: Sight) -> tuple[Trouble, ...]:
    """Return what is wrong, the worst first."""
    found = [*_silence(sight), *_words(sight), *_other(sight)]
    return tuple(sorted(found, key=lambda trouble: not trouble.is_fault))


def _silence(sight: Sight) -> Iterator[Trouble]:
    if sight.silent_since is not None and sight.silent_s is not None:
        yield Trouble(f"no answer since {sight.silent_since:%H:%M:%S} ({duration(sight.silent_s)}): {sight.problem}")
    elif sight.age_s is not None and sight.age_s > OLD_AFTER_S:
        yield Trouble(f"the value is {duration(sight.age_s)} old")
    elif sight.stands_s > STANDS_AFTER_S:
        yield Trouble(f"it answers, but its time has stood still for {duration(sight.stands_s)}")


def _words(sight: Sight) -> Iterator[Trouble]:
    value = sight.value
    if value is None:
        return
    if value.has_error:
        yield Trouble(f"in error: XC is {shown(value.XC)}")
    if "E" in value.EF:
        yield Trouble(f"EF is {shown(value.EF)}: energy is not reliable")
    elif value.EF:
        meaning = ": the time is not reliable" if value.EF == "t" else ""
        yield Trouble(f"EF is {shown(value.EF)}{meaning}", is_fault=False)
    if value.ST not in ("G", ""):
        yield Trouble(f"ST is {shown(value.ST)}, not G", is_fault=False)


def _other(sight: Sight) -> Iterator[Trouble]:
    if sight.clock_off is not None and abs(sight.clock_off.total_seconds()) > CLOCK_TOLERANCE_S:
        yield Trouble(f"its clock is {clock(sight.clock_off)}", is_fault=False)
    if sight.gateway is not None and not sight.gateway.is_set:
        yield Trouble("no charge point since it was powered up: nobody has initialised it", is_fault=False)
    for _, problem in sight.other_problems:
        yield Trouble(problem, is_fault=False)


def clock(off: timedelta) -> str:
    """Write a difference of clocks: ``0.4 s ahead of this host``."""
    seconds = off.total_seconds()
    size = f"{abs(seconds):.1f} s" if abs(seconds) < 60 else duration(abs(seconds))
    return f"{size} {'ahead of' if seconds > 0 else 'behind'} this host"


def duration(seconds: float) -> str:
    """Write a duration: ``12 s``, ``5 min 03 s``, ``2 h 05 min``, ``3 days``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86_400} days"
