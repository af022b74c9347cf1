"""The driver and its journal: what nobody fetched is kept, nothing is swapped after a restart, no stop waits long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from typing import TYPE_CHECKING, NoReturn

import pytest

from iem_dcr.config import Settings
from iem_dcr.driver import MeterDriver
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import JournalError
from iem_dcr.journal.schema import VERSION
from iem_dcr.ocmf import Outcome
from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import Answer, Fault, SimulatorOptions
from tests.support.bench import CI, SECRET, SERIAL, Bench, RememberingStation, bench, request
from tests.support.journals import entries, virtual_journal
from tests.support.virtual_time import virtual
from tests.test_driver_corners import END
from tests.test_driver_power import fated
from tests.test_driver_start import BEGIN, RECEIPT, receipt_of
from tests.test_driver_whose import begin, expect_own, live, session_of_nobodys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from iem_dcr.driver import FiledReceipt, Journal, KeptReceipt, NotedEntry, Recalled

OK = TransactionRequestStatus.OK
UNEXPECTED_ERROR = TransactionRequestStatus.UNEXPECTED_ERROR


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "receipts.db"


@contextlib.asynccontextmanager
async def driver(
    b: Bench, journal: Journal | None, **settings: object
) -> AsyncIterator[tuple[MeterDriver, RememberingStation]]:
    """Stop the bench's driver and run another in its place, as after a restart of the process."""
    b.task.cancel()
    await asyncio.gather(b.task, return_exceptions=True)
    host, port = b.server.address.split(":")
    station = RememberingStation()
    given = Settings.of({"ip_address": host, "port_http": int(port), "CI": CI} | settings)
    made = MeterDriver(given, station, journal=journal, wall=b.wall)
    task = asyncio.create_task(made.run())
    try:
        yield made, station
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def whose(path: Path) -> list[tuple[str, str, bool]]:
    """Return pagination, transaction and whether it was only found, of every receipt kept."""
    return [(entry.pagination, entry.transaction_id, entry.found) for entry in entries(path)]


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# --- what is handed over ---


@virtual
async def test_a_receipt_is_in_the_journal_before_the_station_has_it(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request())).status is OK
            receipt = receipt_of(await made.stop_transaction("T-1"))
            (entry,) = entries(path)
            assert entry.text == receipt.text
            assert (entry.transaction_id, entry.outcome, entry.found) == ("T-1", Outcome.VALID, False)
            assert entry.public_key == made.public_key
            assert entry.address == made.address
            assert receipt_of(await made.stop_transaction("T-1")).text == receipt.text
            assert len(entries(path)) == 1


@virtual
async def test_a_valid_receipt_that_the_transparency_software_refuses_is_returned_and_one_error(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request())).status is OK
            b.meter.configure(import_wh=100)
            stopped = await made.stop_transaction("T-1")
            await made.stop_transaction("T-1")
        assert receipt_of(stopped).text == b.meter.signed[-1].text
    assert [(entry.outcome, entry.accepted) for entry in entries(path)] == [(Outcome.VALID, False)]
    (error,) = [line for line in errors(caplog) if "receipt" in line]
    assert "receipt T1 has a valid signature, and the transparency software refuses it: the register falls" in error


@virtual
async def test_a_meter_that_signs_in_a_form_of_its_own_is_no_error(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, signature_encoding="raw")
    async with bench(options) as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request())).status is OK
            receipt_of(await made.stop_transaction("T-1"))
    (entry,) = entries(path)
    assert (entry.outcome, entry.accepted) == (Outcome.VALID, True)
    assert "signature-form" in {found["code"] for found in entry.findings}
    assert not errors(caplog)


