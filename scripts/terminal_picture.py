"""Draw docs/images/watch.svg: the output of ``iem-dcr watch`` for three simulated meters, three minutes into a charge.

Time is virtual, so this takes a few seconds and always has the same result. The picture uses the viewer's fonts and
loads nothing from the network.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402  # needs the path above

from iem_dcr.cli.watch_view import Picture  # noqa: E402
from iem_dcr.diagnostics.watching import WatchedMeter, watch  # noqa: E402
from iem_dcr.simulator import SimulatedMeter, SimulatorOptions, SimulatorServer  # noqa: E402
from tests.support.virtual_time import VirtualWall, run_virtual  # noqa: E402

if TYPE_CHECKING:
    from iem_dcr.diagnostics.status import Status

PICTURE = ROOT / "docs" / "images" / "watch.svg"
WIDTH, HEIGHT = 100, 30
BEGINS = datetime(2026, 3, 1, 12, tzinfo=UTC)
FONTS_FROM_ELSEWHERE = re.compile(r"[ \t]*@font-face \{.*?\}\n", re.DOTALL)
SECRET = 0x1234567
"""The signing key of the simulated meters. It does not appear in the picture."""


def main() -> None:
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(svg(run_virtual(scene())), encoding="utf-8")
    sys.stdout.write(f"{PICTURE.relative_to(ROOT)}\n")


def svg(picture: Picture) -> str:
    console = Console(
        file=io.StringIO(), record=True, width=WIDTH, height=HEIGHT, force_terminal=True, markup=False, highlight=False
    )
    console.print(picture)
    return FONTS_FROM_ELSEWHERE.sub("", console.export_svg(title="iem-dcr watch", unique_id="watch"))


async def scene() -> Picture:
    """Watch three meters: one charges, one has just begun to charge, one has lost power."""
    wall = VirtualWall(BEGINS)
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(SimulatorServer(options))
            for options in (
                SimulatorOptions(
                    private_key=SECRET, MS="1SIM0000000042", current_a=310.0, voltage_v=748.0, charge_s=400.0
                ),
                SimulatorOptions(
                    private_key=SECRET, MS="1SIM0000000043", current_a=125.0, voltage_v=392.0, charge_s=300.0
                ),
                SimulatorOptions(private_key=SECRET, MS="1SIM0000000044", import_wh=1_204_610),
            )
        ]
        for number, server in enumerate(servers, 1):
            time = f"{wall():%Y-%m-%dT%H:%M:%S},000+0000"
            _post(server.meter, "/gw", {"CT": "EVSEID", "CI": f"DE*ABC*E{number}*1", "TM": time})
        meters = [WatchedMeter(server.host, server.port, wall) for server in servers]
        watching = asyncio.create_task(watch(meters, lambda _: None))
        await asyncio.sleep(14)
        _post(servers[0].meter, "/receipt", {"TX": "B"})
        await _charge(servers[0].meter, 150)
        _post(servers[1].meter, "/receipt", {"TX": "B"})
        await _charge(servers[0].meter, 38, since_s=150)
        servers[2].meter.power_cycle(off_s=600.0, boot_s=5.0)
        await _charge(servers[0].meter, 23, since_s=188)
        statuses = tuple(_at_home(meter.status(), number) for number, meter in enumerate(meters))
        now = wall()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        return Picture(statuses, now)


async def _charge(meter: SimulatedMeter, seconds: int, since_s: int = 0) -> None:
    """Apply the load of a car from 20 %: the current rises fast to its maximum and then falls, the voltage rises."""
    for second in range(since_s, since_s + seconds):
        current_a = min(410.0, 30.0 + 25.0 * second, 485.0 - 1.5 * second)
        meter.set_load(current_a, 690.0 + 0.3 * second)
        await asyncio.sleep(1.0)


def _post(meter: SimulatedMeter, node: str, body: dict[str, Any]) -> None:
    status = meter.handle("POST", f"/counter/v1/ocmf{node}", json.dumps(body).encode()).status
    if status != 200:
        raise RuntimeError(f"the simulated meter answered {status} to POST {node}")


def _at_home(status: Status, number: int) -> Status:
    """Replace the address by one of a charger's network."""
    return replace(status, address=f"192.168.60.{12 + number}:80")


if __name__ == "__main__":
    main()
