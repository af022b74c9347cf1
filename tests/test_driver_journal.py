"""The driver and its journal: what is written when, what the next process knows, and disks that do not answer."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

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
    from datetime import datetime
    from pathlib import Path

    from iem_dcr.driver import FiledReceipt, KeptReceipt, NotedEntry

REFUSED_B = Fault("refuse", node="/receipt", method="POST", count=1000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "receipts.db"


def whose(path: Path) -> list[tuple[str, str, bool]]:
    """Return pagination, transaction and whether it was only found, of every receipt kept."""
    return [(entry.pagination, entry.transaction_id, entry.found) for entry in entries(path)]


# --- in which order it is written ---


class Calls:
    """A journal that remembers what it is told, in order.

    Attributes:
        told: each word, and whose it is.
        notes: the ids of the entries that were noted and not taken back, by their times.
        note_takes_s: how long noting an entry takes.
        values: how many live values the station had whenever it was read.
        newest: host time that is in it.
    """

    def __init__(self, station: RememberingStation | None = None, newest: datetime | None = None) -> None:
        self.told: list[tuple[str, str]] = []
        self.notes: dict[datetime, str] = {}
        self.note_takes_s = 0.0
        self.values: list[int] = []
        self.newest = newest
        self._station = station or RememberingStation()

    async def recall(self, *, meter: str, address: str) -> Recalled:
        assert address
        self.values.append(len(self._station.values))
        return Recalled(newest=self.newest)

    async def receipt_of(self, transaction_id: str, *, meter: str, address: str) -> FiledReceipt | None:
        return None

    async def note(self, entry: NotedEntry) -> None:
        self.told.append((entry.state, entry.transaction_id))
        self.notes[entry.noted] = entry.transaction_id
        await asyncio.sleep(self.note_takes_s)

    async def withdraw(self, entry: NotedEntry) -> None:
        self.told.append(("withdrawn", entry.transaction_id))
        assert self.notes.pop(entry.noted) == entry.transaction_id

    async def refused(self, transaction_id: str, *, meter: str, address: str) -> None:
        self.told.append(("refused", transaction_id))

    async def keep(self, kept: KeptReceipt) -> None:
        self.told.append(("receipt", kept.transaction_id))

    async def pin(self, address: str, meter: str) -> None:
        self.told.append(("pinned", meter))


@virtual
async def test_an_entry_is_written_before_b_and_after_each_answer_and_the_receipt_before_it_is_returned() -> None:
    journal = Calls()
    async with live_bench(journal=journal) as b:
        told_before_b: list[tuple[str, str]] = []
        handle = b.meter.handle

        def looked_at(method: str, path: str, body: bytes = b"") -> Answer:
            if b'"B"' in body:
                told_before_b.extend(journal.told)
            return handle(method, path, body)

        b.meter.handle = looked_at  # type: ignore[method-assign]
        await start(b, "A", for_s=1)
        assert told_before_b == [("uncertain", "A")]
        await own_receipt(b, "A")
        order = [("uncertain", "A"), ("open", "A"), ("ended", "A"), ("receipt", "A")]
        assert list(dict.fromkeys(journal.told)) == order


@virtual
async def test_every_note_of_a_b_that_was_refused_is_taken_back() -> None:
    journal = Calls()
    async with live_bench(journal=journal, resilience_transaction_request_retries=2) as b:
        b.meter.faults.add(REFUSED_B)
        await start_fails(b, "A")
        await asyncio.sleep(1)
        assert journal.told == [("uncertain", "A"), ("withdrawn", "A")] * 3 + [("refused", "A")]
        assert journal.notes == {}


@virtual
async def test_the_note_of_a_b_without_an_answer_stands_and_its_start_is_not_noted_as_refused() -> None:
    journal = Calls()
    async with live_bench(journal=journal, resilience_transaction_request_retries=0) as b:
        b.once_done("POST", "/user", Fault("lose-request", node="/receipt", method="POST"), REFUSED_B)
        await start_fails(b, "A")
        await asyncio.sleep(1)
        assert list(journal.notes.values()) == ["A"]
        assert ("refused", "A") not in journal.told


@virtual
async def test_a_process_that_ends_before_b_goes_out_sends_none() -> None:
    journal = Calls()
    async with live_bench(journal=journal) as b:
        journal.note_takes_s = 1e6
        starting = asyncio.create_task(start_fails(b, "A"))
        while not journal.told:
            await asyncio.sleep(0.01)
        await stop_driver(b)
        await starting
        assert b.meter.state.begun == 0


@virtual
async def test_b_waits_half_a_second_for_its_note_and_goes_out_all_the_same() -> None:
    journal = Calls()
    async with live_bench(journal=journal) as b:
        journal.note_takes_s = 1e6
        before_s = now_s()
        await start(b, "A")
        assert 0.5 <= now_s() - before_s < 1.5
        await own_receipt(b, "A")


@virtual
async def test_b_does_not_go_to_a_meter_that_came_while_its_entry_was_noted() -> None:
    journal = Calls()
    async with live_bench(journal=journal) as b:
        journal.note_takes_s = 0.4
        starting = asyncio.create_task(start(b, "A"))
        while not journal.told:
            await asyncio.sleep(0.01)
        exchange(b)
        await starting
        assert b.meter.state.begun == 1
        assert (await own_receipt(b, "A")).meter_serial == OTHER_SERIAL


# --- when it is read ---


@virtual
async def test_it_is_read_once_after_the_first_live_value() -> None:
    station = RememberingStation()
    journal = Calls(station)
    async with bench(journal=journal, station=station) as b:
        await asyncio.sleep(30)
        assert journal.values == [1]
        assert b.posts() == ["/gw"]


@virtual
async def test_a_command_has_it_read_before_that_also_at_a_silent_meter() -> None:
    for powered in (True, False):
        journal = Calls()
        async with bench(journal=journal, powered=powered) as b:
            await asyncio.sleep(0 if powered else 15)
            assert journal.values == []
            await b.driver.stop_transaction("")
            assert journal.values[0] == 0


@virtual
async def test_a_meter_that_is_to_be_the_pinned_one_has_it_read_first() -> None:
    station = RememberingStation()
    journal = Calls(station)
    async with bench(journal=journal, station=station, meter_serial="pin"):
        await asyncio.sleep(3)
        assert journal.values[0] == 0
        assert station.values


@pytest.mark.parametrize(("ahead", "posts"), [(timedelta(days=-1), ["/gw"]), (timedelta(days=1), [])])
@virtual
async def test_a_meter_gets_no_clock_of_a_host_that_is_behind_the_journal(ahead: timedelta, posts: list[str]) -> None:
    wall = VirtualWall()
    async with bench(journal=Calls(newest=wall() + ahead), wall=wall) as b:
        await asyncio.sleep(20)
        assert len(b.station.values) > 15
        assert b.posts() == posts


# --- a disk that does not answer ---


class Hanging(Calls):
    """A journal on a disk that does not answer."""

    async def recall(self, *, meter: str, address: str) -> Recalled:
        return await self._answer()

    async def receipt_of(self, transaction_id: str, *, meter: str, address: str) -> FiledReceipt | None:
        return await self._answer()

    async def note(self, entry: NotedEntry) -> None:
        await self._answer()

    async def keep(self, kept: KeptReceipt) -> None:
        await self._answer()

    async def _answer(self) -> NoReturn:
        await asyncio.sleep(1e6)
        raise AssertionError


class Failing(Hanging):
    """A journal whose disk is full."""

    async def _answer(self) -> NoReturn:
        raise JournalError("the disk is full")


class Broken(Hanging):
    """A journal with a fault of its own."""

    async def _answer(self) -> NoReturn:
        raise ValueError


IN_TROUBLE = pytest.mark.parametrize("make", [Hanging, Failing, Broken])


async def seconds_of_a_stop(b: Bench, journal: Calls | None, name: str) -> float:
    async with process(b, journal) as (made, station):
        while not station.values:
            await asyncio.sleep(0.01)
        await asyncio.sleep(2)
        await start(made, name, for_s=0.2)
        before_s = now_s()
        await own_receipt(made, name)
        return now_s() - before_s


@virtual
async def test_a_stop_waits_half_a_second_at_most_for_a_disk_that_does_not_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with live_bench() as b:
        plain_s = await seconds_of_a_stop(b, None, "A")
        assert await seconds_of_a_stop(b, Hanging(), "B") <= plain_s + 0.51
        assert "a kill would lose receipt T1" in caplog.text
        caplog.clear()
        assert await seconds_of_a_stop(b, Failing(), "C") <= plain_s + 0.01
    errors = logged(caplog, level=logging.ERROR)
    assert errors
    assert all("the disk is full" in error for error in errors)


@IN_TROUBLE
@virtual
async def test_it_takes_no_transaction_of_this_process_its_receipt(make: type[Hanging]) -> None:
    async with live_bench() as b, process(b, make()) as (made, station):
        await start(made, "A", for_s=3)
        await own_receipt(made, "A")
        await own_receipt(made, "A")
        await asyncio.sleep(10)
        assert len(station.values) >= 9
        assert station.raised == []


@IN_TROUBLE
@virtual
async def test_a_stop_for_an_id_of_before_waits_ten_seconds_for_it_and_ends_nothing(make: type[Hanging]) -> None:
    """It may be an id whose receipt is in the journal, and what runs another's."""
    async with live_bench() as b:
        await start(b, "A", for_s=3)
        async with process(b, make()) as (made, _):
            before_s = now_s()
            assert "journal" in await stop_fails(made, "of before")
            assert 9.9 < now_s() - before_s < 11
            assert b.meter.running


