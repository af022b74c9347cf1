"""Style, program and icon of the page: files of this package, read once."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from aiohttp import web

from iem_dcr.service.web.site import Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iem_dcr.service.web.site import Site

_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def routes(_site: Site) -> Iterable[Route]:
    """Return the routes of the files."""
    for file in files(__package__).joinpath("static").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _TYPES:
            yield Route(f"/static/{file.name}", _Served(file.read_bytes(), _TYPES[suffix]).answer, is_open=True)


class _Served:
    """Answers with one file, which a browser keeps and asks for anew every time."""

    def __init__(self, content: bytes, kind: str) -> None:
        self._content = content
        self._kind = kind
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a request."""
        headers = {"ETag": self._tag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == self._tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=self._content, content_type=self._kind, charset="utf-8", headers=headers)
