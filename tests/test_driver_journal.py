"""The driver and its journal: what is written when, what the next process knows, and disks that do not answer."""

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
from iem_dcr.ocmf import Outcome
from iem_dcr.simulator import Answer, Fault
from tests.support.bench import Bench, RememberingStation, bench, meter_options
from tests.support.driving import (
    FOR_GOOD,
    OTHER_SERIAL,
    begin_by_hand,
    end_by_hand,
    exchange,
    fated,
    live_bench,
    logged,
    own_receipt,
    process,
    session_by_hand,
    start,
    start_fails,
    stop,
    stop_driver,
    stop_fails,
)
from tests.support.journals import entries, virtual_journal
from tests.support.virtual_time import VirtualWall, virtual

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from iem_dcr.driver import Journal

REFUSED_B = Fault("refuse", node="/receipt", method="POST", count=1000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "receipts.db"


def whose(path: Path) -> list[tuple[str, str, bool]]:
    """Return pagination, transaction and whether it was only found, of every receipt kept."""
    return [(entry.pagination, entry.transaction_id, entry.found) for entry in entries(path)]


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
async def test_stop_waits_half_a_second_at_most_for_a_silent_disk(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with live_bench() as b:
        plain_s = await seconds_of_a_stop(b, None, "A")
        assert await seconds_of_a_stop(b, calls(hangs), "B") <= plain_s + 0.51
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


# --- a process after another ---


@virtual
async def test_receipt_is_in_the_journal_before_the_station_has_it(path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal) as b:
        await start(b)
        receipt = await own_receipt(b)
        (entry,) = entries(path)
        assert (entry.text, entry.transaction_id, entry.found) == (receipt.text, "T-1", False)
        assert (entry.outcome, entry.public_key, entry.address) == (
            Outcome.VALID, b.driver.public_key, b.driver.address,
        )  # fmt: skip
        assert (await own_receipt(b)).text == receipt.text
        assert len(entries(path)) == 1


@virtual
async def test_process_knows_the_transaction_of_the_previous_one(path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal) as b:
        await start(b, "A", for_s=1)
        async with process(b, journal) as (made, _):
            assert (await stop(made, "B")).identification == "04ABA"
            await own_receipt(made, "A")
            await asyncio.sleep(10)
        assert whose(path) == [("T1", "A", False)]


@virtual
async def test_receipt_of_a_transaction_that_ended_between_processes_is_kept_under_its_id(path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal) as b:
        await start(b, "A", for_s=1)
        await stop_driver(b)
        end_by_hand(b)
        await asyncio.sleep(1)
        begin_by_hand(b)
        async with process(b, journal, strict_transaction_ids=True) as (made, _):
            await own_receipt(made, "A")
            assert b.meter.running
            assert (await stop(made, "B")).pagination == "T2"
            await own_receipt(made, "A")
        assert whose(path) == [("T1", "A", False), ("T2", "B", False)]


@virtual
async def test_older_ids_get_their_receipts_also_at_a_silent_or_exchanged_meter(
    path: Path,
) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal) as b:
        before = {}
        for name in ("A", "B"):
            await start(b, name)
            before[name] = (await b.driver.stop_transaction(name)).signed_meter_value
        await start(b, "C")
        async with process(b, journal) as (made, _):
            posts = b.posts()
            for name, value in before.items():
                assert (await made.stop_transaction(name)).signed_meter_value == value
            assert b.posts() == posts
            assert b.meter.running
        b.meter.faults.add(Fault("reset", count=FOR_GOOD))
        async with process(b, journal) as (made, _):
            after = (await made.stop_transaction("A")).signed_meter_value
            assert after == before["A"], "with the key of the meter that signed it"
        b.meter.faults.clear()
        exchange(b)
        async with process(b, journal) as (made, station):
            while not station.values:
                await asyncio.sleep(0.1)
            await own_receipt(made, "A")


@pytest.mark.parametrize("has_journal", [True, False])
@virtual
async def test_previous_receipt_is_not_returned_for_the_transaction_of_a_previous_process(
    *, has_journal: bool, path: Path
) -> None:
    """The last tuple cannot be read before E, and is shown until the new one is signed."""
    options = meter_options(receipt_while_signing="previous", signing_delay_s=2.0)
    async with virtual_journal(path) as file:
        journal = file if has_journal else None
        async with live_bench(options, journal=journal) as b:
            await start(b, "A", for_s=2)
            await own_receipt(b, "A")
            await start(b, "B", for_s=2)
            b.meter.faults.add(Fault("garbage", node="/transaction", count=FOR_GOOD))
            async with process(b, journal) as (made, _):
                await own_receipt(made, "B")


@pytest.mark.parametrize("is_cut", [False, True])
@virtual
async def test_id_used_again_gets_no_older_receipt(*, is_cut: bool, path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(fated("lost"), journal=journal) as b:
        await start(b, "A")
        await own_receipt(b, "A")
        await start(b, "A", for_s=2)
        await stop_driver(b)
        if is_cut:
            b.meter.power_cycle(off_s=1, boot_s=1)
        async with process(b, journal) as (made, _):
            if is_cut:
                await stop_fails(made, "A")
            else:
                assert (await own_receipt(made, "A")).pagination == "T2"


# --- starts that were refused ---


@pytest.mark.parametrize("node", ["/receipt", "/user"])
@virtual
async def test_refused_id_is_remembered_by_the_next_process(node: str, path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal) as b:
        b.meter.faults.add(Fault("refuse", node=node, method="POST", count=1000))
        await start_fails(b, "A")
        b.meter.faults.clear()
        begin_by_hand(b)
        async with process(b, journal) as (made, _):
            await stop_fails(made, "A")
            assert b.meter.running, "it is ended for no id that was refused"
            assert (await stop(made, "")).pagination == "T1"


@virtual
async def test_start_refused_before_the_journal_is_read_hides_no_earlier_transaction(
    path: Path,
) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal) as b:
        await start(b, "A", for_s=3)
        await stop_driver(b)
        b.meter.faults.add(Fault("refuse", count=FOR_GOOD))
        async with virtual_journal(path, unit_s=1.0) as slow, process(b, slow) as (made, _):
            await start_fails(made, "A")
            b.meter.faults.clear()
            await own_receipt(made, "A")
            await asyncio.sleep(10)
        assert whose(path) == [("T1", "A", False)]


# --- what no stop fetched ---


@virtual
async def test_receipt_found_at_the_start_is_kept_once_without_an_owner(path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench() as b:
        session_by_hand(b)
        await asyncio.sleep(1)
        for _ in range(2):
            async with process(b, journal) as (_, station):
                await asyncio.sleep(2)
                assert whose(path) == [("T1", "", True)]
                looks = b.requests("GET", "/transaction")
                for _ in range(3):
                    b.meter.faults.add(Fault("refuse", node="/metervalue", status=503))
                    await asyncio.sleep(15)
                assert b.requests("GET", "/transaction") > looks
                assert len(station.values) > 30
        (entry,) = entries(path)
        assert (entry.text, entry.transaction_id, entry.outcome) == (b.meter.signed[-1].text, "", Outcome.VALID)


@pytest.mark.parametrize("fate", ["closed", "closed-late"])
@virtual
async def test_receipt_of_a_cut_transaction_is_kept_without_a_stop(fate: str, path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(fated(fate), journal=journal) as b:
        await start(b, "A", for_s=2)
        b.meter.power_cycle(off_s=2, boot_s=3)
        await asyncio.sleep(60)
        assert whose(path) == [("T1", "A", False)]


@virtual
async def test_found_receipt_is_returned_if_it_belongs_to_a_stop(path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(fated("closed")) as b:
        await start(b, "A", for_s=3)
        b.meter.power_cycle(off_s=1, boot_s=1)
        async with process(b, journal) as (made, _):
            await asyncio.sleep(20)
            assert whose(path) == [("T1", "", True)]
            await own_receipt(made, "A")
            await asyncio.sleep(10)
        assert whose(path) == [("T1", "A", False)]
