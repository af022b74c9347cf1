"""The meter on a TCP port: HTTP/1.1 by h11, with connection behaviour, faults and power cuts.

The port is open while the meter has power, and a power cut ends every connection. A task serves each connection. It
reads a request with h11, and writes the bytes of the answer, or those of a fault, itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from functools import partial
from http.client import responses
from typing import TYPE_CHECKING, Final, Self

import h11

from iem_dcr.simulator.control import PREFIX, control
from iem_dcr.simulator.meter import SimulatedMeter
from iem_dcr.simulator.nodes import TEXT_TYPE, Answer, node_of

if TYPE_CHECKING:
    from iem_dcr.simulator.faults import Fault
    from iem_dcr.simulator.options import SimulatorOptions

_GARBAGE: Final = b'{"RV": 00000012,345;;\xff\x80'
_GARBAGE_HTTP: Final = b"\x16\x03\x01IEM-DCR\r\n\r\n"
_MISSING_BYTES: Final = 16
"""So many bytes less than announced has the answer of a fault "wrong-length"."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_MAX_BODY_BYTES: Final = 65_536
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_BACKLOG: Final = 100


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
        self._connections: set[asyncio.Task[None]] = set()
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
            await asyncio.gather(*self._connections, return_exceptions=True)
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
        # asyncio sets TCP_NODELAY only where the protocol is named.
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
        for connection in self._connections:
            connection.cancel()

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
            connection = asyncio.create_task(_serve(accepted, self.meter))
            self._connections.add(connection)
            connection.add_done_callback(partial(self._over, accepted))
            if self.meter.options.connections != "any":
                self._pause_listening(refuse=self.meter.options.connections == "one-refused")

    def _over(self, accepted: socket.socket, connection: asyncio.Task[None]) -> None:
        accepted.close()  # a task cancelled before its first step has not created a transport that closes it
        self._connections.remove(connection)
        if self._is_on and not self._connections:
            self._listen()


# --- a connection ---


async def _serve(accepted: socket.socket, meter: SimulatedMeter) -> None:
    """Serve a connection until either side ends it. A cancellation aborts it."""
    accepted.settimeout(0)
    reader, writer = await asyncio.open_connection(sock=accepted)
    try:
        with contextlib.suppress(OSError):
            connection = _Connection(reader, writer, meter)
            while await connection.serve_request():
                pass
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    finally:
        writer.transport.abort()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, meter: SimulatedMeter) -> None:
        self._reader = reader
        self._writer = writer
        self._meter = meter
        self._received = b""
        self._requests = 0

    async def serve_request(self) -> bool:
        """Read a request and answer it. Return whether the connection is kept.

        Raises:
            OSError: the request gets no answer, or the client has gone.
        """
        try:
            method, path, body, keeps = await self._read()
        except h11.RemoteProtocolError as error:
            return await self._send(Answer(error.error_status_hint, str(error).encode(), TEXT_TYPE))
        self._requests += 1
        meter, node = self._meter, node_of(path)
        if node.startswith(PREFIX):
            said, then = control(meter, method, node, body)
            keeps = await self._send(said, method, keeps=keeps)
            if then is not None:
                then()
            return keeps
        if meter.options.keep_alive == "drop-reused" and self._requests > 1:
            meter.note(method, node, None, acted=False)
            return False
        fault = meter.faults.take(method, node)
        if fault is not None and fault.kind == "act-late":
            await asyncio.sleep(fault.wait_s)
        acts = fault is None or fault.acted or fault.kind == "act-late"
        answer = meter.handle(method, path, body) if acts else None
        await asyncio.sleep(0)  # if the power was cut while the meter acted, this task ends here, without an answer
        if fault is None:
            assert answer is not None  # noqa: S101  the meter acted
            return await self._send(answer, method, keeps=keeps)
        if answer is None:
            meter.note(method, node, fault.status_instead, acted=False)
        await self._send_with(fault, outgoing(answer, fault))
        return False

    async def _read(self) -> tuple[str, str, bytes, bool]:
        """Read a request. Return its method, path and body, and whether the client keeps the connection.

        Raises:
            OSError: the client has gone, or has been idle for too long.
            h11.RemoteProtocolError: it is not HTTP, or has too large a body.
        """
        options, http = self._meter.options, h11.Connection(h11.SERVER)
        method = path = body = b""
        may_wait_s = options.idle_s if self._requests and options.keep_alive == "drop-idle" else None
        if self._received:
            http.receive_data(self._received)
        while True:
            match event := http.next_event():
                case h11.NEED_DATA:
                    async with asyncio.timeout(may_wait_s):
                        received = await self._reader.read(65_536)
                    if not received:
                        raise ConnectionResetError
                    http.receive_data(received)
                    may_wait_s = None
                case h11.Request(method=method, target=target):
                    path = target.partition(b"?")[0]
                    if options.expect_continue and http.they_are_waiting_for_100_continue:
                        self._writer.write(_CONTINUE)
                case h11.Data():
                    body += event.data
                    if len(body) > _MAX_BODY_BYTES:
                        raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)
                case _:
                    break
        self._received, _ = http.trailing_data
        return method.decode(), path.decode(), body, http.their_state is not h11.MUST_CLOSE

    async def _send(self, answer: Answer, method: str = "", *, keeps: bool = False) -> bool:
        """Send an answer, without its body to a HEAD. Return whether the connection is kept."""
        options = self._meter.options
        keeps = keeps and options.keep_alive != "close"
        data = http_bytes(answer, keeps=keeps)
        head_bytes = len(data) - len(answer.body) if options.two_segments else len(data)
        if method == "HEAD":
            data = data[: len(data) - len(answer.body)]
        for segment in (data[:head_bytes], data[head_bytes:]):
            self._writer.write(segment)
            await self._writer.drain()
        return keeps

    async def _send_with(self, fault: Fault, data: bytes) -> None:
        """Send what remains of an answer, and end the connection as the fault does."""
        if fault.kind == "reset":
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._writer.transport.abort()
        elif fault.kind == "stall":
            await asyncio.sleep(fault.wait_s)
        elif fault.kind == "drip":
            for byte in data:
                self._writer.write(bytes((byte,)))
                await self._writer.drain()
                await asyncio.sleep(fault.wait_s)
        else:
            self._writer.write(data)


def outgoing(answer: Answer | None, fault: Fault | None) -> bytes:
    """Return the bytes that go out for an answer that a fault hits, b"" for none. The connection ends after them."""
    if fault is not None and fault.status_instead is not None:
        return http_bytes(Answer(fault.status_instead, fault.body.encode(), TEXT_TYPE))
    kind = "" if fault is None else fault.kind
    if kind == "garbage-http":
        return _GARBAGE_HTTP
    if answer is None or kind in ("lose-answer", "act-late", "stall"):
        return b""
    if kind == "garbage":
        return http_bytes(Answer(200, _GARBAGE, answer.content_type))
    return http_bytes(answer, more_bytes=_MISSING_BYTES if kind == "wrong-length" else 0)


def http_bytes(answer: Answer, *, keeps: bool = False, more_bytes: int = 0) -> bytes:
    """Return an answer as HTTP/1.1. Content-Length is too large by ``more_bytes``; ``keeps``: the connection stays."""
    lines = [f"HTTP/1.1 {answer.status} {responses.get(answer.status, '')}"]
    lines += [] if keeps else ["Connection: close"]
    if answer.status != 204:
        lines += [f"Content-Type: {answer.content_type}", f"Content-Length: {len(answer.body) + more_bytes}"]
    return "\r\n".join((*lines, "", "")).encode() + answer.body
