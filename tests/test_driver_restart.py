"""A process after another: what the next one knows of transactions, receipts and refused ids."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from iem_dcr.ocmf import Outcome
from iem_dcr.simulator import Fault
from tests.support.bench import meter_options
from tests.support.driving import (
    FOR_GOOD,
    begin_by_hand,
    end_by_hand,
    exchange,
    fated,
    live_bench,
    own_receipt,
    process,
    session_by_hand,
    start,
    start_fails,
    stop,
    stop_driver,
    stop_fails,
)
from tests.support.journals import entries, virtual_journal
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "receipts.db"


def whose(path: Path) -> list[tuple[str, str, bool]]:
    """Return pagination, transaction and whether it was only found, of every receipt kept."""
    return [(entry.pagination, entry.transaction_id, entry.found) for entry in entries(path)]


@virtual
async def test_receipt_is_in_the_journal_before_the_station_has_it(path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal) as b:
        await start(b)
        receipt = await own_receipt(b)
        (entry,) = entries(path)
        assert (entry.text, entry.transaction_id, entry.found) == (receipt.text, "T-1", False)
        assert (entry.outcome, entry.public_key, entry.address) == (
            Outcome.VALID, b.driver.public_key, b.driver.address,
        )  # fmt: skip
        assert (await own_receipt(b)).text == receipt.text
        assert len(entries(path)) == 1


@virtual
async def test_process_knows_the_transaction_of_the_previous_one(path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal) as b:
        await start(b, "A", for_s=1)
        async with process(b, journal) as (made, _):
            assert (await stop(made, "B")).identification == "04ABA"
            await own_receipt(made, "A")
            await asyncio.sleep(10)
        assert whose(path) == [("T1", "A", False)]


@virtual
async def test_receipt_of_a_transaction_that_ended_between_processes_is_kept_under_its_id(path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal) as b:
        await start(b, "A", for_s=1)
        await stop_driver(b)
        end_by_hand(b)
        await asyncio.sleep(1)
        begin_by_hand(b)
        async with process(b, journal, strict_transaction_ids=True) as (made, _):
            await own_receipt(made, "A")
            assert b.meter.running
            assert (await stop(made, "B")).pagination == "T2"
            await own_receipt(made, "A")
        assert whose(path) == [("T1", "A", False), ("T2", "B", False)]


@virtual
async def test_older_ids_get_their_receipts_also_at_a_silent_or_exchanged_meter(
    path: Path,
) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal) as b:
        before = {}
        for name in ("A", "B"):
            await start(b, name)
            before[name] = (await b.driver.stop_transaction(name)).signed_meter_value
        await start(b, "C")
        async with process(b, journal) as (made, _):
            posts = b.posts()
            for name, value in before.items():
                assert (await made.stop_transaction(name)).signed_meter_value == value
            assert b.posts() == posts
            assert b.meter.running
        b.meter.faults.add(Fault("reset", count=FOR_GOOD))
        async with process(b, journal) as (made, _):
            after = (await made.stop_transaction("A")).signed_meter_value
            assert after == before["A"], "with the key of the meter that signed it"
        b.meter.faults.clear()
        exchange(b)
        async with process(b, journal) as (made, station):
            while not station.values:
                await asyncio.sleep(0.1)
            await own_receipt(made, "A")


@pytest.mark.parametrize("has_journal", [True, False])
@virtual
async def test_previous_receipt_is_not_returned_for_the_transaction_of_a_previous_process(
    *, has_journal: bool, path: Path
) -> None:
    """The last tuple cannot be read before E, and is shown until the new one is signed."""
    options = meter_options(receipt_while_signing="previous", signing_delay_s=2.0)
    async with virtual_journal(path) as file:
        journal = file if has_journal else None
        async with live_bench(options, journal=journal) as b:
            await start(b, "A", for_s=2)
            await own_receipt(b, "A")
            await start(b, "B", for_s=2)
            b.meter.faults.add(Fault("garbage", node="/transaction", count=FOR_GOOD))
            async with process(b, journal) as (made, _):
                await own_receipt(made, "B")


@pytest.mark.parametrize("is_cut", [False, True])
@virtual
async def test_id_used_again_gets_no_older_receipt(*, is_cut: bool, path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(fated("lost"), journal=journal) as b:
        await start(b, "A")
        await own_receipt(b, "A")
        await start(b, "A", for_s=2)
        await stop_driver(b)
        if is_cut:
            b.meter.power_cycle(off_s=1, boot_s=1)
        async with process(b, journal) as (made, _):
            if is_cut:
                await stop_fails(made, "A")
            else:
                assert (await own_receipt(made, "A")).pagination == "T2"


# --- starts that were refused ---


@pytest.mark.parametrize("node", ["/receipt", "/user"])
@virtual
async def test_refused_id_is_remembered_by_the_next_process(node: str, path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal) as b:
        b.meter.faults.add(Fault("refuse", node=node, method="POST", count=1000))
        await start_fails(b, "A")
        b.meter.faults.clear()
        begin_by_hand(b)
        async with process(b, journal) as (made, _):
            await stop_fails(made, "A")
            assert b.meter.running, "it is ended for no id that was refused"
            assert (await stop(made, "")).pagination == "T1"


@virtual
async def test_start_refused_before_the_journal_is_read_hides_no_earlier_transaction(
    path: Path,
) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal) as b:
        await start(b, "A", for_s=3)
        await stop_driver(b)
        b.meter.faults.add(Fault("refuse", count=FOR_GOOD))
        async with virtual_journal(path, unit_s=1.0) as slow, process(b, slow) as (made, _):
            await start_fails(made, "A")
            b.meter.faults.clear()
            await own_receipt(made, "A")
            await asyncio.sleep(10)
        assert whose(path) == [("T1", "A", False)]


# --- what no stop fetched ---


@virtual
async def test_receipt_found_at_the_start_is_kept_once_without_an_owner(path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench() as b:
        session_by_hand(b)
        await asyncio.sleep(1)
        for _ in range(2):
            async with process(b, journal) as (_, station):
                await asyncio.sleep(2)
                assert whose(path) == [("T1", "", True)]
                looks = b.requests("GET", "/transaction")
                for _ in range(3):
                    b.meter.faults.add(Fault("refuse", node="/metervalue", status=503))
                    await asyncio.sleep(15)
                assert b.requests("GET", "/transaction") > looks
                assert len(station.values) > 30
        (entry,) = entries(path)
        assert (entry.text, entry.transaction_id, entry.outcome) == (b.meter.signed[-1].text, "", Outcome.VALID)


@pytest.mark.parametrize("fate", ["closed", "closed-late"])
@virtual
async def test_receipt_of_a_cut_transaction_is_kept_without_a_stop(fate: str, path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(fated(fate), journal=journal) as b:
        await start(b, "A", for_s=2)
        b.meter.power_cycle(off_s=2, boot_s=3)
        await asyncio.sleep(60)
        assert whose(path) == [("T1", "A", False)]


@virtual
async def test_found_receipt_is_returned_if_it_belongs_to_a_stop(path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(fated("closed")) as b:
        await start(b, "A", for_s=3)
        b.meter.power_cycle(off_s=1, boot_s=1)
        async with process(b, journal) as (made, _):
            await asyncio.sleep(20)
            assert whose(path) == [("T1", "", True)]
            await own_receipt(made, "A")
            await asyncio.sleep(10)
        assert whose(path) == [("T1", "A", False)]
