"""A power cut in a session, a connection lost and regained, a meter exchanged: whose receipt comes out."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from iem_dcr.config import Settings
from iem_dcr.driver import MeterDriver
from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import Fault, SimulatorOptions
from tests.support.bench import CI, SECRET, SERIAL, Bench, RememberingStation, bench, meter_options, request
from tests.support.journals import virtual_journal
from tests.support.virtual_time import virtual
from tests.test_driver_start import receipt_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from iem_dcr.driver import Journal

OK = TransactionRequestStatus.OK
UNEXPECTED_ERROR = TransactionRequestStatus.UNEXPECTED_ERROR
SHORT_S = 5.0
"""A third of what a start waits for a receipt that is due."""
FATES = ("closed", "closed-late", "running", "lost")


def fated(fate: str, **options: object) -> SimulatorOptions:
    return SimulatorOptions(MS=SERIAL, private_key=SECRET).changed(
        {"open_at_power_cut": fate, "late_close_s": 8.0, **options}
    )


async def earlier_session(b: Bench) -> None:
    """Leave an older receipt in the meter, which must not be taken for a later one's."""
    b.meter.set_load(0, 0)
    await b.until_live()
    assert (await b.driver.start_transaction(request("older"))).status is OK
    receipt_of(await b.driver.stop_transaction("older"))


async def expect_receipt(b: Bench, fate: str, driver: MeterDriver | None = None) -> None:
    stopped = await (driver or b.driver).stop_transaction("T-1")
    if fate == "lost":
        assert stopped.status is UNEXPECTED_ERROR
        assert "no receipt for this transaction" in stopped.error
        return
    receipt = receipt_of(stopped)
    assert receipt.identification == "04ABT-1"
    assert [reading.TX for reading in receipt.readings] == ["B", "E" if fate == "running" else "P"]


@pytest.mark.parametrize("wait_s", [0.0, 1.0, 9.0, 100.0])
@pytest.mark.parametrize("fate", FATES)
@virtual
async def test_a_power_cut_in_a_session(fate: str, wait_s: float) -> None:
    async with bench(fated(fate)) as b:
        await earlier_session(b)
        assert (await b.driver.start_transaction(request())).status is OK
        await asyncio.sleep(5)
        b.meter.power_cycle(off_s=2, boot_s=3)
        await asyncio.sleep(wait_s)
        await expect_receipt(b, fate)
        await asyncio.sleep(10)
        assert not b.station.active
        assert (await b.driver.start_transaction(request("next"))).status is OK
        receipt = receipt_of(await b.driver.stop_transaction("next"))
        assert receipt.identification == "04ABnext"
        assert f'"CI":"{CI}"' in receipt.text


@pytest.mark.parametrize("fate", FATES)
@virtual
async def test_the_next_session_may_begin_without_a_stop_of_the_one_that_was_cut(fate: str) -> None:
    async with bench(fated(fate, late_close_s=2.0)) as b:
        await earlier_session(b)
        assert (await b.driver.start_transaction(request())).status is OK
        await asyncio.sleep(5)
        b.meter.power_cycle(off_s=2, boot_s=3)
        await asyncio.sleep(10)
        assert (await b.driver.start_transaction(request("next"))).status is OK
        assert receipt_of(await b.driver.stop_transaction("next")).identification == "04ABnext"
        late = await b.driver.stop_transaction("T-1")
        if fate != "lost":
            assert receipt_of(late).identification == "04ABT-1"


@pytest.mark.parametrize("fate", FATES)
@virtual
async def test_a_power_cut_between_the_end_and_its_receipt(fate: str) -> None:
    async with bench(fated(fate, signing_delay_s=3.0)) as b:
        await earlier_session(b)
        assert (await b.driver.start_transaction(request())).status is OK
        stop = asyncio.create_task(b.driver.stop_transaction("T-1"))
        await asyncio.sleep(1)
        b.meter.power_cycle(off_s=2, boot_s=3)
        stopped = await stop
        if stopped.status is OK:
            assert receipt_of(stopped).identification == "04ABT-1"
        else:
            assert not [record for record in b.meter.signed if record.ID == "04ABT-1"]


@virtual
async def test_a_connection_lost_and_regained_in_a_session_still_yields_the_receipt() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.faults.add(Fault("reset", count=10_000))
        await asyncio.sleep(30)
        assert len(b.station.active) == 1
        b.meter.faults.clear()
        await asyncio.sleep(15)
        assert not b.station.active
        assert receipt_of(await b.driver.stop_transaction("T-1")).identification == "04ABT-1"


