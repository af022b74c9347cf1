"""The page's HTML: jinja2 templates of this package.

Every value is escaped (autoescape). Before that, invisible characters become spaces: controls, and marks that change
the direction of writing. So text from a meter, a card or a tariff cannot become markup and cannot hide.

A live page has blocks whose names begin with ``live_``, each with one element that has an id. A stream renders only
these blocks and sends the changed ones. The browser replaces the element with the same id.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from iem_dcr import __version__
from iem_dcr.diagnostics.status import clock_difference, duration, shown
from iem_dcr.ocmf import Outcome
from iem_dcr.ocmf.codes import meaning_of_flags

if TYPE_CHECKING:
    from decimal import Decimal

    from iem_dcr.meter_time import MeterTime

_LIVE: Final = "live_"
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


# --- templates ---


def _visible(value: object) -> object:
    """Return a value with only visible characters."""
    if value is None:
        return NOTHING
    if isinstance(value, str) and not isinstance(value, Markup) and not value.isprintable():
        return "".join(character if character.isprintable() else " " for character in value)
    return value


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        kw, kwh, tenths, clock_time, day_and_time,
        meter_clock, ago, status, flags,
        clock_difference, duration, shown,
    ):  # fmt: skip
        environment.filters[function.__name__] = function
    environment.globals.update(version=__version__, now=lambda: datetime.now().astimezone())
    return environment


_ENVIRONMENT: Final = _environment()


def load() -> None:
    """Compile all templates now, which takes a moment. Otherwise a template is compiled at its first use."""
    for name in _ENVIRONMENT.list_templates():
        _ENVIRONMENT.get_template(name)


def render(name: str, **context: object) -> Markup:
    """Render a page or a part of one."""
    return Markup(_ENVIRONMENT.get_template(name).render(context))  # noqa: S704  its values are escaped


def live_parts(name: str, **context: object) -> list[str]:
    """Render the live parts of a page, always in the same order."""
    template = _ENVIRONMENT.get_template(name)
    blocks = [make for block, make in template.blocks.items() if block.startswith(_LIVE)]
    return ["".join(make(template.new_context(context))) for make in blocks]