class Hanging:
    """A journal on a disk that does not answer."""

    def __init__(self) -> None:
        self.kept: list[KeptReceipt] = []

    async def recall(self, *, meter: str, address: str) -> Recalled:
        return await self._answer()

    async def receipt_of(self, transaction_id: str, *, meter: str, address: str) -> FiledReceipt | None:
        return await self._answer()

    async def note(self, entry: NotedEntry) -> None:
        await self._answer()

    async def withdraw(self, entry: NotedEntry) -> None:
        await self._answer()

    async def refused(self, transaction_id: str, *, meter: str, address: str) -> None:
        await self._answer()

    async def keep(self, kept: KeptReceipt) -> None:
        self.kept.append(kept)
        await self._answer()

    async def pin(self, address: str, meter: str) -> None:
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


async def seconds_of_a_stop(b: Bench, journal: Journal | None, name: str) -> float:
    loop = asyncio.get_running_loop()
    async with driver(b, journal) as (made, station):
        while not station.values:
            await asyncio.sleep(0.01)
        await asyncio.sleep(2)
        assert (await made.start_transaction(request(name))).status is OK
        await asyncio.sleep(0.2)
        before_s = loop.time()
        assert receipt_of(await made.stop_transaction(name)).identification == f"04AB{name}"
        return loop.time() - before_s


@virtual
async def test_a_stop_waits_half_a_second_at_most_for_a_disk_that_does_not_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bench() as b:
        await live(b)
        plain_s = await seconds_of_a_stop(b, None, "A")
        assert await seconds_of_a_stop(b, Hanging(), "B") <= plain_s + 0.51
        assert "a kill would lose receipt T1" in caplog.text
        caplog.clear()
        assert await seconds_of_a_stop(b, Failing(), "C") <= plain_s + 0.01
    assert errors(caplog)
    assert all("the disk is full" in error for error in errors(caplog))


@pytest.mark.parametrize("make", [Hanging, Failing, Broken])
@virtual
async def test_a_disk_that_does_not_answer_takes_no_transaction_of_this_process_its_receipt(
    make: type[Hanging],
) -> None:
    async with bench() as b:
        await live(b)
        async with driver(b, make()) as (made, station):
            await begin_with(made, "A")
            assert receipt_of(await made.stop_transaction("A")).identification == "04ABA"
            assert receipt_of(await made.stop_transaction("A")).identification == "04ABA"
            await asyncio.sleep(10)
            assert len(station.values) >= 9
            assert station.raised == []


@pytest.mark.parametrize("make", [Hanging, Failing, Broken])
@virtual
async def test_a_stop_for_an_id_of_before_waits_ten_seconds_for_the_journal_and_ends_nothing_without_it(
    make: type[Hanging],
) -> None:
    """It may be an id whose receipt is in the journal, and what runs another's."""
    async with bench() as b:
        await live(b)
        await begin(b, "A")
        async with driver(b, make()) as (made, _):
            before_s = now_s()
            stopped = await made.stop_transaction("of before")
            assert 9.9 < now_s() - before_s < 11
            assert stopped.status is UNEXPECTED_ERROR
            assert "journal" in stopped.error
            assert b.meter.running


@virtual
async def test_a_journal_of_a_newer_version_lets_the_driver_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "receipts.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id=0x49454D4A")
    connection.execute(f"PRAGMA user_version={VERSION + 1}")
    connection.close()
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request())).status is OK
            assert receipt_of(await made.stop_transaction("T-1")).identification == "04ABT-1"
            assert receipt_of(await made.stop_transaction("T-1")).identification == "04ABT-1"
    assert [error for error in errors(caplog) if "install a newer iem-dcr" in error]


# --- a process after another ---


@virtual
async def test_a_process_knows_what_the_one_before_it_began(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request("A"))).status is OK
            await asyncio.sleep(1)
        async with driver(b, journal) as (made, _):
            assert receipt_of(await made.stop_transaction("B")).identification == "04ABA"
            assert receipt_of(await made.stop_transaction("A")).identification == "04ABA"
            await asyncio.sleep(10)
        assert whose(path) == [("T1", "A", False)]


