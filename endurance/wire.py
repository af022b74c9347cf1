"""The way to the meter in memory: it takes the place of aiohttp's session, below all of `MeterClient`.

Connections, what breaks them and what is raised then are as with aiohttp; `tests/test_endurance_wire.py` holds both
against each other. A request that was sent arrives whatever becomes of the process that sent it.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

import aiohttp
from multidict import CIMultiDict

from iem_dcr.simulator import wire as spoiled
from iem_dcr.simulator.nodes import node_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from yarl import URL

    from endurance.process import Process, Serving
    from endurance.unit import Unit
    from iem_dcr.simulator.answer import Answer
    from iem_dcr.simulator.faults import Fault

LATENCY_S = (0.0005, 0.01)


class Socket:
    """What stands at the meter's address, and how the way there is.

    Args:
        unit: the meter.
        latency: a number from 0 to 1 for each way of a request.

    Attributes:
        unit: the meter; another one after an exchange.
        swallows: the network takes what is sent and gives nothing back.
        slow_s: seconds that each way takes longer.
    """

    def __init__(self, unit: Unit, latency: Any) -> None:
        self.unit = unit
        self.swallows = False
        self.slow_s = 0.0
        self._latency = latency

    def way_s(self) -> float:
        """Return how long one way takes."""
        least, most = LATENCY_S
        return self.slow_s + least + (most - least) * float(self._latency())


class _Connection:
    """One connection; it is of the meter that stood there, and lives as long as that one's power."""

    def __init__(self, socket: Socket) -> None:
        self.unit = socket.unit
        self.power = socket.unit.power
        self.broken = False
        self.used = False

    def lives(self, socket: Socket) -> bool:
        return not self.broken and socket.unit is self.unit and self.unit.power == self.power and self.unit.is_on


class _Content:
    def __init__(self, body: bytes, error: Exception | None) -> None:
        self._body = body
        self._error = error

    async def iter_any(self) -> AsyncIterator[bytes]:
        if self._body:
            yield self._body
        if self._error is not None:
            raise self._error


class Response:
    """What `MeterClient` uses of aiohttp's response."""

    def __init__(self, status: int, body: bytes, error: Exception | None = None) -> None:
        self.status = status
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.content = _Content(body, error)

    async def __aenter__(self) -> Response:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def close(self) -> None:
        """Nothing is held."""


class Session:
    """What `MeterClient` uses of aiohttp's session: at most one idle connection.

    Args:
        socket: where it leads.
        process: whose it is; None for a process that is never killed.
    """

    connector = None

    def __init__(self, socket: Socket, process: Process | None = None) -> None:
        self._socket = socket
        self._process = process
        self._idle: _Connection | None = None

    async def close(self) -> None:
        """Drop the idle connection."""
        self._idle = None

    async def request(
        self,
        method: str,
        url: URL,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        allow_redirects: bool = False,
        trace_request_ctx: Any = None,
    ) -> Response:
        """Send a request and return its answer.

        Raises:
            aiohttp.ClientError: as aiohttp would.
        """
        del headers, allow_redirects
        connection = await self._connection(trace_request_ctx)
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Response] = loop.create_future()
        # What has been handed to the network arrives, whether or not the process still lives then.
        sent_for = None if self._process is None else self._process.serving
        loop.call_later(
            self._socket.way_s(), self._arrive, connection, method, url.path, data or b"", sent_for, answered
        )
        response = await answered
        if not connection.broken:
            connection.used = True
            self._idle = connection
        return response

    async def _connection(self, trace: Any) -> _Connection:
        if self._process is not None and self._process.killed:
            await asyncio.Event().wait()
        idle, self._idle = self._idle, None
        if idle is not None:
            if trace is not None:
                trace.connected = trace.reused = True
            if not idle.lives(self._socket):
                raise aiohttp.ServerDisconnectedError
            return idle
        if self._socket.swallows:
            await asyncio.Event().wait()
        await asyncio.sleep(self._socket.way_s())
        if not self._socket.unit.is_on:
            raise aiohttp.ClientOSError(errno.ECONNREFUSED, "Connection refused")
        if trace is not None:
            trace.connected = True
        return _Connection(self._socket)

    # --- at the meter ---

    def _arrive(
        self,
        connection: _Connection,
        method: str,
        path: str,
        body: bytes,
        sent_for: Serving | None,
        answered: asyncio.Future[Response],
    ) -> None:
        socket, unit = self._socket, connection.unit
        if socket.swallows:
            connection.broken = True
            return
        if not connection.lives(socket):
            self._break(connection, answered)
            return
        node = node_of(path)
        fault = unit.meter.faults.take(method, node)
        answer = unit.act(method, path, body, sent_for) if fault is None or fault.acted else None
        if not connection.lives(socket):  # its power went in the very moment
            self._break(connection, answered)
            return
        instead = answer if fault is None else spoiled.substitute(fault, answer)
        loop = asyncio.get_running_loop()
        if instead is not None:
            loop.call_later(socket.way_s(), self._come_back, connection, instead, answered)
        elif fault is not None:
            self._spoil(connection, fault, answer, answered)

    def _come_back(self, connection: _Connection, answer: Answer, answered: asyncio.Future[Response]) -> None:
        if self._socket.swallows:
            connection.broken = True
        elif not connection.lives(self._socket):
            self._break(connection, answered)
        else:
            _give(answered, Response(answer.status, answer.body))

    def _spoil(
        self, connection: _Connection, fault: Fault, answer: Answer | None, answered: asyncio.Future[Response]
    ) -> None:
        connection.broken = True
        loop = asyncio.get_running_loop()
        if fault.kind in ("stall", "drip"):
            taken_s = fault.wait_s if answer is None or fault.kind == "stall" else fault.wait_s * 300
            loop.call_later(taken_s, self._break, connection, answered)
        elif fault.kind == "garbage-http":
            error = aiohttp.http_exceptions.BadStatusLine("garbage")
            _fail(answered, aiohttp.ClientResponseError(_INFO, (), status=400, message=str(error)))
        elif fault.kind == "wrong-length" and answer is not None:
            broke_off = aiohttp.ClientPayloadError("Response payload is not completed")
            _give(answered, Response(answer.status, answer.body, broke_off))
        elif fault.kind == "reset":
            _fail(answered, aiohttp.ClientOSError(errno.ECONNRESET, "Connection reset by peer"))
        else:
            self._break(connection, answered)

    @staticmethod
    def _break(connection: _Connection, answered: asyncio.Future[Response]) -> None:
        connection.broken = True
        _fail(answered, aiohttp.ServerDisconnectedError())


_INFO: Any = None


def _give(answered: asyncio.Future[Response], response: Response) -> None:
    if not answered.done():
        answered.set_result(response)


def _fail(answered: asyncio.Future[Response], error: Exception) -> None:
    if not answered.done():
        answered.set_exception(error)
