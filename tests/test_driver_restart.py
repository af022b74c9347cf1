"""A process after another: what the next one knows of transactions, receipts and refused ids."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from iem_dcr.ocmf import Outcome
from iem_dcr.simulator import Fault
from tests.support.driving import (
    FOR_GOOD,
    live_bench,
    own_receipt,
    process,
    start,
    start_fails,
    stop_driver,
)
from tests.support.journals import entries, virtual_journal
from tests.support.stories import Story, stories
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path


STORIES = stories("""
the next process knows the transaction
    journal; start A; wait 1; restart; stop B of A; stop A; wait 10; kept T1:A
a receipt of a transaction that ended between processes is kept under its id
    journal; start A; wait 1; halt; hand end; wait 1; hand begin; restart strict_transaction_ids=true; stop A; runs;
    stop B T2; stop A; kept T1:A T2:B
older ids get their receipts, also at a silent or exchanged meter
    journal; start A; stop A; start B; stop B; start C; restart; stop A quietly; stop B quietly; runs;
    fault reset count=0; restart; stop A; heal; exchange; restart; wait 3; stop A
the previous receipt, which is shown until the new one is signed, is not returned
    meter receipt_while_signing=previous signing_delay_s=2.0; start A; wait 2; stop A; start B; wait 2;
    fault garbage /transaction count=0; restart; stop B
the previous receipt, which is in the journal, is not returned
    journal; meter receipt_while_signing=previous signing_delay_s=2.0; start A; wait 2; stop A; start B; wait 2;
    fault garbage /transaction count=0; restart; stop B
an id used again gets no older receipt
    journal; start A; stop A; start A; wait 2; halt; restart; stop A T2
an id used again gets no older receipt if its transaction is lost
    journal; meter open_at_power_cut=lost; start A; stop A; start A; wait 2; halt; cut 1 1; restart; stop A fails
a refused id is remembered: [/receipt|/user]
    journal; fault refuse POST $1 count=0; start A fails; heal; hand begin; restart; stop A fails; runs; stop '' T1
a receipt is kept without a stop: [closed|closed-late]
    journal; meter open_at_power_cut=$1 late_close_s=8.0; start A; wait 2; cut 2 3; wait 60; kept T1:A
a receipt found at the start is kept once, without an owner
    hand session; wait 1; restart with journal; wait 2; kept T1:; restart with journal; wait 2; kept T1:
a receipt found after a fault is kept without an owner
    journal; start A; stop A; fault refuse /metervalue count=5; wait 1; hand session; wait 20; raised 1; kept T1:A T2:
a found receipt is returned if it belongs to a stop
    meter open_at_power_cut=closed; start A; wait 3; cut 1 1; restart with journal; wait 20; kept T1:; stop A; wait 10;
    kept T1:A
""")


@pytest.mark.parametrize("story", STORIES, ids=str)
@virtual
async def test_restart(story: Story, path: Path) -> None:
    await story.tell(path)


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
        assert [(entry.pagination, entry.transaction_id) for entry in entries(path)] == [("T1", "A")]
