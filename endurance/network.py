"""The network between driver and meter, in memory. A connection is a pair of streams for `device.transport`.

Connections break, and read after a break, as sockets do. `tests/test_endurance_network.py` compares the two. A request
that was sent arrives even if its process is killed.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any, Final

from iem_dcr.simulator import node_of, outgoing

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from endurance.meter import Meter, Serving

LATENCY_S: Final = (0.0005, 0.01)


class Sender:
    """A sender of requests: whether it was killed, and the start that it is handling."""

    killed = False
    serving: Serving | None = None


class Network:
    """The network at the meter's address.

    Args:
        latency: returns a random number from 0 to 1 for each direction of a request.
        counts: counts the faults that hit a request.

    Attributes:
        meter: the meter at this address. It changes in an exchange.
        swallows: requests and answers are lost without an error.
        slow_s: additional seconds in each direction.
    """

    def __init__(self, meter: Meter, latency: Callable[[], float], counts: Counter[str]) -> None:
        self.meter = meter
        self.counts = counts
        self.swallows = False
        self.slow_s = 0.0
        self._latency = latency
        self._served: Connection | None = None
        self._freed = asyncio.Event()

    def transit_s(self) -> float:
        least, most = LATENCY_S
        return self.slow_s + least + (most - least) * self._latency()

    async def connect(self, sender: Sender) -> tuple[asyncio.StreamReader, Any]:
        """Open a connection for a process.

        Raises:
            ConnectionRefusedError: the meter has no power, or serves another connection.
        """
        if self.swallows or sender.killed:
            await asyncio.Event().wait()
        await asyncio.sleep(self.transit_s())
        while (habit := self.meter.options.connections) != "any" and self._is_occupied():
            if habit == "one-refused":
                raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
            self._freed.clear()
            await self._freed.wait()
        if self.meter.unreachable_for_s > 0:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        self._served = Connection(self, sender)
        return self._served.reader, self._served

    def is_closed(self, connection: Connection) -> None:
        if self._served is connection:
            self._served = None
            self._freed.set()

    def _is_occupied(self) -> bool:
        return self._served is not None and self._served.lives and not self._served.sender.killed


class Connection:
    """One connection, and the client's writer. It ends when its meter loses power or is exchanged."""

    def __init__(self, network: Network, sender: Sender) -> None:
        self.reader = asyncio.StreamReader()
        self.sender = sender
        self.transport = self
        self._network = network
        self._meter = network.meter
        self._power_cuts = network.meter.power_cuts
        self._is_closed = False
        self._later = asyncio.get_running_loop().call_later

    @property
    def lives(self) -> bool:
        return not self._is_closed and self._network.meter is self._meter and self._has_power

    @property
    def _has_power(self) -> bool:
        return self._meter.power_cuts == self._power_cuts

    # --- the client's side ---

    def write(self, data: bytes) -> None:
        """Send a complete request. It arrives even if the client is killed meanwhile."""
        self._later(self._network.transit_s(), self._arrive, data, self.sender.serving)

    async def drain(self) -> None:
        """Return immediately: nothing is buffered."""

    def close(self) -> None:
        self._is_closed = True
        self._network.is_closed(self)

    abort = close

    async def wait_closed(self) -> None:
        """Return immediately: `close` has no delay."""

    def get_extra_info(self, _: str) -> None:
        """Return None: there is no socket."""

    # --- the meter's side ---

    def _arrive(self, data: bytes, serving: Serving | None) -> None:
        network, meter = self._network, self._meter
        if network.swallows:
            return
        if network.meter is not meter or not self._has_power:
            self._reset()
            return
        head, _, body = data.partition(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
        fault = meter.faults.take(method, node_of(path))
        if fault is not None:
            network.counts[f"wire: {fault.kind}"] += 1
        if fault is not None and fault.kind == "act-late":
            self._later(fault.wait_s, self._act_late, method, path, body, serving)
            return
        answer = meter.handle(method, path, body, serving) if fault is None or fault.acted else None
        if not self.lives:  # a trap cut the power during the request, or the client gave up
            self._reset()
            return
        if data := outgoing(answer, fault):
            self._later(network.transit_s(), self._come_back, data)
        elif fault is not None and fault.kind == "stall":
            self._later(fault.wait_s, self._end)
        elif fault is not None and fault.kind == "reset":
            self._reset()
        else:
            self._end()

    def _act_late(self, method: str, path: str, body: bytes, serving: Serving | None) -> None:
        """Act on a request whose client may have gone, unless the meter has lost power meanwhile."""
        if self._has_power:
            self._meter.note_interference(self._meter.now_s())
            self._meter.handle(method, path, body, serving)
        self._end()

    def _come_back(self, data: bytes) -> None:
        if self._network.swallows:
            return
        if not self.lives:
            self._reset()
            return
        self.reader.feed_data(data)
        self.reader.feed_eof()

    def _end(self) -> None:
        """Close the connection from the meter's side."""
        if not self._network.swallows:
            self.reader.feed_eof()
        self._network.is_closed(self)

    def _reset(self) -> None:
        if not self._network.swallows and self.reader.exception() is None:
            self.reader.set_exception(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
        self._network.is_closed(self)
