"""A power cut in a session, a connection lost and regained, a meter exchanged: whose receipt comes out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from iem_dcr.driver.timing import now_s
from iem_dcr.simulator import Fault
from tests.support.bench import CI, SERIAL, Bench, bench, meter_options
from tests.support.driving import (
    FOR_GOOD,
    OK,
    OTHER_SERIAL,
    begin_by_hand,
    exchange,
    fated,
    live_bench,
    own_receipt,
    process,
    start,
    stop,
    stop_fails,
)
from tests.support.journals import virtual_journal
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path

    from iem_dcr.driver import MeterDriver

FATES = ("closed", "closed-late", "running", "lost")


async def session(b: Bench) -> None:
    """Begin a transaction, with an older receipt in the meter that must not be taken for that of a later one."""
    await start(b, "older")
    await own_receipt(b, "older")
    await start(b)


async def expect_receipt(at: Bench | MeterDriver, fate: str) -> None:
    if fate == "lost":
        assert "no receipt for this transaction" in await stop_fails(at)
    else:
        assert [reading.TX for reading in (await own_receipt(at)).readings] == ["B", "E" if fate == "running" else "P"]


@pytest.mark.parametrize("wait_s", [0.0, 9.0])
@pytest.mark.parametrize("fate", FATES)
@virtual
async def test_after_a_power_cut_in_a_session_the_stop_gets_its_receipt_or_none(fate: str, wait_s: float) -> None:
    async with live_bench(fated(fate)) as b:
        await session(b)
        await asyncio.sleep(5)
        b.meter.power_cycle(off_s=2, boot_s=3)
        await asyncio.sleep(wait_s)
        await expect_receipt(b, fate)
        await asyncio.sleep(10)
        assert not b.station.active
        await start(b, "next")
        assert f'"CI":"{CI}"' in (await own_receipt(b, "next")).text


@pytest.mark.parametrize("fate", FATES)
@virtual
async def test_the_next_session_may_begin_without_a_stop_of_the_one_that_was_cut(fate: str) -> None:
    async with live_bench(fated(fate, late_close_s=2.0)) as b:
        await session(b)
        await asyncio.sleep(5)
        b.meter.power_cycle(off_s=2, boot_s=3)
        await asyncio.sleep(10)
        await start(b, "next")
        await own_receipt(b, "next")
        await expect_receipt(b, fate)


@pytest.mark.parametrize("fate", FATES)
@virtual
async def test_a_power_cut_between_user_and_b_begins_everything_anew(fate: str) -> None:
    async with live_bench(fated(fate)) as b:
        starting = asyncio.create_task(start(b))
        while b.requests("POST", "/user") == 0:
            await asyncio.sleep(0)
        b.meter.power_cycle(off_s=0.5, boot_s=1)
        await starting
        assert f'"CI":"{CI}"' in (await own_receipt(b)).text


@pytest.mark.parametrize("fate", FATES)
@virtual
async def test_after_a_power_cut_between_the_end_and_its_receipt_a_stop_gets_what_was_signed(fate: str) -> None:
    async with live_bench(fated(fate, signing_delay_s=3.0)) as b:
        await session(b)
        stopping = asyncio.create_task(b.driver.stop_transaction("T-1"))
        await asyncio.sleep(1)
        b.meter.power_cycle(off_s=2, boot_s=3)
        is_signed = "04ABT-1" in [record.ID for record in b.meter.signed]
        assert ((await stopping).status is OK) or not is_signed
        if (await stopping).status is OK:
            await own_receipt(b)


# --- a meter out of reach ---


@virtual
async def test_a_connection_lost_and_regained_in_a_session_still_yields_the_receipt() -> None:
    async with live_bench() as b:
        await start(b)
        b.meter.faults.add(Fault("reset", count=FOR_GOOD))
        await asyncio.sleep(30)
        assert len(b.station.active) == 1
        b.meter.faults.clear()
        await asyncio.sleep(15)
        assert not b.station.active
        await own_receipt(b)


@pytest.mark.parametrize(("whose", "kind"), [("ours", "reset"), ("a stranger's", "stall")])
@virtual
async def test_a_stop_of_what_runs_waits_for_a_meter_that_is_silent(whose: str, kind: str) -> None:
    async with live_bench() as b:
        if whose == "ours":
            await start(b)
        else:
            begin_by_hand(b)
            await asyncio.sleep(2)
        b.meter.faults.add(Fault(kind, count=FOR_GOOD))  # type: ignore[arg-type]  # one of the kinds
        await asyncio.sleep(20)
        stopping = asyncio.create_task(stop(b, "T-1"))
        await asyncio.sleep(40)
        b.meter.faults.clear()
        assert (await stopping).pagination == "T1"


@virtual
async def test_a_stop_that_the_meter_missed_is_made_up_for_when_it_is_back() -> None:
    async with live_bench() as b:
        await start(b)
        b.meter.faults.add(Fault("reset", count=FOR_GOOD))
        assert "does not answer" in await stop_fails(b)
        b.meter.faults.clear()
        await asyncio.sleep(15)
        assert not b.meter.running
        await own_receipt(b)


@virtual
async def test_the_wait_for_a_meter_that_never_answers_is_as_long_as_configured() -> None:
    async with bench(powered=False, initial_connection_wait_ms=3000) as b:
        before_s = now_s()
        assert "not reachable" in await stop_fails(b)
        assert 2.9 <= now_s() - before_s < 3.6


# --- the power failure of a whole charger ---


@pytest.mark.parametrize(
    ("fate", "boot_s", "has_journal"),
    [
        ("closed", 0.1, False),
        ("running", 3.0, False),
        ("closed", 20.0, False),
        ("closed", 3.0, True),
        ("closed-late", 0.1, True),
        ("running", 20.0, True),
        ("lost", 3.0, True),
        ("lost", 20.0, True),
    ],
)
@virtual
async def test_after_a_power_failure_of_everything_the_stop_waits_for_the_meter(
    fate: str,
    boot_s: float,
    has_journal: bool,  # noqa: FBT001  a table's column
    tmp_path: Path,
) -> None:
    async with virtual_journal(tmp_path / "receipts.db") as file:
        journal = file if has_journal else None
        async with live_bench(fated(fate), journal=journal) as b:
            await session(b)
            b.meter.power_cycle(off_s=2, boot_s=boot_s)
            async with process(b, journal) as (driver, _):
                await expect_receipt(driver, fate)
                if fate != "lost":
                    assert (await stop(driver, "")).identification == "04ABT-1"


# --- another meter in its place ---


@virtual
async def test_no_start_waits_for_the_receipt_of_a_meter_that_was_exchanged() -> None:
    async with live_bench(meter_options(idle_end="accept")) as b:
        await session(b)
        exchange(b)
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(15)
        before_s = now_s()
        await start(b, "next")
        assert now_s() - before_s < 5.0, "a third of what a start waits for a receipt that is due"
        await own_receipt(b, "next")


@virtual
async def test_a_meter_put_back_gives_the_receipt_after_all() -> None:
    async with live_bench() as b:
        await session(b)
        b.meter.configure(MS=OTHER_SERIAL)
        await asyncio.sleep(5)
        b.meter.configure(MS=SERIAL)
        await asyncio.sleep(15)
        await own_receipt(b)
