"""Lost answers: a start or stop still succeeds, nothing is begun or ended twice, nothing runs unknown."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, cast

import pytest

from iem_dcr.simulator import Fault
from tests.support.bench import meter_options
from tests.support.driving import (
    live_bench,
    own_receipt,
    start,
)
from tests.support.stories import Story, stories
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


STORIES = stories("""
B is sent again only after E and /user
    upon /user fault lose-request POST /receipt; start A; posted /receipt /user /receipt /receipt /user /receipt;
    begun 1 0
a lost answer is not counted as a retry
    driver resilience_transaction_request_retries=2; upon /user fault lose-request POST /receipt;
    upon /user fault refuse POST /receipt count=0; start A fails; requests POST /user 4
the transaction of an unanswered B is ended before the next B
    upon /user fault lose-answer POST /receipt; start A; begun 2 1; requests POST /user 2; stop A T2
the transaction of an unanswered B is over before the next B
    upon /user fault lose-answer POST /receipt; upon /user upon /receipt hand end; start A; begun 2 1;
    requests POST /user 2; stop A T2
the transaction of an unanswered B is ended at a meter in error
    upon /user fault lose-answer POST /receipt;
    upon /user upon /receipt configure 'XC=0x0000, 0x00000010, 0x00, 0x00'; start A fails; begun 1 1; stop A
a failed start leaves nothing running: [lose-answer|stall acts=true|server-error acts=true]
    driver command_timeout_ms=1000; upon /user fault $1 POST /receipt; upon /user fault refuse /gw count=0;
    start A fails; begun 1 0; heal; wait 15; begun 1 1; stop A
fetched in spite of faults at /receipt: [lose-answer|stall|garbage|garbage-http|server-error|reset]
    driver command_timeout_ms=1000; start A; fault $1 GET /receipt count=5; stop A last
fetched in spite of faults at /transaction: [lose-answer|stall|garbage|garbage-http|server-error|reset]
    driver command_timeout_ms=1000; start A; fault $1 GET /transaction count=5; fault refuse GET /receipt count=0;
    stop A last
""")


@pytest.mark.parametrize("story", STORIES, ids=str)
@virtual
async def test_lost_answers(story: Story, path: Path) -> None:
    await story.tell(path)
