"""Many simulated meters in one process, each on its own port, for benchmarks/fleet.py.

Usage: python benchmarks/fleet_meters.py COUNT

The program prints the ports as a JSON list and answers until its standard input ends. A current flows through every
meter, so that its import register rises. The simulator's own server would limit the measurement, because it is complete
and based on aiohttp. This one serves one request per connection, as the driver makes it, without faults.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Final, cast

from iem_dcr.simulator import SimulatedMeter, SimulatorOptions, http_bytes

LOAD: Final = (100.0, 400.0)
"""A and V."""
LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]{1,6})(?=\r\n|$)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """A connection to a meter, with one request."""

    _transport: asyncio.Transport

    def __init__(self, meter: SimulatedMeter) -> None:
        self._meter = meter
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer the request when it is complete."""
        self._received += data
        head, end_of_head, body = self._received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if end_of_head and len(body) >= (int(length[1]) if length else 0):
            method, path, _ = head.decode().split(" ", 2)
            self._transport.write(http_bytes(self._meter.handle(method, path, body)))
            self._transport.close()


async def main() -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    ports = []
    for number in range(int(sys.argv[1])):
        meter = SimulatedMeter(SimulatorOptions(MS=f"0901DEBEN{number:06}"), monotonic=loop.time)
        meter.set_load(*LOAD)
        server = await loop.create_server(lambda meter=meter: Connection(meter), "127.0.0.1", 0)  # type: ignore[misc]
        ports.append(server.sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
