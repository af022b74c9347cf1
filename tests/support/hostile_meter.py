"""A meter that answers as nothing should: for a bounded number of requests, by a seed; after them it behaves.

Behind it is a simulated meter, which acts on requests as a meter does, so that what a driver believes of it can be held
against what became of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import TYPE_CHECKING, Self

from tests.support.hostile_bodies import BODIES
from tests.support.hostile_wire import ABUSES, STRAY, Line, message, proper

if TYPE_CHECKING:
    from types import TracebackType

    from iem_dcr.simulator import SimulatedMeter

LIES = "what it says"
"""The name under which bodies that are wrong are counted; what is done on the wire has names of its own."""
_TUPLES = ("/receipt", "/transaction")
_GARBLED_TUPLES = (b"", b"OCMF|", b"OCMF|{}|{}", b"OCMF|{" * 1000, b"\x00" * 1000, b"\xff\xfe", b'""', b"null", STRAY)


class HostileMeter:
    """Serves a simulated meter as badly as it can.

    Args:
        meter: acts on what is asked.
        seed: of everything that is left to chance.
        requests: how many are abused at most; then it behaves.
        only: names of what it may do (`LIES`, or those of `ABUSES`); None: all of it.
        share: how many of the requests are abused, 0 to 1.

    Attributes:
        done: how often it did what.
    """

    def __init__(
        self,
        meter: SimulatedMeter,
        *,
        seed: int,
        requests: int,
        only: tuple[str, ...] | None = None,
        share: float = 1.0,
    ) -> None:
        self.meter = meter
        self.done: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._left = requests
        self._names = only or (*ABUSES, *[LIES] * len(BODIES))
        self._share = share
        self._failed: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        assert [end for end in [*ends, *self._failed] if isinstance(end, Exception)] == []

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def behaves(self) -> bool:
        """Whether it has had its fill."""
        return self._left <= 0

    def behave(self) -> None:
        """Let it behave from now on."""
        self._left = 0

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._talk(Line(reader, writer, self._rng)))
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed.append(error)

    async def _talk(self, line: Line) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._serve(line):
                    pass
        finally:
            line.writer.transport.abort() if line.writer.transport.get_write_buffer_size() else line.writer.close()
            with contextlib.suppress(ConnectionError):
                await line.writer.wait_closed()

    async def _serve(self, line: Line) -> bool:
        """Take one request and answer it somehow; tell whether the connection stays."""
        head = (await line.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = next((text[15:] for text in head.split("\r\n") if text.lower().startswith("content-length:")), "0")
        body = await line.reader.readexactly(int(length))
        method, path, _ = head.split(" ", 2)
        if self.behaves or self._rng.random() >= self._share:
            return await self._behave(line, method, path, body)
        self._left -= 1
        name = self._rng.choice(self._names)
        self.done[name] += 1
        # Who says to have taken the user and did not signs one person's transaction as another's: nobody can tell.
        acts = method == "GET" or path.endswith("/user") or self._rng.random() < 0.7
        told = self.meter.handle(method, path, body).body if acts else b""
        if name == LIES:
            await line.send(proper(self._lie(path, told)))
            return True
        return await ABUSES[name](line, told)

    async def _behave(self, line: Line, method: str, path: str, body: bytes) -> bool:
        told = self.meter.handle(method, path, body)
        headers = f"Content-Type: {told.content_type}", f"Content-Length: {len(told.body)}"
        await line.send(message(told.body, *headers, status=f"HTTP/1.1 {told.status} OK"))
        return True

    def _lie(self, path: str, told: bytes) -> bytes:
        if path.endswith(_TUPLES):
            signed = [record.text.encode() for record in self.meter.signed]
            return self._rng.choice([*_GARBLED_TUPLES, *signed[-3:], told[: len(told) // 2], told + told])
        return self._rng.choice(BODIES)(self._rng, told)
