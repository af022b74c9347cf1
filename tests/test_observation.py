"""What is seen of a meter while it is driven: its half hour, errors and receipts; and that looking on costs nothing."""

from __future__ import annotations

import asyncio
import logging
import math
import tracemalloc
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.driver.meter_state import COMMUNICATION_FAULT
from iem_dcr.everest_api.mqtt_settings import MqttSettings
from iem_dcr.meter_time import MeterTime
from iem_dcr.ocmf import Outcome
from iem_dcr.service.config import MeterConfig, ServiceConfig
from iem_dcr.service.history import COARSE_SPAN_S, COARSE_STEP_S, SPAN_S, STEP_S, History
from iem_dcr.service.observation import MAX_ERRORS, MAX_RECEIPTS
from iem_dcr.service.service import Service
from iem_dcr.simulator import Fault
from tests.support.bench import bench, request
from tests.support.journals import kept
from tests.support.served_page import observed, value, wall
from tests.support.service_site import FailingBus
from tests.support.virtual_time import run_virtual, virtual

if TYPE_CHECKING:
    from iem_dcr.driver import Observer

LARGEST_HISTORY = 36_000
"""Bytes; 1,000 meters are 36 MB."""


# --- the history ---


@given(
    st.sampled_from([(SPAN_S, STEP_S), (COARSE_SPAN_S, COARSE_STEP_S)]),
    st.lists(st.tuples(st.floats(0.001, 2.0), st.none() | st.integers(0, 1000)), min_size=1, max_size=60),
)
def test_a_slot_holds_the_mean_and_the_last_register(
    series_of: tuple[float, float], read: list[tuple[float, int | None]]
) -> None:
    span_s, step_s = series_of

    async def tried() -> None:
        history = History()
        slots: dict[int, list[int]] = {}
        registers: dict[int, int] = {}
        now = 0.0
        for number, (pause, power_w) in enumerate(read):
            now += pause * step_s
            history.add(now, value(P=None if power_w is None else Decimal(power_w), import_wh=Decimal(number)))
            slots.setdefault(math.floor(now / step_s), []).extend([] if power_w is None else [power_w])
            registers[math.floor(now / step_s)] = number
        series = history.series(now, span_s)
        first = round(series.first_s / step_s)
        assert (first, series.step_s) == (min(slots), step_s)
        assert list(series.import_wh) == [registers.get(slot) for slot in range(first, max(slots) + 1)]
        assert len(series.power_w) == len(series.voltage_v) == len(series.current_a) == len(series.import_wh)
        for slot, mean_w in enumerate(series.power_w, first):
            values = slots.get(slot)
            assert mean_w == (pytest.approx(sum(values) / len(values), abs=0.51) if values else None)

    run_virtual(tried())


@virtual
async def test_the_history_forgets_what_is_older_than_its_range() -> None:
    history = History()
    assert history.series(5.0).power_w == ()
    history.add(10.0, value(P=Decimal(1)))
    assert history.series(10.0 + SPAN_S - STEP_S).power_w == (1.0,)
    assert history.series(609.0, 600.0).power_w == (1.0,)
    assert history.series(610.0, 600.0).power_w == ()
    assert history.series(10.0 + 2 * SPAN_S).power_w == ()
    assert history.series(10.0 + 2 * SPAN_S, COARSE_SPAN_S).power_w == (1.0,)
    history.add(10.0 + 2 * SPAN_S, value(P=Decimal(2)))
    assert [power_w for power_w in history.series(10.0 + 2 * SPAN_S).power_w if power_w is not None] == [2.0]
    assert history.series(10.0 + COARSE_SPAN_S, COARSE_SPAN_S).power_w[:1] == (None,)
    history.clear()
    assert history.series(10.0).import_wh == history.series(10.0, COARSE_SPAN_S).import_wh == ()


@virtual
async def test_a_history_is_small() -> None:
    reading = value()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        history = History()
        for number in range(4000):
            history.add(number * 30.0, reading)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < LARGEST_HISTORY
    assert len(history.series(3999 * 30.0, COARSE_SPAN_S).power_w) == COARSE_SPAN_S / COARSE_STEP_S


