"""What every request has to pass, and what every answer carries.

* GET and HEAD only, and POST for the token; nothing longer than it has to be, nothing that takes longer.
* Host has to be one of this page's: a name that somebody else's DNS leads here (rebinding) is refused.
* What a page of somebody else sends is refused (Origin, Sec-Fetch-Site), but for a link that is followed to here.
* So many requests a second; who sends more waits.
* Content of this page only may be loaded and run, and no other page may hold it in a frame.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aiohttp import web

from iem_dcr.driver.rate_limited_log import RateLimitedLog
from iem_dcr.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from iem_dcr.service.web.access import Access
    from iem_dcr.service.web.site import Handler, Route
    from iem_dcr.service.web_settings import WebSettings

_log = logging.getLogger(__name__)

LOGIN: Final = "/login"
ANSWERED_WITHIN_S: Final = 10.0
LARGEST_BODY: Final = 4096
"""Bytes of a request's body; only the token's form has one."""
AT_ONCE: Final = 8
"""So many requests are worked on at once; streams not counted."""
REQUESTS_PER_S: Final = 50.0
BURST: Final = 100.0

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: with that a browser sends the token's form with the Origin null.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Server": "iem-dcr",
}
"""Of every answer."""
NOT_STORED: Final = "no-store"

_HOST: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::\d{1,5})?", re.ASCII)


class Guard:
    """Lets requests through to the page, or refuses them; one middleware of aiohttp's.

    Args:
        settings: of the page.
        access: checks tokens.
        now_s: a monotonic clock, seconds.
    """

    def __init__(self, settings: WebSettings, access: Access, now_s: Callable[[], float]) -> None:
        self._names = settings.host_names | {"localhost"}
        self._is_loopback = settings.is_loopback
        self._access = access
        self._routes: dict[web.AbstractRoute, Route] = {}
        self._now_s = now_s
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._tokens = BURST
        self._filled_s = now_s()
        self._lines = RateLimitedLog(_log, now_s)
        self._mistakes = RateLimitedLog(_log, now_s)

    def know(self, found: web.AbstractRoute, route: Route) -> None:
        """Take note of what the router finds a route as."""
        self._routes[found] = route

    async def add_headers(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Put on every answer what it has to carry."""
        response.headers.update(HEADERS)
        response.headers.setdefault("Cache-Control", NOT_STORED)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request."""
        try:
            return await self._answer(request, handler)
        except web.HTTPException as error:
            return _plain(error.status, error.reason)
        except TimeoutError:
            return _plain(503, "It took too long.")
        except ConnectionError:
            raise
        except Exception as error:
            self._mistakes.warning("the page could not answer %s: %s", printable(request.path), printable(repr(error)))
            _log.debug("as follows", exc_info=error)
            if request.writer.output_size > 0:
                raise ConnectionError("a stream is under way: no other answer may stand in it") from error
            return _plain(500, "The page made a mistake; the log says which.")

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        # Before anything else: to refuse a request costs the loop as much as to answer one.
        await self._wait_for_turn()
        refused = self._refused(request)
        if refused is not None:
            return refused
        route = self._routes.get(request.match_info.route)
        if route is None or not route.is_open:
            # To who may not see the page it makes no difference what is there.
            if not self._access.may_see(request):
                return self._unknown(request)
            if route is None:
                return _plain(404, "There is no such page.")
        if route.is_stream:
            return await handler(request)
        if request.method == "POST":
            # Outside of what is worked on: eight who take their time with the form would keep everybody out.
            async with asyncio.timeout(ANSWERED_WITHIN_S):
                await request.read()
        async with self._at_once, asyncio.timeout(ANSWERED_WITHIN_S):
            return await handler(request)

    def _unknown(self, request: web.Request) -> web.Response:
        """Answer somebody who may not see the page."""
        wait_s = self._access.wait_s(request.remote or "")
        if wait_s > 0:
            return _plain(429, "Too many wrong tokens.", {"Retry-After": str(int(wait_s) + 1)})
        if "Authorization" in request.headers:
            self._lines.warning("a wrong token for the bring-up page came from %s", request.remote)
        if "text/html" in request.headers.get("Accept", "") and request.method in ("GET", "HEAD"):
            return web.Response(status=303, headers={"Location": LOGIN})
        return _plain(401, "The token is missing or wrong.", {"WWW-Authenticate": 'Bearer realm="iem-dcr"'})

    def _refused(self, request: web.Request) -> web.Response | None:
        """Return why a request is refused whoever sends it, or None."""
        if request.method not in ("GET", "HEAD") and (request.method, request.path) != ("POST", LOGIN):
            return _plain(405, "Only GET is answered here.", {"Allow": "GET, HEAD"})
        host = request.headers.get("Host", "")
        if not self.is_host(host):
            self._lines.warning(
                "a request for the host %s was refused: it is none of the page's; see names in [web]",
                printable(host, limit=80),
            )
            return _plain(421, "This page has another name. See 'names' in [web] of its configuration.")
        if not _is_from_here(request, host):
            self._lines.warning("a request that another page sent was refused")
            return _plain(403, "This was sent by the page of somebody else.")
        return None

    def is_host(self, text: str) -> bool:
        """Tell whether a Host header names this page: no name is taken on trust, and an address is nobody's name."""
        match = _HOST.fullmatch(text)
        if match is None:
            return False
        host = match["host"].rstrip(".").lower()
        if host in self._names:
            return True
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return False
        return address.is_loopback or not self._is_loopback

    async def _wait_for_turn(self) -> None:
        """Have who asks for more than the page gives wait: so many connections, each waiting, are few requests."""
        now_s = self._now_s()
        self._tokens = min(BURST, self._tokens + (now_s - self._filled_s) * REQUESTS_PER_S)
        self._filled_s = now_s
        self._tokens -= 1
        if self._tokens < 0:
            try:
                await asyncio.sleep(-self._tokens / REQUESTS_PER_S)
            except asyncio.CancelledError:
                # Who left has had nothing; else those who come and leave would have others wait without end.
                self._tokens += 1
                raise


def _is_from_here(request: web.Request, host: str) -> bool:
    """Tell whether a request was not sent by the page of somebody else. What is no browser says nothing of it."""
    origin = request.headers.get("Origin")
    if origin is not None:
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        if parts.scheme not in ("http", "https") or parts.netloc.lower() != host.lower():
            return False
    site = request.headers.get("Sec-Fetch-Site")
    if site in (None, "same-origin", "none"):
        return True
    is_followed_link = (
        request.headers.get("Sec-Fetch-Mode") == "navigate" and request.headers.get("Sec-Fetch-Dest") == "document"
    )
    return is_followed_link and request.method in ("GET", "HEAD")


def _plain(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers=headers)
