"""The HTTP client of one meter: a coroutine for each node. The one place that imports aiohttp's client.

How it treats connections (whether a meter's firmware keeps them alive is not known):

* A GET may use a connection again. One that finds its idle connection dropped goes out once more on a fresh one.
* A POST goes out on a fresh connection. Only there is it certain that the answer is its own (on another it may be one
  too many to the request before), and that a broken connection means a lost answer and not a request that never
  arrived.
* Nothing else is ever sent twice. What a lost answer means is for the caller to find out.
* A connection that was idle for 2 s is closed.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from iem_dcr import ocmf
from iem_dcr.device import messages
from iem_dcr.device.telling import told
from iem_dcr.errors import (
    AnswerLostError,
    MeterTimeoutError,
    MeterUnreachableError,
    NotUnderstoodError,
    RefusedError,
    printable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import SimpleNamespace, TracebackType

    from iem_dcr.device.messages import Gateway, MeterValue, PublicKey, User
    from iem_dcr.device.telling import OnRequest
    from iem_dcr.meter_time import MeterTime

T = TypeVar("T")

BASE: Final = "/counter/v1/ocmf"
BASE_V2: Final = "/counter/v2/ocmf"
MAX_ANSWER_BYTES: Final = 256 * 1024
"""A hundred times what a meter has to say. For what is nothing but head aiohttp may need twenty times as much."""
MAX_WIRE_BYTES: Final = 2 * MAX_ANSWER_BYTES
"""Of one answer, with its heads, trailers, interim answers and the edges of its chunks."""
IDLE_CLOSED_AFTER_S: Final = 2.0

_JSON: Final = {"Content-Type": "application/json"}
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
    """An answer as it came, for whoever examines or records a meter.

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


