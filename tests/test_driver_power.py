"""A power cut in a session, a connection lost and regained, a meter exchanged: whose receipt comes out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from iem_dcr.driver.timing import now_s
from iem_dcr.simulator import Fault
from tests.support.bench import CI, Bench, bench
from tests.support.driving import (
    FOR_GOOD,
    begin_by_hand,
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
async def test_stop_after_a_power_cut_gets_its_receipt_or_none(fate: str, wait_s: float) -> None:
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
async def test_next_start_keeps_the_receipt_of_the_cut_transaction(fate: str) -> None:
    async with live_bench(fated(fate, late_close_s=2.0)) as b:
        await session(b)
        await asyncio.sleep(5)
        b.meter.power_cycle(off_s=2, boot_s=3)
        await asyncio.sleep(10)
        await start(b, "next")
        await own_receipt(b, "next")
        await expect_receipt(b, fate)


# --- a meter out of reach ---


@virtual
async def test_stop_after_a_lost_connection_gets_its_receipt() -> None:
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
async def test_stop_waits_for_a_silent_meter(whose: str, kind: str) -> None:
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
async def test_end_is_sent_when_the_meter_is_back() -> None:
    async with live_bench() as b:
        await start(b)
        b.meter.faults.add(Fault("reset", count=FOR_GOOD))
        assert "does not answer" in await stop_fails(b)
        b.meter.faults.clear()
        await asyncio.sleep(15)
        assert not b.meter.running
        await own_receipt(b)


@virtual
async def test_wait_for_the_first_answer_of_a_meter_is_as_configured() -> None:
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
async def test_stop_after_a_power_failure_of_the_whole_charger_waits_for_the_meter(
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
