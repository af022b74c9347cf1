"""When a driver turns to its journal: after the first live value, or for a command; and what waits for the answer."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from iem_dcr.driver import Recalled
from iem_dcr.driver.timing import now_s
from iem_dcr.powermeter import TransactionRequestStatus
from tests.support.bench import RememberingStation, bench, request
from tests.support.virtual_time import VirtualWall, virtual
from tests.test_driver_journal import Hanging
from tests.test_driver_ledger import Calls

if TYPE_CHECKING:
    from datetime import datetime


class Asked(Calls):
    """A journal that remembers when it was read.

    Attributes:
        values: how many live values there were whenever it was read.
        newest: host time that is in it.
    """

    def __init__(self, station: RememberingStation, newest: datetime | None = None) -> None:
        super().__init__()
        self.values: list[int] = []
        self._station = station
        self._newest = newest

    async def recall(self, *, meter: str, address: str) -> Recalled:
        self.values.append(len(self._station.values))
        return Recalled(newest=self._newest)


@virtual
async def test_it_is_read_once_after_the_first_live_value() -> None:
    station = RememberingStation()
    journal = Asked(station)
    async with bench(journal=journal, station=station) as b:
        await asyncio.sleep(30)
        assert journal.values == [1]
        assert b.posts() == ["/gw"]


@virtual
async def test_a_command_has_it_read_before_that() -> None:
    station = RememberingStation()
    journal = Asked(station)
    async with bench(journal=journal, station=station) as b:
        assert (await b.driver.start_transaction(request("A"))).status is TransactionRequestStatus.OK
        assert journal.values[0] == 0


@virtual
async def test_a_meter_that_is_silent_has_it_read_for_a_command_only() -> None:
    station = RememberingStation()
    journal = Asked(station)
    async with bench(journal=journal, station=station, powered=False) as b:
        await asyncio.sleep(15)
        assert journal.values == []
        await b.driver.stop_transaction("")
        assert journal.values == [0]


@virtual
async def test_a_meter_that_is_to_be_the_pinned_one_has_it_read_first() -> None:
    station = RememberingStation()
    journal = Asked(station)
    async with bench(journal=journal, station=station, meter_serial="pin"):
        await asyncio.sleep(3)
        assert journal.values[0] == 0
        assert station.values


@pytest.mark.parametrize(("ahead", "posts"), [(timedelta(days=-1), ["/gw"]), (timedelta(days=1), [])])
@virtual
async def test_a_meter_gets_no_clock_of_a_host_that_is_behind_the_journal(ahead: timedelta, posts: list[str]) -> None:
    station, wall = RememberingStation(), VirtualWall()
    async with bench(journal=Asked(station, wall() + ahead), station=station, wall=wall) as b:
        await asyncio.sleep(20)
        assert len(station.values) > 15
        assert b.posts() == posts


@virtual
async def test_a_disk_that_does_not_answer_delays_the_setting_up_by_a_moment() -> None:
    async with bench(journal=Hanging()) as b:
        await b.until_live()
        before_s = now_s()
        while not b.posts():
            await asyncio.sleep(0.01)
        assert 0.4 < now_s() - before_s < 1.1
