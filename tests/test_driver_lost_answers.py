"""Lost answers: a start or stop still succeeds, nothing is begun or ended twice, nothing runs unknown."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import TYPE_CHECKING, cast

import pytest

from iem_dcr.simulator import Fault
from tests.support.bench import CI, Bench, meter_options
from tests.support.driving import (
    FOR_GOOD,
    end_by_hand,
    fated,
    live_bench,
    own_receipt,
    start,
    start_fails,
)
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from iem_dcr.simulator import FaultKind

KINDS = (
    *("lose-answer", "drip", "garbage-http", "wrong-length", "lose-request", "reset"),
    *("stall", "stall acting", "server-error", "server-error acting"),
)
REPEATED = {
    "refuses": {"idle_end": "refuse", "second_begin": "refuse"},
    "accepts": {"idle_end": "accept", "second_begin": "ignore"},
}
"""What a meter does with an E and a B that come once more."""
HOW_OFTEN = itertools.cycle(itertools.product((1, 2), REPEATED))


def fault(kind: str, node: str, count: int = 1) -> Fault:
    name, _, acting = kind.partition(" ")
    return Fault(cast("FaultKind", name), node=node, method="POST", count=count, acts=bool(acting))


async def in_doubt(b: Bench) -> asyncio.Task[None]:
    """Return a start whose B was acted on just now, and whose answer will be lost."""
    b.once_done("POST", "/user", fault("lose-answer", "/receipt"))
    starting = asyncio.create_task(start(b))
    while not b.meter.running:
        await asyncio.sleep(0)
    return starting


LOST = [(kind, *often) for kind, often in zip(2 * KINDS, HOW_OFTEN, strict=False)]
"""Each kind twice: once or twice in a row, at one meter and at the other."""


@pytest.mark.parametrize(("kind", "count", "repeated"), LOST)
@pytest.mark.parametrize("node", ["/user", "/receipt"])
@virtual
async def test_a_start_whose_answer_was_lost_succeeds(node: str, kind: str, count: int, repeated: str) -> None:
    async with live_bench(meter_options(**REPEATED[repeated]), resilience_transaction_request_retries=0) as b:
        if node == "/user":
            b.meter.faults.add(fault(kind, node, count))
        else:
            b.once_done("POST", "/user", fault(kind, node, count))
        await start(b)
        assert b.meter.running
        await own_receipt(b)
        assert b.meter.state.begun == b.meter.state.ended <= 2


@pytest.mark.parametrize(("kind", "count", "repeated"), LOST)
@virtual
async def test_a_stop_whose_answer_was_lost_succeeds(kind: str, count: int, repeated: str) -> None:
    async with live_bench(meter_options(**REPEATED[repeated]), resilience_transaction_request_retries=0) as b:
        await start(b)
        b.meter.faults.add(fault(kind, "/receipt", count))
        await own_receipt(b)
        assert (b.meter.state.begun, b.meter.state.ended) == (1, 1)


@virtual
async def test_b_is_sent_again_only_after_e_and_a_user() -> None:
    async with live_bench() as b:
        b.once_done("POST", "/user", fault("lose-request", "/receipt"))
        await start(b)
        assert b.posts()[-6:] == ["/receipt", "/user", "/receipt"] * 2
        assert b.meter.state.begun == 1


@pytest.mark.parametrize("is_over", [False, True])
@virtual
async def test_what_a_b_in_doubt_began_is_ended_and_its_receipt_is_not_the_next_ones(*, is_over: bool) -> None:
    async with live_bench() as b:
        starting = await in_doubt(b)
        if is_over:
            end_by_hand(b)
        await starting
        assert (b.meter.state.begun, b.meter.state.ended) == (2, 1)
        assert b.requests("POST", "/user") == 2
        assert (await own_receipt(b)).pagination == "T2"


@virtual
async def test_a_lost_answer_takes_none_of_the_configured_retries() -> None:
    async with live_bench(resilience_transaction_request_retries=2) as b:
        refused = Fault("refuse", node="/receipt", method="POST", count=1000)
        b.once_done("POST", "/user", fault("lose-request", "/receipt"), refused)
        await start_fails(b)
        assert b.requests("POST", "/user") == 1 + 3


@pytest.mark.parametrize("kind", ["lose-answer", "stall acting", "server-error acting"])
@virtual
async def test_a_start_that_failed_in_doubt_leaves_nothing_running(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "iem_dcr.driver")
    async with live_bench(command_timeout_ms=1000) as b:
        b.once_done("POST", "/user", fault(kind, "/receipt"), Fault("refuse", node="/gw", count=1000))
        await start_fails(b)
        assert (b.meter.state.begun, b.meter.state.ended) == (1, 0)
        b.meter.faults.clear()
        await asyncio.sleep(15)
        assert (b.meter.state.begun, b.meter.state.ended) == (1, 1)
        assert "a transaction that the station does not want may run" in caplog.text
        await own_receipt(b)


@pytest.mark.parametrize("signing_s", [0.12, 2.0])
@virtual
async def test_a_power_cycle_while_b_is_in_doubt_begins_everything_anew(signing_s: float) -> None:
    async with live_bench(meter_options(receipt_while_signing="previous", signing_delay_s=signing_s)) as b:
        starting = await in_doubt(b)
        b.meter.power_cycle(off_s=0.5, boot_s=1)
        await starting
        assert [record.TX for record in b.meter.signed] == ["P"]
        receipt = await own_receipt(b)
        assert receipt.pagination == "T2"
        assert f'"CI":"{CI}"' in receipt.text


@virtual
async def test_what_a_b_in_doubt_began_is_ended_at_a_meter_that_is_in_error_since() -> None:
    async with live_bench() as b:
        b.once_done("POST", "/user", fault("lose-answer", "/receipt"))
        starting = asyncio.create_task(start_fails(b))
        while not b.meter.running:
            await asyncio.sleep(0)
        b.meter.configure(XC="0x0000, 0x00000010, 0x00, 0x00")
        await starting
        assert (b.meter.state.begun, b.meter.state.ended) == (1, 1)
        await own_receipt(b)


@virtual
async def test_a_b_in_doubt_that_runs_on_after_a_power_cut_is_ended_although_the_start_could_not() -> None:
    async with live_bench(fated("running")) as b:
        b.once_done("POST", "/user", fault("lose-answer", "/receipt"))
        starting = asyncio.create_task(start_fails(b))
        while not b.meter.running:
            await asyncio.sleep(0)
        b.meter.power_cycle(off_s=0.5, boot_s=1)
        b.meter.set_load(50, 400)
        assert b.driver.address in await starting
        assert b.meter.running
        b.meter.clear_load()
        await asyncio.sleep(15)
        assert (b.meter.state.begun, b.meter.state.ended) == (1, 1)
        await own_receipt(b)


@pytest.mark.parametrize("kind", ["lose-answer", "stall", "garbage", "garbage-http", "server-error", "reset"])
@pytest.mark.parametrize("where", ["/receipt", "/transaction"])
@virtual
async def test_a_receipt_whose_way_is_disturbed_still_comes(kind: str, where: str) -> None:
    async with live_bench(command_timeout_ms=1000) as b:
        await start(b)
        b.meter.faults.add(Fault(cast("FaultKind", kind), node=where, method="GET", count=5))
        if where == "/transaction":
            b.meter.faults.add(Fault("refuse", node="/receipt", method="GET", count=FOR_GOOD))
        assert (await own_receipt(b)).text == b.meter.signed[-1].text
