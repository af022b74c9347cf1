"""Starting a transaction: what is sent, what is refused, what happens to one that still runs."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

import pytest

from iem_dcr.errors import JournalError
from iem_dcr.simulator import Answer, Fault
from tests.support.bench import CI, Bench, meter_options
from tests.support.driving import (
    SPOILED_BY_A_BEGIN,
    UNEXPECTED_ERROR,
    begin_by_hand,
    live_bench,
    start,
    start_fails,
    stop,
)
from tests.support.stories import Story, stories
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path


def at_the_meter(b: Bench, since: int) -> list[tuple[str, str]]:
    return [(entry.method, entry.node) for entry in list(b.meter.requests)[since:]]


STALLED_B = "wait 0.1; upon /user fault stall POST /receipt delay_s=2 acts=true"
STORIES = stories("""
six requests
    start A; stop A; start B;
    asked 'GET /gw' 'GET /metervalue' 'GET /transaction' 'POST /receipt' 'POST /user' 'POST /receipt'
a start sets up the meter
    unseen; start A; posted /gw /receipt /user /receipt
tried as often as configured if /user is refused
    driver resilience_transaction_request_retries=2; fault refuse POST /user count=2; start A; wait 4; stop A;
    fault refuse POST /user count=3; start B fails 'POST /user: refused with status 428'; idle;
    stop B fails refused quietly
tried as often as configured if B is refused; E goes to the same node
    driver resilience_transaction_request_retries=2; fault refuse POST /receipt count=4; start A; wait 4; stop A;
    fault refuse POST /receipt count=6; start B fails 'POST /receipt: refused with status 428'; idle;
    stop B fails refused quietly
a current is named
    unseen; load 12; start A fails 'current of 12.0 A' {meter}; begun 0 0
a silent meter
    unseen; cut 1000 1; start A fails 'does not answer' {meter} 25..30.1; stop A fails quietly
a meter that boots is awaited
    unseen; cut 20 5; start A 24..30; wait 1.5; stop A
a failed reading does not fail a start
    upon /user fault refuse /metervalue; start A
an error level is passed on with a warning: [MISMATCH|INVALID|OUTDATED|UNKNOWN]
    start A identification_level=$1; stop A; shows '"IL":"$1"'; logged 1 'identification level $1'
only the charge point of the meter is supported
    start A unsupported DE*TST*E0001*1 DE*PNX*E1234567*1 evse_id=DE*PNX*E1234567*1 quietly; start A
a charge point that is frozen is named, for [FROZEN-2|DE*TST*E0001*1]
    unseen; post gw CT=EVSEID CI=FROZEN TM=2026-03-01T13:00:00,000+0100; live; start A unsupported FROZEN evse_id=$1;
    requests POST /user 0; start A evse_id=FROZEN
a meter in error is not supported
    configure 'XC=0x0000, 0x00000000, 0x80, 0x00'; start A unsupported 0x80
a meter in error fails a start, as configured
    driver refuse_start_with_error=true; configure 'XC=0x0000, 0x00000000, 0x80, 0x00'; start A fails 0x80
without pagination transactions begin in different seconds
    meter PG=missing signing_delay_s=0.0; start A identification_data=04SAME; stop A last;
    start B identification_data=04SAME; stop B last; signed 04SAME 04SAME
an id that cannot be signed is refused
    wait 0.5; start A fails ASCII identification_data=04ÄB silently; stop A fails refused quietly

# what still runs
ours is ended and its receipt kept
    start A; wait 3; start B; begun 2 1; stop A; runs; stop B
another client's is ended
    hand begin; start A; signed -; stop A
the receipt of one that was ended is awaited
    meter transaction_lag_s=2.0 receipt_in_transaction=empty; start A; wait 5; hand end; start B; stop A; stop B
the receipt of another client is awaited
    meter spoiled; hand begin; wait 3; hand end; start A; signed -; stop A

# the same start again
sends nothing
    start A; start A silently; begun 1 0
is not OK at once after a stop that failed at a silent meter
    start A; wait 3; upon /receipt fault stall count=0; stop A fails; start A fails
begins again if its transaction was cut and [closed|lost]
    meter open_at_power_cut=$1; start A; cut 0.5 0.5; wait 5; idle; start A; runs
sends nothing if its transaction goes on after a power cut
    meter open_at_power_cut=running; start A; cut 0.5 0.5; wait 5; runs; start A quietly; stop A
keeps the transaction after a failed stop
    driver stop_current_wait_ms=0; start A; load 50; stop A fails; start A; load 0; wait 15; runs

# starts that are given up
abandoned: nothing runs
    fault stall /user delay_s=2; abandon 0.5 start A; wait 15; idle
abandoned and sent again: it runs
    wait 0.1; upon /user fault stall POST /receipt delay_s=2 acts=true; abandon 0.5 start A; start A; wait 15; runs
