"""The status of one meter, for ``watch``, the page and the metrics.

A `StatusTracker` receives each live value and each failed request for one. From these it derives what a single value
does not show: the age of the value, how long the meter has been silent, the offset of its clock, whether its clock has
stopped, and how long a transaction has been running. `StatusTracker.status` returns all of this as a `Status`.
`troubles` lists what is wrong in a `Status`. A value with another serial number resets the tracker.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from math import nan
from typing import TYPE_CHECKING, Final

from iem_dcr.driver.timing import now_s
from iem_dcr.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from decimal import Decimal

    from iem_dcr.device.messages import Gateway, MeterValue

CLOCK_TOLERANCE_S: Final = 5.0
"""Largest difference between the meter's clock and the host's that is not reported."""
OLD_AFTER_S: Final = 3.0
"""Age from which a live value is reported as old."""
CLOCK_STOPPED_AFTER_S: Final = 5.0
"""A clock that shows the same time for this long, although the meter answers, is reported as stopped."""
LONGEST_TEXT: Final = 250
"""Number of characters of a text from the meter that are shown."""
_CLOCK_JUMP: Final = timedelta(seconds=5)
"""A larger change of the clock's offset between two values may mean that the meter lost power in between."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A live value for charts: the loop's time of the reading, watts, volts and amperes; ``nan`` if missing."""

    at_s: float
    power_w: float
    voltage_v: float
    current_a: float


@dataclass(frozen=True, slots=True)
class RunningTransaction:
    """A transaction that is running.

    Attributes:
        since: the host's time at which it was first seen.
        begin_seen: whether its begin was seen, at ``since``; if not, it began earlier.
        charged_wh: energy imported in it, in Wh, by the meter's own count. If the meter gives none, this is the growth
            of the import register since ``since``.
    """

    since: datetime
    begin_seen: bool
    charged_wh: Decimal


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong with a meter: a fault or a warning."""

    text: str
    is_fault: bool = True


@dataclass(frozen=True, slots=True)
class Status:
    """The status of one meter at one moment.

    Attributes:
        address: ``host:port``.
        now_s: the moment, on the loop's clock.
        value: the last live value, or None before the first.
        read_at: the host's time at which it was read.
        age_s: its age.
        clock_stopped_s: how long the meter's time has not changed although the meter answers.
        clock_offset: the meter's time minus the host's when the value was read; None if the value has no time.
        problem: why the last request for a live value failed, or "".
        silent_since: the host's time of the first failed request since the last value, or None.
        silent_s: seconds since then.
        node_problems: why ``/gw`` or ``/publickey`` gave no usable answer, by node.
        samples: live values of the last minutes, oldest first.
    """

    address: str
    now_s: float
    value: MeterValue | None = None
    read_at: datetime | None = None
    age_s: float | None = None
    clock_stopped_s: float = 0.0
    clock_offset: timedelta | None = None
    problem: str = ""
    silent_since: datetime | None = None
    silent_s: float | None = None
    gateway: Gateway | None = None
    node_problems: tuple[tuple[str, str], ...] = ()
    transaction: RunningTransaction | None = None
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What a new live value changed.

    Attributes:
        before: the previous live value of the same meter, or None.
        is_another_meter: whether the serial number differs from that of the previous value.
        has_gap: whether requests failed since the previous value, or the meter's clock jumped. In both cases the meter
            may have lost power.
    """

    before: MeterValue | None
    is_another_meter: bool
    has_gap: bool


class StatusTracker:
    """Derives the status of one meter from its live values. All methods are called on the event loop.

    Attributes:
        value: the last live value, or None before the first; it was read at ``read_s`` by the loop's clock.
    """

    def __init__(self) -> None:
        self.value: MeterValue | None = None
        self.read_s = 0.0
        self._read_at: datetime | None = None
        self._time_changed_s = 0.0
        self._clock_offset: timedelta | None = None
        self._problem = ""
        self._silent: tuple[datetime, float] | None = None
        self._begin: tuple[datetime, bool, Decimal] | None = None

    @property
    def is_silent(self) -> bool:
        """Whether the last request for a live value failed."""
        return self._silent is not None

    def on_value(self, value: MeterValue, read_at: datetime) -> Change:
        """Process a live value that was read at ``read_at``, the host's time."""
        before, offset_before = self.value, self._clock_offset
        is_another_meter = before is not None and before.MS != value.MS
        if is_another_meter:
            self._begin = before = offset_before = None
        self._clock_offset = offset = None if value.TM is None else value.TM.instant - read_at
        has_jumped = offset is not None and offset_before is not None and abs(offset - offset_before) > _CLOCK_JUMP
        change = Change(before, is_another_meter, has_jumped or self.is_silent)
        self._follow_transaction(change, value, read_at)
        self.value, self._read_at, self.read_s = value, read_at, now_s()
        if before is None or value.TM is None or before.TM != value.TM:
            self._time_changed_s = self.read_s
        self._problem, self._silent = "", None
        return change

    def on_failure(self, problem: str, asked: datetime, asked_s: float) -> None:
        """Process a failed request, sent at ``asked`` by the host's clock and ``asked_s`` by the loop's."""
        self._problem = problem
        if self._silent is None:
            self._silent = asked, asked_s

    def status(self, address: str) -> Status:
        """Return the current status, without gateway, key and samples, which live values do not contain."""
        now, value = now_s(), self.value
        silent_since, silent_s = self._silent or (None, now)
        return Status(
            address=address,
            now_s=now,
            value=value,
            read_at=self._read_at,
            age_s=None if value is None else now - self.read_s,
            clock_stopped_s=self.read_s - self._time_changed_s,
            clock_offset=self._clock_offset,
            problem=self._problem,
            silent_since=silent_since,
            silent_s=None if silent_since is None else now - silent_s,
            transaction=self._transaction(),
        )

    def _follow_transaction(self, change: Change, value: MeterValue, read_at: datetime) -> None:
        before = change.before
        if not value.XT:
            self._begin = None
        elif self._begin is None or (before is not None and is_new_transaction(before, value)):
            begin_seen = before is not None and not before.XT and not change.has_gap
            self._begin = read_at, begin_seen, before.import_wh if before and begin_seen else value.import_wh

    def _transaction(self) -> RunningTransaction | None:
        if self._begin is None or self.value is None:
            return None
        since, begin_seen, begin_wh = self._begin
        charged_wh = self.value.transaction_wh
        if charged_wh is None:
            charged_wh = self.value.import_wh - begin_wh
        return RunningTransaction(since, begin_seen, charged_wh)


