"""What the page answers: the one table of its paths. A new part of it is a function of the same form, named here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iem_dcr.service.web import health, live, login, metrics, receipts, static

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from iem_dcr.service.web.site import Route, Site

PARTS: tuple[Callable[[Site], Iterable[Route]], ...] = (
    live.routes,
    receipts.routes,
    login.routes,
    static.routes,
    metrics.routes,
    health.routes,
)


def routes_of(site: Site) -> tuple[Route, ...]:
    """Return all routes."""
    return tuple(route for part in PARTS for route in part(site))
