"""Whose a receipt is, told at the meter: transactions lost, in doubt, cut short, replaced, or of one card."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from iem_dcr.driver.timing import now_s
from iem_dcr.simulator import Answer, Fault
from tests.support.bench import meter_options
from tests.support.driving import (
    FOR_GOOD,
    Sink,
    begin_by_hand,
    changed_answers,
    end_by_hand,
    fated,
    live_bench,
    own_receipt,
    start,
    start_elsewhere,
    start_fails,
    stop,
    stop_fails,
)
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from tests.support.bench import Bench

CARD: dict[str, Any] = {"identification_data": "04ABCD"}


def unreadable(node: str = "/transaction", count: int = FOR_GOOD) -> Fault:
    return Fault("refuse", node=node, method="GET", status=503, count=count)


def kept_by(sink: Sink) -> set[tuple[str | None, str]]:
    return {(kept.receipt.pagination, kept.transaction_id) for kept in sink.kept}


# --- a receipt that is late, or could not be read ---


@virtual
async def test_a_late_receipt_is_kept_before_the_next_session_takes_its_place() -> None:
    async with live_bench(fated("closed-late", late_close_s=40.0)) as b:
        await start(b, "A")
        b.meter.power_cycle(off_s=1, boot_s=1)
        assert "no receipt for this transaction" in await stop_fails(b, "A")
        await asyncio.sleep(40 - 15)
        await start(b, "B")
        await own_receipt(b, "A")
        await own_receipt(b, "B")


@virtual
async def test_a_clock_that_leapt_before_b_is_seen_by_gw_where_live_values_have_no_time() -> None:
    async with live_bench(meter_options(missing=("TM",))) as b:

        def leap(method: str, node: str, answer: Answer) -> Answer:
            if (method, node) == ("POST", "user"):
                b.meter.shift_clock(-30.0)
            return answer

        changed_answers(b, leap)
        await start(b)
        await own_receipt(b)


@virtual
async def test_a_node_that_did_not_answer_is_asked_again_at_the_next_look() -> None:
    async with live_bench(meter_options(signing_delay_s=0.0)) as b:
        await start(b, for_s=2.5)
        b.meter.faults.add(Fault("refuse", node="/receipt", method="GET", count=1000), unreadable(count=1))
        before_s = now_s()
        await own_receipt(b)
        assert now_s() - before_s < 0.09


# --- two transactions of one card ---


@virtual
async def test_the_same_card_twice_gets_two_receipts_also_where_the_last_tuple_cannot_be_read() -> None:
    async with live_bench(meter_options(signing_delay_s=1.0, receipt_while_signing="previous")) as b:
        b.meter.faults.add(unreadable())
        for name, PG in (("A", "T1"), ("B", "T2")):
            await start(b, name, **CARD)
            assert (await stop(b, name)).pagination == PG
            b.meter.faults.add(Fault("lose-request", node="/metervalue"))
            await asyncio.sleep(12)


# --- starts in doubt ---


@virtual
async def test_the_stop_of_an_older_transaction_does_not_end_the_watch_for_one_in_doubt() -> None:
    async with live_bench(fated("closed"), command_timeout_ms=1000) as b:
        await start(b, "A", for_s=3)
        b.meter.faults.add(unreadable())
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(10)
        lost = Fault("lose-answer", node="/receipt", method="POST")
        b.once_done("POST", "/user", lost, Fault("refuse", node="/gw", count=1000))
        await start_fails(b, "B")
        assert b.meter.running
        b.meter.faults.clear()
        await own_receipt(b, "A")
        await asyncio.sleep(15)
        assert not b.meter.running


# --- a stranger's in the place of ours ---


@pytest.mark.parametrize("follows_s", [10.0, 1000.0])
@virtual
async def test_a_new_receipt_of_a_strangers_may_be_followed_by_the_right_one_for_fifteen_seconds(
    follows_s: float,
) -> None:
    async with live_bench(verify_receipts=False) as b:
        await start(b)
        asked_s = now_s()

        def at_first_a_strangers(_method: str, _node: str, answer: Answer) -> Answer:
            body = answer.body if now_s() >= asked_s + follows_s else answer.body.replace(b"04ABT-1", b"SOMEBODY")
            return Answer(answer.status, body, answer.content_type)

        changed_answers(b, at_first_a_strangers)
        if follows_s > 15:
            await stop_fails(b)
            assert not b.meter.running
        else:
            await own_receipt(b)
            assert follows_s < now_s() - asked_s < follows_s + 1.0


async def replaced(b: Bench) -> None:
    """Begin a transaction, and have a stranger's take its place between two looks of the driver's."""
    await start(b)
    end_by_hand(b)
    b.meter.configure(signing_delay_s=0.0)
    await asyncio.sleep(0.2)
    begin_by_hand(b, "SOMEBODY")


@pytest.mark.parametrize("is_over", [False, True])
@virtual
async def test_the_receipt_of_one_that_took_its_place_is_kept_without_an_owner(*, is_over: bool) -> None:
    sink = Sink()
    async with live_bench(sink=sink) as b:
        await replaced(b)
        if is_over:
            end_by_hand(b)
        for _ in range(2):
            await stop_fails(b)
        assert not b.meter.running
        await start(b, "T-2")
        await own_receipt(b, "T-2")
    assert kept_by(sink) == {("T2", ""), ("T3", "T-2")}


@virtual
async def test_what_took_the_place_of_an_unwanted_one_is_left_alone() -> None:
    sink = Sink()
    async with live_bench(sink=sink, command_timeout_ms=1000) as b:
        b.once_done("POST", "/user", Fault("lose-answer", node="/receipt", method="POST"))
        starting = asyncio.create_task(start_fails(b))
        while b.meter.state.begun == 0:
            await asyncio.sleep(0.001)
        b.meter.faults.add(Fault("refuse", node="/gw", count=1000), Fault("refuse", node="/metervalue", count=1000))
        await starting
        b.meter.configure(signing_delay_s=0.0)
        end_by_hand(b)
        begin_by_hand(b, "SOMEBODY")
        b.meter.faults.clear()
        await asyncio.sleep(15)
        assert b.meter.running
        await own_receipt(b)
    assert kept_by(sink) == {("T1", "T-1")}


# --- ids used again ---


@virtual
async def test_a_start_that_is_refused_does_not_take_the_receipt_that_its_id_had_before() -> None:
    async with live_bench() as b:
        await start(b, "A")
        await own_receipt(b, "A")
        await start_elsewhere(b, "A")
        await start(b, "B")
        await own_receipt(b, "A")
        assert b.meter.running
