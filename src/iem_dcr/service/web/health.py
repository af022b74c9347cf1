"""``/health/live`` and ``/health/ready``, for whoever starts the service again when it is not well.

Both need no token, for they say nothing but whether. Neither looks at any meter: one that is dead must not have the
service ended, and with it all the others.

* live: the loop turns, or nothing would answer.
* ready: the broker is connected, and requests for every meter are taken from it. That it is not is no reason to start
  the service again: it connects by itself as soon as it can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from iem_dcr.service.web.site import Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iem_dcr.service.web.site import Site


def routes(site: Site) -> Iterable[Route]:
    """Return the routes of the service's health."""

    async def live(_request: web.Request) -> web.Response:
        return web.Response(text="live\n")

    async def ready(_request: web.Request) -> web.Response:
        if site.standing().is_ready:
            return web.Response(text="ready\n")
        return web.Response(status=503, text="not ready\n")

    yield Route("/health/live", live, is_open=True)
    yield Route("/health/ready", ready, is_open=True)
