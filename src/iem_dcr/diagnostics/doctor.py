"""What is wrong with a meter, and what to do: GETs alone, within a minute.

`examine` gathers and judges. The number of questions is bounded and each has its time, so that it ends whatever the
meter does; 13 questions of 4 s and the 3 s in which the registers are watched are the most.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from iem_dcr.device.client import MeterClient
from iem_dcr.diagnostics import checks, evidence

if TYPE_CHECKING:
    from collections.abc import Callable

    from iem_dcr.config import Settings
    from iem_dcr.diagnostics.report import Report


async def examine(
    host: str,
    port: int,
    settings: Settings | None = None,
    *,
    proxies: tuple[str, ...] = (),
    wall: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Report:
    """Examine a meter. Never raises for the meter's sake.

    Args:
        host: of the meter; IPv6 without brackets.
        port: TCP port.
        settings: its configuration, to compare with; None compares nothing.
        proxies: environment variables of this host that name a proxy.
        wall: the host's clock, aware.
    """
    async with MeterClient(host, port, timeout_s=evidence.TIMEOUT_S, pause_s=evidence.PAUSE_S) as client:
        return checks.judge(await evidence.gather(client, wall), settings, proxies=proxies)
