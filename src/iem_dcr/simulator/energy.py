"""What flows through the meter and what its registers make of it.

Loads are pure functions of the time since they began, with energy in closed form: a register's value depends on when
it is read, never on how often it was read before.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from math import inf
from typing import NamedTuple

_MICRO = Decimal("0.000001")
_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch in which current and voltage each run straight from one value to another."""

    duration_s: float
    from_a: float
    to_a: float
    from_v: float
    to_v: float

    def at(self, since_s: float) -> tuple[float, float]:
        """Return current in A and voltage in V so long after the beginning of the segment."""
        part = since_s / self.duration_s
        return self.from_a + (self.to_a - self.from_a) * part, self.from_v + (self.to_v - self.from_v) * part

    def energy_ws(self, until_s: float) -> float:
        """Integrate the product of the two straight lines from the beginning; in Ws, with the current's sign."""
        part = until_s / self.duration_s
        rise_a, rise_v = self.to_a - self.from_a, self.to_v - self.from_v
        mixed = self.from_a * rise_v + self.from_v * rise_a
        return until_s * (self.from_a * self.from_v + part * (mixed / 2 + part * rise_a * rise_v / 3))


@dataclass(frozen=True, slots=True)
class Load:
    """A load over time: segments one after the other, then nothing. Its current never changes its sign."""

    segments: tuple[Segment, ...]

    def at(self, since_s: float) -> tuple[float, float]:
        """Return current in A and voltage in V so long after the load began."""
        for segment in self.segments:
            if since_s < segment.duration_s:
                return segment.at(max(since_s, 0.0))
            since_s -= segment.duration_s
        return 0.0, 0.0

    def energy_wh(self, until_s: float) -> float:
        """Return the energy in Wh from its beginning until then; negative where current flows back."""
        total_ws = 0.0
        for segment in self.segments:
            within_s = min(until_s, segment.duration_s)
            if within_s <= 0:
                break
            total_ws += segment.energy_ws(within_s)
            until_s -= segment.duration_s
        return total_ws / _SECONDS_PER_HOUR


NOTHING = Load(())


def constant(current_a: float, voltage_v: float, *, after_s: float = 0.0) -> Load:
    """Return a load that stays until it is switched off."""
    return _after(after_s, Segment(inf, current_a, current_a, voltage_v, voltage_v))


def charging(current_a: float, voltage_v: float, charge_s: float, *, after_s: float = 0.0) -> Load:
    """Return a session's load: constant current while the voltage rises, constant voltage, then the taper.

    Args:
        current_a: the current it begins with; negative feeds back.
        voltage_v: the voltage it rises to.
        charge_s: how long current flows; 0: a constant load without end.
        after_s: time before the first current.
    """
    if charge_s <= 0:
        return constant(current_a, voltage_v, after_s=after_s)
    return _after(
        after_s,
        Segment(charge_s * 0.60, current_a, current_a, voltage_v * 0.95, voltage_v),
        Segment(charge_s * 0.25, current_a, current_a * 0.5, voltage_v, voltage_v),
        Segment(charge_s * 0.15, current_a * 0.5, current_a * 0.1, voltage_v, voltage_v),
    )


def _after(wait_s: float, *segments: Segment) -> Load:
    wait = (Segment(wait_s, 0.0, 0.0, 0.0, 0.0),) if wait_s > 0 else ()
    return Load(wait + segments)


class Registers(NamedTuple):
    """The two cumulative registers in whole Wh, as the meter shows them: truncated."""

    import_wh: Decimal
    export_wh: Decimal

    def minus(self, other: Registers) -> Registers:
        """Return what was added since ``other``."""
        return Registers(self.import_wh - other.import_wh, self.export_wh - other.export_wh)


ZERO = Registers(Decimal(0), Decimal(0))


class EnergyPath:
    """The load of the moment and the registers behind it."""

    def __init__(self, import_wh: int, export_wh: int, now_s: float) -> None:
        self._import_wh = Decimal(import_wh)
        self._export_wh = Decimal(export_wh)
        self._load = NOTHING
        self._since_s = now_s

    def connect(self, load: Load, now_s: float) -> None:
        """Let ``load`` begin now, in the place of the one before it."""
        self._import_wh, self._export_wh = self._exact(now_s)
        self._load = load
        self._since_s = now_s

    def set_registers(self, now_s: float, *, import_wh: int | None = None, export_wh: int | None = None) -> None:
        """Give registers another value, which may be lower; whatever flows goes on."""
        exact_import, exact_export = self._exact(now_s)
        if import_wh is not None:
            self._import_wh += Decimal(import_wh) - exact_import
        if export_wh is not None:
            self._export_wh += Decimal(export_wh) - exact_export

    def at(self, now_s: float) -> tuple[float, float]:
        """Return current in A and voltage in V."""
        return self._load.at(now_s - self._since_s)

    def registers(self, now_s: float) -> Registers:
        """Return the registers, truncated to Wh."""
        import_wh, export_wh = self._exact(now_s)
        return Registers(import_wh // 1, export_wh // 1)

    def _exact(self, now_s: float) -> tuple[Decimal, Decimal]:
        energy_wh = Decimal(self._load.energy_wh(now_s - self._since_s)).quantize(_MICRO)
        if energy_wh >= 0:
            return self._import_wh + energy_wh, self._export_wh
        return self._import_wh, self._export_wh - energy_wh


def kwh_text(energy_wh: Decimal) -> str:
    """Write a register as the meter does: kWh, eight digits, a point and three digits; it rolls over."""
    kwh, wh = divmod(int(energy_wh), 1000)
    return f"{kwh % 10**8:08d}.{wh:03d}"
