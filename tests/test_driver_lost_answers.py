"""Lost answers: a start or stop still succeeds, nothing is begun or ended twice, nothing runs unknown."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import TYPE_CHECKING, cast

import pytest

from iem_dcr.simulator import Fault
from tests.support.bench import Bench, meter_options
from tests.support.driving import (
    end_by_hand,
    live_bench,
    own_receipt,
    start,
    start_fails,
)
from tests.support.stories import Story
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path

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
async def test_start_with_a_lost_answer_succeeds(node: str, kind: str, count: int, repeated: str) -> None:
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
async def test_stop_with_a_lost_answer_succeeds(kind: str, count: int, repeated: str) -> None:
    async with live_bench(meter_options(**REPEATED[repeated]), resilience_transaction_request_retries=0) as b:
        await start(b)
        b.meter.faults.add(fault(kind, "/receipt", count))
        await own_receipt(b)
        assert (b.meter.state.begun, b.meter.state.ended) == (1, 1)


STORIES = [
    Story(
        "B is sent again only after E and /user",
        "after /user 'lose-request POST /receipt'; start A;"
        "posted /receipt /user /receipt /receipt /user /receipt; begun 1 0",
    ),
    Story(
        "a lost answer is not counted as a retry",
        "after /user 'lose-request POST /receipt' 'refuse POST /receipt count=0'; start A fails; requests POST /user 4",
        settings={"resilience_transaction_request_retries": 2},
    ),
    *(
        Story(
            f"a receipt is fetched in spite of faults, {kind} at {node}",
            f"start A; fault {kind} GET {node} count=5; {other}; stop A last",
            settings={"command_timeout_ms": 1000},
        )
        for kind in ("lose-answer", "stall", "garbage", "garbage-http", "server-error", "reset")
        for node, other in (("/receipt", "runs"), ("/transaction", "fault refuse GET /receipt count=0"))
    ),
]


@pytest.mark.parametrize("story", STORIES, ids=str)
@virtual
async def test_lost_answers(story: Story, path: Path) -> None:
    await story.tell(path)


@pytest.mark.parametrize("is_over", [False, True])
@virtual
async def test_transaction_of_an_unanswered_begin_is_ended_before_the_next_begin(*, is_over: bool) -> None:
    async with live_bench() as b:
        starting = await in_doubt(b)
        if is_over:
            end_by_hand(b)
        await starting
        assert (b.meter.state.begun, b.meter.state.ended) == (2, 1)
        assert b.requests("POST", "/user") == 2
        assert (await own_receipt(b)).pagination == "T2"


@pytest.mark.parametrize("kind", ["lose-answer", "stall acting", "server-error acting"])
@virtual
async def test_failed_start_leaves_nothing_running(kind: str, caplog: pytest.LogCaptureFixture) -> None:
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


@virtual
async def test_transaction_of_an_unanswered_begin_is_ended_at_a_meter_in_error() -> None:
    async with live_bench() as b:
        b.once_done("POST", "/user", fault("lose-answer", "/receipt"))
        starting = asyncio.create_task(start_fails(b))
        while not b.meter.running:
            await asyncio.sleep(0)
        b.meter.configure(XC="0x0000, 0x00000010, 0x00, 0x00")
        await starting
        assert (b.meter.state.begun, b.meter.state.ended) == (1, 1)
        await own_receipt(b)
