"""Every command is answered within its time, whatever the meter does and whatever the settings are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from iem_dcr.config import SETTINGS
from iem_dcr.driver.timing import now_s
from iem_dcr.simulator import Fault
from tests.support.bench import bench, request
from tests.support.driving import FOR_GOOD, expect_refused, start, start_fails, stop_fails
from tests.support.virtual_time import virtual

START_S, STOP_S = 30.0, 60.0
SILENT_STOP_S = 110.0
"""A stop may take so long while the meter is silent."""
MAXIMA: dict[str, Any] = {
    setting.key: setting.maximum for setting in SETTINGS if setting.maximum is not None and setting.key != "port_http"
}
SILENCE = Fault("stall", count=FOR_GOOD, delay_s=100.0)


@pytest.mark.parametrize(
    ("node", "kinds"),
    [
        ("*", "stall, stall acting, drip, refuse, server-error, lose-answer, reset"),
        ("/gw", "stall, refuse, lose-answer"),
        ("/metervalue", "stall, drip, server-error"),
        ("/user", "stall acting, refuse, reset"),
        ("/receipt", "stall, stall acting, drip, refuse, server-error, lose-answer"),
        ("/transaction", "stall, drip, refuse"),
        ("/publickey", "stall"),
    ],
)
@virtual
async def test_deadlines_hold_with_all_settings_at_their_maximum(node: str, kinds: str) -> None:
    for kind in kinds.split(", "):
        name, _, acting = kind.partition(" ")
        async with bench(**MAXIMA) as b:
            await b.until_live()
            b.meter.set_load(50, 400)
            slow: dict[str, Any] = {"delay_s": 100.0} if name in ("stall", "drip") else {}
            b.meter.faults.add(Fault(name, node=node, count=FOR_GOOD, acts=bool(acting), **slow))  # type: ignore[arg-type]  # one of the kinds
            before_s = now_s()
            await b.driver.start_transaction(request())
            assert now_s() - before_s <= START_S, kind
            before_s = now_s()
            await b.driver.stop_transaction("T-1")
            assert now_s() - before_s <= STOP_S, kind


@virtual
async def test_queued_command_is_answered_in_time() -> None:
    async with bench(**MAXIMA) as b:
        await b.until_live()
        await start(b)
        b.meter.faults.add(SILENCE)
        before_s = now_s()
        stopping = asyncio.create_task(stop_fails(b))
        await asyncio.sleep(0.1)
        await start_fails(b, "T-2")
        assert now_s() - before_s <= START_S + 0.1
        await stopping
        assert now_s() - before_s <= SILENT_STOP_S
        b.meter.faults.clear()
        await expect_refused(b, "T-2")


@virtual
async def test_queued_stops_are_answered_in_time() -> None:
    async with bench(**MAXIMA) as b:
        await b.until_live()
        b.meter.faults.add(SILENCE)
        before_s = now_s()
        await asyncio.gather(*(b.driver.stop_transaction("") for _ in range(5)))
        assert now_s() - before_s <= SILENT_STOP_S
