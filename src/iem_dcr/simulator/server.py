"""The meter on a TCP port: HTTP by aiohttp's low-level server, connection habits, faults and power cuts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import TYPE_CHECKING, Self
from weakref import WeakKeyDictionary

from aiohttp import web

from iem_dcr.simulator import wire
from iem_dcr.simulator.control import PREFIX, control
from iem_dcr.simulator.meter import SimulatedMeter
from iem_dcr.simulator.nodes import node_of

if TYPE_CHECKING:
    from types import TracebackType

    from iem_dcr.simulator.answer import Answer
    from iem_dcr.simulator.options import SimulatorOptions

_KEEP_ALIVE_S = 3600.0
_SHUTDOWN_S = 0.05
_SETTLING_ROUNDS = 10
_BACKLOG = 100


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
        self._requests: WeakKeyDictionary[asyncio.Transport, int] = WeakKeyDictionary()
        self._listener: socket.socket | None = None
        self._accepting: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self._power_cut = asyncio.Event()

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
        self._web = web.Server(self._handle, access_log=None, keepalive_timeout=_KEEP_ALIVE_S)
        self._port_holder = self._socket()
        self.port = self._port_holder.getsockname()[1]
        if self.meter.unreachable_for_s > 0:
            self._power_cut.set()
        else:
            self._power_cut.clear()
            self._listen()
        self.meter.power_listeners.append(self._go_dark)
        self._supervisor = asyncio.create_task(self._come_back())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening and drop every connection."""
        self.meter.power_listeners.remove(self._go_dark)
        self._supervisor.cancel()
        await asyncio.wait([self._supervisor])
        self._go_dark()
        await asyncio.gather(*self._accepting)
        for _ in range(_SETTLING_ROUNDS):
            # what was aborted ends within a few rounds of the loop, without aiohttp having to wait for it
            await asyncio.sleep(0)
        await self._web.shutdown(_SHUTDOWN_S)
        self._port_holder.close()

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

    def _listen(self) -> None:
        self._listener = self._socket()
        self._listener.listen(_BACKLOG)
        self._listener.settimeout(0)
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        # Not asyncio's own server: closed between accepting and connecting, it loses a socket without closing it.
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            accepted, _ = listener.accept()
            accepted.settimeout(0)
            task = asyncio.create_task(self._connect(accepted, listener))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    async def _connect(self, accepted: socket.socket, listener: socket.socket) -> None:
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(self._web, accepted)
        if listener is not self._listener:
            transport.abort()

    def _go_dark(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        self._closing.set()
        self._closing = asyncio.Event()
        for connection in self._web.connections:
            if connection.transport is not None:
                connection.transport.abort()
        self._power_cut.set()

    async def _come_back(self) -> None:
        while True:
            await self._power_cut.wait()
            while (left_s := self.meter.unreachable_for_s) > 0:  # noqa: ASYNC110  # its time need not be the loop's
                await asyncio.sleep(left_s)
            self._power_cut.clear()
            self._listen()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        transport = request.transport
        if transport is not None and self.meter.options.expect_continue and "Expect" in request.headers:
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            body = await request.read()
        except (ConnectionError, web.RequestPayloadError):
            return web.Response(status=400)
        if transport is None or self.meter.unreachable_for_s > 0:
            return _none(transport)
        if request.path.startswith(PREFIX):
            return await self._control(request, body)
        return await self._meter_answer(transport, request.method, request.path, body)

    async def _meter_answer(self, transport: asyncio.Transport, method: str, path: str, body: bytes) -> web.Response:
        self._requests[transport] = self._requests.get(transport, 0) + 1
        node = node_of(path)
        if self.meter.options.connections == "drop-reused" and self._requests[transport] > 1:
            self.meter.note(method, node, None, acted=False)
            return _none(transport)
        fault = self.meter.faults.take(method, node)
        answer = self.meter.handle(method, path, body) if fault is None or fault.acted else None
        instead = answer if fault is None else wire.substitute(fault, answer)
        if answer is None:
            self.meter.note(method, node, instead.status if instead else None, acted=False)
        if instead is not None:
            return self._proper(transport, instead)
        if fault is not None:
            await wire.spoil(transport, fault, answer, self._pause)
        return _none(transport)

    def _proper(self, transport: asyncio.Transport, answer: Answer) -> web.Response:
        response = web.Response(status=answer.status, body=answer.body, content_type=answer.content_type)
        if self.meter.options.connections == "close":
            response.force_close()
        elif self.meter.options.connections == "drop-idle":
            count = self._requests[transport]
            asyncio.get_running_loop().call_later(self.meter.options.idle_s, self._drop_idle, transport, count)
        return response

    def _drop_idle(self, transport: asyncio.Transport, count: int) -> None:
        if self._requests.get(transport) == count:
            transport.close()

    async def _control(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        done = control(self.meter, request.method, request.path, body)
        response = web.Response(status=done.answer.status, body=done.answer.body, content_type=done.answer.content_type)
        if done.afterwards is not None:
            await response.prepare(request)
            await response.write_eof()
            done.afterwards()
        return response

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()


def _none(transport: asyncio.BaseTransport | None) -> web.Response:
    """Close the connection; the response returned finds it closed and is dropped by aiohttp."""
    if transport is not None:
        transport.close()
    return web.Response()
