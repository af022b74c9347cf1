"""A pinned meter: the first one that answers is the wanted one, until another is accepted."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from iem_dcr.driver.meter_state import VENDOR_ERROR, WRONG_SERIAL
from iem_dcr.driver.timing import now_s
from iem_dcr.journal import pin, pins
from tests.support.bench import SERIAL
from tests.support.driving import OTHER_SERIAL, exchange, live_bench, logged, own_receipt, process, start, start_fails
from tests.support.journals import virtual_journal
from tests.support.stories import Story, stories
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path

THIRD = "1SIM0000000077"


PINNED = {"meter_serial": "pin"}
STORIES = stories("""
a newly pinned serial is named
    journal; driver meter_serial=pin; wait 2; exchange; wait 5; raised 1 'but 1SIM0000000042 is expected';
    pin 1SIM0000000077; wait 12; raised 2 'is expected'; stop A fails 1SIM0000000077; exchange 1SIM0000000077; wait 3;
    calm; start A
a process started at another meter publishes and posts nothing
    journal; driver meter_serial=pin; wait 3; exchange; restart meter_serial=pin; mute 30 quietly;
    raised 1 'is expected'; pin 1SIM0000000099; wait 12; calm; start A
a pin without a journal lasts until the process ends
    driver meter_serial=pin; exchange; wait 20; raised 1 'is expected'; restart meter_serial=pin; wait 3; raised 0;
    start A
""")


@pytest.mark.parametrize("story", STORIES, ids=str)
@virtual
async def test_pin(story: Story, path: Path) -> None:
    await story.tell(path)


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
