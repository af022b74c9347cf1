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

    segments: tuple[Segment, ...] = ()

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


def charging(current_a: float, voltage_v: float, charge_s: float = 0.0, *, after_s: float = 0.0) -> Load:
    """Return a session's load: constant current while the voltage rises, constant voltage, then the taper.

    Args:
        current_a: the current it begins with; negative feeds back.
        voltage_v: the voltage it rises to.
        charge_s: how long current flows; 0: constant, until it is switched off.
        after_s: time before the first current.
    """
    wait = (Segment(after_s, 0.0, 0.0, 0.0, 0.0),) if after_s > 0 else ()
    if charge_s <= 0:
        return Load((*wait, Segment(inf, current_a, current_a, voltage_v, voltage_v)))
    return Load(
        (
            *wait,
            Segment(charge_s * 0.60, current_a, current_a, voltage_v * 0.95, voltage_v),
            Segment(charge_s * 0.25, current_a, current_a * 0.5, voltage_v, voltage_v),
            Segment(charge_s * 0.15, current_a * 0.5, current_a * 0.1, voltage_v, voltage_v),
        )
    )


class Registers(NamedTuple):
    """The two cumulative registers in Wh."""

    import_wh: Decimal = Decimal(0)
    export_wh: Decimal = Decimal(0)

    def minus(self, other: Registers) -> Registers:
        """Return what was added since ``other``."""
        return Registers(self.import_wh - other.import_wh, self.export_wh - other.export_wh)


class EnergyPath:
    """The load of the moment and the registers behind it."""

    def __init__(self, import_wh: int, export_wh: int, now_s: float) -> None:
        self._before = Registers(Decimal(import_wh), Decimal(export_wh))
        self._load = Load()
        self._since_s = now_s

    def connect(self, load: Load, now_s: float) -> None:
        """Let ``load`` begin now, in the place of the one before it."""
        self._before, self._load, self._since_s = self._exact(now_s), load, now_s

    def set_register(self, name: str, energy_wh: int, now_s: float) -> None:
        """Give ``import_wh`` or ``export_wh`` another value, which may be lower; whatever flows goes on."""
        moved_wh = getattr(self._before, name) + energy_wh - getattr(self._exact(now_s), name)
        self._before = self._before._replace(**{name: moved_wh})

    def at(self, now_s: float) -> tuple[float, float]:
        """Return current in A and voltage in V."""
        return self._load.at(now_s - self._since_s)

    def registers(self, now_s: float) -> Registers:
        """Return the registers, truncated to whole Wh as the meter shows them."""
        import_wh, export_wh = self._exact(now_s)
        return Registers(import_wh // 1, export_wh // 1)

    def _exact(self, now_s: float) -> Registers:
        energy_wh = Decimal(self._load.energy_wh(now_s - self._since_s)).quantize(_MICRO)
        import_wh, export_wh = self._before
        return Registers(import_wh + max(energy_wh, Decimal(0)), export_wh + max(-energy_wh, Decimal(0)))


def kwh_text(energy_wh: Decimal) -> str:
    """Write a register as the meter does: kWh, eight digits, a point and three digits; it rolls over."""
    kwh, wh = divmod(int(energy_wh), 1000)
    return f"{kwh % 10**8:08d}.{wh:03d}"