@virtual
async def test_what_ended_while_nobody_looked_is_filed_under_its_own_id_and_given_to_no_other(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request("A"))).status is OK
            await asyncio.sleep(1)
        b.meter.handle("POST", RECEIPT, END)
        await asyncio.sleep(1)
        async with driver(b, journal, strict_transaction_ids=True) as (made, _):
            refused = await made.stop_transaction("B")
            assert refused.status is UNEXPECTED_ERROR
            assert "another" in refused.error
            assert receipt_of(await made.stop_transaction("A")).identification == "04ABA"
            await asyncio.sleep(10)
        assert whose(path) == [("T1", "A", False)]


@virtual
async def test_what_is_signed_after_a_process_began_is_no_others(tmp_path: Path) -> None:
    """The meter still signs what the process before ended, and shows the tuple before that one meanwhile."""
    path = tmp_path / "receipts.db"
    slow = SimulatorOptions(signing_delay_s=3.0, receipt_while_signing="previous", receipt_in_transaction="previous")
    async with bench(slow) as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request("A"))).status is OK
            await asyncio.sleep(1)
        b.meter.handle("POST", RECEIPT, END)
        async with driver(b, None) as (made, _):
            await asyncio.sleep(10)
            assert (await made.start_transaction(request("B"))).status is OK
            await asyncio.sleep(1)
            assert receipt_of(await made.stop_transaction("B")).identification == "04ABB"


# --- what nobody fetched ---


@virtual
async def test_what_the_meter_has_at_the_start_is_kept_once_and_handed_to_nobody(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        await begin(b, "A")
        text = receipt_of(await b.driver.stop_transaction("A")).text
        for _ in range(2):
            async with driver(b, journal) as (made, station):
                await asyncio.sleep(2)
                assert whose(path) == [("T1", "", True)]
                assert entries(path)[0].outcome is Outcome.VALID
                looked = b.requests("GET", "/transaction")
                for _ in range(3):
                    b.meter.faults.add(Fault("refuse", node="/metervalue", status=503))
                    await asyncio.sleep(15)
                assert b.requests("GET", "/transaction") > looked
                assert len(station.values) > 30
        assert [(entry.text, entry.transaction_id) for entry in entries(path)] == [(text, "")]
        assert made.public_key


@virtual
async def test_found_receipts_are_shown_to_the_sink_as_found_and_not_again_at_every_look() -> None:
    sink = Listening()
    async with bench() as b:
        b.meter.set_load(0, 0)
        session_of_nobodys(b)
        await b.until_live()
        async with bench(sink=sink) as other:
            other.meter.set_load(0, 0)
            session_of_nobodys(other)
            await asyncio.sleep(5)
            looks = other.requests("GET", "/transaction")
            for _ in range(3):
                other.meter.faults.add(Fault("refuse", node="/metervalue", status=503))
                await asyncio.sleep(15)
            assert other.requests("GET", "/transaction") >= looks + 3
            assert [(kept.found, kept.transaction_id, kept.receipt.pagination) for kept in sink.kept] == [
                (True, "", "T1")
            ]


class Listening:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.kept: list[KeptReceipt] = []

    async def keep(self, kept: KeptReceipt) -> None:
        self.kept.append(kept)


@pytest.mark.parametrize("fate", ["closed", "closed-late"])
@virtual
async def test_a_transaction_cut_by_a_power_failure_and_stopped_by_nobody_is_kept(fate: str, tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench(fated(fate)) as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request("A"))).status is OK
            await asyncio.sleep(2)
            b.meter.power_cycle(off_s=2, boot_s=3)
            await asyncio.sleep(60)
            assert whose(path) == [("T1", "A", False)]


