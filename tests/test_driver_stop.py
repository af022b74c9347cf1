"""Stopping a transaction: each row of the table in docs/architecture.md, what E waits for, and what is handed over."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from iem_dcr import ocmf
from iem_dcr.driver.timing import now_s
from iem_dcr.simulator import Answer
from tests.support.bench import bench, meter_options
from tests.support.driving import live_bench, own_receipt, start
from tests.support.stories import Story, stories
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path

NO_ANSWER = (
    "upon /user fault lose-answer POST /receipt; upon /user fault refuse status=503 count=0; start A fails; runs; heal"
)
"""A start whose B was acted on, and the station was told that it failed."""
NO_RECEIPT_SHOWN = "fault refuse GET /transaction status=503 count=0; fault refuse GET /receipt status=503 count=0"
STORIES = stories("""
four requests and a reading
    meter signing_delay_s=0.0; start A; wait 2.5; stop A;
    asked 'GET /gw' 'POST /receipt' 'GET /receipt' 'GET /metervalue'
# an id whose receipt is here
in memory: returned again
    start A; stop A; start B; stop A quietly; runs
found between commands
    start A; wait 3; hand end; wait 10; stop A quietly

# an id that was begun here and is open, uncertain or ended; or "" while one is
open: ended, id [A|'']
    start A; stop $1 of A; begun 1 1
uncertain: ended, id [A|'']
    upon /user fault lose-answer POST /receipt; upon /user fault refuse status=503 count=0; start A fails; runs; heal;
    stop $1 of A; idle
ended: no other E, id [A|'']
    meter signing_delay_s=70.0; start A; stop A fails; stop $1 of A quietly
lost after 15 s if the meter [refuse|accept]s an idle E
    meter open_at_power_cut=lost idle_end=$1; start A; cut 1 1; wait 4; idle; stop A fails lost 10..25; idle

# an id that was begun here and is lost, or was begun on another serial
what runs goes on
    meter open_at_power_cut=lost; start A; cut 1 1; wait 40; start B; stop A fails lost; runs; stop B
its receipt if it has turned up
    meter open_at_power_cut=closed-late late_close_s=40.0; start A; cut 1 1; stop A fails; wait 30; stop A
another meter is named, and what runs goes on
    start A; wait 3; hand end; exchange; fault refuse GET /transaction status=503 count=0;
    fault refuse GET /receipt status=503 count=0; wait 5; hand begin; stop A fails 1SIM0000000042; runs

# an id whose start was refused
ours goes on
    start A unsupported evse_id=another; stop A fails refused quietly; start B; wait 2; stop A fails refused quietly;
    runs; stop B
another client's is ended
    hand begin; wait 2; start A unsupported evse_id=another; stop A fails; idle
another client's at another meter goes on
    driver meter_serial=1SIM0000000042; start A unsupported evse_id=another; exchange; hand begin; wait 5; stop A fails;
    runs

# any other id, and ""
another client's is ended, id [X|'']
    hand session; wait 5; hand begin; wait 5; stop $1 T2; idle; stop $1 T2
the last receipt if nothing runs, id [X|'']
    hand session; restart; wait 1; stop $1 last; begun 1 1
there has never been a receipt, id [X|''], firmware [v1|v2]
    meter firmware=$2; stop $1 fails 'the meter has no receipt'
15 s after an accepted E
    meter idle_end=accept; hand session; wait 20; stop X last 15..20
E again, its answer lost
    hand begin; wait 2; fault lose-answer POST /receipt; stop X T1; begun 1 1
a receipt returned for another id stays under its own
    start A; stop X of A; idle; stop A; begun 1 1
the receipt of what ran last
    meter spoiled; start A; stop A; wait 30; hand begin; wait 3; hand end; stop X last; stop X T2
strict ids refuse the receipt of another id
    driver strict_transaction_ids=true; start A; stop A; stop X fails another; stop '' of A; stop A

# refusals and currents
E refused because of a current is repeated until it falls
    driver resilience_transaction_request_retries=0; start A; load 100; later 6 load 0; stop A 6..10
E refused for good names the current and is sent later
    driver stop_current_wait_ms=2000; start A; load 100; stop A fails 'a current still flows' {meter} 1.9..3.5; load 0;
    wait 12; idle; stop A; begun 1 1
E refused without a current is repeated
    driver resilience_transaction_request_retries=0; start A; fault refuse POST /receipt count=3; stop A; begun 1 1
a reading does not delay a stop: [refuse|stall]
    meter signing_delay_s=1.2; start A; wait 2.3; upon /receipt fault $1 /metervalue; stop A 1.2..2.1
a failed reading does not fail a stop that may not wait
    driver initial_connection_wait_ms=0; hand session; wait 3.5; fault server-error /metervalue; stop X T1

# values that stand still
ours is not given up
    configure frozen=true; start A; load 100; later 30 load 0; stop A 30..35
the last receipt is not returned for what may run
    hand session; wait 3; configure frozen=true; wait 2; hand begin; load 100; wait 11; stop X fails 50..61;
    configure frozen=false; load 0; stop X T2
the last receipt is not returned after an E whose answer was lost
    hand session; wait 3; configure frozen=true; wait 2; hand begin; load 100; fault reset POST /receipt;
    stop X fails 50..61; configure frozen=false; load 0; stop X T2

# stops that are given up
abandoned: finished, and its receipt kept
    start A; abandon 0.01 stop A; wait 2; idle; stop A
cut short by the end of a run: the next run finishes it
    start A; wait 3; fault stall POST /receipt delay_s=2; later 0 stop A fails stopping; wait 0.5; rerun; idle; stop A
""")


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
