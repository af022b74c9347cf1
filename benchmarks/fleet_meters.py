"""Many simulated meters in one process, each on its own port, for benchmarks/fleet.py.

Usage: python benchmarks/fleet_meters.py COUNT

The program prints the ports as a JSON list and answers until its standard input ends. A current flows through every
meter, so that its import register rises.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack

from iem_dcr.simulator import SimulatorOptions, SimulatorServer


async def main() -> None:
    ports = []
    async with AsyncExitStack() as stack:
        for number in range(int(sys.argv[1])):
            options = SimulatorOptions(MS=f"0901DEBEN{number:06}", two_segments=False)
            server = await stack.enter_async_context(SimulatorServer(options))
            server.meter.set_load(100.0, 400.0)
            ports.append(server.port)
        print(json.dumps(ports), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