@pytest.mark.parametrize("fate", ["closed", "closed-late"])
@virtual
async def test_a_transaction_that_another_process_began_and_a_power_failure_cut_is_kept(
    fate: str, tmp_path: Path
) -> None:
    path = tmp_path / "receipts.db"
    async with bench(fated(fate)) as b, virtual_journal(path) as journal:
        await live(b)
        await begin(b, "A")
        async with driver(b, journal) as (made, _):
            await asyncio.sleep(3)
            b.meter.power_cycle(off_s=2, boot_s=3)
            await asyncio.sleep(40)
            assert (await made.start_transaction(request("B"))).status is OK
            await asyncio.sleep(1)
            assert whose(path) == [("T1", "", True)]
            assert receipt_of(await made.stop_transaction("B")).identification == "04ABB"
        assert whose(path) == [("T1", "", True), ("T2", "B", False)]


@virtual
async def test_what_a_stranger_left_is_kept_before_the_next_transaction_overwrites_it(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            await asyncio.sleep(3)
            b.meter.handle("POST", RECEIPT, BEGIN)
            await asyncio.sleep(2)
            b.meter.handle("POST", RECEIPT, END)
            await asyncio.sleep(1)
            assert (await made.start_transaction(request("B"))).status is OK
            receipt_of(await made.stop_transaction("B"))
        assert whose(path) == [("T1", "", True), ("T2", "B", False)]


@virtual
async def test_what_is_found_and_does_not_verify_is_an_error_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        await begin(b, "A")
        await expect_own(b, "A")
        b.meter.configure(MS=SERIAL, private_key=SECRET + 1)
        async with driver(b, journal):
            await asyncio.sleep(2)
        assert [entry.outcome for entry in entries(path)] == [Outcome.INVALID]
    (error,) = errors(caplog)
    assert "receipt T1 does not verify" in error


@virtual
async def test_what_is_found_is_handed_over_later_all_the_same_when_it_is_the_one(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench(fated("closed")) as b, virtual_journal(path) as journal:
        await live(b)
        await begin(b, "A")
        b.meter.power_cycle(off_s=1, boot_s=1)
        async with driver(b, journal) as (made, _):
            await asyncio.sleep(20)
            assert whose(path) == [("T1", "", True)]
            assert receipt_of(await made.stop_transaction("A")).identification == "04ABA"
            await asyncio.sleep(10)
        assert whose(path) == [("T1", "A", False)]


# --- after a restart ---


@virtual
async def test_a_stop_for_an_older_id_gets_its_own_receipt_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            texts = {}
            for name in ("A", "B", "C"):
                assert (await made.start_transaction(request(name))).status is OK
                texts[name] = receipt_of(await made.stop_transaction(name)).text
        async with driver(b, journal) as (made, _):
            for name, text in texts.items():
                assert receipt_of(await made.stop_transaction(name)).text == text
        async with driver(b, journal) as (made, _):
            b.meter.faults.add(Fault("reset", count=100_000))
            answer = await made.stop_transaction("A")
            assert answer.signed_meter_value is not None
            assert answer.signed_meter_value.signed_meter_data == texts["A"]
            assert answer.signed_meter_value.timestamp is not None
            b.meter.faults.clear()


@virtual
async def test_a_stop_for_an_older_id_does_not_end_what_runs_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request("A"))).status is OK
            receipt_of(await made.stop_transaction("A"))
            assert (await made.start_transaction(request("B"))).status is OK
        async with driver(b, journal) as (made, _):
            assert receipt_of(await made.stop_transaction("A")).identification == "04ABA"
            assert b.meter.running
            assert receipt_of(await made.stop_transaction("B")).identification == "04ABB"
        assert whose(path) == [("T1", "A", False), ("T2", "B", False)]


@virtual
async def test_the_receipt_before_is_not_taken_for_what_another_process_began(tmp_path: Path) -> None:
    """The last tuple could not be read before E, and is shown until the new one is signed."""
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, receipt_while_signing="previous", signing_delay_s=2.0)
    async with bench(options) as b, virtual_journal(tmp_path / "receipts.db") as journal:
        for kept_by in (journal, None):
            await live(b)
            async with driver(b, kept_by) as (made, _):
                await made.stop_transaction("")
                assert (await made.start_transaction(request("A"))).status is OK
                await asyncio.sleep(2)
                assert receipt_of(await made.stop_transaction("A")).identification == "04ABA"
                assert (await made.start_transaction(request("B"))).status is OK
                await asyncio.sleep(2)
            b.meter.faults.add(Fault("garbage", node="/transaction", count=100_000))
            async with driver(b, kept_by) as (made, _):
                assert receipt_of(await made.stop_transaction("B")).identification == "04ABB"
            b.meter.faults.clear()


