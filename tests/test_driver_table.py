"""What a stop gets: each row of the table in docs/architecture.md, at a simulated meter."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import Fault
from tests.support.bench import SECRET, Bench, bench, request
from tests.support.journals import virtual_journal
from tests.support.virtual_time import virtual
from tests.test_driver_corners import END
from tests.test_driver_journal import driver
from tests.test_driver_power import fated
from tests.test_driver_start import BEGIN, RECEIPT, expect_refused, receipt_of
from tests.test_driver_whose import begin, expect_lost, expect_own, live, session_of_nobodys

if TYPE_CHECKING:
    from pathlib import Path

OK = TransactionRequestStatus.OK
UNEXPECTED_ERROR = TransactionRequestStatus.UNEXPECTED_ERROR
UNKNOWN = ["", "never heard of"]
"""What has no influence: an id that means nothing here, and none."""


async def cut_short(b: Bench, name: str) -> None:
    """Begin a transaction that the meter loses with its power."""
    await begin(b, name)
    b.meter.power_cycle(off_s=1, boot_s=1)
    await asyncio.sleep(40)


# --- an id whose receipt is here ---


@virtual
async def test_a_receipt_that_is_in_memory_is_returned_and_what_runs_goes_on() -> None:
    async with bench() as b:
        await live(b)
        await begin(b, "A")
        await expect_own(b, "A")
        await begin(b, "B")
        posts = b.posts()
        await expect_own(b, "A")
        assert b.posts() == posts
        assert b.meter.running


@virtual
async def test_a_receipt_that_is_in_the_journal_is_returned_and_what_runs_goes_on(tmp_path: Path) -> None:
    async with bench() as b, virtual_journal(tmp_path / "receipts.db") as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request("A"))).status is OK
            text = receipt_of(await made.stop_transaction("A")).text
            assert (await made.start_transaction(request("B"))).status is OK
        async with driver(b, journal) as (made, _):
            posts = b.posts()
            assert receipt_of(await made.stop_transaction("A")).text == text
            assert b.posts() == posts
            assert b.meter.running


@virtual
async def test_a_receipt_that_a_tick_has_found_is_returned() -> None:
    async with bench() as b:
        await live(b)
        await begin(b, "A")
        b.meter.handle("POST", RECEIPT, END)
        await asyncio.sleep(10)
        posts = b.posts()
        await expect_own(b, "A")
        assert b.posts() == posts, "it is here: there is nothing to end"


# --- an id that was begun here and is open, uncertain or ended; or "" while one is ---


@pytest.mark.parametrize("transaction_id", ["A", ""])
@virtual
async def test_what_is_open_is_ended_and_its_receipt_returned(transaction_id: str) -> None:
    async with bench() as b:
        await live(b)
        await begin(b, "A")
        assert receipt_of(await b.driver.stop_transaction(transaction_id)).identification == "04ABA"
        assert b.meter.state.ended == 1


@pytest.mark.parametrize("transaction_id", ["A", ""])
@virtual
async def test_what_may_have_been_begun_is_ended_and_its_receipt_returned(transaction_id: str) -> None:
    async with bench() as b:
        await live(b)
        b.once_done(
            "POST",
            "/user",
            Fault("lose-answer", node="/receipt", method="POST"),
            Fault("refuse", status=503, count=1000),
        )
        assert (await b.driver.start_transaction(request("A"))).status is UNEXPECTED_ERROR
        assert b.meter.running
        b.meter.faults.clear()
        assert receipt_of(await b.driver.stop_transaction(transaction_id)).identification == "04ABA"
        assert not b.meter.running


@pytest.mark.parametrize("transaction_id", ["A", ""])
@virtual
async def test_what_was_ended_and_is_still_being_signed_is_waited_for_without_another_e(transaction_id: str) -> None:
    async with bench(fated("closed", signing_delay_s=70.0)) as b:
        await live(b)
        await begin(b, "A")
        assert (await b.driver.stop_transaction("A")).status is UNEXPECTED_ERROR
        posts = b.posts()
        assert receipt_of(await b.driver.stop_transaction(transaction_id)).identification == "04ABA"
        assert b.posts() == posts


@virtual
async def test_a_transaction_that_the_meter_has_lost_is_an_error_once_it_is_certain() -> None:
    loop = asyncio.get_running_loop()
    async with bench(fated("lost")) as b:
        await live(b)
        await begin(b, "A")
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(4)
        before_s = loop.time()
        await expect_lost(b, "A")
        assert 10 < loop.time() - before_s < 25, "it is certain when nothing has run for 15 s"


# --- an id that was begun here and is lost, or was begun on another serial ---


@virtual
async def test_what_is_lost_is_an_error_and_what_runs_goes_on() -> None:
    async with bench(fated("lost")) as b:
        await live(b)
        await cut_short(b, "A")
        await begin(b, "B")
        await expect_lost(b, "A")
        assert b.meter.running
        await expect_own(b, "B")


@virtual
async def test_what_was_begun_on_another_meter_is_an_error_that_names_it_and_what_runs_goes_on() -> None:
    async with bench() as b:
        await live(b)
        await begin(b, "A")
        begun_on = b.meter.options.MS
        b.meter.handle("POST", RECEIPT, END)
        b.meter.configure(MS="1SIM0000000099", private_key=SECRET + 1)
        b.meter.faults.add(Fault("refuse", node="/transaction", status=503, count=100_000))
        b.meter.faults.add(Fault("refuse", node="/receipt", method="GET", status=503, count=100_000))
        await asyncio.sleep(5)
        b.meter.handle("POST", RECEIPT, BEGIN)
        stopped = await b.driver.stop_transaction("A")
        assert stopped.status is UNEXPECTED_ERROR
        assert begun_on in stopped.error
        assert b.meter.running


# --- an id whose start was refused ---


@virtual
async def test_a_refused_start_is_an_error_and_what_runs_goes_on() -> None:
    async with bench() as b:
        await live(b)
        assert (await b.driver.start_transaction(request("A", evse_id="another"))).status is not OK
        await begin(b, "B")
        await expect_refused(b, "A")
        assert b.meter.running
        await expect_own(b, "B")


# --- any other id, and "" ---


@pytest.mark.parametrize("transaction_id", UNKNOWN)
@virtual
async def test_without_influence_what_strangers_began_is_ended_and_its_receipt_returned(transaction_id: str) -> None:
    async with bench() as b:
        await live(b)
        session_of_nobodys(b)
        await asyncio.sleep(5)
        b.meter.handle("POST", RECEIPT, BEGIN)
        await asyncio.sleep(5)
        assert receipt_of(await b.driver.stop_transaction(transaction_id)).pagination == "T2"
        assert not b.meter.running


@pytest.mark.parametrize("transaction_id", UNKNOWN)
@virtual
async def test_without_influence_the_last_receipt_is_returned_where_nothing_runs(transaction_id: str) -> None:
    async with bench() as b:
        await live(b)
        await begin(b, "A")
        await expect_own(b, "A")
        assert receipt_of(await b.driver.stop_transaction(transaction_id)).identification == "04ABA"


@pytest.mark.parametrize("transaction_id", UNKNOWN)
@virtual
async def test_without_influence_it_is_an_error_where_there_has_never_been_one(transaction_id: str) -> None:
    async with bench() as b:
        await live(b)
        stopped = await b.driver.stop_transaction(transaction_id)
        assert stopped.status is UNEXPECTED_ERROR
        assert stopped.signed_meter_value is None
        assert "none before" in stopped.error


@virtual
async def test_what_was_ended_for_another_id_has_its_receipt_under_its_own_as_well() -> None:
    async with bench() as b:
        await live(b)
        await begin(b, "A")
        text = receipt_of(await b.driver.stop_transaction("never heard of")).text
        assert not b.meter.running
        assert receipt_of(await b.driver.stop_transaction("A")).text == text


@virtual
async def test_with_strict_ids_the_last_receipt_of_another_id_is_an_error() -> None:
    async with bench(strict_transaction_ids=True) as b:
        await live(b)
        await begin(b, "A")
        await expect_own(b, "A")
        stopped = await b.driver.stop_transaction("never heard of")
        assert stopped.status is UNEXPECTED_ERROR
        assert stopped.signed_meter_value is None
        assert receipt_of(await b.driver.stop_transaction("")).identification == "04ABA"
