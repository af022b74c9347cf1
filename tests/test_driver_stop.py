"""Stopping a transaction: each row of the table in docs/architecture.md, what E waits for, and what is handed over."""

from __future__ import annotations

import asyncio
import json

import pytest

from iem_dcr import ocmf
from iem_dcr.driver.timing import now_s
from iem_dcr.simulator import Answer, Fault
from tests.support.bench import SERIAL, bench, meter_options
from tests.support.driving import (
    FOR_GOOD,
    SPOILED_BY_A_BEGIN,
    begin_by_hand,
    end_by_hand,
    exchange,
    expect_lost,
    expect_refused,
    fated,
    live_bench,
    own_receipt,
    run_again,
    session_by_hand,
    start,
    start_elsewhere,
    start_fails,
    stop,
    stop_fails,
)
from tests.support.virtual_time import virtual

UNKNOWN = pytest.mark.parametrize("transaction_id", ["", "never heard of"])
"""What has no influence: an id that means nothing here, and none."""
A_OR_NONE = pytest.mark.parametrize("transaction_id", ["A", ""])


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


# --- an id whose receipt is here ---


@virtual
async def test_receipt_in_memory_is_returned_again_and_what_runs_goes_on() -> None:
    async with live_bench() as b:
        await start(b, "A")
        text = (await own_receipt(b, "A")).text
        await start(b, "B")
        posts = b.posts()
        assert (await stop(b, "A")).text == text
        assert b.posts() == posts
        assert b.meter.running


@virtual
async def test_receipt_found_between_commands_is_returned_without_end() -> None:
    async with live_bench() as b:
        await start(b, "A", for_s=3)
        end_by_hand(b)
        await asyncio.sleep(10)
        posts = b.posts()
        await own_receipt(b, "A")
        assert b.posts() == posts


# --- an id that was begun here and is open, uncertain or ended; or "" while one is ---


@A_OR_NONE
@virtual
async def test_open_transaction_is_ended_and_its_receipt_returned(transaction_id: str) -> None:
    async with live_bench() as b:
        await start(b, "A")
        assert (await stop(b, transaction_id)).identification == "04ABA"
        assert b.meter.state.ended == 1


@A_OR_NONE
@virtual
async def test_uncertain_transaction_is_ended_and_its_receipt_returned(transaction_id: str) -> None:
    async with live_bench() as b:
        lost = Fault("lose-answer", node="/receipt", method="POST")
        b.once_done("POST", "/user", lost, Fault("refuse", status=503, count=FOR_GOOD))
        await start_fails(b, "A")
        assert b.meter.running
        b.meter.faults.clear()
        assert (await stop(b, transaction_id)).identification == "04ABA"
        assert not b.meter.running


@A_OR_NONE
@virtual
async def test_ended_transaction_is_awaited_without_another_end(transaction_id: str) -> None:
    async with live_bench(meter_options(signing_delay_s=70.0)) as b:
        await start(b, "A")
        await stop_fails(b, "A")
        posts = b.posts()
        assert (await stop(b, transaction_id)).identification == "04ABA"
        assert b.posts() == posts


@pytest.mark.parametrize("idle_end", ["refuse", "accept"])
@virtual
async def test_lost_transaction_is_an_error_after_fifteen_seconds(idle_end: str) -> None:
    async with live_bench(fated("lost", idle_end=idle_end)) as b:
        await start(b, "A")
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(4)
        before_s = now_s()
        await expect_lost(b, "A")
        assert 10 < now_s() - before_s < 25, "it is certain when nothing has run for 15 s"


# --- an id that was begun here and is lost, or was begun on another serial ---


@virtual
async def test_stop_of_a_lost_transaction_is_an_error_and_what_runs_goes_on() -> None:
    async with live_bench(fated("lost")) as b:
        await start(b, "A")
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(40)
        await start(b, "B")
        await expect_lost(b, "A")
        assert b.meter.running
        await own_receipt(b, "B")


@virtual
async def test_stop_of_a_lost_transaction_returns_its_receipt_if_it_has_turned_up() -> None:
    async with live_bench(fated("closed-late", late_close_s=40.0)) as b:
        await start(b, "A")
        b.meter.power_cycle(off_s=1, boot_s=1)
        await stop_fails(b, "A")
        await asyncio.sleep(30)
        await own_receipt(b, "A")


@virtual
async def test_stop_of_a_transaction_on_another_meter_names_it_and_what_runs_goes_on() -> None:
    async with live_bench() as b:
        await start(b, "A", for_s=3)
        end_by_hand(b)
        exchange(b)
        b.meter.faults.add(Fault("refuse", node="/transaction", status=503, count=FOR_GOOD))
        b.meter.faults.add(Fault("refuse", node="/receipt", method="GET", status=503, count=FOR_GOOD))
        await asyncio.sleep(5)
        begin_by_hand(b)
        assert SERIAL in await stop_fails(b, "A")
        assert b.meter.running


# --- an id whose start was refused ---


@virtual
async def test_stop_of_a_refused_start_is_an_error_and_our_transaction_goes_on() -> None:
    async with live_bench() as b:
        await start_elsewhere(b, "A")
        await expect_refused(b, "A")
        await start(b, "B")
        await expect_refused(b, "A")
        assert b.meter.running
        await own_receipt(b, "B")


@virtual
async def test_stop_of_a_refused_start_ends_the_transaction_of_another_client() -> None:
    async with live_bench() as b:
        begin_by_hand(b)
        await asyncio.sleep(2)
        await start_elsewhere(b, "A")
        await stop_fails(b, "A")
        assert not b.meter.running


# --- any other id, and "" ---


