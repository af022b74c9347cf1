"""What the journal notes for the process after this one: what may have been begun, and what certainly was not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from iem_dcr.journal.notes import Recalled
from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import Answer, Fault
from tests.support.bench import Bench, bench, request
from tests.support.journals import patient_journal
from tests.support.virtual_time import virtual
from tests.test_driver_journal import NONE_SIGNED, driver, whose
from tests.test_driver_start import BEGIN, RECEIPT, receipt_of
from tests.test_driver_whose import live

if TYPE_CHECKING:
    from pathlib import Path

    from iem_dcr.driver import KeptReceipt, MeterDriver
    from iem_dcr.driver.station import NotedBegin
    from iem_dcr.journal import Entry
    from iem_dcr.ocmf import Receipt

OK = TransactionRequestStatus.OK
REFUSED_B = Fault("refuse", node="/receipt", method="POST", count=1000)
LOST_B = Fault("reset", node="/receipt", method="POST")


class Calls:
    """A journal that has nothing, and remembers what it is told, in order.

    Attributes:
        told: what it was told: the word and, of a note, the note, else the id.
        begun_takes_s: how long noting a transaction takes.
    """

    def __init__(self) -> None:
        self.told: list[tuple[str, NotedBegin | str]] = []
        self.begun_takes_s = 0.0

    @property
    def words(self) -> list[str]:
        return [word for word, _ in self.told]

    @property
    def standing(self) -> list[str]:
        """The ids that are noted; every withdrawal is of the note before it."""
        notes: list[NotedBegin | str] = []
        for word, what in self.told:
            if word == "begun":
                notes.append(what)
            elif word == "withdraw":
                assert notes.pop() is what
        return [note.transaction_id for note in notes if not isinstance(note, str)]

    async def keep(self, kept: KeptReceipt) -> None:
        """Forget it."""

    async def receipt_of(self, transaction_id: str, *, meter: str, address: str) -> Entry | None:
        return None

    async def is_of_another(self, receipt: Receipt, transaction_id: str, *, meter: str) -> bool:
        return False

    async def begun(self, noted: NotedBegin) -> None:
        self.told.append(("begun", noted))
        await asyncio.sleep(self.begun_takes_s)

    def withdraw(self, noted: NotedBegin) -> None:
        self.told.append(("withdraw", noted))

    def refused(self, transaction_id: str, *, meter: str, address: str) -> None:
        assert address
        self.told.append(("refused", transaction_id))

    async def recall(self, *, meter: str, address: str) -> Recalled:
        return Recalled()


async def refused_start(made: MeterDriver, name: str) -> None:
    assert (await made.start_transaction(request(name))).status is TransactionRequestStatus.UNEXPECTED_ERROR


def once(b: Bench, node: str, fault: Fault) -> None:
    """Have a fault set in with the first POST to a node: it meets what comes next."""
    handle = b.meter.handle

    def looked_at(method: str, path: str, body: bytes = b"") -> Answer:
        answer = handle(method, path, body)
        if method == "POST" and path.endswith(node):
            b.meter.faults.add(fault)
            b.meter.handle = handle  # type: ignore[method-assign]
        return answer

    b.meter.handle = looked_at  # type: ignore[method-assign]


# --- across a restart ---


@virtual
async def test_after_a_restart_a_refused_start_gets_no_receipt_of_a_strangers_transaction(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, patient_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            b.meter.faults.add(REFUSED_B)
            await refused_start(made, "A")
        b.meter.faults.clear()
        b.meter.handle("POST", RECEIPT, BEGIN)
        async with driver(b, journal) as (made, _):
            assert (await made.stop_transaction("A")).error == NONE_SIGNED
            assert not b.meter.running
            assert receipt_of(await made.stop_transaction("")).pagination == "T1"
        assert whose(path) == [("T1", "", False)]


@virtual
async def test_after_a_restart_a_start_that_never_got_to_begin_gets_none_either(tmp_path: Path) -> None:
    async with bench() as b, patient_journal(tmp_path / "receipts.db") as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            b.meter.faults.add(Fault("refuse", node="/user", method="POST", count=1000))
            await refused_start(made, "A")
        b.meter.faults.clear()
        b.meter.handle("POST", RECEIPT, BEGIN)
        async with driver(b, journal) as (made, _):
            assert (await made.stop_transaction("A")).error == NONE_SIGNED


@virtual
async def test_a_start_that_was_refused_before_has_its_receipt_after_a_restart(tmp_path: Path) -> None:
    async with bench() as b, patient_journal(tmp_path / "receipts.db") as journal:
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
    async with bench() as b, patient_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            assert (await made.start_transaction(request("A"))).status is OK
            await asyncio.sleep(3)
        b.meter.faults.add(Fault("refuse", count=10_000))
        async with driver(b, journal) as (made, _):
            await refused_start(made, "A")
            b.meter.faults.clear()
            assert receipt_of(await made.stop_transaction("A")).identification == "04ABA"
        assert whose(path) == [("T1", "A", False)]


@virtual
async def test_a_begin_in_doubt_has_its_receipt_after_a_restart_also_when_the_next_of_its_id_was_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, patient_journal(path) as journal:
        await live(b)
        async with driver(b, journal) as (made, _):
            b.meter.faults.add(Fault("lose-answer", node="/receipt", method="POST"))
            once(b, "/receipt", Fault("garbage", node="/metervalue", count=1000))
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
        assert whose(path) == [("T1", "A", False)]


@virtual
async def test_what_runs_after_a_restart_is_not_the_one_noted_if_that_has_its_receipt(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with bench() as b, patient_journal(path) as journal:
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


# --- what the journal is told ---


@virtual
async def test_every_note_of_a_begin_that_was_refused_is_withdrawn() -> None:
    journal = Calls()
    async with bench(journal=journal) as b:
        await live(b)
        b.meter.faults.add(REFUSED_B)
        await refused_start(b.driver, "A")
        times = b.requests("POST", "/receipt")
        assert times > 1
        assert journal.words == ["begun", "withdraw"] * times + ["refused"]
        assert journal.standing == []


@pytest.mark.parametrize("then", [None, REFUSED_B])
@virtual
async def test_the_note_of_a_begin_in_doubt_is_not_withdrawn(then: Fault | None) -> None:
    journal = Calls()
    async with bench(journal=journal) as b:
        await live(b)
        b.meter.faults.add(LOST_B, *([] if then is None else [then]))
        response = await b.driver.start_transaction(request("A"))
        assert response.status is (OK if then is None else TransactionRequestStatus.UNEXPECTED_ERROR)
        assert set(journal.words) == {"begun"}
        assert b.requests("POST", "/receipt") > 1
        if then is not None:
            told = len(journal.told)
            await refused_start(b.driver, "A")
            assert set(journal.words[told:]) == {"begun", "withdraw"}
        assert set(journal.standing) == {"A"}


@virtual
async def test_the_note_of_a_begin_that_did_not_go_out_is_withdrawn() -> None:
    journal = Calls()
    async with bench(journal=journal) as b:
        await live(b)
        once(b, "/user", Fault("garbage", node="/metervalue"))
        assert (await b.driver.start_transaction(request("A"))).status is OK
        assert journal.words == ["begun", "withdraw", "begun"]
        assert b.requests("POST", "/receipt") == 1
        assert journal.standing == ["A"]


@virtual
async def test_a_process_that_ends_before_begin_goes_out_withdraws_its_note() -> None:
    journal = Calls()
    async with bench(journal=journal) as b:
        await live(b)
        journal.begun_takes_s = 1e6
        starting = asyncio.create_task(b.driver.start_transaction(request("A")))
        while not journal.told:
            await asyncio.sleep(0.01)
        b.task.cancel()
        await starting
        assert b.requests("POST", "/receipt") == 0
        assert journal.words == ["begun", "withdraw", "refused"]


@virtual
async def test_a_journal_that_takes_nothing_back_changes_no_answer() -> None:
    class Failing(Calls):
        def withdraw(self, noted: NotedBegin) -> None:
            raise ValueError(noted)

        def refused(self, transaction_id: str, *, meter: str, address: str) -> None:
            raise OSError(transaction_id)

    async with bench(journal=Failing()) as b:
        await live(b)
        b.meter.faults.add(REFUSED_B)
        await refused_start(b.driver, "A")
        b.meter.faults.clear()
        assert (await b.driver.start_transaction(request("B"))).status is OK
        assert receipt_of(await b.driver.stop_transaction("B")).identification == "04ABB"