@virtual
async def test_one_lost_answer_does_not_hide_the_tuple_that_an_end_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        session_of_nobodys(b)
        await asyncio.sleep(5)
        b.meter.handle("POST", RECEIPT, BEGIN)
        b.meter.faults.add(Fault("garbage", node="/transaction", count=2))
        async with driver(b, journal) as (made, _):
            receipt_of(await made.stop_transaction("B"))
            await asyncio.sleep(1)
        assert sorted(whose(path)) == [("T1", "", True), ("T2", "B", False)]


@virtual
async def test_a_receipt_that_a_process_between_found_is_its_own_transactions_and_no_others(tmp_path: Path) -> None:
    """The process that began A ends; the next one ends A for a start, and ends too, before it can begin B."""
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            await begin_with(made, "A")
        async with driver(b, journal) as (made, _):
            b.meter.faults.add(Fault("stall", node="/user", method="POST", count=100))
            starting = asyncio.create_task(made.start_transaction(request("B")))
            await asyncio.sleep(10)
            assert not b.meter.running
        await asyncio.gather(starting, return_exceptions=True)
        assert whose(path) == [("T1", "A", False)]
        async with driver(b, journal) as (made, _):
            assert (await made.stop_transaction("B")).status is UNEXPECTED_ERROR
            assert receipt_of(await made.stop_transaction("A")).identification == "04ABA"


@virtual
async def test_a_transaction_is_noted_before_it_begins(tmp_path: Path) -> None:
    """A process that ends the moment B is out leaves word of whose transaction runs."""
    file = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(file) as journal:
        await live(b)
        noted: list[tuple[str, ...]] = []
        handle = b.meter.handle

        def looked_at(method: str, path: str, body: bytes = b"") -> Answer:
            if body == BEGIN:
                with contextlib.closing(sqlite3.connect(file)) as connection:
                    noted.extend(connection.execute("SELECT transaction_id, identification FROM ledger"))
            return handle(method, path, body)

        async with driver(b, journal) as (made, _):
            b.meter.handle = looked_at  # type: ignore[method-assign]
            await begin_with(made, "A")
            assert noted == [("A", "04ABA")]
            receipt_of(await made.stop_transaction("A"))
        async with driver(b, Hanging()) as (made, _):
            begins_s = asyncio.get_running_loop().time()
            assert (await made.start_transaction(request("B"))).status is OK
            assert asyncio.get_running_loop().time() - begins_s < 1.5


@virtual
async def test_a_receipt_that_was_found_at_the_start_is_filed_under_its_own_transaction(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            await begin_with(made, "A")
        b.meter.handle("POST", RECEIPT, END)
        await asyncio.sleep(1)
        async with driver(b, journal) as (made, _):
            assert receipt_of(await made.stop_transaction("A")).identification == "04ABA"
            await asyncio.sleep(10)
        assert whose(path) == [("T1", "A", False)]


async def begin_with(made: MeterDriver, name: str) -> None:
    assert (await made.start_transaction(request(name))).status is OK
    await asyncio.sleep(3)


@pytest.mark.parametrize("fate", ["closed-late", "lost"])
@virtual
async def test_an_older_receipt_is_not_taken_for_that_of_a_cut_transaction_after_a_restart(
    fate: str, tmp_path: Path
) -> None:
    path = tmp_path / "receipts.db"
    async with bench(fated(fate)) as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request("A"))).status is OK
            await asyncio.sleep(2)
            b.meter.configure(open_at_power_cut="closed")
            b.meter.power_cycle(off_s=1, boot_s=1)
            # Ended by a power failure, as the next one is: only the journal tells them apart.
            assert receipt_of(await made.stop_transaction("A")).readings[-1].TX == "P"
            b.meter.configure(open_at_power_cut=fate)
            assert (await made.start_transaction(request("B"))).status is OK
            await asyncio.sleep(2)
        b.meter.power_cycle(off_s=2, boot_s=3)
        async with driver(b, journal) as (made, _):
            stopped = await made.stop_transaction("B")
            if fate == "lost":
                assert stopped.status is UNEXPECTED_ERROR
            else:
                assert receipt_of(stopped).identification == "04ABB"


