"""Streams of server-sent events: so many at once, and none for a reader who does not keep up."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MOST: Final = 24
"""So many are open at once; further ones are told to come again."""
RETRY_MS: Final = 2000
"""What a browser waits before it connects again."""
TAKEN_WITHIN_S: Final = 10.0
"""A reader who leaves an event waiting for so long is dropped."""
WAITS_BYTES: Final = 16 * 1024
"""So much may wait here beside what waits in the kernel, before it is waited for the reader."""
LIVES_S: Final = 3600.0
"""After so long a stream ends; the browser connects again, and shows who it is again."""


class Streams:
    """Those that are open."""

    def __init__(self) -> None:
        self._open: set[web.RequestHandler] = set()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._open)

    def is_stream(self, connection: web.RequestHandler) -> bool:
        """Tell whether a connection is one of them."""
        return connection in self._open

    async def serve(self, request: web.Request, events: AsyncIterator[bytes]) -> web.StreamResponse:
        """Send events until the reader leaves.

        Args:
            request: that asks for them.
            events: each as it goes out, made by `event`.
        """
        if request.method == "HEAD" or len(self._open) >= MOST:
            status = 200 if request.method == "HEAD" else 503
            return web.Response(status=status, text="Too many are looking on.\n", headers={"Retry-After": "10"})
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )
        connection = request.protocol
        if request.transport is not None:
            request.transport.set_write_buffer_limits(high=WAITS_BYTES)
        self._open.add(connection)
        try:
            await response.prepare(request)
            await response.write(b"retry: %d\n\n" % RETRY_MS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LIVES_S):
                    await self._send(request, response, events)
        except ConnectionError:
            pass
        finally:
            self._open.discard(connection)
            response.force_close()
        return response

    @staticmethod
    async def _send(request: web.Request, response: web.StreamResponse, events: AsyncIterator[bytes]) -> None:
        async with contextlib.aclosing(events):  # type: ignore[type-var]  # they are generators
            async for one in events:
                try:
                    async with asyncio.timeout(TAKEN_WITHIN_S):
                        await response.write(one)
                except TimeoutError:
                    if request.transport is not None:
                        request.transport.abort()
                    return


def event(name: str, data: object) -> bytes:
    """Make an event."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
