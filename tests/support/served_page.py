"""The page's server on the test's own loop, with meters that are told what to show, and a client that says anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from iem_dcr.config import Settings
from iem_dcr.device.messages import MeterValue
from iem_dcr.meter_time import MeterTime
from iem_dcr.service.observation import ObservedMeter
from iem_dcr.service.web_settings import WebSettings
from iem_dcr.web.server import WebServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

WALL = datetime(2026, 3, 1, 12, tzinfo=UTC)
STATUS = "all is well"


def wall() -> datetime:
    """Tell the host's time: it runs with the loop's."""
    return WALL + timedelta(seconds=asyncio.get_running_loop().time())


def value(**changes: Any) -> MeterValue:
    """Make a live value of a healthy, idle meter, read now."""
    fields: dict[str, Any] = {
        "MS": "1SIM0000000042", "TM": MeterTime(wall(), "S"), "EF": "", "ST": "G", "XT": False,
        "XS": "0x0000000000000001", "XC": "0x0000, 0x00000000, 0x00, 0x00", "U2": Decimal("400.5"), "I": Decimal(0),
        "P": Decimal(0), "import_wh": Decimal(20480), "export_wh": Decimal(1024),
    }  # fmt: skip
    return MeterValue(**(fields | changes))


def observed(name: str | None = "pm1", **settings: Any) -> ObservedMeter:
    """Make a meter that nobody drives."""
    return ObservedMeter(Settings.of(settings), name, "10.0.0.7:80", wall)


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Served:
    """The page at a port of loopback."""

    def __init__(self, server: WebServer) -> None:
        self.server = server

    @property
    def port(self) -> int:
        return self.server.port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.server._settings.host, self.port)

    async def ask(self, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
        """Ask once, on a connection of its own. Headers' names are written with underscores."""
        reader, writer = await self.connect()
        try:
            writer.write(self.request(path, method, body, **headers))
            return await read_answer(reader, method)
        finally:
            writer.transport.abort()

    def request(self, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str) -> bytes:
        """Write a request."""
        lines = {"Host": f"127.0.0.1:{self.port}"} | {name.replace("_", "-"): said for name, said in headers.items()}
        if body:
            lines |= {"Content-Length": str(len(body)), "Content-Type": "application/x-www-form-urlencoded"}
        head = "".join(f"{name}: {said}\r\n" for name, said in lines.items() if said)
        return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


async def read_answer(reader: asyncio.StreamReader, method: str = "GET") -> Answer:
    """Read an answer with a length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    length = 0 if method == "HEAD" else int(headers.get("Content-Length", "0"))
    return Answer(int(head[0].split()[1]), headers, await reader.readexactly(length))


async def read_event(reader: asyncio.StreamReader) -> tuple[str, Any]:
    """Read an event of a stream."""
    while True:
        lines = (await _chunk(reader)).decode().strip().split("\n")
        if lines[0].startswith("event: "):
            return lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    size = int(await reader.readuntil(b"\r\n"), 16)
    return (await reader.readexactly(size + 2))[:-2]


@contextlib.asynccontextmanager
async def served(meters: Sequence[ObservedMeter] = (), settings: WebSettings | None = None) -> AsyncIterator[Served]:
    """Serve the page."""
    server = WebServer(settings or WebSettings("127.0.0.1:0"), meters, lambda: STATUS)
    task = asyncio.create_task(server.run())
    await server.listening.wait()
    try:
        yield Served(server)
    finally:
        task.cancel()
        await asyncio.wait([task])
