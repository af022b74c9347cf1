"""Schedules that neither drift nor are due together, drivers that begin later, and the deadlines of commands."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.config import SETTINGS
from iem_dcr.driver import timing
from iem_dcr.driver.timing import Schedule, now_s
from iem_dcr.everest_api.meter_api import TURNS, turn_of
from iem_dcr.simulator import Fault
from tests.support.bench import bench, request
from tests.support.driving import FOR_GOOD, expect_refused, process, start, start_fails, stop_fails
from tests.support.virtual_time import virtual


@given(begin_s=st.floats(0, 1e7), phase=st.floats(0, 1, exclude_max=True), period_s=st.sampled_from([1.0, 2.0]))
def test_schedule_keeps_its_phase(begin_s: float, phase: float, period_s: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "now_s", lambda: begin_s)
        schedule = Schedule(period_s, phase)
        assert begin_s - 1e-6 <= schedule.next_s <= begin_s + period_s
        for missed in (0, 1, 3):
            patch.setattr(timing, "now_s", lambda at_s=schedule.next_s + missed * period_s: at_s)
            schedule.advance()
            off_s = (schedule.next_s / period_s - phase) % 1.0 * period_s
            assert min(off_s, period_s - off_s) < 1e-6


@virtual
async def test_schedules_with_phases_are_due_apart_and_one_without_begins_now() -> None:
    early, late = Schedule(1.0, 0.25), Schedule(1.0, 0.75)
    assert abs(early.next_s - late.next_s) == pytest.approx(0.5)
    await asyncio.sleep(0.3)
    assert Schedule(1.0).next_s == now_s() + 1.0


def test_the_meters_of_a_process_take_turns() -> None:
    phases = Counter(turn_of(f"pm{number}") for number in range(1000))
    assert len(phases) == TURNS
    assert max(phases.values()) < 2 * 1000 / TURNS


@virtual
async def test_driver_that_begins_later_waits() -> None:
    async with bench() as b, process(b, begins_after_s=3.0) as (driver, station):
        await asyncio.sleep(2.9)
        assert driver.last_response_s is None
        await asyncio.sleep(0.6)
        assert station.values


@virtual
async def test_command_does_not_wait_for_a_driver_that_begins_later() -> None:
    async with bench() as b, process(b, begins_after_s=20.0) as (driver, _):
        before_s = now_s()
        await start(driver)
        assert now_s() - before_s < 5.0


# --- deadlines: every command is answered in time, whatever the meter does and whatever the settings are ---

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
