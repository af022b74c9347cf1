"""One meter's live values of the last 24 hours, for charts: coarser with age, and bounded.

A slot of two seconds holds the last value read in it, for 30 minutes. A slot of two minutes holds the mean of what was
read in it (of the register, the last value), for 24 hours. A slot takes 20 bytes: 32 kB a meter.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iem_dcr.diagnostics.status import number

if TYPE_CHECKING:
    from iem_dcr.device.messages import MeterValue

STEP_S: Final = 2.0
SPAN_S: Final = 1800.0
COARSE_STEP_S: Final = 120.0
COARSE_SPAN_S: Final = 86_400.0
_NOTHING: Final = float("nan")
_DIGITS: Final = (2, 2, 0, 1)
"""Decimals of each column that a chart can show."""


@dataclass(frozen=True, slots=True)
class Series:
    """Values of equal distance, oldest first; None where none was read.

    Attributes:
        first_s: when the first slot begins, on the clock of `History.add`.
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
    """Remembers one meter's values. All moments are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._fine = _Ring(STEP_S, SPAN_S)
        self._coarse = _Ring(COARSE_STEP_S, COARSE_SPAN_S)
        self._mean = _Mean()

    def add(self, at_s: float, value: MeterValue) -> None:
        """Remember a value that was read at a moment."""
        row = (number(value.U2), number(value.I), number(value.P), float(value.import_wh))
        self._fine.put(at_s, row)
        self._coarse.put(at_s, (*self._mean.add(at_s, row[:3]), row[3]))

    def series(self, now_s: float, span_s: float = SPAN_S) -> Series:
        """Return what was remembered in the last ``span_s`` seconds: in fine slots if those reach so far back."""
        return (self._fine if span_s <= SPAN_S else self._coarse).series(now_s, span_s)


class _Ring:
    """Slots of one length; a new one takes the place of the oldest."""

    def __init__(self, step_s: float, span_s: float) -> None:
        self._step_s = step_s
        self._slots = round(span_s / step_s)
        self._first = 0
        self._last: int | None = None
        self._columns: tuple[array[float], ...] = ()

    def put(self, at_s: float, row: tuple[float, ...]) -> None:
        slot = math.floor(at_s / self._step_s)
        if self._last is None:
            self._columns = tuple(array(kind, [_NOTHING]) * self._slots for kind in "fffd")
            self._first = self._last = slot
        for missed in range(max(self._last + 1, slot - self._slots + 1), slot):
            self._write(missed, (_NOTHING,) * 4)
        self._last = max(slot, self._last)
        self._write(slot, row)

    def series(self, now_s: float, span_s: float) -> Series:
        now = math.floor(now_s / self._step_s)
        if self._last is None:
            return Series(now * self._step_s, self._step_s)
        oldest = max(now - round(span_s / self._step_s), self._last - self._slots) + 1
        slots = range(max(self._first, oldest), self._last + 1)
        columns = (
            tuple(_rounded(column[slot % self._slots], digits) for slot in slots)
            for column, digits in zip(self._columns, _DIGITS, strict=True)
        )
        return Series(slots.start * self._step_s, self._step_s, *columns)

    def _write(self, slot: int, row: tuple[float, ...]) -> None:
        for column, value in zip(self._columns, row, strict=True):
            column[slot % self._slots] = value


class _Mean:
    """The mean of the coarse slot that is being filled."""

    def __init__(self) -> None:
        self._slot = -1
        self._sums = [0.0] * 3
        self._counts = [0] * 3

    def add(self, at_s: float, row: tuple[float, ...]) -> list[float]:
        slot = math.floor(at_s / COARSE_STEP_S)
        if slot != self._slot:
            self._slot, self._sums, self._counts = slot, [0.0] * 3, [0] * 3
        for place, value in enumerate(row):
            if not math.isnan(value):
                self._sums[place] += value
                self._counts[place] += 1
        return [total / count if count else _NOTHING for total, count in zip(self._sums, self._counts, strict=True)]


def _rounded(value: float, digits: int) -> float | None:
    return None if math.isnan(value) else round(value, digits)
