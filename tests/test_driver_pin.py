"""A pinned meter: the first one that answers is the wanted one, until another is accepted."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from iem_dcr.driver.meter_state import VENDOR_ERROR, WRONG_SERIAL
from iem_dcr.driver.timing import now_s
from iem_dcr.journal import pin, pins
from tests.support.bench import SERIAL
from tests.support.driving import OTHER_SERIAL, exchange, live_bench, logged, own_receipt, process, start, start_fails
from tests.support.journals import virtual_journal
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

THIRD = "1SIM0000000077"


@virtual
async def test_another_meter_is_refused_until_it_is_pinned(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal, meter_serial="pin") as b:
        await asyncio.sleep(2)
        address = b.driver.address
        assert pins(path) == {address: SERIAL}
        exchange(b)
        await asyncio.sleep(5)
        (raised,) = b.station.raised
        assert (raised.type, raised.sub_type) == (VENDOR_ERROR, WRONG_SERIAL)
        assert f"has serial {OTHER_SERIAL}, but {SERIAL} is expected" in raised.message
        accepting = f"iem-dcr receipts pin {OTHER_SERIAL} --address {address}, or set meter_serial to {OTHER_SERIAL}"
        assert accepting in raised.message
        assert len(logged(caplog, "iem-dcr receipts pin", logging.ERROR)) == 1
        published, posts = len(b.station.values), b.posts()
        assert OTHER_SERIAL in await start_fails(b, "A")
        assert len(b.station.values) == published
        assert b.posts() == posts

        pin(path, OTHER_SERIAL, [address])
        await asyncio.sleep(11)
        assert len(b.station.values) > published
        assert b.station.cleared == [raised]
        await start(b, "A")
        assert (await own_receipt(b, "A")).meter_serial == OTHER_SERIAL


@virtual
async def test_newly_pinned_serial_is_named(path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal, meter_serial="pin") as b:
        await asyncio.sleep(2)
        exchange(b)
        await asyncio.sleep(5)
        pin(path, THIRD, [b.driver.address])
        await asyncio.sleep(12)
        wanted = [error.message.partition(", but ")[2].partition(" is expected")[0] for error in b.station.raised]
        assert wanted == [SERIAL, THIRD]
        exchange(b, THIRD)
        await asyncio.sleep(3)
        assert len(b.station.cleared) == 2


@virtual
async def test_process_started_at_another_meter_publishes_and_posts_nothing(path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal, meter_serial="pin") as b:
        await asyncio.sleep(3)
        exchange(b)
        posts = b.posts()
        async with process(b, journal, meter_serial="pin") as (made, station):
            await asyncio.sleep(30)
            assert station.values == []
            assert [error.sub_type for error in station.raised] == [WRONG_SERIAL]
            assert b.posts() == posts
            pin(path, OTHER_SERIAL, [made.address])
            await asyncio.sleep(12)
            assert station.values
            await start(made, "A")


@virtual
async def test_pin_without_a_journal_lasts_until_the_process_ends() -> None:
    async with live_bench(meter_serial="pin") as b:
        exchange(b)
        await asyncio.sleep(20)
        assert [error.sub_type for error in b.station.raised] == [WRONG_SERIAL]
        async with process(b, meter_serial="pin") as (_, station):
            await asyncio.sleep(3)
            assert station.raised == []
            assert station.values[-1][1].meter_id == OTHER_SERIAL


@virtual
async def test_serial_is_quoted_for_a_shell() -> None:
    async with live_bench(meter_serial="pin") as b:
        exchange(b, "1SIM; reboot")
        await asyncio.sleep(5)
        assert "receipts pin '1SIM; reboot' --address" in b.station.raised[0].message


@virtual
async def test_silent_disk_delays_a_pinned_meter_by_half_a_second(path: Path) -> None:
    async with live_bench() as b, virtual_journal(path, unit_s=60.0) as journal:
        before_s = now_s()
        async with process(b, journal, meter_serial="pin") as (_, station):
            while not station.values:
                await asyncio.sleep(0.05)
            assert 0.5 <= now_s() - before_s < 1.0