def is_new_transaction(before: MeterValue, value: MeterValue) -> bool:
    """Whether the transaction's register fell between two values. It falls only when a new transaction begins."""
    if before.transaction_wh is None or value.transaction_wh is None:
        return False
    return value.transaction_wh < before.transaction_wh


def troubles(status: Status) -> tuple[Trouble, ...]:
    """Return what is wrong with a meter, faults first."""
    found = [*_silence(status), *_status_words(status), *_surroundings(status)]
    return tuple(sorted(found, key=lambda trouble: not trouble.is_fault))


def _silence(status: Status) -> Iterator[Trouble]:
    if status.silent_since is not None and status.silent_s is not None:
        yield Trouble(f"no answer since {status.silent_since:%H:%M:%S} ({duration(status.silent_s)}): {status.problem}")
    elif status.age_s is not None and status.age_s > OLD_AFTER_S:
        yield Trouble(f"the value is {duration(status.age_s)} old")
    elif status.clock_stopped_s > CLOCK_STOPPED_AFTER_S:
        yield Trouble(f"it answers, but its time has stood still for {duration(status.clock_stopped_s)}")


def _status_words(status: Status) -> Iterator[Trouble]:
    value = status.value
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


def _surroundings(status: Status) -> Iterator[Trouble]:
    if status.clock_offset is not None and abs(status.clock_offset.total_seconds()) > CLOCK_TOLERANCE_S:
        yield Trouble(f"its clock is {clock_difference(status.clock_offset)}", is_fault=False)
    if status.gateway is not None and not status.gateway.is_set:
        yield Trouble("no charge point since it was powered up: it is not initialised", is_fault=False)
    for _, problem in status.node_problems:
        yield Trouble(problem, is_fault=False)


def shown(text: object) -> str:
    """Return a text from the meter without control characters, and shortened if it is long."""
    return printable(text, limit=LONGEST_TEXT)


def number(value: Decimal | None) -> float:
    """Return a number for charts: ``nan`` if the meter gave none."""
    return nan if value is None else float(value)


def measured(value: Decimal | None, unit: str, decimals: int = 1) -> str:
    """Format a number with its unit; a dash if the meter gave none."""
    return f"- {unit}" if value is None else f"{value:.{decimals}f} {unit}"


def clock_difference(offset: timedelta) -> str:
    """Format the offset of a meter's clock: ``0.4 s ahead of this host``."""
    seconds = offset.total_seconds()
    size = f"{abs(seconds):.1f} s" if abs(seconds) < 60 else duration(abs(seconds))
    return f"{size} {'ahead of' if seconds > 0 else 'behind'} this host"


def duration(seconds: float) -> str:
    """Format a duration: ``12 s``, ``5 min 03 s``, ``2 h 05 min``, ``3 days``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86_400} days"
