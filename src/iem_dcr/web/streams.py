"""Streams of server-sent events. Their number is limited, and slow readers are dropped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from typing import TYPE_CHECKING, Final

from aiohttp import web

from iem_dcr.driver.rate_limited_log import RateLimitedLog
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import printable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_log = logging.getLogger(__name__)

MAX_STREAMS: Final = 24
"""Further clients are asked to retry later."""
READ_TIMEOUT_S: Final = 10.0
"""A reader that does not accept an event within this time is dropped."""
BUFFER_BYTES: Final = 16 * 1024
"""Bytes that may wait for a reader here, and about as many in the kernel. So a slow reader is noticed early."""
LIFETIME_S: Final = 3600.0
"""A stream ends after this time. The browser reconnects, and its cookie is checked again."""


class Streams:
    """Serves streams.

    Attributes:
        count: number of open streams.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mistakes = RateLimitedLog(_log, now_s)

    async def serve(self, request: web.Request, events: AsyncGenerator[bytes]) -> web.StreamResponse:
        """Send events, each made by `event`, until the reader leaves."""
        if request.method == "HEAD":
            return web.Response()
        if self.count >= MAX_STREAMS:
            return web.Response(status=503, text="Too many streams are open.\n", headers={"Retry-After": "10"})
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )
        response.force_close()
        if request.transport is not None:
            request.transport.set_write_buffer_limits(high=BUFFER_BYTES)
            with contextlib.suppress(OSError):  # the reader has left already
                request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self.count += 1
        try:
            async with contextlib.aclosing(events):
                await response.prepare(request)
                ends_s = now_s() + LIFETIME_S
                async for one in events:
                    async with asyncio.timeout(READ_TIMEOUT_S):
                        await response.write(one)
                    if now_s() > ends_s:
                        break
        except ConnectionError:
            pass  # the reader has left
        except TimeoutError:
            _break_off(request)
        except Exception as error:  # noqa: BLE001  as in `middleware`, but a started stream cannot contain another answer
            self._mistakes.warning("the page could not answer %s: %s", printable(request.path), printable(repr(error)))
            _log.debug("details of the failure", exc_info=error)
            _break_off(request)
        finally:
            self.count -= 1
        return response


def event(name: str, data: object) -> bytes:
    """Encode an event."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _break_off(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