@UNKNOWN
@virtual
async def test_unknown_id_ends_the_transaction_of_another_client_and_returns_its_receipt(transaction_id: str) -> None:
    async with live_bench() as b:
        session_by_hand(b)
        await asyncio.sleep(5)
        begin_by_hand(b)
        await asyncio.sleep(5)
        for _ in range(2):
            assert (await stop(b, transaction_id)).pagination == "T2"
            assert not b.meter.running


@UNKNOWN
@virtual
async def test_unknown_id_returns_the_last_receipt_if_nothing_runs(transaction_id: str) -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        session_by_hand(b)
        await asyncio.sleep(1)
        assert (await stop(b, transaction_id)).text == b.meter.signed[-1].text
        assert b.meter.state.ended == 1


@virtual
async def test_unknown_id_waits_fifteen_seconds_after_an_accepted_end() -> None:
    async with live_bench(meter_options(idle_end="accept")) as b:
        session_by_hand(b)
        await asyncio.sleep(20)
        before_s = now_s()
        assert (await stop(b, "never heard of")).text == b.meter.signed[-1].text
        assert 15 <= now_s() - before_s < 20


@virtual
async def test_unknown_id_sends_end_again_after_a_lost_answer() -> None:
    async with live_bench() as b:
        begin_by_hand(b)
        await asyncio.sleep(2)
        b.meter.faults.add(Fault("lose-answer", node="/receipt", method="POST"))
        assert (await stop(b, "never heard of")).pagination == "T1"
        assert b.meter.state.ended == 1


@pytest.mark.parametrize(("transaction_id", "firmware"), [("", "v1"), ("never heard of", "v2")])
@virtual
async def test_unknown_id_is_an_error_if_there_has_never_been_a_receipt(transaction_id: str, firmware: str) -> None:
    async with live_bench(meter_options(firmware=firmware)) as b:
        assert "the meter has no receipt" in await stop_fails(b, transaction_id)


@virtual
async def test_receipt_returned_for_another_id_stays_under_its_own() -> None:
    async with live_bench() as b:
        await start(b, "A")
        text = (await stop(b, "never heard of")).text
        assert not b.meter.running
        assert (await own_receipt(b, "A")).text == text
        assert b.meter.state.ended == 1


@virtual
async def test_strict_ids_refuse_the_receipt_of_another_id() -> None:
    async with live_bench(strict_transaction_ids=True) as b:
        await start(b, "A")
        await own_receipt(b, "A")
        assert "another" in await stop_fails(b, "never heard of")
        for transaction_id in ("", "A"):
            assert (await stop(b, transaction_id)).identification == "04ABA"


@virtual
async def test_unknown_id_returns_the_receipt_of_what_ran_last() -> None:
    async with live_bench(meter_options(**SPOILED_BY_A_BEGIN)) as b:
        await start(b, "A")
        before = await own_receipt(b, "A")
        await asyncio.sleep(30)
        begin_by_hand(b)
        await asyncio.sleep(3)
        end_by_hand(b)
        assert (await stop(b, "another")).text == b.meter.signed[-1].text != before.text


# --- refusals and currents ---


@virtual
async def test_end_refused_because_of_a_current_is_repeated_until_it_falls() -> None:
    async with live_bench(resilience_transaction_request_retries=0) as b:
        await start(b)
        b.meter.set_load(100, 400)
        stopping = asyncio.create_task(own_receipt(b))
        await asyncio.sleep(6)
        b.meter.clear_load()
        await stopping


@virtual
async def test_end_refused_for_good_names_the_current_and_is_sent_later() -> None:
    async with live_bench(stop_current_wait_ms=2000) as b:
        await start(b)
        b.meter.set_load(100, 400)
        before_s = now_s()
        error = await stop_fails(b)
        assert b.driver.address in error
        assert "a current still flows" in error
        assert 1.9 <= now_s() - before_s < 3.5
        b.meter.clear_load()
        await asyncio.sleep(12)
        assert not b.meter.running
        await own_receipt(b)
        assert b.meter.state.ended == 1


@virtual
async def test_end_refused_without_a_current_is_repeated() -> None:
    async with live_bench(resilience_transaction_request_retries=0) as b:
        await start(b)
        b.meter.faults.add(Fault("refuse", node="/receipt", method="POST", count=3))
        await own_receipt(b)
        assert b.meter.state.ended == 1


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


@virtual
async def test_failed_reading_does_not_fail_a_stop_that_may_not_wait() -> None:
    async with bench(initial_connection_wait_ms=0) as b:
        b.meter.set_load(0, 0)
        session_by_hand(b)
        await b.until_live()
        await asyncio.sleep(3.5)
        b.meter.faults.add(Fault("server-error", node="/metervalue"))
        assert (await stop(b, "old")).pagination == "T1"


@virtual
async def test_abandoned_stop_is_finished_and_its_receipt_kept() -> None:
    async with live_bench() as b:
        await start(b)
        caller = asyncio.create_task(b.driver.stop_transaction("T-1"))
        await asyncio.sleep(0.01)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        await asyncio.sleep(2)
        assert not b.meter.running
        await own_receipt(b)


@virtual
async def test_stop_cut_short_by_the_end_of_a_run_is_finished_by_the_next_run() -> None:
    async with live_bench() as b:
        await start(b, for_s=3)
        b.meter.faults.add(Fault("stall", node="/receipt", method="POST", delay_s=2))
        stopping = asyncio.create_task(stop_fails(b))
        await asyncio.sleep(0.5)
        await run_again(b)
        assert "stopping" in await stopping
        assert not b.meter.running
        await own_receipt(b)
