"""The load on the meter and the energy in its registers.

A load is a pure function of the time since it began, and its energy has a closed form. A register's value depends only
on when it is read, never on how often it was read before.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple

_UWH_PER_WH: Final = 10**6
_SECONDS_PER_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a load in which either current or voltage changes linearly and the other is constant."""

    duration_s: float
    from_a: float
    to_a: float
    from_v: float
    to_v: float

    def at(self, since_s: float) -> tuple[float, float]:
        """Return current in A and voltage in V ``since_s`` seconds after the segment began."""
        part = since_s / self.duration_s
        return self.from_a + (self.to_a - self.from_a) * part, self.from_v + (self.to_v - self.from_v) * part


@dataclass(frozen=True, slots=True)
class Load:
    """A load over time: consecutive segments, then nothing. The sign of its current never changes."""

    segments: tuple[Segment, ...] = ()

    def at(self, since_s: float) -> tuple[float, float]:
        """Return current in A and voltage in V ``since_s`` seconds after the load began."""
        for segment in self.segments:
            if since_s < segment.duration_s:
                return segment.at(max(since_s, 0.0))
            since_s -= segment.duration_s
        return 0.0, 0.0

    def energy_wh(self, until_s: float) -> float:
        """Return the energy in Wh of the first ``until_s`` seconds; negative if the load feeds back."""
        total_ws = 0.0
        for segment in self.segments:
            within_s = min(until_s, segment.duration_s)
            if within_s > 0:
                current_a, voltage_v = segment.at(within_s / 2)
                total_ws += current_a * voltage_v * within_s
            until_s -= segment.duration_s
        return total_ws / _SECONDS_PER_HOUR


def charging(current_a: float, voltage_v: float, charge_s: float = 0.0, *, after_s: float = 0.0) -> Load:
    """Return a session's load: constant current with rising voltage, then constant voltage with falling current.

    A negative current feeds back. If ``charge_s`` is 0, current and voltage are constant until the load is replaced.
    """
    segments = [Segment(after_s, 0.0, 0.0, 0.0, 0.0)]
    if charge_s > 0:
        segments.append(Segment(charge_s * 0.60, current_a, current_a, voltage_v * 0.95, voltage_v))
        segments.append(Segment(charge_s * 0.25, current_a, current_a * 0.5, voltage_v, voltage_v))
        segments.append(Segment(charge_s * 0.15, current_a * 0.5, current_a * 0.1, voltage_v, voltage_v))
    else:
        segments.append(Segment(inf, current_a, current_a, voltage_v, voltage_v))
    return Load(tuple(segment for segment in segments if segment.duration_s > 0))


class Registers(NamedTuple):
    """The two cumulative registers."""

    import_wh: int = 0
    export_wh: int = 0

    def minus(self, other: Registers) -> Registers:
        """Return the difference to ``other``."""
        return Registers(self.import_wh - other.import_wh, self.export_wh - other.export_wh)


class EnergyPath:
    """The present load and the registers that meter it, exact to a millionth of a Wh."""

    def __init__(self, registers: Registers, now_s: float) -> None:
        self._before_uwh = [energy_wh * _UWH_PER_WH for energy_wh in registers]
        self._load = Load()
        self._since_s = now_s

    def connect(self, load: Load, now_s: float) -> None:
        """Replace the present load by ``load``, which begins now."""
        self._before_uwh, self._load, self._since_s = self._exact_uwh(now_s), load, now_s

    def set_register(self, name: str, energy_wh: int, now_s: float) -> None:
        """Set the register ``import_wh`` or ``export_wh``; the value may be lower. The load continues."""
        index = Registers._fields.index(name)
        self._before_uwh[index] += energy_wh * _UWH_PER_WH - self._exact_uwh(now_s)[index]

    def at(self, now_s: float) -> tuple[float, float]:
        """Return current in A and voltage in V."""
        return self._load.at(now_s - self._since_s)

    def registers(self, now_s: float) -> Registers:
        """Return the registers, truncated to whole Wh as the meter shows them."""
        return Registers(*(energy_uwh // _UWH_PER_WH for energy_uwh in self._exact_uwh(now_s)))

    def _exact_uwh(self, now_s: float) -> list[int]:
        added_uwh = round(self._load.energy_wh(now_s - self._since_s) * _UWH_PER_WH)
        import_uwh, export_uwh = self._before_uwh
        return [import_uwh + max(added_uwh, 0), export_uwh + max(-added_uwh, 0)]


def kwh_text(energy_wh: int) -> str:
    """Format a register as the meter does: kWh with eight digits, a point and three digits. It rolls over."""
    kwh, wh = divmod(energy_wh, 1000)
    return f"{kwh % 10**8:08d}.{wh:03d}"
