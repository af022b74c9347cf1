"""Stopping a transaction: each row of the table in docs/architecture.md, what E waits for, and what is handed over."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from iem_dcr import ocmf
from iem_dcr.driver.timing import now_s
from iem_dcr.simulator import Answer, Fault
from tests.support.bench import SERIAL, bench, meter_options
from tests.support.driving import SPOILED_BY_A_BEGIN, live_bench, own_receipt, start
from tests.support.stories import Story, fated
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path

NO_ANSWER = (
    "upon /user fault lose-answer POST /receipt; upon /user fault refuse status=503 count=0; start A fails; runs; heal"
)
"""A start whose B was acted on, and the station was told that it failed."""
NO_RECEIPT_SHOWN = "fault refuse GET /transaction status=503 count=0; fault refuse GET /receipt status=503 count=0"
STORIES = [
    # an id whose receipt is here
    Story("a receipt in memory is returned again", "start A; stop A; start B; stop A quietly; runs"),
    Story("a receipt found between commands", "start A; wait 3; hand end; wait 10; stop A quietly"),
    # an id that was begun here and is open, uncertain or ended; or "" while one is
    Story("open: ended", "start A; stop A; begun 1 1"),
    Story("open, no id: ended", "start A; stop '' of A; begun 1 1"),
    Story("uncertain: ended", f"{NO_ANSWER}; stop A; idle"),
    Story("uncertain, no id: ended", f"{NO_ANSWER}; stop '' of A; idle"),
    Story("ended: no other end", "start A; stop A fails; stop A quietly", {"signing_delay_s": 70.0}),
    Story("ended, no id: no other end", "start A; stop A fails; stop '' of A quietly", {"signing_delay_s": 70.0}),
    *(
        Story(
            f"lost after 15 s where an idle E is {answer}ed",
            "start A; cut 1 1; wait 4; idle; stop A fails lost 10..25; idle",
            fated("lost", idle_end=answer),
        )
        for answer in ("refuse", "accept")
    ),
    # an id that was begun here and is lost, or was begun on another serial
    Story(
        "lost: what runs goes on",
        "start A; cut 1 1; wait 40; start B; stop A fails lost; runs; stop B",
        fated("lost"),
    ),
    Story(
        "lost: its receipt if it has turned up",
        "start A; cut 1 1; stop A fails; wait 30; stop A",
        fated("closed-late", late_close_s=40.0),
    ),
    Story(
        "on another meter: named, and what runs goes on",
        f"start A; wait 3; hand end; exchange; {NO_RECEIPT_SHOWN}; wait 5; hand begin; stop A fails {SERIAL}; runs",
    ),
    # an id whose start was refused
    Story(
        "refused: ours goes on",
        "elsewhere A; stop A fails refused quietly; start B; wait 2; stop A fails refused quietly; runs; stop B",
    ),
    Story("refused: another client's is ended", "hand begin; wait 2; elsewhere A; stop A fails; idle"),
    # any other id, and ""
    *(
        Story(
            f"unknown {name!r}: another client's is ended",
            f"hand session; wait 5; hand begin; wait 5; stop {name!r} T2; idle; stop {name!r} T2",
        )
        for name in ("", "never heard of")
    ),
    *(
        Story(
            f"unknown {name!r}: the last receipt if nothing runs",
            f"hand session; restart; wait 1; stop {name!r} last; begun 1 1",
        )
        for name in ("", "never heard of")
    ),
    Story(
        "unknown: 15 s after an accepted E", "hand session; wait 20; stop X last 15..20", {"idle_end": "accept"}
    ),
    Story("unknown: E again, its answer lost", "hand begin; wait 2; fault lose-answer POST *; stop X T1; begun 1 1"),
    Story("no id: there has never been a receipt", "stop '' fails 'the meter has no receipt'", {"firmware": "v1"}),
    Story("unknown: there has never been a receipt", "stop X fails 'the meter has no receipt'", {"firmware": "v2"}),
    Story("a receipt returned for another id stays under its own", "start A; stop X of A; idle; stop A; begun 1 1"),
    Story(
        "unknown: the receipt of what ran last",
        "start A; stop A; wait 30; hand begin; wait 3; hand end; stop X last; stop X T2",
        SPOILED_BY_A_BEGIN,
    ),
    Story(
        "strict ids refuse the receipt of another id",
        "start A; stop A; stop X fails another; stop '' of A; stop A",
        settings={"strict_transaction_ids": True},
    ),
    # refusals and currents
    Story(
        "E refused because of a current is repeated until it falls",
        "start A; load 100; later 6 load 0; stop A 6..10",
        settings={"resilience_transaction_request_retries": 0},
    ),
    Story(
        "E refused for good names the current and is sent later",
        "start A; load 100; stop A fails 'a current still flows' 1.9..3.5; load 0; wait 12; idle; stop A; begun 1 1",
        settings={"stop_current_wait_ms": 2000},
    ),
    Story(
        "E refused without a current is repeated",
        "start A; fault refuse POST /receipt count=3; stop A; begun 1 1",
        settings={"resilience_transaction_request_retries": 0},
    ),
    Story(
        "a failed reading does not fail a stop that may not wait",
        "hand session; wait 3.5; fault server-error /metervalue; stop X T1",
        settings={"initial_connection_wait_ms": 0},
    ),
    Story("abandoned: finished, and its receipt kept", "start A; abandon 0.01 stop A; wait 2; idle; stop A"),
    Story(
        "cut short by the end of a run: the next run finishes it",
        "start A; wait 3; fault stall POST /receipt delay_s=2; later 0 stop A fails stopping;"
        "wait 0.5; rerun; idle; stop A",
    ),
]  # fmt: skip


@pytest.mark.parametrize("story", STORIES, ids=str)
@virtual
async def test_stop(story: Story, path: Path) -> None:
    await story.tell(path)


# --- what is handed over ---


@pytest.mark.parametrize(
    ("firmware", "wrapping", "encoding"),
    [
        ("v1", "raw", "unpadded-der"),
        ("v2", "quoted", "der"),
        ("v1", "braced", "raw"),
        ("v2", "json-string", "unpadded-der"),
        ("v1", "object", "der"),
        ("v2", "raw", "raw"),
    ],
)
@virtual
async def test_receipt_is_returned_byte_for_byte(firmware: str, wrapping: str, encoding: str) -> None:
    options = meter_options(firmware=firmware, receipt_wrapping=wrapping, signature_encoding=encoding)
    async with live_bench(options) as b:
        await start(b)
        value = (await b.driver.stop_transaction("T-1")).to_json()["signed_meter_value"]
        assert isinstance(value, dict)
        assert value["signed_meter_data"] == b.meter.signed[-1].text
        assert (value["signing_method"], value["encoding_method"]) == ("", "OCMF")
        assert value["public_key"] == b.station.keys[-1]
        receipt = ocmf.parse(value["signed_meter_data"])
        assert ocmf.verify(receipt, value["public_key"]).outcome is ocmf.Outcome.VALID


@virtual
async def test_stop_needs_four_requests_and_a_reading() -> None:
    async with live_bench(meter_options(signing_delay_s=0.0)) as b:
        await start(b, for_s=2.5)
        since = len(b.meter.requests)
        await own_receipt(b)
        assert [(entry.method, entry.node) for entry in list(b.meter.requests)[since:]] == [
            ("GET", "/gw"),
            ("POST", "/receipt"),
            ("GET", "/receipt"),
            ("GET", "/metervalue"),
        ]


@virtual
async def test_values_at_begin_and_end_are_published_before_the_answers() -> None:
    async with bench() as b:
        await b.until_live()
        await start(b)
        first = b.station.values[-1][1]
        await asyncio.sleep(3.5)
        count = len(b.station.values)
        receipt = await own_receipt(b)
        assert receipt.begin is not None
        assert receipt.end is not None
        assert first.energy_wh_import == receipt.begin.energy_wh
        assert b.station.values[count][1].energy_wh_import == receipt.end.energy_wh != receipt.begin.energy_wh


@pytest.mark.parametrize(
    ("shown", "signing_s"),
    [("refuse", 0.0), ("nothing", 0.12), ("previous", 0.12), ("nothing", 3.0), ("previous", 3.0), ("refuse", 30.0)],
)
@virtual
async def test_stop_waits_for_its_receipt_and_never_returns_an_older_one(shown: str, signing_s: float) -> None:
    options = meter_options(signing_delay_s=signing_s, receipt_while_signing=shown, receipt_in_transaction=shown)
    async with live_bench(options) as b:
        for name in ("A", "B", "C"):
            await start(b, name)
            before_s = now_s()
            await own_receipt(b, name)
            assert now_s() - before_s <= max(2 * signing_s, signing_s + 0.26) + 0.03


# --- what comes in between ---


@virtual
async def test_end_that_ended_nothing_is_sent_again() -> None:
    """As by another meter that is there for a moment."""
    async with live_bench() as b:
        await start(b, for_s=2)
        handle = b.meter.handle

        def not_acted_on(method: str, path: str, body: bytes = b"") -> Answer:
            if (method, json.loads(body or b"{}")) == ("POST", {"TX": "E"}):
                b.meter.handle = handle  # type: ignore[method-assign]
                return Answer(200, b"")
            return handle(method, path, body)

        b.meter.handle = not_acted_on  # type: ignore[method-assign]
        await own_receipt(b)
        assert not b.meter.running


@virtual
async def test_failed_or_stalled_readings_do_not_delay_a_stop() -> None:
    async with live_bench(meter_options(signing_delay_s=1.2)) as b:
        for name, fault in (("A", Fault("refuse", node="/metervalue")), ("B", Fault("stall", node="/metervalue"))):
            await start(b, name, for_s=2.3)
            before_s, ended = now_s(), b.requests("POST", "/receipt")
            stopping = asyncio.create_task(own_receipt(b, name))
            while b.requests("POST", "/receipt") == ended:
                await asyncio.sleep(0)
            b.meter.faults.add(fault)
            await stopping
            assert now_s() - before_s < 2.1
