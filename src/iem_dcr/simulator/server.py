"""The meter on a TCP port: HTTP/1.1 by h11 over asyncio streams, habits of connections, faults, power cuts.

A fault writes bytes of its own making, whatever a connection can carry, and ends the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from http import HTTPStatus
from http.client import responses
from typing import TYPE_CHECKING, Final, Self

import h11

from iem_dcr.simulator.control import PREFIX, control
from iem_dcr.simulator.meter import SimulatedMeter
from iem_dcr.simulator.nodes import TEXT_TYPE, Answer, node_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from iem_dcr.simulator.faults import Fault
    from iem_dcr.simulator.options import SimulatorOptions

GARBAGE: Final = b'{"RV": 00000012,345;;\xff\x80'
GARBAGE_HTTP: Final = b"\x16\x03\x01IEM-DCR\r\n\r\n"
_MISSING_BYTES: Final = 16
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_BACKLOG: Final = 100
_READ_BYTES: Final = 65_536


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
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter | None] = {}
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
        self._port_holder = self._socket()
        self.port = self._port_holder.getsockname()[1]
        self._power_cut.clear()
        if self.meter.unreachable_for_s > 0:
            self._power_cut.set()
        else:
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
        self._go_dark()
        await asyncio.gather(self._supervisor, *self._connections, return_exceptions=True)
        self._port_holder.close()

    def serve(self, meter: SimulatedMeter) -> None:
        """Have another meter answer at this address from now on, as when cables are swapped."""
        self.meter.power_listeners.remove(self._go_dark)
        self._go_dark()
        self._meter = meter
        meter.power_listeners.append(self._go_dark)

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

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = self._socket()
            self._listener.listen(_BACKLOG)
            self._listener.settimeout(0)
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _stop_listening(self, *, refuse: bool) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            if refuse:
                self._listener.close()
                self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        # Not asyncio's own server: closed between accepting and connecting, it loses a socket without closing it.
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            accepted, _ = listener.accept()
            accepted.settimeout(0)
            task = asyncio.create_task(self._connection(accepted))
            self._connections[task] = None
            task.add_done_callback(self._closed)
            if self.meter.options.connections != "any":
                self._stop_listening(refuse=self.meter.options.connections == "one-refused")

    def _closed(self, task: asyncio.Task[None]) -> None:
        del self._connections[task]
        if not self._power_cut.is_set() and not self._supervisor.done() and not self._connections:
            self._listen()

    def _go_dark(self) -> None:
        self._stop_listening(refuse=True)
        self._closing.set()
        self._closing = asyncio.Event()
        for writer in self._connections.values():
            if writer is not None:
                writer.transport.abort()
        self._power_cut.set()

    async def _come_back(self) -> None:
        while True:
            await self._power_cut.wait()
            while (left_s := self.meter.unreachable_for_s) > 0:  # noqa: ASYNC110  its time need not be the loop's
                await asyncio.sleep(left_s)
            self._power_cut.clear()
            self._listen()

    # --- a connection ---

    async def _connection(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        dark = self._closing
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = asyncio.StreamReader()
        transport, protocol = await loop.connect_accepted_socket(lambda: asyncio.StreamReaderProtocol(reader), accepted)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  it runs in one
        self._connections[task] = writer
        try:
            if not dark.is_set():
                with contextlib.suppress(OSError):
                    await self._requests(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes over a connection, until one side closes it."""
        http = h11.Connection(h11.SERVER)
        served = 0
        while not writer.is_closing():
            idle_s = self.meter.options.idle_s if self.meter.options.keep_alive == "drop-idle" and served else None
            try:
                request, body = await self._request(http, reader, writer, idle_s)
            except h11.RemoteProtocolError as error:
                writer.write(http_bytes(Answer(error.error_status_hint or 400)))
                return
            except (EOFError, TimeoutError):
                return
            served += 1
            path = request.target.decode("latin-1").partition("?")[0]
            answered = await self._answer(writer, request.method.decode(), path, body, served)
            if answered is None:
                return
            answer, then = answered
            close = self.meter.options.keep_alive == "close" or _wants_close(request)
            await self._write(http, writer, answer, close=close)
            if then is not None:
                then()
            if close or http.our_state is not h11.DONE:
                return
            http.start_next_cycle()

    async def _request(
        self, http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle_s: float | None
    ) -> tuple[h11.Request, bytes]:
        """Read a request.

        Raises:
            EOFError: the connection has ended, in order or not.
            TimeoutError: nothing came for ``idle_s``.
            h11.RemoteProtocolError: it is no HTTP.
        """
        request: h11.Request | None = None
        body = b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                if http.they_are_waiting_for_100_continue and self.meter.options.expect_continue:
                    writer.write(http.send(h11.InformationalResponse(status_code=100, headers=[], reason="Continue")))
                async with asyncio.timeout(idle_s if request is None else None):
                    data = await reader.read(_READ_BYTES)
                http.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                return request, body
            else:
                raise EOFError

    async def _answer(
        self, writer: asyncio.StreamWriter, method: str, path: str, body: bytes, served: int
    ) -> tuple[Answer, Callable[[], None] | None] | None:
        """Return the answer, and what is to be done after it; None where the connection has carried its last answer."""
        if self.meter.unreachable_for_s > 0:
            return None
        if path.startswith(PREFIX):
            done = control(self.meter, method, path, body)
            return done.answer, done.afterwards
        node = node_of(path)
        if self.meter.options.keep_alive == "drop-reused" and served > 1:
            self.meter.note(method, node, None, acted=False)
            return None
        fault = self.meter.faults.take(method, node)
        if fault is None:
            return self.meter.handle(method, path, body), None
        answer = self.meter.handle(method, path, body) if fault.acted else None
        instead = substitute(fault, answer)
        if answer is None and fault.kind != "act-late":
            self.meter.note(method, node, instead.status if instead else None, acted=False)
        if instead is not None:
            return instead, None
        if fault.kind == "act-late":
            await self._pause(fault.wait_s)
            with contextlib.suppress(ConnectionRefusedError):
                self.meter.handle(method, path, body)
        await self._spoil(writer, fault, answer)
        return None

    async def _write(self, http: h11.Connection, writer: asyncio.StreamWriter, answer: Answer, *, close: bool) -> None:
        head = http.send(
            h11.Response(status_code=answer.status, reason=_phrase(answer), headers=_headers(answer, close=close))
        )
        body = http.send(h11.Data(data=answer.body)) + http.send(h11.EndOfMessage())
        for part in (head, body) if self.meter.options.two_segments else (head + body,):
            writer.write(part)
            await writer.drain()

    async def _spoil(self, writer: asyncio.StreamWriter, fault: Fault, answer: Answer | None) -> None:
        """Write what a fault writes in the place of an answer; the connection is closed after it."""
        if fault.kind == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()
        elif fault.kind == "stall":
            await self._pause(fault.wait_s)
        elif fault.kind == "garbage-http":
            writer.write(GARBAGE_HTTP)
        elif fault.kind == "wrong-length" and answer is not None:
            writer.write(http_bytes(answer, more_bytes=_MISSING_BYTES))
        elif fault.kind == "drip" and answer is not None:
            for byte in http_bytes(answer):
                if writer.is_closing():
                    break
                writer.write(bytes((byte,)))
                await self._pause(fault.wait_s)

    async def _pause(self, seconds: float) -> None:
        """Wait so many seconds, or until the power goes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()


def substitute(fault: Fault, answer: Answer | None) -> Answer | None:
    """Return the proper HTTP answer that a fault gives in the place of the meter's, or None where it gives none."""
    if fault.kind in ("refuse", "server-error"):
        return Answer(fault.http_status, fault.body.encode(), TEXT_TYPE)
    if fault.kind == "garbage" and answer is not None:
        return Answer(200, GARBAGE, answer.content_type)
    return None


def http_bytes(answer: Answer, *, more_bytes: int = 0) -> bytes:
    """Write an answer as HTTP/1.1 that ends its connection, announcing ``more_bytes`` beyond its length."""
    head = f"HTTP/1.1 {answer.status} {_phrase(answer)}\r\n"
    for name, value in _headers(answer, close=True, more_bytes=more_bytes):
        head += f"{name}: {value}\r\n"
    return head.encode() + b"\r\n" + answer.body


def _headers(answer: Answer, *, close: bool, more_bytes: int = 0) -> list[tuple[str, str]]:
    headers = [("Connection", "close")] if close else []
    if answer.status == HTTPStatus.NO_CONTENT:
        return headers
    return [("Content-Type", answer.content_type), ("Content-Length", str(len(answer.body) + more_bytes)), *headers]


def _phrase(answer: Answer) -> str:
    return responses.get(answer.status, "")


def _wants_close(request: h11.Request) -> bool:
    said = {value.strip().lower() for name, value in request.headers if name == b"connection"}
    return b"close" in said or request.http_version < b"1.1"