@virtual
async def test_a_stop_in_a_fault_waits_for_the_meter() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.faults.add(Fault("reset", count=10_000))
        await asyncio.sleep(30)
        stop = asyncio.create_task(b.driver.stop_transaction("T-1"))
        await asyncio.sleep(40)
        b.meter.faults.clear()
        assert receipt_of(await stop).identification == "04ABT-1"


@virtual
async def test_a_stop_that_the_meter_missed_is_made_up_for_when_it_is_back() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.faults.add(Fault("reset", count=10_000))
        stopped = await b.driver.stop_transaction("T-1")
        assert stopped.status is UNEXPECTED_ERROR
        assert "does not answer" in stopped.error
        b.meter.faults.clear()
        await asyncio.sleep(15)
        assert not b.meter.running
        assert receipt_of(await b.driver.stop_transaction("T-1")).identification == "04ABT-1"


# --- the power failure of a whole charger ---


async def restarted(b: Bench, journal: Journal | None = None) -> AsyncIterator[MeterDriver]:
    """Stop the driver and run a new one, as after a power failure of everything."""
    b.task.cancel()
    await asyncio.gather(b.task, return_exceptions=True)
    host, port = b.server.address.split(":")
    settings = Settings.of({"ip_address": host, "port_http": int(port), "CI": CI})
    driver = MeterDriver(settings, RememberingStation(), journal=journal, wall=b.wall)
    task = asyncio.create_task(driver.run())
    try:
        yield driver
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("boot_s", [0.1, 3.0, 20.0])
@pytest.mark.parametrize("fate", ["closed", "running"])
@virtual
async def test_after_a_power_failure_of_everything_the_stop_waits_for_the_meter(fate: str, boot_s: float) -> None:
    async with bench(fated(fate)) as b:
        await earlier_session(b)
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.power_cycle(off_s=2, boot_s=boot_s)
        async for driver in restarted(b):
            await expect_receipt(b, fate, driver)
            receipt = receipt_of(await driver.stop_transaction(""))
            assert receipt.identification == "04ABT-1"


@pytest.mark.parametrize("boot_s", [0.1, 3.0, 20.0])
@pytest.mark.parametrize("fate", FATES)
@virtual
async def test_with_a_journal_it_waits_for_the_receipt_as_well(fate: str, boot_s: float, tmp_path: Path) -> None:
    async with virtual_journal(tmp_path / "receipts.db") as journal, bench(fated(fate), journal=journal) as b:
        await earlier_session(b)
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.power_cycle(off_s=2, boot_s=boot_s)
        async for driver in restarted(b, journal):
            await expect_receipt(b, fate, driver)


@virtual
async def test_the_wait_for_a_meter_that_never_answers_is_as_long_as_configured() -> None:
    loop = asyncio.get_running_loop()
    async with bench(powered=False, initial_connection_wait_ms=3000) as b:
        before = loop.time()
        stopped = await b.driver.stop_transaction("T-1")
        assert stopped.status is UNEXPECTED_ERROR
        assert "not reachable" in stopped.error
        assert 2.9 <= loop.time() - before < 3.6


# --- another meter in its place ---


@virtual
async def test_the_receipt_of_an_exchanged_meter_is_not_handed_over(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        await earlier_session(b)
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.configure(MS="1SIM0000000099", private_key=SECRET + 1)
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(15)
        stopped = await b.driver.stop_transaction("T-1")
        assert stopped.status is UNEXPECTED_ERROR
        assert SERIAL in stopped.error
        assert "another" in stopped.error
        assert [record for record in caplog.records if record.levelno == logging.ERROR]
        assert (await b.driver.start_transaction(request("next"))).status is OK
        assert receipt_of(await b.driver.stop_transaction("next")).identification == "04ABnext"


@virtual
async def test_no_start_waits_for_the_receipt_of_a_meter_that_was_exchanged() -> None:
    async with bench(meter_options(idle_end="accept")) as b:
        await earlier_session(b)
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.configure(MS="1SIM0000000099", private_key=SECRET + 1)
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(15)
        began_s = asyncio.get_running_loop().time()
        assert (await b.driver.start_transaction(request("next"))).status is OK
        assert asyncio.get_running_loop().time() - began_s < SHORT_S


@virtual
async def test_a_meter_put_back_gives_the_receipt_after_all() -> None:
    async with bench() as b:
        await earlier_session(b)
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.configure(MS="1SIM0000000099")
        await asyncio.sleep(5)
        b.meter.configure(MS="1SIM0000000042")
        await asyncio.sleep(15)
        assert receipt_of(await b.driver.stop_transaction("T-1")).identification == "04ABT-1"
