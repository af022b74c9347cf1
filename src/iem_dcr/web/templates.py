"""The page's HTML: jinja2 templates of this package.

Every value is escaped (autoescape). Before that, invisible characters become spaces: controls, and marks that change
the direction of writing. So text from a meter, a card or a tariff cannot become markup and cannot hide.

A live page has blocks whose names begin with ``live_``, each with one element that has an id. A stream renders only
these blocks and sends the changed ones. The browser replaces the element with the same id.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from iem_dcr import __version__
from iem_dcr.diagnostics.status import clock_difference, duration, shown
from iem_dcr.web import formatting

_LIVE: Final = "live_"


def _visible(value: object) -> object:
    """Return a value with only visible characters."""
    if value is None:
        return formatting.NOTHING
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
        formatting.kw, formatting.kwh, formatting.tenths, formatting.clock_time, formatting.day_and_time,
        formatting.meter_clock, formatting.ago, formatting.status, formatting.flags,
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