# --- what is seen ---


@virtual
async def test_what_a_driver_reads_is_seen() -> None:
    meter = observed()
    assert meter.status().value is None
    async with bench(observer=meter) as b:
        meter.attach(b.driver)
        await b.until_live()
        await asyncio.sleep(5)
        status = meter.status()
        assert status.value == b.driver.value
        assert status.gateway == b.driver.gateway
        assert status.age_s is not None
        assert status.age_s <= 1.1
        assert status.transaction is None
        await b.driver.start_transaction(request("T-1"))
        await asyncio.sleep(3)
        status = meter.status()
        assert status.transaction is not None
        assert status.transaction.begin_seen
        assert meter.request is not None
        assert meter.request.transaction_id == "T-1"
        before = b.meter.request_counts.total()
        for _ in range(100):
            meter.status()
        assert b.meter.request_counts.total() == before


@virtual
async def test_a_clock_that_stands_and_a_meter_that_is_exchanged() -> None:
    meter = observed()
    first = value()
    meter.value_read(first, wall())
    await asyncio.sleep(4)
    meter.value_read(first, wall())
    assert meter.status().clock_stopped_s == 4
    assert meter.status().clock_offset == timedelta(seconds=-4)
    meter.value_read(value(TM=MeterTime(wall() + timedelta(hours=1), "")), wall())
    assert meter.status().clock_stopped_s == 0
    assert len([wh for wh in meter.history.series(4.0).import_wh if wh is not None]) == 2
    meter.value_read(value(MS="another"), wall())
    assert meter.serial == "another"
    assert len(meter.history.series(4.0).import_wh) == 1


@virtual
async def test_errors_and_receipts_are_bounded() -> None:
    meter = observed()
    for _ in range(2 * MAX_ERRORS):
        meter.error_raised(COMMUNICATION_FAULT)
        await asyncio.sleep(1)
        meter.error_cleared(COMMUNICATION_FAULT)
    assert len(meter.errors) == MAX_ERRORS
    assert all(seen.cleared is not None for seen in meter.errors)
    for number in range(2 * MAX_RECEIPTS):
        await meter.keep(kept(number))
    assert [seen.number for seen in meter.receipts] == [*range(MAX_RECEIPTS + 1, 2 * MAX_RECEIPTS + 1)]


@virtual
async def test_a_receipt_that_comes_again_is_the_same() -> None:
    meter = observed()
    found = replace(kept(1), found=True, outcome=None)
    await meter.keep(found)
    await meter.keep(kept(1, "T-1"))
    (seen,) = meter.receipts
    assert (seen.number, seen.kept.transaction_id, seen.kept.outcome) == (1, "T-1", Outcome.VALID)
    await meter.keep(found)
    await meter.keep(kept(1, "T-1"))
    (seen,) = meter.receipts
    assert (seen.number, seen.kept.transaction_id) == (1, "T-1")
    assert meter.counts["iem_dcr_receipts", "valid"] == 1, "delivered again"


@virtual
async def test_who_waits_for_news_has_it_at_once() -> None:
    meter = observed()
    loop = asyncio.get_running_loop()
    loop.call_later(0.5, lambda: meter.reading_failed("no answer"))
    await asyncio.gather(meter.changed(10), meter.changed(10))
    assert loop.time() == 0.5
    await meter.changed(2)
    assert loop.time() == 2.5


# --- looking on costs nobody anything ---


@virtual
async def test_an_observer_that_fails_hurts_no_meter(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return fail

    caplog.set_level(logging.CRITICAL)
    async with bench(observer=cast("Observer", Failing())) as b:
        await b.until_live()
        b.meter.faults.add(Fault(kind="lose-answer", count=6))
        await asyncio.sleep(20)
        assert b.station.raised == b.station.cleared == [COMMUNICATION_FAULT]
        assert len(b.station.values) >= 14


def test_without_a_page_nothing_is_kept() -> None:
    async def made() -> Service:
        meters = (MeterConfig("pm1", observed().settings),)
        return Service(ServiceConfig(MqttSettings(), meters), broker=FailingBus())

    service = asyncio.run(made())
    assert service.page is None
    assert service._meters[0].observed is None
