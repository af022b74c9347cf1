"""A TCP server that does what a test tells it, byte for byte, and remembers what came in on which connection."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import dataclass, field
from enum import Enum, auto

from tests.support.tcp_server import TcpServer

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Then(Enum):
    """What becomes of the connection after the bytes are sent."""

    KEEP = auto()
    CLOSE = auto()
    RESET = auto()
    STALL = auto()


@dataclass(frozen=True, slots=True)
class Do:
    """What is done upon one request.

    Attributes:
        send: the bytes to answer with.
        then: what follows.
        drip_s: seconds between two of the bytes, or of the parts; 0 sends them at once.
        flood: is sent again and again until the other side closes.
        parts: segments that are sent instead.
    """

    send: bytes = b""
    then: Then = Then.KEEP
    drip_s: float = 0.0
    flood: bytes = b""
    parts: tuple[bytes, ...] = ()


def answer(
    body: bytes | object = b"",
    status: str = "200 OK",
    *,
    length: int | None = None,
    content_type: str = "application/json",
    headers: str = "",
    then: Then = Then.KEEP,
    drip_s: float = 0.0,
) -> Do:
    """An HTTP answer; a body that is not bytes is written as JSON. ``length`` is what Content-Length says instead."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = len(content) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {told}\r\n{headers}\r\n"
    return Do(head.encode() + content, then, drip_s)


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came.

    Attributes:
        connection: index of the connection in the order they were made.
        head: the bytes up to and with the empty line.
        body: the bytes after it.
    """

    connection: int
    head: bytes
    body: bytes

    @property
    def line(self) -> str:
        """Method and path."""
        return self.head.decode().split(" HTTP/1.1\r\n")[0]

    @property
    def headers(self) -> dict[str, str]:
        """The headers, names in small letters."""
        lines = self.head.decode().split("\r\n")[1:-2]
        return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


@dataclass(slots=True)
class Connection:
    """One connection.

    Attributes:
        is_open: it was not seen closed.
        was_reset: the other side did not close it in good order.
    """

    is_open: bool = True
    was_reset: bool = False


@dataclass
class RawServer(TcpServer):
    """Does upon the first request what is first in the script, and so on; a request too many fails the test."""

    script: list[Do]
    requests: list[Request] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)

    @property
    def open(self) -> int:
        """How many connections are open."""
        return sum(connection.is_open for connection in self.connections)

    def lines(self) -> list[tuple[int, str]]:
        """Connection, method and path of every request."""
        return [(request.connection, request.line) for request in self.requests]

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        index, connection = len(self.connections), Connection()
        self.connections.append(connection)
        try:
            while await self._serve(index, reader, writer):
                pass
        except ConnectionError:
            connection.was_reset = True
        finally:
            connection.is_open = False

    async def _serve(self, index: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take one request; tell whether the connection stays."""
        head, body = await read_request(reader)
        self.requests.append(Request(index, head, body))
        assert len(self.requests) <= len(self.script), f"nothing was scripted for {self.requests[-1].line}"
        return await perform(self.script[len(self.requests) - 1], reader, writer)


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return head and body of the next request."""
    head = await reader.readuntil(b"\r\n\r\n")
    return head, await reader.readexactly(int(Request(0, head, b"").headers.get("content-length", "0")))


async def perform(do: Do, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Send what is to be sent. Return whether the connection stays."""
    singles = do.parts or [do.send[i : i + 1] for i in range(len(do.send))]
    for part in singles if do.drip_s else [do.send]:
        writer.write(part)
        await writer.drain()
        if do.drip_s:
            await asyncio.sleep(do.drip_s)
    while do.flood:
        writer.write(do.flood * (65_536 // len(do.flood)))
        await writer.drain()
        await asyncio.sleep(0.01)
    if do.then is Then.STALL:
        await reader.readexactly(1)
    if do.then is Then.RESET:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        writer.transport.abort()
    return do.then is Then.KEEP
