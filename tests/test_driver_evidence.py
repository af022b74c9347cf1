"""Evidence that looks like more than it is, and evidence of a process before: what a stop makes of either."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import Answer, SimulatorOptions
from tests.support.bench import SECRET, SERIAL, Bench, bench, request
from tests.support.journals import virtual_journal
from tests.support.virtual_time import virtual
from tests.test_driver_journal import driver
from tests.test_driver_start import receipt_of
from tests.test_driver_whose import live

if TYPE_CHECKING:
    from pathlib import Path

OK = TransactionRequestStatus.OK
UNEXPECTED_ERROR = TransactionRequestStatus.UNEXPECTED_ERROR
SOON_S = 30.0
"""Half of what a stop may take: it has not waited for its deadline."""


def answered_by_another(b: Bench) -> None:
    """Have the next E answered 200 and not acted on, as by a meter that is there for a moment."""
    handle = b.meter.handle

    def not_acted_on(method: str, path: str, body: bytes = b"") -> Answer:
        if (method, json.loads(body or b"{}")) == ("POST", {"TX": "E"}):
            b.meter.handle = handle  # type: ignore[method-assign]
            return Answer(200, b"")
        return handle(method, path, body)

    b.meter.handle = not_acted_on  # type: ignore[method-assign]


@virtual
async def test_an_end_that_was_answered_and_ended_nothing_is_sent_again() -> None:
    async with bench() as b:
        await live(b)
        assert (await b.driver.start_transaction(request("A"))).status is OK
        await asyncio.sleep(2)
        answered_by_another(b)
        assert receipt_of(await b.driver.stop_transaction("A")).identification == "04ABA"
        assert b.meter.state.opened is None


@virtual
async def test_a_start_waits_for_the_receipt_of_what_was_ended_by_hand() -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, transaction_lag_s=2.0, receipt_in_transaction="empty")
    async with bench(options) as b:
        await live(b)
        assert (await b.driver.start_transaction(request("A"))).status is OK
        await asyncio.sleep(5)
        assert b.meter.handle("POST", "/counter/v1/ocmf/receipt", b'{"TX": "E"}').status == 200
        assert (await b.driver.start_transaction(request("B"))).status is OK
        assert receipt_of(await b.driver.stop_transaction("A")).identification == "04ABA"
        assert receipt_of(await b.driver.stop_transaction("B")).identification == "04ABB"


async def ended_by_hand_while_unknown(b: Bench) -> None:
    """Have a transaction run that the driver has seen, and has not begun. It is ended, and being signed."""
    await live(b)
    assert b.meter.handle("POST", "/counter/v1/ocmf/receipt", b'{"TX": "B"}').status == 200
    await asyncio.sleep(3)
    assert b.meter.handle("POST", "/counter/v1/ocmf/receipt", b'{"TX": "E"}').status == 200


SPOILED_BY_A_BEGIN = SimulatorOptions(
    MS=SERIAL, private_key=SECRET, signing_delay_s=3.0, begin_spoils_signature=True,
    receipt_while_signing="previous", receipt_in_transaction="previous",
)  # fmt: skip


@virtual
async def test_a_start_waits_for_the_receipt_of_what_ran_unknown_to_the_driver() -> None:
    async with bench(SPOILED_BY_A_BEGIN) as b:
        await ended_by_hand_while_unknown(b)
        assert (await b.driver.start_transaction(request("A"))).status is OK
        assert len(b.meter.signed) == 1
        assert receipt_of(await b.driver.stop_transaction("A")).identification == "04ABA"


@virtual
async def test_an_unknown_id_gets_the_receipt_of_what_ran_last_and_not_the_one_before() -> None:
    async with bench(SPOILED_BY_A_BEGIN) as b:
        await live(b)
        assert (await b.driver.start_transaction(request("A"))).status is OK
        before = receipt_of(await b.driver.stop_transaction("A"))
        await asyncio.sleep(30)
        await ended_by_hand_while_unknown(b)
        assert receipt_of(await b.driver.stop_transaction("another")).text == b.meter.signed[-1].text != before.text


@virtual
async def test_the_stop_of_a_refused_start_ends_what_nobody_began() -> None:
    async with bench() as b:
        await live(b)
        assert b.meter.handle("POST", "/counter/v1/ocmf/receipt", b'{"TX": "B"}').status == 200
        await asyncio.sleep(2)
        refused = await b.driver.start_transaction(request("A", evse_id="DE*ANOTHER*E1"))
        assert refused.status is TransactionRequestStatus.NOT_SUPPORTED
        assert (await b.driver.stop_transaction("A")).status is UNEXPECTED_ERROR
        assert b.meter.state.opened is None


@virtual
async def test_after_a_power_up_a_stop_does_not_wait_for_a_receipt_that_may_be_lost() -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, open_at_power_cut="lost", idle_end="accept")
    async with bench(options) as b:
        await live(b)
        assert (await b.driver.start_transaction(request("A"))).status is OK
        b.meter.power_cycle(0.5, 0.5)
        await asyncio.sleep(5)
        began_s = asyncio.get_running_loop().time()
        assert (await b.driver.stop_transaction("A")).status is UNEXPECTED_ERROR
        assert asyncio.get_running_loop().time() - began_s < SOON_S


@pytest.mark.parametrize("transaction_id", ["X-9", ""])
@virtual
async def test_after_a_restart_an_unknown_id_gets_the_last_receipt_that_the_journal_knows_too(
    tmp_path: Path, transaction_id: str
) -> None:
    async with virtual_journal(tmp_path / "receipts.db") as journal, bench(journal=journal) as b:
        await live(b)
        assert (await b.driver.start_transaction(request("A"))).status is OK
        text = receipt_of(await b.driver.stop_transaction("A")).text
        async with driver(b, journal) as (second, _):
            await asyncio.sleep(3)
            assert receipt_of(await second.stop_transaction(transaction_id)).text == text


@virtual
async def test_a_receipt_from_the_journal_comes_with_the_key_of_the_meter_that_signed_it(tmp_path: Path) -> None:
    async with virtual_journal(tmp_path / "receipts.db") as journal, bench(journal=journal) as b:
        await live(b)
        assert (await b.driver.start_transaction(request("A"))).status is OK
        before = (await b.driver.stop_transaction("A")).signed_meter_value
        assert before is not None
        assert before.public_key
        b.meter.power_cycle(off_s=1000.0, boot_s=5.0)
        async with driver(b, journal) as (second, _):
            after = (await second.stop_transaction("A")).signed_meter_value
            assert after == before
