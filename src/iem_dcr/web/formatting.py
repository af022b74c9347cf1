"""Formats numbers, times and codes for the page. The templates use these functions as filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iem_dcr.diagnostics.status import duration, shown
from iem_dcr.ocmf import Outcome
from iem_dcr.ocmf.codes import meaning_of_flags

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

    from iem_dcr.meter_time import MeterTime

NOTHING: Final = "—"
"""Shown if there is no value."""

_STATUS: Final = {
    "N": "not present",
    "G": "good",
    "T": "time-out",
    "D": "disconnected",
    "R": "not found",
    "M": "manipulated",
    "X": "exchanged",
    "I": "incompatible",
    "O": "out of range",
    "S": "substitute value",
    "E": "other error",
    "F": "read error",
}
"""OCMF's ST."""
_SYNC: Final = {"U": "unknown", "I": "informative", "S": "synchronised", "R": "relative"}
"""OCMF's flag after a time."""
_OUTCOMES: Final = {
    Outcome.VALID: ("valid", "ok"),
    Outcome.INVALID: ("not valid", "fault"),
    Outcome.NOT_CHECKED: ("not checked", "warning"),
    None: ("not checked", "warning"),
}


def signature(outcome: Outcome | None, *, accepted: bool) -> tuple[str, str]:
    """Return the result of a signature check and its kind. A valid receipt may still be refused."""
    is_refused = outcome is Outcome.VALID and not accepted
    return ("valid, not accepted", "fault") if is_refused else _OUTCOMES[outcome]


def kw(power_w: Decimal | None) -> str:
    """Format a power given in W, in kW: ``47.75``."""
    return NOTHING if power_w is None else f"{power_w / 1000:.2f}"


def kwh(energy_wh: Decimal | None) -> str:
    """Format an energy given in Wh, in kWh: ``0.104``."""
    return NOTHING if energy_wh is None else f"{energy_wh / 1000:.3f}"


def tenths(value: Decimal | None) -> str:
    """Format volts or amperes: ``382.0``."""
    return NOTHING if value is None else f"{value:.1f}"


def clock_time(instant: datetime) -> str:
    """Format a time of the host, in its zone: ``12:00:00``."""
    return f"{instant.astimezone():%H:%M:%S}"


def day_and_time(instant: datetime) -> str:
    """Format a time of the host with its date: ``2026-03-01 12:00:00``."""
    return f"{instant.astimezone():%Y-%m-%d %H:%M:%S}"


def meter_time(time: MeterTime) -> str:
    """Format a time of the meter: ``2026-03-01 12:00:00 +0100``."""
    return f"{time.instant:%Y-%m-%d %H:%M:%S %z}"


def meter_clock(time: MeterTime | None) -> str:
    """Format a time of the meter, with the meaning of its flag."""
    if time is None:
        return "not readable"
    return f"{meter_time(time)}, {_SYNC.get(time.sync, 'unknown flag' if time.sync else 'no flag')}"


def ago(seconds: float | None) -> str:
    """Format the time since something happened."""
    return "never" if seconds is None else f"{duration(seconds)} ago"


def status(ST: str) -> str:
    """Return the meaning of an OCMF status."""
    return _STATUS.get(ST, "unknown" if ST else "not given")


def flags(EF: str) -> str:
    """Return the meaning of OCMF error flags."""
    return meaning_of_flags(shown(EF)) or "none"
