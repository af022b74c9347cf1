"""Receipts are checked, kept and returned to their own transactions. No check, sink or bug withholds one."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any

import pytest

from iem_dcr import ocmf
from iem_dcr.driver.ledger import Ledger
from iem_dcr.driver.timing import now_s
from iem_dcr.ocmf import Outcome
from iem_dcr.simulator import Answer
from tests.support.bench import Bench, meter_options
from tests.support.driving import (
    OK,
    Sink,
    changed_answers,
    live_bench,
    logged,
    own_receipt,
    start,
    start_fails,
    stop_fails,
)
from tests.support.stories import Story, stories
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path


def fails(*_: object, **__: object) -> None:
    raise RuntimeError("a defect")


def changed_receipts(b: Bench, pattern: bytes, by: bytes, nodes: tuple[str, ...] = ("receipt", "transaction")) -> None:
    """Have the meter show its receipts with something in them changed."""

    def changed(method: str, node: str, answer: Answer) -> Answer:
        body = re.sub(pattern, by, answer.body) if method == "GET" and node in nodes else answer.body
        return Answer(answer.status, body, answer.content_type)

    changed_answers(b, changed)


# --- checked ---


@virtual
async def test_receipt_that_the_transparency_software_refuses_is_returned_with_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Sink()
    async with live_bench(sink=sink) as b:
        await start(b)
        b.meter.configure(import_wh=100)
        for _ in range(2):
            assert (await own_receipt(b)).text == b.meter.signed[-1].text
    assert {(kept.outcome, kept.accepted) for kept in sink.kept} == {(Outcome.VALID, False)}
    (error,) = [line for line in logged(caplog, level=logging.ERROR) if "receipt" in line]
    assert "receipt T1 has a valid signature, but the transparency software refuses it: the register falls" in error


@virtual
async def test_other_form_of_signature_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    async with live_bench(meter_options(signature_encoding="raw"), sink=sink) as b:
        await start(b)
        await own_receipt(b)
    assert {(kept.outcome, kept.accepted) for kept in sink.kept} == {(Outcome.VALID, True)}
    assert not logged(caplog, level=logging.ERROR)


@virtual
async def test_bug_in_the_verification_withholds_no_receipt(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ocmf, "verify", fails)
    async with live_bench() as b:
        await start(b)
        await own_receipt(b)
    assert "could not be verified" in caplog.text


@virtual
async def test_damaged_receipt_is_fetched_once_more(caplog: pytest.LogCaptureFixture) -> None:
    async with live_bench() as b:
        changed_receipts(b, b'"ST":"G"', b'"ST":"N"', nodes=("receipt",))
        await start(b)
        assert (await own_receipt(b)).text == b.meter.signed[-1].text
    assert len(logged(caplog, "does not verify", logging.ERROR)) == 1


@virtual
async def test_receipt_without_times_is_returned() -> None:
    async with live_bench() as b:
        changed_receipts(b, rb'"TM":"[^"]*",', b"")
        await start(b)
        stopped = await b.driver.stop_transaction("T-1")
        assert stopped.signed_meter_value is not None
        assert stopped.signed_meter_value.timestamp is None
        assert [reading.TM for reading in (await own_receipt(b)).readings] == [None, None]


@virtual
async def test_receipt_without_pagination_is_returned() -> None:
    async with live_bench() as b:
        changed_receipts(b, b'"PG":"T1",', b"")
        await start(b)
        assert (await own_receipt(b)).pagination is None


# --- kept ---


@virtual
async def test_sink_that_fails_does_not_fail_a_stop(caplog: pytest.LogCaptureFixture) -> None:
    async with live_bench(sink=Sink(fails=True)) as b:
        await start(b)
        await own_receipt(b)
    assert "was not kept" in caplog.text


@virtual
async def test_slow_sink_delays_no_stop_and_keeps_in_the_end() -> None:
    sink = Sink(takes_s=70)
    async with live_bench(sink=sink) as b:
        await start(b)
        receipt = await own_receipt(b)
        count = len(b.station.values)
        await asyncio.sleep(10)
        assert len(b.station.values) - count >= 9, "live values go on"
        assert sink.kept == []
        await asyncio.sleep(61)
        assert {kept.receipt.text for kept in sink.kept} == {receipt.text}


@virtual
async def test_receipt_at_the_last_moment_is_returned_unchecked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker threads are busy, and so is the disk: the receipt is handed over unchecked, but it is handed over."""
    loop = asyncio.get_running_loop()
    in_executor = loop.run_in_executor

    def busy(executor: Any, func: Any, *args: Any) -> Any:
        return loop.create_future() if func is ocmf.verify else in_executor(executor, func, *args)

    async with live_bench(meter_options(signing_delay_s=57.5), sink=Sink(takes_s=1000)) as b:
        await start(b)
        monkeypatch.setattr(loop, "run_in_executor", busy)
        before_s = now_s()
        assert (await b.driver.stop_transaction("T-1")).status is OK
        assert 57.5 < now_s() - before_s <= 60.0
        monkeypatch.undo()


@virtual
async def test_bug_after_begin_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    async with live_bench() as b:
        with monkeypatch.context() as defect:
            defect.setattr(Ledger, "on_begin_accepted", fails)
            assert "internal error" in await start_fails(b)
        assert b.meter.running
        await asyncio.sleep(20)
        assert (b.meter.state.begun, b.meter.state.ended) == (1, 1)


STORIES = stories("""
an invalid receipt is returned with an error
    exchange 1SIM0000000042; start A; stop A last; logged some 'does not verify'
verification can be switched off
    driver verify_receipts=false; exchange 1SIM0000000042; start A; stop A last; logged 0
a leap of the clock is noticed by /gw if values have no time
    meter 'missing=["TM"]'; upon /user shift -30; start A; stop A
a late receipt is kept before the next one replaces it
    meter open_at_power_cut=closed-late late_close_s=40.0; start A; cut 1 1;
    stop A fails 'no receipt for this transaction'; wait 25; start B; stop A; stop B
the receipt of a transaction that replaced ours is kept without an owner
    journal; start A; hand end; configure signing_delay_s=0; wait 0.2; hand begin SOMEBODY; stop A fails; stop A fails;
    idle; start B; stop B; kept T2: T3:B
the receipt of one that replaced ours and is over is kept without an owner
    journal; start A; hand end; configure signing_delay_s=0; wait 0.2; hand session SOMEBODY; stop A fails;
    stop A fails; idle; start B; stop B; kept T2: T3:B
a transaction that replaced an unwanted one is left alone
    journal; driver command_timeout_ms=1000; upon /user fault lose-answer POST /receipt;
    upon /user upon /receipt fault refuse /gw count=0; upon /user upon /receipt fault refuse /metervalue count=0;
    start A fails; configure signing_delay_s=0; hand end; hand begin SOMEBODY; heal; wait 15; runs; stop A; kept T1:A
a node that did not answer is asked again at the next look
    meter signing_delay_s=0.0; start A; wait 2.5; fault refuse GET /receipt count=0;
    fault refuse GET /transaction status=503; stop A 0..0.09
""")


@pytest.mark.parametrize("story", STORIES, ids=str)
@virtual
async def test_whose_receipt(story: Story, path: Path) -> None:
    await story.tell(path)


@pytest.mark.parametrize("follows_s", [10.0, 1000.0])
@virtual
async def test_receipt_of_another_client_may_be_followed_by_ours_for_fifteen_seconds(
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
