"""Many simulated meters in one process, each on a port of its own, with all that a meter does.

Usage: python -m endurance.processes.site_meters COUNT

Prints the ports as a JSON list, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

from iem_dcr.simulator import SimulatorOptions, SimulatorServer


async def main(count: int) -> None:
    """Serve until standard input ends."""
    async with contextlib.AsyncExitStack() as stack:
        ports = []
        for number in range(count):
            options = SimulatorOptions(MS=f"1SIM{number:010}", load_delay_s=0.05, charge_s=0.4, signing_delay_s=0.05)
            ports.append((await stack.enter_async_context(SimulatorServer(options))).port)
        sys.stdout.write(f"{json.dumps(ports)}\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