cut short by the end of a run: the next run ends it
    wait 0.1; upon /user fault stall POST /receipt delay_s=2 acts=true; later 0 start A fails stopping; wait 0.5; runs;
    rerun; begun 1 1
""")


@pytest.mark.parametrize("story", STORIES, ids=str)
@virtual
async def test_start(story: Story, path: Path) -> None:
    await story.tell(path)


# --- what is sent ---


@pytest.mark.parametrize(
    ("fields", "settings", "signed"),
    [
        ({}, {}, '"IS":true,"IL":"NONE","IF":[],"IT":"ISO14443","ID":"04ABT-1"'),
        ({"identification_status": "NOT_ASSIGNED"}, {}, '"IS":false,'),
        ({}, {"IL_default": "TRUSTED"}, '"IL":"TRUSTED"'),
        ({"identification_level": "SECURE"}, {"IL_default": "TRUSTED"}, '"IL":"SECURE"'),
        ({"identification_flags": ["RFID_PSK", "OCPP_AUTH"]}, {}, '"IF":["RFID_PSK","OCPP_AUTH"]'),
        ({"identification_type": "EMAID", "identification_data": "DE8AA1A2B3C4D5"}, {}, '"ID":"DE8AA1A2B3C4D5"'),
        ({"identification_data": ""}, {}, '"ID":"T-1"'),
        ({"tariff_text": "0,79 €/kWh"}, {}, '"TT":"0,79 EUR/kWh"'),
        ({"tariff_text": "x" * 300}, {}, '"TT":"' + "x" * 250 + '"'),
        ({"tariff_text": ""}, {"TT_initial": "0,59"}, '"TT":"0,59"'),
    ],
)
@virtual
async def test_what_is_signed(fields: dict[str, Any], settings: dict[str, Any], signed: str) -> None:
    async with live_bench(**settings) as b:
        await start(b, **fields)
        text = (await stop(b, "T-1")).text
        assert signed in text
        assert f'"CI":"{CI}"' in text


@pytest.mark.parametrize("is_shown", [False, True])
@virtual
async def test_us_says_whether_the_meter_shows_the_id(*, is_shown: bool) -> None:
    bodies: list[dict[str, object]] = []
    async with live_bench(US=is_shown) as b:
        handle = b.meter.handle

        def noted(method: str, path: str, body: bytes = b"") -> Answer:
            if path.endswith("/user"):
                bodies.append(json.loads(body))
            return handle(method, path, body)

        b.meter.handle = noted  # type: ignore[method-assign]  # the meter of this test
        await start(b)
    assert [body["US"] for body in bodies] == [is_shown]


@virtual
async def test_ids_are_shortened_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with live_bench() as b:
        await start(b, "A", identification_data="0123456789ABCDEF")
        b.meter.faults.add(Fault("refuse", node="/user", body="bad user 04AB99887766", count=10))
        assert "POST /user" in await start_fails(b, "B", identification_data="04AB99887766")
    assert "01…(16)" in caplog.text
    assert "POST /user" in caplog.text
    for ID in ("0123456789ABCDEF", "04AB99887766"):
        assert ID not in caplog.text


# --- what is refused ---


@virtual
async def test_unreadable_commands_are_refused() -> None:
    async with live_bench() as b:
        values: tuple[object, ...] = (None, [], {}, {"transaction_id": "X"}, {"transaction_id": "X", "evse_id": 7})
        for value in values:
            assert (await b.driver.start_from_json(value)).status is UNEXPECTED_ERROR
        assert "refused" in (await b.driver.stop_from_json("X")).error
        assert (await b.driver.stop_from_json(7)).status is UNEXPECTED_ERROR


@pytest.mark.parametrize("unseen_because", ["the journal is not read", "the values stand still"])
@virtual
async def test_start_that_ended_an_unseen_transaction_waits_for_its_receipt(unseen_because: str) -> None:
    journal = AsyncMock()
    if "journal" in unseen_because:
        journal.recall.side_effect = JournalError("made by a test")
    async with live_bench(meter_options(**SPOILED_BY_A_BEGIN, begin_shows_after_s=5.0), journal=journal) as b:
        b.meter.configure(frozen="values" in unseen_because)
        await asyncio.sleep(12)
        begin_by_hand(b)
        await start(b, "A")
        assert len(b.meter.signed) == 1


@virtual
async def test_start_abandoned_at_its_answer_leaves_nothing_running(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "iem_dcr.driver")
    async with live_bench() as b:
        caller = asyncio.create_task(start(b))

        class GiveUp(logging.Handler):
            """What is logged last before the answer is given has the caller give up."""

            def emit(self, record: logging.LogRecord) -> None:
                if "begun for" in record.getMessage():
                    caller.cancel()

        log, handler = logging.getLogger("iem_dcr.driver"), GiveUp()
        log.addHandler(handler)
        with pytest.raises(asyncio.CancelledError):
            await caller
        log.removeHandler(handler)
        await asyncio.sleep(15)
        assert (b.meter.state.begun, b.meter.state.ended) == (1, 1)
