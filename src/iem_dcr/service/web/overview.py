"""All meters at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from iem_dcr.service.web.site import Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iem_dcr.service.web.site import Site


def routes(site: Site) -> Iterable[Route]:
    """Return the routes of the overview."""

    async def overview(_request: web.Request) -> web.Response:
        return web.Response(text=f"{site.status()}\n")

    yield Route("/", overview)
