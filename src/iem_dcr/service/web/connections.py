"""A port whose connections are bounded: so many at once, each for so long, and so many new ones a second.

Who comes when all are taken waits in the kernel's queue. Whatever others do to the port costs the meters of this
process next to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Final

from aiohttp import web

from iem_dcr.driver.rate_limited_log import RateLimitedLog
from iem_dcr.errors import printable
from iem_dcr.service.web.guard import HEADERS, NOT_STORED

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

AT_ONCE: Final = 64
NEW_EVERY_S: Final = 0.005
LIVES_S: Final = 60.0
"""After so long a connection is closed as soon as it has nothing to answer, unless it is a stream."""
ENDS_WITHIN_S: Final = 10.0
"""So much later it is broken off."""
DEAD_AFTER_S: Final = 20.0
"""A peer that has not acknowledged anything for so long is gone."""
SEND_BUFFER: Final = 128 * 1024
"""Bytes that may wait in the kernel for a reader; it is who does not take them who is to notice."""
RECEIVE_BUFFER: Final = 16 * 1024
"""Bytes that the kernel takes for the page, and so about what is read and taken apart at a time."""
ENOUGH_BYTES: Final = 64 * 1024
"""A connection that has brought so much is closed when what it asked for is answered."""
MOST_BYTES: Final = 2 * ENOUGH_BYTES
"""One that goes on is broken off."""
_BACKLOG: Final = 32
_FULL_PAUSE_S: Final = 1.0


class Listener:
    """Takes connections for a server.

    Args:
        server: makes the protocol of each.
        listening: the socket; closed by `run`.
        is_stream: tells of a connection whether it is a stream, which may live on.
    """

    def __init__(
        self, server: web.Server, listening: socket.socket, is_stream: Callable[[web.RequestHandler], bool]
    ) -> None:
        self._server = server
        self._listening = listening
        self._is_stream = is_stream
        self._lines = RateLimitedLog(_log, asyncio.get_running_loop().time)
        self._free = asyncio.Semaphore(AT_ONCE)
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take connections until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._free.acquire()
                try:
                    connection, _ = await loop.sock_accept(self._listening)
                except OSError as error:
                    self._free.release()
                    self._lines.warning("no connection can be taken: %s", printable(error.strerror or error))
                    await asyncio.sleep(_FULL_PAUSE_S)
                    continue
                except BaseException:
                    self._free.release()
                    raise
                task = asyncio.create_task(self._serve(connection))
                self._connections.add(task)
                task.add_done_callback(self._is_over)
                await asyncio.sleep(NEW_EVERY_S)
        finally:
            self._listening.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def _is_over(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._free.release()
        if not task.cancelled() and task.exception() is not None:
            _log.debug("a connection failed: %s", printable(repr(task.exception())))

    async def _serve(self, connection: socket.socket) -> None:
        """Have one connection served, and return when it is over."""
        protocol = _Watched(_handler(self._server))
        try:
            _bound(connection)
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, connection)
        except BaseException:
            connection.close()
            raise
        try:
            while not await protocol.over_within(LIVES_S):
                if not self._is_stream(protocol.handler):
                    protocol.handler.close()
                    await protocol.over_within(ENDS_WITHIN_S)
                    return
        finally:
            transport.abort()


class _Watched(asyncio.Protocol):
    """A connection of which it is known when it is over.

    Attributes:
        handler: does everything else.
    """

    def __init__(self, handler: web.RequestHandler) -> None:
        self.handler = handler
        self._over = asyncio.Event()
        self._transport: asyncio.BaseTransport | None = None
        self._came = 0

    async def over_within(self, seconds: float) -> bool:
        """Wait for the end, for so long at most. Returns whether it came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
        return self._over.is_set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        self.handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass on what came, unless it is too much: not every aiohttp bounds a head, or the requests that wait."""
        self._came += len(data)
        if self._came <= MOST_BYTES:
            self.handler.data_received(data)
            if self._came > ENOUGH_BYTES:
                self.handler.close()
        elif isinstance(self._transport, asyncio.Transport):
            self._transport.abort()

    def eof_received(self) -> None:
        """Pass on that no more will come."""
        self.handler.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the other side does not keep up."""
        self.handler.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that it does again."""
        self.handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._over.set()
        self.handler.connection_lost(exc)


class _Handler(web.RequestHandler):
    """Answers what is no HTTP as everything else is answered; aiohttp tells its version, and all that came."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  the signature is aiohttp's
    ) -> web.StreamResponse:
        """Return the answer."""
        _log.debug("what came was no request: %s", type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is already under way")
        headers = {**HEADERS, "Cache-Control": NOT_STORED}
        response = web.Response(status=status, text="That is no request.\n", headers=headers)
        response.force_close()
        return response


def _handler(server: web.Server) -> _Handler:
    """Make what `aiohttp.web.Server` would make. There is no public way to have another; tests hold it."""
    options = server._kwargs  # noqa: SLF001  as above
    return _Handler(server, loop=asyncio.get_running_loop(), **options)


def listening_socket(host: str, port: int) -> socket.socket:
    """Listen.

    Raises:
        OSError: address or port cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
        listening.settimeout(0.0)
    except OSError:
        listening.close()
        raise
    return listening


def _bound(connection: socket.socket) -> None:
    """Have the kernel hold little for a connection, and break it off when its other side has vanished."""
    connection.settimeout(0.0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(DEAD_AFTER_S * 1000))