class MeterClient:
    """Speaks with one meter. Requests are to be made one after the other.

    Every coroutine takes ``timeout_s``, the time for the whole of the request (connecting and body included; None takes
    the client's own), and raises:

    * `MeterUnreachableError`: the request did not go out.
    * `MeterTimeoutError`: it went out, and no whole answer came in time.
    * `AnswerLostError`: the connection broke before a whole answer was there.
    * `RefusedError`: a status that is not 200.
    * `NotUnderstoodError`: an answer that is not this node's; a redirect; more than 256 KiB, or 512 on the wire.

    Attributes:
        address: ``host:port``.
        heard_s: when a whole answer last came, whatever its status, on the loop's clock; None before the first.
        on_request: is told of each request that came to its end: method, node, seconds it took, and what it failed with
            or None. It must not raise.
    """

    def __init__(self, host: str, port: int = 80, *, timeout_s: float = 5.0) -> None:
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.heard_s: float | None = None
        self.on_request: OnRequest | None = None
        self._urls: dict[str, URL] = {}
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._last_use_s = 0.0
        self._transaction_base: str | None = None
        self._is_busy = False
        self._idle: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connections are made when they are needed."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        await self.close()

    async def close(self) -> None:
        """Close every connection. The client may be used again; it then connects anew."""
        self._no_longer_idle()
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        if self._closing is not None:
            await asyncio.wait({self._closing})

    # --- the nodes ---------------------------------------------------------------------------------------------------

    async def gw(self, *, timeout_s: float | None = None) -> Gateway:
        """GET /gw: charge point type and id, and the clock."""
        return await self._get("/gw", messages.gateway, timeout_s)

    async def set_gw(self, CT: str, CI: str, TM: str, *, timeout_s: float | None = None) -> None:
        """POST /gw: set charge point type and id and the clock; accepted once per power-up."""
        await self._post("/gw", {"CT": CT, "CI": CI, "TM": TM}, timeout_s)

    async def set_tariff(self, TT: str, *, timeout_s: float | None = None) -> None:
        """POST /tariff: set the tariff text."""
        await self._post("/tariff", {"TT": TT}, timeout_s)

    async def metervalue(self, *, timeout_s: float | None = None) -> MeterValue:
        """GET /metervalue: a live value."""
        return await self._get("/metervalue", messages.meter_value, timeout_s)

    async def publickey(self, *, timeout_s: float | None = None) -> PublicKey:
        """GET /publickey: the key that the meter's receipts verify with."""
        return await self._get("/publickey", messages.public_key, timeout_s)

    async def datetime(self, *, timeout_s: float | None = None) -> MeterTime:
        """GET /datetime: the meter's clock."""
        return await self._get("/datetime", messages.datetime_answer, timeout_s)

    async def set_datetime(self, TM: str, *, timeout_s: float | None = None) -> None:
        """POST /datetime: set the clock."""
        await self._post("/datetime", {"TM": TM}, timeout_s)

    async def set_user(self, user: User, *, timeout_s: float | None = None) -> None:
        """POST /user: assign the user of the next transaction."""
        await self._post("/user", user.body(), timeout_s)

    async def begin(self, *, timeout_s: float | None = None) -> None:
        """POST /receipt ``{"TX":"B"}``: begin a transaction."""
        await self._post("/receipt", {"TX": "B"}, timeout_s)

    async def end(self, *, timeout_s: float | None = None) -> None:
        """POST /receipt ``{"TX":"E"}``: end the transaction."""
        await self._post("/receipt", {"TX": "E"}, timeout_s)

    async def receipt(self, *, timeout_s: float | None = None) -> str | None:
        """GET /receipt: the signed tuple of the transaction just ended, or None while there is none."""
        return await self._tuple(BASE, "/receipt", timeout_s)

    async def transaction(self, *, timeout_s: float | None = None) -> str | None:
        """GET /transaction: the last signed tuple, also after a restart; None when there has never been one.

        Firmware has it under v1 or v2: the one that gave a tuple is asked first from then on. A 404 of both, or an
        answer without a tuple, is a meter that has signed nothing yet; any other refusal is raised.
        """
        bases = [BASE, BASE_V2] if self._transaction_base != BASE_V2 else [BASE_V2, BASE]
        refusal: RefusedError | None = None
        now_s = asyncio.get_running_loop().time
        ends_s = now_s() + self._limit_s(timeout_s)
        for base in bases:
            try:
                text = await self._tuple(base, "/transaction", ends_s - now_s())
            except RefusedError as error:
                if error.status != 404:
                    refusal = error
                continue
            if text is not None:
                self._transaction_base = base
                return text
        if refusal is not None:
            raise refusal
        return None

    async def answer(self, node: str, *, base: str = BASE, timeout_s: float | None = None) -> Answer:
        """GET a node and return the answer as it is, whatever its status and whether or not it is this node's.

        Raises `RefusedError` never, and `NotUnderstoodError` only for what is no HTTP, or more than 256 KiB.
        """
        with told(self.on_request, "GET", node):
            wire, response, body = await self._ask("GET", base, node, None, timeout_s)
        headers = tuple((name, value) for name, value in response.headers.items())
        return Answer(response.status, headers, body, wire.reused)

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _get(self, node: str, read: Callable[[object], T], timeout_s: float | None) -> T:
        with told(self.on_request, "GET", node):
            body = await self._request("GET", BASE, node, None, timeout_s)
            try:
                return read(messages.decode(body))
            except messages.ShapeError as error:
                raise NotUnderstoodError(self.address, f"GET {node}", error.path, error.what) from error

    async def _tuple(self, base: str, node: str, timeout_s: float | None) -> str | None:
        with told(self.on_request, "GET", node):
            body = await self._request("GET", base, node, None, timeout_s)
            try:
                return ocmf.find_tuple(body.decode())
            except UnicodeDecodeError as error:
                raise NotUnderstoodError(self.address, f"GET {node}", "", "not a text in UTF-8") from error

    async def _post(self, node: str, body: Mapping[str, object], timeout_s: float | None) -> None:
        content = json.dumps(body, separators=(",", ":")).encode()
        with told(self.on_request, "POST", node):
            await self._request("POST", BASE, node, content, timeout_s)

    async def _request(self, method: str, base: str, node: str, body: bytes | None, timeout_s: float | None) -> bytes:
        _, response, answer = await self._ask(method, base, node, body, timeout_s)
        return self._checked(f"{method} {node}", response, answer)

    async def _ask(
        self, method: str, base: str, node: str, body: bytes | None, timeout_s: float | None
    ) -> tuple[_Wire, aiohttp.ClientResponse, bytes]:
        name = f"{method} {node}"
        limit_s = self._limit_s(timeout_s)
        wire = _Wire()
        self._is_busy = True
        try:
            async with asyncio.timeout(limit_s):
                return wire, *await self._exchange(method, base, node, body, wire)
        except TimeoutError as error:
            if wire.connected:
                raise MeterTimeoutError(self.address, name, f"no answer within {limit_s:.1f} s") from error
            what = f"no connection within {limit_s:.1f} s. Is the meter powered, and ip_address its address?"
            raise MeterUnreachableError(self.address, name, what) from error
        finally:
            self._is_busy = False

    def _limit_s(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else max(0.0, min(timeout_s, self._timeout_s))

    def _no_longer_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

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
            text = f"http://{self.address}{path}"
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
            self._session = _new_session()
        return self._session

    async def _body(self, name: str, response: aiohttp.ClientResponse) -> bytes:
        answer = bytearray()
        async for chunk in response.content.iter_any():
            answer += chunk
            if len(answer) > MAX_ANSWER_BYTES:
                response.close()
                raise NotUnderstoodError(self.address, name, "", f"more than {MAX_ANSWER_BYTES} bytes")
        return bytes(answer)

    def _checked(self, name: str, response: aiohttp.ClientResponse, answer: bytes) -> bytes:
        if 300 <= response.status < 400:
            target = printable(response.headers.get("Location", "nowhere"))
            raise NotUnderstoodError(self.address, name, "", f"a redirect ({response.status}) to {target}")
        if response.status != 200:
            raise RefusedError(self.address, name, response.status, answer[:200].decode(errors="replace"))
        return answer

    def _raise(self, name: str, error: Exception, wire: _Wire) -> NoReturn:
        """Map what aiohttp raised to what it means for the request."""
        what = _cause(error)
        if isinstance(error, aiohttp.ClientResponseError):
            raise NotUnderstoodError(self.address, name, "", f"not HTTP: {what}") from error
        if not wire.connected:
            advice = "Is the meter powered, and ip_address its address?"
            raise MeterUnreachableError(self.address, name, f"not reachable: {what}. {advice}") from error
        raise AnswerLostError(self.address, name, f"connection lost before the answer was whole: {what}") from error


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


class _BoundedHandler(ResponseHandler):
    """Reads a connection, and gives it up where an answer has no end: not every aiohttp bounds a head or its chunks."""

    _came = 0

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


def _new_session() -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=4)
    # There is no public way to have another reader; tests hold it.
    factory: Any = partial(_BoundedHandler, asyncio.get_running_loop())
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
