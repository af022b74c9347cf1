"""The checks of every request, and the headers of every answer.

* Only GET and HEAD are allowed, and POST for the token.
* Host must be a name of this page. A foreign DNS name that resolves to this host (rebinding) is refused.
* A request from another site's page is refused (Origin, Sec-Fetch-Site), unless it is a link to this page.
* The token is required, except for routes that reveal nothing about meters or persons.
* A browser may load and run only content of this page, and no other page may frame it.

aiohttp limits lines, headers and bodies (`server`).
"""

from __future__ import annotations

import ipaddress
import logging
import math
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import urlsplit

from aiohttp import web

from iem_dcr.driver.rate_limited_log import RateLimitedLog
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import printable
from iem_dcr.web import templates

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from iem_dcr.service.web_settings import WebSettings
    from iem_dcr.web.auth import Auth

Handler: TypeAlias = "Callable[[web.Request], Awaitable[web.StreamResponse]]"

_log = logging.getLogger(__name__)

LOGIN: Final = "/login"
STATIC: Final = "/static/{name}"
OPEN: Final = frozenset({LOGIN, STATIC, "/health/live", "/health/ready"})
"""Routes that are answered without the token."""
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With no-referrer a browser would send the token's form with the Origin null.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Server": "iem-dcr",
}
_KEPT: Final = ("Allow", "Retry-After", "WWW-Authenticate")
"""Headers of an error that are copied to its answer."""
_HOST: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::\d{1,5})?", re.ASCII)


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Add the common headers to an answer."""
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")


class Checks:
    """Refuses requests before they reach a handler, and turns errors into answers: aiohttp's middlewares.

    Args:
        settings: of the page.
        auth: checks tokens.
    """

    def __init__(self, settings: WebSettings, auth: Auth) -> None:
        self._names = settings.host_names | {"localhost"}
        self._is_loopback = settings.is_loopback
        self._auth = auth
        self._refusals = RateLimitedLog(_log, now_s)
        self._mistakes = RateLimitedLog(_log, now_s)

    @web.middleware
    async def errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer an error with a page for a browser, and with a line of text for other clients."""
        try:
            return await handler(request)
        except (web.HTTPRedirection, ConnectionError):
            raise
        except web.HTTPException as error:
            kept = {name: error.headers[name] for name in _KEPT if name in error.headers}
            return self._message(request, error.status, error.text or error.reason, kept)
        except Exception as error:  # noqa: BLE001  a failure becomes an answer and a line in the log
            self._mistakes.warning("the page could not answer %s: %s", printable(request.path), printable(repr(error)))
            _log.debug("details of the failure", exc_info=error)
            return self._message(request, 500, "The page failed to answer; the log says why.")

    @web.middleware
    async def refusals(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse requests that are not allowed."""
        if request.method not in ("GET", "HEAD") and (request.method, request.path) != ("POST", LOGIN):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"], text="Only GET is allowed here.")
        host = request.headers.get("Host", "")
        if not self.is_host(host):
            self._refusals.warning(
                "a request for the host %s was refused: it is not a name of the page; see names in [web]",
                printable(host, limit=80),
            )
            raise web.HTTPMisdirectedRequest(
                text="This page has another name. See 'names' in [web] of its configuration."
            )
        if not _is_from_here(request, host):
            self._refusals.warning("a request from another web page was refused")
            raise web.HTTPForbidden(text="This request came from another web page.")
        resource = request.match_info.route.resource
        # A client without access must not learn which pages exist.
        if (resource is None or resource.canonical not in OPEN) and not self._auth.may_see(request):
            self._ask_for_token(request)
        if resource is None:
            raise web.HTTPNotFound(text="There is no such page.")
        return await handler(request)

    def is_host(self, text: str) -> bool:
        """Return whether a Host header names this page. A name must be configured; DNS cannot forge an address."""
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

    def _ask_for_token(self, request: web.Request) -> None:
        """Raise the answer to a client without access."""
        if (wait_s := math.ceil(self._auth.wait_s(request.remote or ""))) > 0:
            raise web.HTTPTooManyRequests(text="Too many wrong tokens.", headers={"Retry-After": str(wait_s)})
        if "Authorization" in request.headers:
            self._refusals.warning("a wrong token for the bring-up page came from %s", request.remote)
        if _is_for_a_person(request):
            raise web.HTTPSeeOther(LOGIN)
        realm = {"WWW-Authenticate": 'Bearer realm="iem-dcr"'}
        raise web.HTTPUnauthorized(text="The token is missing or wrong.", headers=realm)

    def _message(
        self, request: web.Request, status: int, text: str, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        if not _is_for_a_person(request):
            return web.Response(status=status, text=f"{text}\n", headers=headers)
        title = HTTPStatus(status).phrase
        page = templates.render("message.html", title=title, text=text, is_known=self._auth.may_see(request))
        return web.Response(status=status, text=page, content_type="text/html", headers=headers)


def _is_for_a_person(request: web.Request) -> bool:
    return "text/html" in request.headers.get("Accept", "") and request.method in ("GET", "HEAD")


def _is_from_here(request: web.Request, host: str) -> bool:
    """Return whether a request was not sent by another site's page. Only browsers send the headers that show this."""
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
