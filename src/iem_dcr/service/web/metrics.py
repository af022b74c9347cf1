"""``/metrics``, for Prometheus. It needs the token like the page: it tells when and how much is charged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from iem_dcr.service.web.site import Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iem_dcr.service.web.site import Site


def routes(site: Site) -> Iterable[Route]:
    """Return the route of the metrics."""

    async def answer(request: web.Request) -> web.Response:
        body, content_type = await site.metrics.written(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    yield Route("/metrics", answer)
