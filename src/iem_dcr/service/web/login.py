"""The token's form."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from aiohttp import web

from iem_dcr.service.web.access import SESSION_S
from iem_dcr.service.web.guard import LOGIN
from iem_dcr.service.web.html import document, page, tag
from iem_dcr.service.web.layout import bottom, top
from iem_dcr.service.web.site import Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iem_dcr.service.web.site import Site

WRONG_TAKES_S: Final = 0.5


def routes(site: Site) -> Iterable[Route]:
    """Return the routes of the form."""
    access = site.access

    async def show(request: web.Request) -> web.Response:
        if access.may_see(request):
            return web.Response(status=303, headers={"Location": "/"})
        return _form("")

    async def take(request: web.Request) -> web.Response:
        address = request.remote or ""
        wait_s = access.wait_s(address)
        if wait_s > 0:
            return _form(f"Too many wrong tokens: try again in {int(wait_s) + 1} s.", 429, wait_s)
        fields = parse_qs((await request.read()).decode("utf-8", "replace"))
        (given,) = fields.get("token", [""])[:1]
        if not access.is_token(given.strip(), address):
            site.failures.warning("a wrong token for the bring-up page came from %s", address)
            await asyncio.sleep(WRONG_TAKES_S)
            return _form("That is not the token.", 403)
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(
            access.cookie,
            access.session(),
            max_age=SESSION_S,
            path="/",
            httponly=True,
            samesite="Strict",
            # Behind a proxy that speaks TLS to the browser only the browser's word tells that it does.
            secure=request.headers.get("Origin", "").startswith("https:"),
        )
        return response

    yield Route(LOGIN, show, is_open=True)
    yield Route(LOGIN, take, method="POST", is_open=True)


def _form(problem: str, status: int = 200, wait_s: float = 0.0) -> web.Response:
    form = document(
        "Token",
        top(("Token", ""), is_live=False),
        tag(
            "main",
            tag("h1", "This page needs a token"),
            tag("p", "It is the token of [web] in the service's configuration."),
            tag("p", problem, id="problem", role="alert", class_="problem") if problem else None,
            tag(
                "form",
                tag("label", "Token", for_="token"),
                tag(
                    "input",
                    id="token",
                    name="token",
                    type="password",
                    required="required",
                    autocomplete="current-password",
                    autofocus="autofocus",
                    aria_describedby="problem" if problem else None,
                ),
                tag("button", "Show the page", type="submit"),
                method="post",
                action=LOGIN,
                class_="login",
            ),
            id="content",
        ),
        bottom(is_open=True),
    )
    response = page(form, status)
    if wait_s > 0:
        response.headers["Retry-After"] = str(int(wait_s) + 1)
    return response
