"""The meter on a TCP port: aiohttp's server plus connection behaviour, faults and power cuts.

The port is open while the meter has power, and a power cut ends every connection. Each connection has its own
`aiohttp.web.Server`, which limits its idle time and counts its requests. Bytes that a fault sends instead of an answer
go directly to the transport and end the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import sys
from functools import partial
from http.client import responses
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web
from aiohttp.http import HttpProcessingError

from iem_dcr.simulator.control import PREFIX, control
from iem_dcr.simulator.meter import SimulatedMeter
from iem_dcr.simulator.nodes import TEXT_TYPE, Answer, node_of

if TYPE_CHECKING:
    from iem_dcr.simulator.faults import Fault
    from iem_dcr.simulator.options import SimulatorOptions

GARBAGE: Final = b'{"RV": 00000012,345;;\xff\x80'
GARBAGE_HTTP: Final = b"\x16\x03\x01IEM-DCR\r\n\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_MISSING_BYTES: Final = 16
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_BACKLOG: Final = 100
_KEPT_S: Final = 1e9

# aiohttp logs input that is not HTTP as an error, although the 400 that answers it is not a failure.
_log = logging.getLogger(__name__)
_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


class SimulatorServer:
    """Serves one meter while its ``async with`` block is entered.

    While the meter has no power its port refuses all connections, also those to the control path.

    Attributes:
        host: the address on which it listens.
        port: the port on which it listens; 0 until then if the system chooses one.
    """

    def __init__(
        self, meter: SimulatedMeter | SimulatorOptions | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.host = host
        self.port = port
        self._meter = meter
        self._listener: socket.socket | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._is_on = False
        self._power_up: asyncio.TimerHandle | None = None

    @property
    def meter(self) -> SimulatedMeter:
        """The meter that it serves. The first access creates it from the options and needs a running event loop."""
        if not isinstance(self._meter, SimulatedMeter):
            self._meter = SimulatedMeter(self._meter, monotonic=asyncio.get_running_loop().time)
        return self._meter

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        """Start to listen.

        Raises:
            OSError: the address or port is not available.
        """
        self._port_holder = self._socket()
        self.port = self._port_holder.getsockname()[1]
        self.meter.power_listeners.append(self._restart)
        self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening and drop every connection."""
        self.meter.power_listeners.remove(self._restart)
        self._stop()
        try:
            await asyncio.gather(*self._connections)
        finally:
            self._port_holder.close()

    def serve(self, meter: SimulatedMeter) -> None:
        """Serve another meter at this address from now on, as after a swap of cables."""
        self.meter.power_listeners.remove(self._restart)
        self._meter = meter
        meter.power_listeners.append(self._restart)
        self._restart()

    # --- the port ---

    def _socket(self) -> socket.socket:
        # A second socket, which never listens, reserves the port while the power is off. On Linux both can bind as
        # long as only one listens; other systems need SO_REUSEPORT.
        bound = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sys.platform != "linux":
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind((self.host, self.port))
        except OSError:
            bound.close()
            raise
        return bound

    def _restart(self) -> None:
        self._stop()
        self._start()

    def _stop(self) -> None:
        """Refuse new connections and abort the existing ones."""
        self._is_on = False
        if self._power_up is not None:
            self._power_up.cancel()
        self._pause_listening(refuse=True)
        for connection in self._connections.values():
            connection.break_off()

    def _start(self) -> None:
        """Listen now, or when the meter is reachable again."""
        left_s = self.meter.unreachable_for_s
        if left_s > 0:
            self._power_up = asyncio.get_running_loop().call_later(left_s, self._start)
            return
        self._is_on = True
        self._listen()

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = self._socket()
            self._listener.listen(_BACKLOG)
            self._listener.settimeout(0)
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _pause_listening(self, *, refuse: bool) -> None:
        """Accept no connections: new ones wait in the kernel's queue, or are refused."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            if refuse:
                self._listener.close()
                self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        # asyncio's own server leaks an accepted socket if it is closed before the transport exists.
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            accepted, _ = listener.accept()
            connection = _Connection(self.meter)
            task = asyncio.create_task(connection.run(accepted))
            self._connections[task] = connection
            task.add_done_callback(partial(self._over, accepted))
            if self.meter.options.connections != "any":
                self._pause_listening(refuse=self.meter.options.connections == "one-refused")

    def _over(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        accepted.close()  # a task cancelled before its first step has not created a transport that closes it
        del self._connections[task]
        if self._is_on and not self._connections:
            self._listen()


class _Connection(web.Server):
    """Serves one connection: aiohttp calls `answer` for each request on it."""

    def __init__(self, meter: SimulatedMeter) -> None:
        kept_s = meter.options.idle_s if meter.options.keep_alive == "drop-idle" else _KEPT_S
        super().__init__(self.answer, access_log=None, logger=_log, keepalive_timeout=kept_s, lingering_time=0.0)
        self._meter = meter
        self._transport: asyncio.Transport | None = None
        self._busy = asyncio.Lock()
        self._ended = asyncio.Event()
        self._broken_off = asyncio.Event()

    async def run(self, accepted: socket.socket) -> None:
        """Serve the connection until it has ended and its last request is finished."""
        accepted.settimeout(0)
        self._transport, _ = await asyncio.get_running_loop().connect_accepted_socket(self, accepted)
        if self._broken_off.is_set():
            self._transport.abort()
        await self._ended.wait()
        async with self._busy:
            pass

    def break_off(self) -> None:
        """Abort the connection immediately."""
        self._broken_off.set()
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Mark the connection as ended."""
        super().connection_lost(handler, exc)
        self._ended.set()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request. If there is no answer, close the connection; aiohttp then discards the empty response."""
        transport = request.transport
        async with self._busy:
            if transport is not None:
                with contextlib.suppress(OSError, web.RequestPayloadError):
                    return await self._answer(request, transport)
                transport.close()
        return web.Response()

    async def _answer(self, request: web.BaseRequest, transport: asyncio.Transport) -> web.StreamResponse:
        """Answer a request.

        Raises:
            OSError: the request gets no answer, or the client has gone.
        """
        meter, method, node = self._meter, request.method, node_of(request.path)
        if meter.options.expect_continue and request.headers.get("Expect") == "100-continue":
            transport.write(_CONTINUE)
        body = await request.read()
        if node.startswith(PREFIX):
            said, then = control(meter, method, node, body)
            response = await self._send(request, said)
            if then is not None:
                then()
            return response
        if meter.options.keep_alive == "drop-reused" and self.requests_count > 1:
            meter.note(method, node, None, acted=False)
            raise ConnectionAbortedError
        fault = meter.faults.take(method, node)
        if fault is not None and fault.kind == "act-late":
            await self._pause(fault.wait_s)
        acts = fault is None or fault.acted or fault.kind == "act-late"
        answer = meter.handle(method, request.path, body) if acts else None
        sent = substitute(fault, answer) if fault is not None else answer
        if answer is None:
            meter.note(method, node, sent.status if sent else None, acted=False)
        if sent is not None:
            return await self._send(request, sent)
        if fault is not None:
            await self._spoil(transport, fault, answer)
        raise ConnectionAbortedError

    async def _send(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        options, headers = self._meter.options, _headers(answer)
        response = web.StreamResponse(status=answer.status, headers=headers)
        if not options.two_segments:
            response = web.Response(status=answer.status, headers=headers, body=answer.body)
        if options.keep_alive == "close":
            response.force_close()
        await response.prepare(request)
        if options.two_segments:
            await response.write(answer.body)
        await response.write_eof()
        return response

    async def _spoil(self, transport: asyncio.Transport, fault: Fault, answer: Answer | None) -> None:
        """Send what a fault sends instead of an answer."""
        if fault.kind == "reset":
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()
        elif fault.kind == "stall":
            await self._pause(fault.wait_s)
        elif fault.kind == "garbage-http":
            transport.write(GARBAGE_HTTP)
        elif fault.kind == "wrong-length" and answer is not None:
            transport.write(http_bytes(answer, more_bytes=_MISSING_BYTES))
        elif fault.kind == "drip" and answer is not None:
            for byte in http_bytes(answer):
                transport.write(bytes((byte,)))
                await self._pause(fault.wait_s)
                if transport.is_closing():
                    return

    async def _pause(self, seconds: float) -> None:
        """Wait ``seconds``, or until the connection is aborted."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._broken_off.wait()


def substitute(fault: Fault, answer: Answer | None) -> Answer | None:
    """Return the valid HTTP answer with which a fault replaces the meter's, or None if it has none."""
    if fault.kind in ("refuse", "server-error"):
        return Answer(fault.http_status, fault.body.encode(), TEXT_TYPE)
    if fault.kind == "garbage" and answer is not None:
        return Answer(200, GARBAGE, answer.content_type)
    return None


def http_bytes(answer: Answer, *, more_bytes: int = 0) -> bytes:
    """Return an answer as HTTP/1.1 with ``Connection: close``. Content-Length is too large by ``more_bytes``."""
    headers = {"Connection": "close"} | _headers(answer, more_bytes=more_bytes)
    head = f"HTTP/1.1 {answer.status} {responses.get(answer.status, '')}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return head.encode() + b"\r\n" + answer.body


def _headers(answer: Answer, *, more_bytes: int = 0) -> dict[str, str]:
    if answer.status == 204:
        return {}
    return {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body) + more_bytes)}
