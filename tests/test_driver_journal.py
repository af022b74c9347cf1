"""The driver and its journal: what is written and read when, and disks that do not answer."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn
from unittest.mock import AsyncMock

import pytest

from iem_dcr.driver import Recalled
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import JournalError
from iem_dcr.simulator import Answer, Fault
from tests.support.bench import Bench, RememberingStation, bench
from tests.support.driving import (
    OTHER_SERIAL,
    exchange,
    live_bench,
    logged,
    own_receipt,
    process,
    start,
    start_fails,
    stop_driver,
    stop_fails,
)
from tests.support.virtual_time import VirtualWall, virtual

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from iem_dcr.driver import Journal

REFUSED_B = Fault("refuse", node="/receipt", method="POST", count=1000)


# --- in which order it is written ---


def calls(answer: Callable[..., Awaitable[Any]] | None = None, **recalled: Any) -> AsyncMock:
    """Make a journal that remembers its calls and knows nothing else; ``answer`` is awaited in each of them."""
    journal = AsyncMock()
    journal.recall.return_value = Recalled(**recalled)
    journal.receipt_of.return_value = None
    if answer is not None:
        for name in ("recall", "receipt_of", "note", "withdraw", "refused", "keep", "pin"):
            getattr(journal, name).side_effect = answer
    return journal


def told(journal: AsyncMock) -> list[tuple[str, str]]:
    """Return what a journal was told, in order, and of which transaction."""
    written = [
        (name, args[0]) for name, args, _ in journal.mock_calls if name in ("note", "withdraw", "refused", "keep")
    ]
    return [(what.state if name == "note" else name, getattr(what, "transaction_id", what)) for name, what in written]


def standing(journal: AsyncMock) -> set[object]:
    """Return the times of the entries that were noted and not taken back."""
    noted, withdrawn = ({call.args[0].noted for call in each.mock_calls} for each in (journal.note, journal.withdraw))
    return noted - withdrawn


def takes(seconds: float) -> Callable[..., Awaitable[None]]:
    async def answer(*_: object, **__: object) -> None:
        await asyncio.sleep(seconds)

    return answer


@virtual
async def test_order_of_the_writes() -> None:
    journal = calls()
    async with live_bench(journal=journal) as b:
        told_before_b: list[tuple[str, str]] = []
        handle = b.meter.handle

        def looked_at(method: str, path: str, body: bytes = b"") -> Answer:
            if b'"B"' in body:
                told_before_b.extend(told(journal))
            return handle(method, path, body)

        b.meter.handle = looked_at  # type: ignore[method-assign]
        await start(b, "A", for_s=1)
        assert told_before_b == [("uncertain", "A")]
        await own_receipt(b, "A")
        order = [("uncertain", "A"), ("open", "A"), ("ended", "A"), ("keep", "A")]
        assert list(dict.fromkeys(told(journal))) == order


@virtual
async def test_note_of_a_refused_begin_is_withdrawn() -> None:
    journal = calls()
    async with live_bench(journal=journal, resilience_transaction_request_retries=2) as b:
        b.meter.faults.add(REFUSED_B)
        await start_fails(b, "A")
        await asyncio.sleep(1)
        assert told(journal) == [("uncertain", "A"), ("withdraw", "A")] * 3 + [("refused", "A")]
        assert standing(journal) == set()


@virtual
async def test_note_of_an_unanswered_begin_stays() -> None:
    journal = calls()
    async with live_bench(journal=journal, resilience_transaction_request_retries=0) as b:
        b.once_done("POST", "/user", Fault("lose-request", node="/receipt", method="POST"), REFUSED_B)
        await start_fails(b, "A")
        await asyncio.sleep(1)
        assert len(standing(journal)) == 1
        assert ("refused", "A") not in told(journal)


@virtual
async def test_process_that_ends_before_begin_sends_none() -> None:
    journal = calls()
    async with live_bench(journal=journal) as b:
        journal.note.side_effect = takes(1e6)
        starting = asyncio.create_task(start_fails(b, "A"))
        while not told(journal):
            await asyncio.sleep(0.01)
        await stop_driver(b)
        await starting
        assert b.meter.state.begun == 0


@virtual
async def test_begin_waits_half_a_second_at_most_for_its_note() -> None:
    journal = calls()
    async with live_bench(journal=journal) as b:
        journal.note.side_effect = takes(1e6)
        before_s = now_s()
        await start(b, "A")
        assert 0.5 <= now_s() - before_s < 1.5
        await own_receipt(b, "A")


@virtual
async def test_begin_does_not_go_to_a_meter_exchanged_during_its_note() -> None:
    journal = calls()
    async with live_bench(journal=journal) as b:
        journal.note.side_effect = takes(0.4)
        starting = asyncio.create_task(start(b, "A"))
        while not told(journal):
            await asyncio.sleep(0.01)
        exchange(b)
        await starting
        assert b.meter.state.begun == 1
        assert (await own_receipt(b, "A")).meter_serial == OTHER_SERIAL


# --- when it is read ---


@virtual
async def test_journal_is_read_once_after_the_first_value() -> None:
    station = RememberingStation()

    async def recall(**_: object) -> Recalled:
        assert len(station.values) == 1
        return Recalled()

    journal = calls()
    journal.recall.side_effect = recall
    async with bench(journal=journal, station=station) as b:
        await asyncio.sleep(30)
        assert journal.recall.await_count == 1
        assert b.posts() == ["/gw"]


@pytest.mark.parametrize("why", ["a command", "a command at a silent meter", "a pinned meter"])
@virtual
async def test_journal_is_read_earlier_for_a_command_and_a_pinned_meter(why: str) -> None:
    station = RememberingStation()
    values: list[int] = []

    async def recall(**_: object) -> Recalled:
        values.append(len(station.values))
        return Recalled()

    journal = calls()
    journal.recall.side_effect = recall
    settings: dict[str, Any] = {"meter_serial": "pin"} if why == "a pinned meter" else {}
    async with bench(journal=journal, station=station, powered="silent" not in why, **settings) as b:
        if why == "a pinned meter":
            await asyncio.sleep(3)
        else:
            if "silent" in why:
                await asyncio.sleep(15)
            assert values == []
            await b.driver.stop_transaction("")
        assert values[0] == 0


@pytest.mark.parametrize(("ahead", "posts"), [(timedelta(days=-1), ["/gw"]), (timedelta(days=1), [])])
@virtual
async def test_host_clock_behind_the_journal_is_not_sent(ahead: timedelta, posts: list[str]) -> None:
    wall = VirtualWall()
    async with bench(journal=calls(newest=wall() + ahead), wall=wall) as b:
        await asyncio.sleep(20)
        assert len(b.station.values) > 15
        assert b.posts() == posts


# --- a disk that does not answer ---


async def hangs(*_: object, **__: object) -> NoReturn:
    await asyncio.sleep(1e6)
    raise AssertionError


async def is_full(*_: object, **__: object) -> NoReturn:
    raise JournalError("the disk is full")


async def is_broken(*_: object, **__: object) -> NoReturn:
    raise ValueError


IN_TROUBLE = pytest.mark.parametrize("answer", [hangs, is_full, is_broken])


async def seconds_of_a_stop(b: Bench, journal: Journal | None, name: str) -> float:
    async with process(b, journal) as (made, station):
        while not station.values:
            await asyncio.sleep(0.01)
        await asyncio.sleep(2)
        await start(made, name, for_s=0.2)
        before_s = now_s()
        await own_receipt(made, name)
        return now_s() - before_s


@virtual
async def test_stop_waits_for_its_receipt_to_be_written_but_half_a_second_at_most(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with live_bench() as b:
        plain_s = await seconds_of_a_stop(b, None, "A")
        assert 0.49 <= await seconds_of_a_stop(b, calls(hangs), "B") - plain_s <= 0.51
        assert "a kill would lose receipt T1" in caplog.text
        caplog.clear()
        assert await seconds_of_a_stop(b, calls(is_full), "C") <= plain_s + 0.01
    errors = logged(caplog, level=logging.ERROR)
    assert errors
    assert all("the disk is full" in error for error in errors)


@IN_TROUBLE
@virtual
async def test_disk_trouble_does_not_affect_transactions_of_this_process(answer: Callable[..., Awaitable[Any]]) -> None:
    async with live_bench() as b, process(b, calls(answer)) as (made, station):
        await start(made, "A", for_s=3)
        await own_receipt(made, "A")
        await own_receipt(made, "A")
        await asyncio.sleep(10)
        assert len(station.values) >= 9
        assert station.raised == []


@IN_TROUBLE
@virtual
async def test_stop_of_an_unknown_id_waits_ten_seconds_for_the_journal_and_ends_nothing(
    answer: Callable[..., Awaitable[Any]],
) -> None:
    """It may be an id whose receipt is in the journal, and what runs another's."""
    async with live_bench() as b:
        await start(b, "A", for_s=3)
        async with process(b, calls(answer)) as (made, _):
            before_s = now_s()
            assert "journal" in await stop_fails(made, "of before")
            assert 9.9 < now_s() - before_s < 11
            assert b.meter.running


@virtual
async def test_silent_disk_delays_the_initialisation_by_half_a_second() -> None:
    async with bench(journal=calls(hangs)) as b:
        await b.until_live()
        before_s = now_s()
        while not b.posts():
            await asyncio.sleep(0.01)
        assert 0.4 < now_s() - before_s < 1.1
