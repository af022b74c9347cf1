"""A pinned meter: the first one that answers is the wanted one, until another is accepted."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from iem_dcr.driver.meter_state import VENDOR_ERROR, WRONG_SERIAL
from iem_dcr.driver.timing import now_s
from iem_dcr.journal import pin, pins
from iem_dcr.powermeter import TransactionRequestStatus
from tests.support.bench import SECRET, SERIAL, bench, request
from tests.support.journals import virtual_journal
from tests.support.virtual_time import virtual
from tests.test_driver_journal import driver
from tests.test_driver_start import receipt_of
from tests.test_driver_whose import live

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.support.bench import Bench

OTHER = "1SIM0000000099"
THIRD = "1SIM0000000077"
OK = TransactionRequestStatus.OK


def exchange(b: Bench, serial: str) -> None:
    """Put another meter in the place of the one that answers."""
    b.meter.configure(MS=serial, private_key=SECRET + 1)


def errors(caplog: pytest.LogCaptureFixture, what: str) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR and what in one.getMessage()]


@virtual
async def test_another_meter_is_refused_until_it_is_accepted_in_the_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "receipts.db"
    async with virtual_journal(path) as journal, bench(journal=journal, meter_serial="pin") as b:
        await live(b)
        await asyncio.sleep(2)
        address = b.driver.address
        assert pins(path) == {address: SERIAL}
        exchange(b, OTHER)
        await asyncio.sleep(5)
        (raised,) = b.station.raised
        assert (raised.type, raised.sub_type) == (VENDOR_ERROR, WRONG_SERIAL)
        assert f"has serial {OTHER}, wanted is {SERIAL}" in raised.message
        assert f"iem-dcr receipts pin {OTHER} --address {address}, or set meter_serial to {OTHER}" in raised.message
        assert len(errors(caplog, "iem-dcr receipts pin")) == 1
        published, posts = len(b.station.values), b.posts()
        refused = await b.driver.start_transaction(request("A"))
        assert OTHER in refused.error
        assert len(b.station.values) == published
        assert b.posts() == posts

        pin(path, OTHER, [address])
        before_s = now_s()
        while len(b.station.values) == published:
            await asyncio.sleep(0.1)
        assert now_s() - before_s <= 11
        assert b.station.cleared == [raised]
        assert (await b.driver.start_transaction(request("A"))).status is OK
        assert receipt_of(await b.driver.stop_transaction("A")).meter_serial == OTHER


@virtual
async def test_a_serial_that_is_accepted_and_does_not_answer_is_told_anew(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with virtual_journal(path) as journal, bench(journal=journal, meter_serial="pin") as b:
        await live(b)
        await asyncio.sleep(2)
        exchange(b, OTHER)
        await asyncio.sleep(5)
        pin(path, THIRD, [b.driver.address])
        await asyncio.sleep(12)
        assert [
            f"wanted is {wanted};" in one.message for wanted, one in zip((SERIAL, THIRD), b.station.raised, strict=True)
        ]
        exchange(b, THIRD)
        await asyncio.sleep(3)
        assert len(b.station.cleared) == 2


@virtual
async def test_a_process_that_is_started_at_another_meter_publishes_and_sends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal, meter_serial="pin"):
            await asyncio.sleep(3)
        exchange(b, OTHER)
        posts = b.posts()
        async with driver(b, journal, meter_serial="pin") as (made, station):
            await asyncio.sleep(30)
            assert station.values == []
            assert [one.sub_type for one in station.raised] == [WRONG_SERIAL]
            assert b.posts() == posts
            pin(path, OTHER, [made.address])
            await asyncio.sleep(12)
            assert station.values
            assert (await made.start_transaction(request("A"))).status is OK


@virtual
async def test_without_a_journal_a_pin_holds_until_the_process_ends() -> None:
    async with bench(meter_serial="pin") as b:
        await live(b)
        exchange(b, OTHER)
        await asyncio.sleep(20)
        assert [one.sub_type for one in b.station.raised] == [WRONG_SERIAL]
        async with driver(b, None, meter_serial="pin") as (_, station):
            await asyncio.sleep(3)
            assert station.raised == []
            assert station.values
            assert station.values[-1][1].meter_id == OTHER


@virtual
async def test_a_serial_that_is_no_word_of_a_shell_is_quoted() -> None:
    async with bench(meter_serial="pin") as b:
        await live(b)
        exchange(b, "1SIM; reboot")
        await asyncio.sleep(5)
        assert "receipts pin '1SIM; reboot' --address" in b.station.raised[0].message


@virtual
async def test_a_disk_that_does_not_answer_delays_a_pinned_meter_by_half_a_second(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b:
        await live(b)
        async with virtual_journal(path, unit_s=60.0) as journal:
            before_s = now_s()
            async with driver(b, journal, meter_serial="pin") as (_, station):
                while not station.values:
                    await asyncio.sleep(0.05)
                assert 0.5 <= now_s() - before_s < 1.0
