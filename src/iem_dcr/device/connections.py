"""The connections to one meter, and what a request over them can come to. The one file that imports aiohttp's client.

Whether a meter's firmware keeps connections alive is not known:

* A GET may use a connection again. One that finds its idle connection dropped goes out once more on a fresh one.
* A POST goes out on a fresh connection. Only there is it certain that the answer is its own (on another it may be one
  too many to the request before), and that a broken connection means a lost answer and not a request that never
  arrived.
* Nothing else is ever sent twice. What a lost answer means is for the caller to find out.
* A connection that was idle for 2 s is closed.
* A connection whose answer did not come is reset, not closed: otherwise the kernel would go on sending the request for
  minutes, and a B or E that was given up would reach the meter in another transaction.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from iem_dcr.errors import AnswerLostError, MeterTimeoutError, MeterUnreachableError, NotUnderstoodError, printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import SimpleNamespace

MAX_ANSWER_BYTES: Final = 256 * 1024
"""A hundred times what a meter has to say. For what is nothing but head aiohttp may need twenty times as much."""
MAX_WIRE_BYTES: Final = 2 * MAX_ANSWER_BYTES
"""Of one answer, with its heads, trailers, interim answers and the edges of its chunks."""
IDLE_CLOSED_AFTER_S: Final = 2.0

_JSON: Final = {"Content-Type": "application/json"}
_RESETS, _CLOSES_IN_ORDER = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)
"""SO_LINGER: what closing does to what is still to be sent."""
_FAILURES: Final = (aiohttp.ClientError, OSError, UnicodeError)
"""What a request may fail with; UnicodeError where ip_address is no possible host name."""


@dataclass(slots=True)
class _Wire:
    """What became of one request's connection.

    Attributes:
        connected: there was one, so the request may have gone out.
        reused: it had carried a request before.
    """

    connected: bool = False
    reused: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came, whatever its status.

    Attributes:
        status: HTTP status.
        headers: name and value of each, in their order.
        body: its bytes.
        reused: it came on a connection that had carried a request before.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    reused: bool

    def header(self, name: str) -> str:
        """Return the first header of that name, in any case of letters; "" where there is none."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