@pytest.mark.parametrize("is_cut", [False, True])
@virtual
async def test_an_id_used_again_gets_no_older_receipt_after_a_restart(is_cut: bool, tmp_path: Path) -> None:  # noqa: FBT001
    path = tmp_path / "receipts.db"
    async with bench(fated("lost")) as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request("A"))).status is OK
            receipt_of(await made.stop_transaction("A"))
            assert (await made.start_transaction(request("A"))).status is OK
            await asyncio.sleep(2)
        if is_cut:
            b.meter.power_cycle(off_s=1, boot_s=1)
        async with driver(b, journal) as (made, _):
            stopped = await made.stop_transaction("A")
            if is_cut:
                assert stopped.status is UNEXPECTED_ERROR
            else:
                assert receipt_of(stopped).pagination == "T2"


@virtual
async def test_a_receipt_of_a_meter_that_was_exchanged_is_in_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request("A"))).status is OK
            receipt_of(await made.stop_transaction("A"))
        b.meter.configure(MS="1SIM0000000099", private_key=SECRET + 1)
        async with driver(b, journal) as (made, station):
            while not station.values:
                await asyncio.sleep(0.1)
            assert receipt_of(await made.stop_transaction("A")).meter_serial != "1SIM0000000099"


@virtual
async def test_several_drivers_share_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    options = [SimulatorOptions(private_key=SECRET, MS=f"1SIM000000000{number}") for number in range(3)]
    async with virtual_journal(path) as journal, contextlib.AsyncExitStack() as stack:
        benches = [await stack.enter_async_context(bench(option, journal=journal)) for option in options]
        for b in benches:
            await live(b)
        for b in benches:
            assert (await b.driver.start_transaction(request("T-1"))).status is OK
        receipts = await asyncio.gather(*(b.driver.stop_transaction("T-1") for b in benches))
        texts = {receipt_of(receipt).text for receipt in receipts}
    assert {entry.text for entry in entries(path)} == texts
    assert len(texts) == 3


@pytest.mark.parametrize("unreadable", [1, 2])
@virtual
async def test_without_a_journal_a_lost_transaction_does_not_get_the_receipt_before_of_the_same_card(
    unreadable: int,
) -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, open_at_power_cut="lost")
    async with bench(options) as b:
        await live(b)
        card = {"identification_data": "04CARD"}
        assert (await b.driver.start_transaction(request("A", **card))).status is OK
        assert receipt_of(await b.driver.stop_transaction("A")).pagination == "T1"
        async with driver(b, None) as (second, _):
            await asyncio.sleep(5)
            b.meter.faults.add(Fault("garbage", node="/transaction", count=unreadable))
            assert (await second.start_transaction(request("B", **card))).status is OK
            b.meter.power_cycle(0.1, 0.1)
            await asyncio.sleep(3)
            assert (await second.stop_transaction("B")).status is TransactionRequestStatus.UNEXPECTED_ERROR


# --- what was noted of starts ---

REFUSED_B = Fault("refuse", node="/receipt", method="POST", count=1000)


async def refused_start(made: MeterDriver, name: str) -> None:
    assert (await made.start_transaction(request(name))).status is UNEXPECTED_ERROR


