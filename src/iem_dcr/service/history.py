"""One meter's live values of the last 24 hours, for charts. Their resolution falls with age, and memory is bounded.

A slot holds the mean of the values read in it, and the last value of the register. There are slots of two seconds for
30 minutes and slots of two minutes for 24 hours. A slot takes 20 bytes, a meter 32 kB.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from iem_dcr.device.messages import MeterValue

STEP_S: Final = 2.0
SPAN_S: Final = 1800.0
COARSE_STEP_S: Final = 120.0
COARSE_SPAN_S: Final = 86_400.0
_DECIMALS: Final = (2, 2, 0, 1)
"""Decimal places of each column in a chart."""


@dataclass(frozen=True, slots=True)
class Series:
    """Values at equal intervals, oldest first; None if no value was read.

    Attributes:
        first_s: begin of the first slot, on the clock of `History.add`.
        step_s: seconds from one slot to the next.
        voltage_v: volts.
        current_a: amperes.
        power_w: watts.
        import_wh: import register, watt hours.
    """

    first_s: float
    step_s: float
    voltage_v: tuple[float | None, ...] = ()
    current_a: tuple[float | None, ...] = ()
    power_w: tuple[float | None, ...] = ()
    import_wh: tuple[float | None, ...] = ()


class History:
    """Stores one meter's values. All times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Remove all values."""
        self._fine = _Ring(STEP_S, SPAN_S)
        self._coarse = _Ring(COARSE_STEP_S, COARSE_SPAN_S)

    def add(self, at_s: float, value: MeterValue) -> None:
        """Store a value with the time of its reading."""
        means = [math.nan if number is None else float(number) for number in (value.U2, value.I, value.P)]
        for ring in (self._fine, self._coarse):
            ring.put(at_s, means, float(value.import_wh))

    def series(self, now_s: float, span_s: float = SPAN_S, slots: int | None = None) -> Series:
        """Return the last ``span_s`` seconds in fine slots if they reach back that far, or only the last ``slots``."""
        ring, step_s = (self._fine, STEP_S) if span_s <= SPAN_S else (self._coarse, COARSE_STEP_S)
        return ring.series(now_s, span_s if slots is None else slots * step_s)


class _Ring:
    """Slots of one length. A new slot replaces the oldest one."""

    def __init__(self, step_s: float, span_s: float) -> None:
        self._step_s = step_s
        self._slots = round(span_s / step_s)
        self._first = 0
        self._last: int | None = None
        self._counts = [0] * 3
        self._columns: tuple[array[float], ...] = ()

    def put(self, at_s: float, numbers: list[float], import_wh: float) -> None:
        slot = math.floor(at_s / self._step_s)
        if self._last is None:
            self._columns = tuple(array(kind, [math.nan]) * self._slots for kind in "fffd")
            self._first, self._last = slot, slot - 1
        for new in range(max(self._last, slot - self._slots) + 1, slot + 1):
            self._counts = [0] * 3
            for column in self._columns:
                column[new % self._slots] = math.nan
        self._last = max(slot, self._last)
        place = slot % self._slots
        for index, number in enumerate(numbers):
            if not math.isnan(number):
                self._counts[index] += 1
                column, count = self._columns[index], self._counts[index]
                column[place] = number if count == 1 else column[place] + (number - column[place]) / count
        self._columns[-1][place] = import_wh

    def series(self, now_s: float, span_s: float) -> Series:
        now = math.floor(now_s / self._step_s)
        if self._last is None:
            return Series(now * self._step_s, self._step_s)
        oldest = max(now - round(span_s / self._step_s), self._last - self._slots) + 1
        slots = range(max(self._first, oldest), self._last + 1)
        columns = (
            tuple(_rounded(column[slot % self._slots], decimals) for slot in slots)
            for column, decimals in zip(self._columns, _DECIMALS, strict=True)
        )
        return Series(slots.start * self._step_s, self._step_s, *columns)


def _rounded(value: float, decimals: int) -> float | None:
    return None if math.isnan(value) else round(value, decimals)
