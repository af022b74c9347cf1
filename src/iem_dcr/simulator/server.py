"""The meter on a TCP port: aiohttp's server, with habits of connections, faults and power cuts.

The port is open while the meter has power, and no connection outlives it. Each connection is served by an
`aiohttp.web.Server` of its own, which knows how long it is kept and how many requests it has brought. What a fault
writes in the place of an answer goes straight to the transport, and ends the connection.
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

# aiohttp logs a failed answer; what came and was no HTTP is answered with 400 and is no failure.
_log = logging.getLogger(__name__)
_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


class SimulatorServer:
    """Serves one meter while its ``async with`` block is entered.

    While the meter is without power its port refuses connections, the control path included.

    Attributes:
        host: address it listens at.
        port: its port; 0 until it listens, if none was chosen.
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
        """The meter it serves; made from the options, with the loop's time, when it is first asked for in the loop."""
        if not isinstance(self._meter, SimulatedMeter):
            self._meter = SimulatedMeter(self._meter, monotonic=asyncio.get_running_loop().time)
        return self._meter

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            OSError: address or port cannot be had.
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
        """Have another meter answer at this address from now on, as when cables are swapped."""
        self.meter.power_listeners.remove(self._restart)
        self._meter = meter
        meter.power_listeners.append(self._restart)
        self._restart()

    # --- the port ---

    def _socket(self) -> socket.socket:
        # A second socket on the port, which never listens, keeps the port ours while the power is off. Linux lets both
        # bind as long as only one listens; elsewhere that needs SO_REUSEPORT.
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
        """Refuse connections and break off those there are."""
        self._is_on = False
        if self._power_up is not None:
            self._power_up.cancel()
        self._pause_listening(refuse=True)
        for connection in self._connections.values():
            connection.break_off()

    def _start(self) -> None:
        """Listen as soon as the meter has power."""
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
        """Take no connection: it waits in the kernel's queue, or is refused."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            if refuse:
                self._listener.close()
                self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        # Not asyncio's own server: closed between accepting and connecting, it loses a socket without closing it.
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            accepted, _ = listener.accept()
            connection = _Connection(self.meter)
            task = asyncio.create_task(connection.run(accepted))
            self._connections[task] = connection
            task.add_done_callback(partial(self._over, accepted))
            if self.meter.options.connections != "any":
                self._pause_listening(refuse=self.meter.options.connections == "one-refused")

    def _over(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        accepted.close()  # a task that was cancelled before it began has not given it to a transport
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
        """Serve it until it has ended and its last request is done with."""
        accepted.settimeout(0)
        self._transport, _ = await asyncio.get_running_loop().connect_accepted_socket(self, accepted)
        if self._broken_off.is_set():
            self._transport.abort()
        await self._ended.wait()
        async with self._busy:
            pass

    def break_off(self) -> None:
        """End it at once, whatever it is doing."""
        self._broken_off.set()
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Notice its end."""
        super().connection_lost(handler, exc)
        self._ended.set()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, or close its connection: what is returned then goes nowhere."""
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
            OSError: there is no answer, or nobody to take it.
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
        """Write what a fault writes in the place of an answer."""
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
        """Wait so many seconds, or until the connection is broken off."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._broken_off.wait()


def substitute(fault: Fault, answer: Answer | None) -> Answer | None:
    """Return the proper HTTP answer that a fault gives in the place of the meter's, or None where it gives none."""
    if fault.kind in ("refuse", "server-error"):
        return Answer(fault.http_status, fault.body.encode(), TEXT_TYPE)
    if fault.kind == "garbage" and answer is not None:
        return Answer(200, GARBAGE, answer.content_type)
    return None


def http_bytes(answer: Answer, *, more_bytes: int = 0) -> bytes:
    """Write an answer as HTTP/1.1 that ends its connection, announcing ``more_bytes`` beyond its length."""
    headers = {"Connection": "close"} | _headers(answer, more_bytes=more_bytes)
    head = f"HTTP/1.1 {answer.status} {responses.get(answer.status, '')}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return head.encode() + b"\r\n" + answer.body


def _headers(answer: Answer, *, more_bytes: int = 0) -> dict[str, str]:
    if answer.status == 204:
        return {}
    return {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body) + more_bytes)}