class Connections:
    """What carries the requests to one meter, one after the other.

    Attributes:
        heard_s: when a whole answer last came, whatever its status, on the loop's clock; None before the first.
    """

    def __init__(self, address: str, *, timeout_s: float) -> None:
        """``address`` is ``host:port``; ``timeout_s`` the longest that a request may take."""
        self.heard_s: float | None = None
        self._address = address
        self._urls: dict[str, URL] = {}
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._handler: _Handler | None = None
        self._last_use_s = 0.0
        self._is_busy = False
        self._idle: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Close every connection. What is asked afterwards connects anew."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        if self._closing is not None:
            await asyncio.wait({self._closing})

    async def ask(self, method: str, base: str, node: str, body: bytes | None, timeout_s: float | None) -> Answer:
        """Make one request, and return its answer whatever its status.

        Args:
            method: "GET" or "POST".
            base: path before the node.
            node: ``/metervalue`` and the like.
            body: what is sent, or None.
            timeout_s: for the whole of it; None takes this meter's own, which it never exceeds.

        Raises:
            MeterError: as `iem_dcr.device.client.MeterClient` says; never a `RefusedError`.
        """
        name = f"{method} {node}"
        limit_s = self.limit_s(timeout_s)
        wire = _Wire()
        self._is_busy = True
        try:
            async with asyncio.timeout(limit_s):
                response, answer = await self._exchange(method, base, node, body, wire)
        except TimeoutError as error:
            if wire.connected:
                raise MeterTimeoutError(self._address, name, f"no answer within {limit_s:.1f} s") from error
            what = f"no connection within {limit_s:.1f} s. Is the meter powered, and ip_address its address?"
            raise MeterUnreachableError(self._address, name, what) from error
        finally:
            self._is_busy = False
        return Answer(response.status, tuple(response.headers.items()), answer, wire.reused)

    def limit_s(self, timeout_s: float | None) -> float:
        """Return how many seconds a request may take."""
        return self._timeout_s if timeout_s is None else max(0.0, min(timeout_s, self._timeout_s))

    def _close_idle(self) -> None:
        """Close what has been idle for long enough. One timer stands while requests go on: each would cost as much."""
        self._idle = None
        if self._is_busy:
            return
        loop = asyncio.get_running_loop()
        closes_s = self._last_use_s + IDLE_CLOSED_AFTER_S
        if loop.time() < closes_s:
            self._idle = loop.call_at(closes_s, self._close_idle)
            return
        session, self._session = self._session, None
        if session is not None:
            self._closing = loop.create_task(session.close())

    async def _exchange(
        self, method: str, base: str, node: str, body: bytes | None, wire: _Wire
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """Send once; once more only a GET whose idle connection turned out to be dropped."""
        name = f"{method} {node}"
        path = base + node
        try:
            response = await self._send(method, path, body, wire)
        except aiohttp.ClientConnectionError as error:
            if not wire.reused:
                self._raise(name, error, wire)
            await self.close()
            wire.connected = wire.reused = False
            try:
                response = await self._send(method, path, body, wire)
            except _FAILURES as again:
                self._raise(name, again, wire)
        except _FAILURES as error:
            self._raise(name, error, wire)
        async with response:
            try:
                answer = await self._body(name, response)
            except (aiohttp.ClientError, OSError) as error:
                self._raise(name, error, wire)
        if self._handler is not None:
            self._handler.has_answer()
        loop = asyncio.get_running_loop()
        self._last_use_s = self.heard_s = loop.time()
        # aiohttp looks at its own limit only now and then: a connection could stay for twice as long.
        if self._idle is None:
            self._idle = loop.call_at(self._last_use_s + IDLE_CLOSED_AFTER_S, self._close_idle)
        return response, answer

    async def _send(self, method: str, path: str, body: bytes | None, wire: _Wire) -> aiohttp.ClientResponse:
        session = await self._session_for(method)
        headers = None if body is None else _JSON
        return await session.request(
            method, self._url(path), data=body, headers=headers, allow_redirects=False, trace_request_ctx=wire
        )

    def _url(self, path: str) -> URL:
        """Return the node's URL, which is taken apart once: at one value a second that is a tenth of its cost."""
        url = self._urls.get(path)
        if url is None:
            text = f"http://{self._address}{path}"
            try:
                url = self._urls[path] = URL(text)
            except ValueError as error:
                raise aiohttp.InvalidURL(text) from error
        return url

    async def _session_for(self, method: str) -> aiohttp.ClientSession:
        """Return a session whose idle connection, if it has one, may carry this request."""
        idle_s = asyncio.get_running_loop().time() - self._last_use_s
        may_reuse = method == "GET" and idle_s <= IDLE_CLOSED_AFTER_S
        if not may_reuse or (self._session is not None and _has_spoken_unasked(self._session)):
            await self.close()
        if self._session is None:
            self._session = _new_session(self._connects)
        return self._session

    def _connects(self, loop: asyncio.AbstractEventLoop) -> _Handler:
        self._handler = _Handler(loop)
        return self._handler

    async def _body(self, name: str, response: aiohttp.ClientResponse) -> bytes:
        answer = bytearray()
        async for chunk in response.content.iter_any():
            answer += chunk
            if len(answer) > MAX_ANSWER_BYTES:
                response.close()
                raise NotUnderstoodError(self._address, name, "", f"more than {MAX_ANSWER_BYTES} bytes")
        return bytes(answer)

    def _raise(self, name: str, error: Exception, wire: _Wire) -> NoReturn:
        """Map what aiohttp raised to what it means for the request."""
        what = _cause(error)
        if isinstance(error, aiohttp.ClientResponseError):
            raise NotUnderstoodError(self._address, name, "", f"not HTTP: {what}") from error
        if not wire.connected:
            advice = "Is the meter powered, and ip_address its address?"
            raise MeterUnreachableError(self._address, name, f"not reachable: {what}. {advice}") from error
        raise AnswerLostError(self._address, name, f"connection lost before the answer was whole: {what}") from error


def _cause(error: Exception) -> str:
    """Say in few words what aiohttp says in many."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the meter closed it"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer broke off"
    if isinstance(error, aiohttp.ClientResponseError):
        return printable(" ".join(error.message.split()))
    system = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    number = getattr(system, "errno", None)
    if isinstance(system, socket.gaierror):
        return f"this host does not know that name ({printable(system.strerror or number)})"
    return os.strerror(number) if isinstance(number, int) and number > 0 else printable(error) or type(error).__name__


class _Handler(ResponseHandler):
    """Reads a connection, and gives it up where an answer has no end: not every aiohttp bounds a head or its chunks."""

    _came = 0
    _socket: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; until an answer has come, closing it takes back what was not delivered."""
        super().connection_made(transport)
        self._socket = transport.get_extra_info("socket")
        self._closing_is(_RESETS)

    def has_answer(self) -> None:
        """Have it closed in good order from now on."""
        self._closing_is(_CLOSES_IN_ORDER)

    def _closing_is(self, linger: bytes) -> None:
        with suppress(OSError):  # it is closed
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def set_response_params(self, **params: Any) -> None:  # noqa: ANN401  the signature is aiohttp's
        """Begin with the next answer."""
        self._came = 0
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Take what came, or close the connection where that is too much."""
        self._came += len(data)
        if self._came <= MAX_WIRE_BYTES:
            super().data_received(data)
            return
        if self.transport is not None:
            self.transport.abort()
        self.set_exception(HttpProcessingError(code=400, message=f"more than {MAX_WIRE_BYTES} bytes"))


def _new_session(connects: Callable[[asyncio.AbstractEventLoop], _Handler]) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=4)
    # There is no public way to have another reader; tests hold it.
    factory: Any = partial(connects, asyncio.get_running_loop())
    connector._factory = factory  # noqa: SLF001  as above
    session = aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        skip_auto_headers=("Accept-Encoding", "Accept"),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trace_configs=[_TRACE],
    )
    # From 3.10 on aiohttp sends a GET again by itself, also one that was lost on a fresh connection.
    if hasattr(session, "_retry_connection"):
        session._retry_connection = False  # noqa: SLF001  there is no public switch; a test holds it
    return session


def _has_spoken_unasked(session: aiohttp.ClientSession) -> bool:
    """Tell whether something came in on an idle connection: aiohttp would take it for the next request's answer."""
    idle = getattr(session.connector, "_conns", {})  # there is no public way to see it; a test holds it
    for connections in idle.values():
        for protocol, _ in connections:
            if protocol.should_close:
                return True
    return False


async def _connected(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.connected = True


async def _reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.connected = True
    context.trace_request_ctx.reused = True


def _trace_config() -> aiohttp.TraceConfig:
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(_connected)
    trace.on_connection_reuseconn.append(_reused)
    return trace


_TRACE: Final = _trace_config()
"""Of every session: it keeps nothing of any."""