@virtual
async def test_it_delays_the_setting_up_by_a_moment() -> None:
    async with bench(journal=Hanging()) as b:
        await b.until_live()
        before_s = now_s()
        while not b.posts():
            await asyncio.sleep(0.01)
        assert 0.4 < now_s() - before_s < 1.1


# --- a process after another ---


@virtual
async def test_a_receipt_is_in_the_journal_before_the_station_has_it(path: Path) -> None:
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
async def test_a_process_knows_what_the_one_before_it_began(path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal) as b:
        await start(b, "A", for_s=1)
        async with process(b, journal) as (made, _):
            assert (await stop(made, "B")).identification == "04ABA"
            await own_receipt(made, "A")
            await asyncio.sleep(10)
        assert whose(path) == [("T1", "A", False)]


@virtual
async def test_what_ended_between_two_processes_is_filed_under_its_own_id_and_given_to_no_other(path: Path) -> None:
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
async def test_older_ids_get_their_own_receipts_and_what_runs_goes_on_also_where_the_meter_is_silent(
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


@pytest.mark.parametrize("transaction_id", ["X-9", ""])
@virtual
async def test_an_unknown_id_gets_the_last_receipt_that_the_journal_knows_too(transaction_id: str, path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal) as b:
        await start(b, "A")
        text = (await own_receipt(b, "A")).text
        async with process(b, journal) as (made, _):
            await asyncio.sleep(3)
            assert (await stop(made, transaction_id)).text == text


@pytest.mark.parametrize("has_journal", [True, False])
@virtual
async def test_the_receipt_before_is_not_taken_for_what_another_process_began(*, has_journal: bool, path: Path) -> None:
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


@virtual
async def test_without_a_journal_a_lost_transaction_does_not_get_the_receipt_before_of_the_same_card() -> None:
    async with live_bench(fated("lost")) as b:
        await start(b, "A", identification_data="04CARD")
        assert (await stop(b, "A")).pagination == "T1"
        async with process(b) as (made, _):
            await asyncio.sleep(5)
            b.meter.faults.add(Fault("garbage", node="/transaction", count=2))
            await start(made, "B", identification_data="04CARD")
            b.meter.power_cycle(0.1, 0.1)
            await asyncio.sleep(3)
            await stop_fails(made, "B")


@virtual
async def test_one_lost_answer_does_not_hide_the_tuple_that_an_end_overwrites(path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench() as b:
        session_by_hand(b)
        await asyncio.sleep(5)
        begin_by_hand(b)
        b.meter.faults.add(Fault("garbage", node="/transaction", count=2))
        async with process(b, journal) as (made, _):
            await stop(made, "B")
            await asyncio.sleep(1)
        assert sorted(whose(path)) == [("T1", "", True), ("T2", "B", False)]


@virtual
async def test_a_receipt_that_a_process_between_found_is_its_own_transactions_and_no_others(path: Path) -> None:
    """The process that began A ends; the next one ends A for a start, and ends too, before it can begin B."""
    async with virtual_journal(path) as journal, live_bench(journal=journal) as b:
        await start(b, "A", for_s=3)
        async with process(b, journal) as (made, _):
            b.meter.faults.add(Fault("stall", node="/user", method="POST", count=100))
            starting = asyncio.create_task(start_fails(made, "B"))
            await asyncio.sleep(10)
            assert not b.meter.running
        await starting
        assert whose(path) == [("T1", "A", False)]
        async with process(b, journal) as (made, _):
            await stop_fails(made, "B")
            await own_receipt(made, "A")


@pytest.mark.parametrize("is_cut", [False, True])
@virtual
async def test_an_id_used_again_gets_no_older_receipt(*, is_cut: bool, path: Path) -> None:
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
async def test_after_a_restart_a_refused_start_gets_no_receipt_of_a_strangers_transaction(
    node: str, path: Path
) -> None:
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
async def test_a_start_that_is_refused_before_the_meter_answers_hides_no_transaction_of_an_earlier_process(
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


@virtual
async def test_a_begin_in_doubt_has_its_receipt_also_when_the_next_of_its_id_was_refused(path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(journal=journal) as b:
        lost = Fault("lose-answer", node="/receipt", method="POST")
        b.once_done("POST", "/user", lost, Fault("garbage", node="/gw", count=1000))
        starting = asyncio.create_task(start_fails(b, "A"))
        while not b.meter.running:
            await asyncio.sleep(0.1)
        await stop_driver(b)
        await starting
        b.meter.faults.clear()
        end_by_hand(b)
        b.meter.faults.add(Fault("garbage", node="/transaction", count=1000), REFUSED_B)
        async with process(b, journal) as (made, _):
            await start_fails(made, "A")
        b.meter.faults.clear()
        async with process(b, journal) as (made, _):
            await own_receipt(made, "A")
            await asyncio.sleep(10)
        assert whose(path) == [("T1", "A", False)]


# --- what no stop fetched ---


@virtual
async def test_what_the_meter_has_at_the_start_is_kept_once_and_handed_to_no_stop(path: Path) -> None:
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
async def test_a_transaction_cut_by_a_power_failure_and_stopped_by_no_station_is_kept(fate: str, path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(fated(fate), journal=journal) as b:
        await start(b, "A", for_s=2)
        b.meter.power_cycle(off_s=2, boot_s=3)
        await asyncio.sleep(60)
        assert whose(path) == [("T1", "A", False)]


@pytest.mark.parametrize("fate", ["closed", "closed-late"])
@virtual
async def test_what_another_began_and_a_power_failure_cut_is_kept_before_the_next_overwrites_it(
    fate: str, path: Path
) -> None:
    async with virtual_journal(path) as journal, live_bench(fated(fate)) as b:
        await start(b, "A", for_s=3)
        async with process(b, journal) as (made, _):
            await asyncio.sleep(3)
            b.meter.power_cycle(off_s=2, boot_s=3)
            await asyncio.sleep(40)
            await start(made, "B", for_s=1)
            assert whose(path) == [("T1", "", True)]
            await own_receipt(made, "B")
        assert whose(path) == [("T1", "", True), ("T2", "B", False)]


@virtual
async def test_what_is_found_and_does_not_verify_is_an_error_and_kept(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with virtual_journal(path) as journal, live_bench() as b:
        session_by_hand(b)
        await asyncio.sleep(1)
        exchange(b, b.meter.options.MS)
        async with process(b, journal):
            await asyncio.sleep(2)
        assert [entry.outcome for entry in entries(path)] == [Outcome.INVALID]
    (error,) = logged(caplog, level=logging.ERROR)
    assert "receipt T1 does not verify" in error


@virtual
async def test_what_is_found_is_handed_over_later_all_the_same_when_it_is_the_one(path: Path) -> None:
    async with virtual_journal(path) as journal, live_bench(fated("closed")) as b:
        await start(b, "A", for_s=3)
        b.meter.power_cycle(off_s=1, boot_s=1)
        async with process(b, journal) as (made, _):
            await asyncio.sleep(20)
            assert whose(path) == [("T1", "", True)]
            await own_receipt(made, "A")
            await asyncio.sleep(10)
        assert whose(path) == [("T1", "A", False)]
