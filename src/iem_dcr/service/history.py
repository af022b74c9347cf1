"""The last half hour of one meter's live values, as charts need them and in as little memory as they fit in.

One slot for every two seconds holds the last value read in it; 20 bytes each, 18 kB a meter, from its first value on.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iem_dcr.bringup.sight import number

if TYPE_CHECKING:
    from iem_dcr.device.messages import MeterValue

STEP_S: Final = 2.0
SPAN_S: Final = 1800.0
SLOTS: Final = round(SPAN_S / STEP_S)
_NOTHING: Final = float("nan")
_TO_TENTHS: Final = 1
_TO_WATTS: Final = 0


@dataclass(frozen=True, slots=True)
class Series:
    """Values of equal distance, oldest first; None where none was read.

    Attributes:
        first: number of the first slot.
        voltage_v: volts.
        current_a: amperes.
        power_w: watts.
        import_wh: import register, watt hours.
    """

    first: int
    voltage_v: tuple[float | None, ...]
    current_a: tuple[float | None, ...]
    power_w: tuple[float | None, ...]
    import_wh: tuple[float | None, ...]


class History:
    """Remembers one meter's values. All moments are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._first = 0
        self._columns: tuple[array[float], ...] = ()

    def clear(self) -> None:
        """Forget everything."""
        self._last = None
        self._columns = ()

    def add(self, at_s: float, value: MeterValue) -> None:
        """Remember a value that was read at a moment."""
        slot = slot_of(at_s)
        if self._last is None:
            self._columns = tuple(array(kind, [_NOTHING]) * SLOTS for kind in "fffd")
            self._first = self._last = slot
        for missed in range(max(self._last + 1, slot - SLOTS + 1), slot):
            self._put(missed, (_NOTHING,) * 4)
        self._last = max(slot, self._last)
        self._put(slot, (number(value.U2), number(value.I), number(value.P), float(value.import_wh)))

    def series(self, now_s: float) -> Series:
        """Return what was remembered in the last half hour."""
        if self._last is None:
            return Series(slot_of(now_s), (), (), (), ())
        first = max(self._first, slot_of(now_s) - SLOTS + 1)
        slots = range(max(first, self._last - SLOTS + 1), self._last + 1)
        voltage_v, current_a, power_w, import_wh = (
            tuple(_rounded(column[slot % SLOTS], digits) for slot in slots)
            for column, digits in zip(self._columns, (2, 2, _TO_WATTS, _TO_TENTHS), strict=True)
        )
        return Series(slots.start, voltage_v, current_a, power_w, import_wh)

    def _put(self, slot: int, values: tuple[float, ...]) -> None:
        for column, value in zip(self._columns, values, strict=True):
            column[slot % SLOTS] = value


def slot_of(at_s: float) -> int:
    """Return the number of the slot that a moment falls in."""
    return math.floor(at_s / STEP_S)


def _rounded(value: float, digits: int) -> float | None:
    return None if math.isnan(value) else round(value, digits)
