"""Starting a transaction: what is sent, what is refused, what happens to one that still runs."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

import pytest

from iem_dcr import ocmf
from iem_dcr.errors import JournalError
from iem_dcr.simulator import Answer, Fault
from tests.support.bench import CI, Bench, bench, meter_options, request
from tests.support.driving import (
    NOT_SUPPORTED,
    SPOILED_BY_A_BEGIN,
    UNEXPECTED_ERROR,
    begin_by_hand,
    live_bench,
    own_receipt,
    post,
    start,
    start_fails,
    stop,
)
from tests.support.stories import Story
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path

    from iem_dcr.powermeter import TransactionRequestStatus


def at_the_meter(b: Bench, since: int) -> list[tuple[str, str]]:
    return [(entry.method, entry.node) for entry in list(b.meter.requests)[since:]]


STALLED_B = "wait 0.1; upon /user fault stall POST /receipt delay_s=2 acts=true"
STORIES = [
    Story("a start sets up the meter", "unseen; start A; posted /gw /receipt /user /receipt"),
    *(
        Story(
            f"a start is tried as often as configured if {node} is refused",
            f"fault refuse POST {node} count={2 * of_a_round}; start A; wait 4; stop A;"
            f"fault refuse POST {node} count={3 * of_a_round};"
            f"start B fails 'POST {node}: refused with status 428'; idle; stop B fails refused quietly",
            settings={"resilience_transaction_request_retries": 2},
        )
        for node, of_a_round in (("/user", 1), ("/receipt", 2))  # E and B go to the same node
    ),
    Story("a current is named", "unseen; load 12; start A fails 'current of 12.0 A'; begun 0 0"),
    Story("a silent meter", "unseen; cut 1000 1; start A fails 'does not answer' 25..30.1; stop A fails quietly"),
    Story("a meter that boots is awaited", "unseen; cut 20 5; start A 24..30; wait 1.5; stop A"),
    # what still runs
    Story("ours is ended and its receipt kept", "start A; wait 3; start B; begun 2 1; stop A; runs; stop B"),
    Story("another client's is ended", "hand begin; start A; signed -; stop A"),
    Story(
        "the receipt of one that was ended is awaited",
        "start A; wait 5; hand end; start B; stop A; stop B",
        {"transaction_lag_s": 2.0, "receipt_in_transaction": "empty"},
    ),
    Story(
        "the receipt of another client is awaited",
        "hand begin; wait 3; hand end; start A; signed -; stop A",
        SPOILED_BY_A_BEGIN,
    ),
    # the same start again
    Story("the same start again sends nothing", "start A; start A silently; begun 1 0"),
    Story(
        "not OK at once after a stop that failed at a silent meter",
        "start A; wait 3; upon /receipt fault stall count=0; stop A fails; start A fails",
    ),
    *(
        Story(
            f"begins again if its transaction was cut and {fate}",
            "start A; cut 0.5 0.5; wait 5; idle; start A; runs",
            {"open_at_power_cut": fate},
        )
        for fate in ("closed", "lost")
    ),
    Story(
        "keeps the transaction after a failed stop",
        "start A; load 50; stop A fails; start A; load 0; wait 15; runs",
        settings={"stop_current_wait_ms": 0},
    ),
    # starts that are given up
    Story("abandoned: nothing runs", "fault stall /user delay_s=2; abandon 0.5 start A; wait 15; idle"),
    Story("abandoned and sent again: it runs", f"{STALLED_B}; abandon 0.5 start A; start A; wait 15; runs"),
    Story(
        "cut short by the end of a run: the next run ends it",
        f"{STALLED_B}; later 0 start A fails stopping; wait 0.5; runs; rerun; begun 1 1",
    ),
    # what is passed on, and what is refused
    Story("a failed reading does not fail a start", "upon /user fault refuse /metervalue; start A"),
    *(
        Story(
            f"an error level is passed on with a warning, {level}",
            f"start A identification_level={level}; stop A; shows '\"IL\":\"{level}\"';"
            f"logged 1 'identification level {level}'",
        )
        for level in ("MISMATCH", "INVALID", "OUTDATED", "UNKNOWN")
    ),
    *(
        Story(
            f"an id that cannot be signed is refused, {ID!r}",
            f"wait 0.5; start A fails ASCII 'identification_data={ID}' silently; stop A fails refused quietly",
        )
        for ID in ("04|AB", "04ÄB", "04\nAB")
    ),
]  # fmt: skip


@pytest.mark.parametrize("story", STORIES, ids=str)
@virtual
async def test_start(story: Story, path: Path) -> None:
    await story.tell(path)


# --- what is sent ---


@virtual
async def test_start_needs_six_requests() -> None:
    async with live_bench() as b:
        await start(b, "first")
        await own_receipt(b, "first")
        since = len(b.meter.requests)
        assert (await b.driver.start_transaction(request())).to_json() == {"status": "OK"}
        assert at_the_meter(b, since) == [
            ("GET", "/gw"),
            ("GET", "/metervalue"),
            ("GET", "/transaction"),
            ("POST", "/receipt"),
            ("POST", "/user"),
            ("POST", "/receipt"),
        ]


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


@pytest.mark.parametrize("held", [CI, "FROZEN"])
@virtual
async def test_only_the_charge_point_of_the_meter_is_supported(held: str) -> None:
    async with bench() as b:
        post(b, "gw", CT="EVSEID", CI=held, TM="2026-03-01T13:00:00,000+0100")
        await b.until_live()
        for evse_id in ("DE*PNX*E1234567*1", *([] if held == CI else [CI, ""])):
            refused = await b.driver.start_transaction(request(evse_id=evse_id))
            assert refused.status is NOT_SUPPORTED
            assert held in refused.error
            assert evse_id in refused.error
        assert "/user" not in b.posts()
        await start(b, evse_id=held if held != CI else "")


@pytest.mark.parametrize(("refuse", "status"), [(False, NOT_SUPPORTED), (True, UNEXPECTED_ERROR)])
@virtual
async def test_meter_in_error_is_not_supported(refuse: bool, status: TransactionRequestStatus) -> None:  # noqa: FBT001
    async with live_bench(refuse_start_with_error=refuse) as b:
        b.meter.configure(XC="0x0000, 0x00000000, 0x80, 0x00")
        refused = await b.driver.start_transaction(request())
        assert refused.status is status
        assert "0x80" in refused.error


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
async def test_without_pagination_transactions_begin_in_different_seconds() -> None:
    async with live_bench(meter_options(PG="missing", signing_delay_s=0.0)) as b:
        for name in ("A", "B"):
            await start(b, name, identification_data="04SAME")
            assert (await stop(b, name)).text == b.meter.signed[-1].text
        assert len({ocmf.parse(record.text).signed for record in b.meter.signed}) == 2


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
