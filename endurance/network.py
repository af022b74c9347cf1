"""The network between driver and meter, in memory: it takes the place of aiohttp's session, below all of `MeterClient`.

Connections, what breaks them and what is raised then are as with aiohttp; `tests/test_endurance_network.py` holds both
against each other. A request that was sent arrives whatever becomes of the process that sent it.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp
from multidict import CIMultiDict

from iem_dcr.simulator import node_of, substitute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from yarl import URL

    from endurance.meter import Unit
    from endurance.model import Serving
    from iem_dcr.simulator import Answer, Fault

LATENCY_S: Final = (0.0005, 0.01)
COUNTED_AS: Final = {
    "refuse": "request refused", "lose-request": "request lost", "lose-answer": "answer lost",
    "act-late": "request acted on late", "stall": "answer stalled", "drip": "answer stalled", "reset": "request lost",
    "server-error": "request refused", "garbage": "answer garbled", "garbage-http": "answer garbled",
    "wrong-length": "answer garbled",
}  # fmt: skip
"""What the kinds of faults are to who looks at them."""


class Sender(Protocol):
    """The process that sends a request: whether it was killed, and the start it is working on."""

    killed: bool
    serving: Serving | None


class Network:
    """What stands at the meter's address, and how the way there is.

    Args:
        unit: the meter.
        latency: returns a number from 0 to 1 for each way of a request.

    Attributes:
        unit: the meter; another one after an exchange.
        swallows: the network takes what is sent and gives nothing back.
        slow_s: seconds that each way takes longer.
        counts: how often which fault hit a request.
    """

    def __init__(self, unit: Unit, latency: Any, counts: Counter[str] | None = None) -> None:
        self.unit = unit
        self.counts = Counter() if counts is None else counts
        self.swallows = False
        self.slow_s = 0.0
        self._latency = latency
        self._served: _Connection | None = None
        self._freed = asyncio.Event()

    def way_s(self) -> float:
        """Return how long one way takes."""
        least, most = LATENCY_S
        return self.slow_s + least + (most - least) * float(self._latency())

    async def connect(self) -> _Connection:
        """Make a connection.

        Raises:
            aiohttp.ClientOSError: it is refused.
        """
        if self.swallows:
            await asyncio.Event().wait()
        await asyncio.sleep(self.way_s())
        while self.unit.meter.options.connections != "any" and self._is_occupied():
            if self.unit.meter.options.connections == "one-refused":
                raise aiohttp.ClientOSError(errno.ECONNREFUSED, "Connection refused")
            self._freed.clear()
            await self._freed.wait()
        if not self.unit.is_on:
            raise aiohttp.ClientOSError(errno.ECONNREFUSED, "Connection refused")
        self._served = _Connection(self)
        return self._served

    def close(self, connection: _Connection) -> None:
        """Close a connection, in order or not."""
        connection.broken = True
        if self._served is connection:
            self._served = None
            self._freed.set()

    def _is_occupied(self) -> bool:
        return self._served is not None and self._served.lives(self)


class _Connection:
    """One connection; it is of the meter that stood there, and lives as long as that one's power."""

    def __init__(self, network: Network) -> None:
        self.unit = network.unit
        self.power = network.unit.power
        self.broken = False
        self.idle_since_s = 0.0

    def reaches_its_meter(self, network: Network) -> bool:
        return network.unit is self.unit and self.unit.power == self.power and self.unit.is_on

    def lives(self, network: Network) -> bool:
        return not self.broken and self.reaches_its_meter(network)

    def may_be_used_again(self, network: Network, now_s: float) -> bool:
        options = self.unit.meter.options
        is_dropped = options.keep_alive == "drop-idle" and now_s - self.idle_since_s >= options.idle_s
        return self.lives(network) and not is_dropped and options.keep_alive != "drop-reused"


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
        network: where it leads.
        sender: whose it is; None for a process that is never killed.
    """

    connector = None

    def __init__(self, network: Network, sender: Sender | None = None) -> None:
        self._network = network
        self._sender = sender
        self._idle: _Connection | None = None

    async def close(self) -> None:
        """Drop the idle connection."""
        if self._idle is not None:
            self._network.close(self._idle)
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
        sent_for = None if self._sender is None else self._sender.serving
        loop.call_later(
            self._network.way_s(), self._arrive, connection, method, url.path, data or b"", sent_for, answered
        )
        try:
            response = await answered
        except BaseException:
            self._network.close(connection)
            raise
        if connection.unit.meter.options.keep_alive == "close":
            self._network.close(connection)
        elif not connection.broken:
            connection.idle_since_s = loop.time()
            self._idle = connection
        return response

    async def _connection(self, trace: Any) -> _Connection:
        if self._sender is not None and self._sender.killed:
            await asyncio.Event().wait()
        idle, self._idle = self._idle, None
        if idle is not None:
            if trace is not None:
                trace.connected = trace.reused = True
            if not idle.may_be_used_again(self._network, asyncio.get_running_loop().time()):
                self._network.close(idle)
                raise aiohttp.ServerDisconnectedError
            return idle
        connection = await self._network.connect()
        if trace is not None:
            trace.connected = True
        return connection

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
        network, unit = self._network, connection.unit
        if network.swallows:
            network.close(connection)
            return
        if not connection.reaches_its_meter(network):
            self._break(connection, answered)
            return
        fault = unit.meter.faults.take(method, node_of(path))
        if fault is not None:
            network.counts[COUNTED_AS[fault.kind]] += 1
        loop = asyncio.get_running_loop()
        if fault is not None and fault.kind == "act-late":
            loop.call_later(fault.wait_s, self._act_late, connection, method, path, body, sent_for, answered)
            return
        answer = unit.act(method, path, body, sent_for) if fault is None or fault.acted else None
        if not connection.lives(network):  # its power went in the very moment, or the client gave up
            self._break(connection, answered)
            return
        instead = answer if fault is None else substitute(fault, answer)
        if instead is not None:
            loop.call_later(network.way_s(), self._come_back, connection, instead, answered)
        elif fault is not None:
            self._spoil(connection, fault, answer, answered)

    def _act_late(
        self,
        connection: _Connection,
        method: str,
        path: str,
        body: bytes,
        sent_for: Serving | None,
        answered: asyncio.Future[Response],
    ) -> None:
        """Act on a request whose client may have gone; the meter loses it with its power."""
        unit = connection.unit
        if unit.power == connection.power and unit.is_on:
            unit.meddled_s.append(asyncio.get_running_loop().time())
            unit.act(method, path, body, sent_for)
        self._break(connection, answered)

    def _come_back(self, connection: _Connection, answer: Answer, answered: asyncio.Future[Response]) -> None:
        if self._network.swallows:
            self._network.close(connection)
        elif not connection.lives(self._network):
            self._break(connection, answered)
        else:
            _give(answered, Response(answer.status, answer.body))

    def _spoil(
        self, connection: _Connection, fault: Fault, answer: Answer | None, answered: asyncio.Future[Response]
    ) -> None:
        if fault.kind in ("stall", "drip"):
            taken_s = fault.wait_s if answer is None or fault.kind == "stall" else fault.wait_s * 300
            asyncio.get_running_loop().call_later(taken_s, self._break, connection, answered)
            return
        self._network.close(connection)
        if fault.kind == "garbage-http":
            error = aiohttp.http_exceptions.BadStatusLine("garbage")
            _fail(answered, aiohttp.ClientResponseError(_INFO, (), status=400, message=str(error)))
        elif fault.kind == "wrong-length" and answer is not None:
            broke_off = aiohttp.ClientPayloadError("Response payload is not completed")
            _give(answered, Response(answer.status, answer.body, broke_off))
        elif fault.kind == "reset":
            _fail(answered, aiohttp.ClientOSError(errno.ECONNRESET, "Connection reset by peer"))
        else:
            _fail(answered, aiohttp.ServerDisconnectedError())

    def _break(self, connection: _Connection, answered: asyncio.Future[Response]) -> None:
        self._network.close(connection)
        _fail(answered, aiohttp.ServerDisconnectedError())


_INFO: Any = None


def _give(answered: asyncio.Future[Response], response: Response) -> None:
    if not answered.done():
        answered.set_result(response)


def _fail(answered: asyncio.Future[Response], error: Exception) -> None:
    if not answered.done():
        answered.set_exception(error)