@virtual
async def test_after_a_restart_a_refused_start_gets_no_receipt_of_a_strangers_transaction(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            b.meter.faults.add(REFUSED_B)
            await refused_start(made, "A")
        b.meter.faults.clear()
        b.meter.handle("POST", RECEIPT, BEGIN)
        async with driver(b, journal) as (made, _):
            assert (await made.stop_transaction("A")).status is UNEXPECTED_ERROR
            assert b.meter.running, "it is ended for no id that was refused"
            assert receipt_of(await made.stop_transaction("")).pagination == "T1"


@virtual
async def test_after_a_restart_a_start_that_never_got_to_begin_gets_none_either(tmp_path: Path) -> None:
    async with bench() as b, virtual_journal(tmp_path / "receipts.db") as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            b.meter.faults.add(Fault("refuse", node="/user", method="POST", count=1000))
            await refused_start(made, "A")
        b.meter.faults.clear()
        b.meter.handle("POST", RECEIPT, BEGIN)
        async with driver(b, journal) as (made, _):
            assert (await made.stop_transaction("A")).status is UNEXPECTED_ERROR


@virtual
async def test_a_start_that_was_refused_before_has_its_receipt_after_a_restart(tmp_path: Path) -> None:
    async with bench() as b, virtual_journal(tmp_path / "receipts.db") as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            b.meter.faults.add(REFUSED_B)
            await refused_start(made, "A")
        b.meter.faults.clear()
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request("A"))).status is OK
            await asyncio.sleep(3)
        async with driver(b, journal) as (made, _):
            assert receipt_of(await made.stop_transaction("A")).identification == "04ABA"
        async with driver(b, journal) as (made, _):
            assert receipt_of(await made.stop_transaction("A")).identification == "04ABA"


@virtual
async def test_a_start_that_is_refused_before_the_meter_answers_hides_no_transaction_of_an_earlier_process(
    tmp_path: Path,
) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request("A"))).status is OK
            await asyncio.sleep(3)
        b.meter.faults.add(Fault("refuse", count=10_000))
        async with virtual_journal(path, unit_s=1.0) as slow, driver(b, slow) as (made, _):
            await refused_start(made, "A")
            b.meter.faults.clear()
            assert receipt_of(await made.stop_transaction("A")).identification == "04ABA"
            await asyncio.sleep(10)
        assert whose(path) == [("T1", "A", False)]


@virtual
async def test_a_begin_in_doubt_has_its_receipt_after_a_restart_also_when_the_next_of_its_id_was_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            b.once_done(
                "POST",
                "/user",
                Fault("lose-answer", node="/receipt", method="POST"),
                Fault("garbage", node="/gw", count=1000),
            )
            starting = asyncio.create_task(made.start_transaction(request("A")))
            while not b.meter.running:
                await asyncio.sleep(0.1)
        await starting
        b.meter.faults.clear()
        b.meter.handle("POST", RECEIPT, b'{"TX":"E"}')
        b.meter.faults.add(Fault("garbage", node="/transaction", count=1000), REFUSED_B)
        async with driver(b, journal) as (made, _):
            await refused_start(made, "A")
        b.meter.faults.clear()
        async with driver(b, journal) as (made, _):
            assert receipt_of(await made.stop_transaction("A")).identification == "04ABA"
            await asyncio.sleep(10)
        assert whose(path) == [("T1", "A", False)]


@virtual
async def test_what_runs_after_a_restart_is_not_the_one_noted_if_that_has_its_receipt(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, virtual_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request("A"))).status is OK
            await asyncio.sleep(3)
        b.meter.handle("POST", RECEIPT, b'{"TX":"E"}')
        await asyncio.sleep(1)
        b.meter.handle("POST", RECEIPT, BEGIN)
        async with driver(b, journal) as (made, _):
            assert receipt_of(await made.stop_transaction("A")).identification == "04ABA"
            assert b.meter.running
            assert receipt_of(await made.stop_transaction("B")).identification != "04ABA"
        assert whose(path) == [("T1", "A", False), ("T2", "B", False)]
