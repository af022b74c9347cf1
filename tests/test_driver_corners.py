"""Corners: what happens seldom, and would be noticed late."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import TYPE_CHECKING

import pytest

from iem_dcr import ocmf
from iem_dcr.driver.timing import now_s
from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import Answer, Fault, SimulatorOptions
from tests.support.bench import SECRET, SERIAL, Bench, bench, request
from tests.support.journals import entries, virtual_journal
from tests.support.virtual_time import virtual
from tests.test_driver_start import BEGIN, RECEIPT, receipt_of
from tests.test_driver_stop import Sink

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OK = TransactionRequestStatus.OK
UNEXPECTED_ERROR = TransactionRequestStatus.UNEXPECTED_ERROR
END = b'{"TX":"E"}'
BAD = "0x0001, 0x00000000, 0x00, 0x00"
HEALTHY = "0x0000, 0x00000000, 0x00, 0x00"


def user(ID: str) -> bytes:
    return json.dumps({"IS": True, "IL": "NONE", "IF": [], "IT": "ISO14443", "ID": ID, "US": False}).encode()


def changed_answers(b: Bench, change: Callable[[str, str, Answer], Answer]) -> None:
    """Let the meter answer something else than it would."""
    handle = b.meter.handle

    def changed(method: str, path: str, body: bytes = b"") -> Answer:
        return change(method, path.rpartition("/")[2], handle(method, path, body))

    b.meter.handle = changed  # type: ignore[method-assign]  # the meter of this test


# --- readings ---


@virtual
async def test_a_slow_reading_is_let_finish_within_half_a_second() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        await asyncio.sleep(0.9)
        b.meter.faults.add(Fault("drip", node="/metervalue", delay_s=0.0005))
        count = len(b.station.values)
        await asyncio.sleep(0.15)
        assert len(b.station.values) == count
        assert (await b.driver.start_transaction(request())).status is OK
        assert len(b.station.values) == count + 1


@virtual
async def test_a_good_reading_between_two_failed_ones_makes_no_fault() -> None:
    async with bench() as b:
        await b.until_live()
        await asyncio.sleep(0.5)
        for _ in range(4):
            b.meter.faults.add(Fault("refuse", node="/metervalue"))
            await asyncio.sleep(2)
        assert not b.station.raised


@virtual
async def test_a_healthy_reading_between_unhealthy_ones_makes_no_error() -> None:
    async with bench() as b:
        await b.until_live()
        await asyncio.sleep(0.5)
        for _ in range(3):
            b.meter.configure(XC=BAD)
            await asyncio.sleep(2)
            b.meter.configure(XC=HEALTHY)
            await asyncio.sleep(1)
        assert not b.station.raised


@virtual
async def test_nothing_is_published_of_a_meter_that_is_not_the_configured_one() -> None:
    async with bench(meter_serial="1ISA0000000001") as b:
        await asyncio.sleep(10)
        assert not b.station.values
        assert not b.station.keys


# --- receipts ---


def of_somebody(_method: str, _node: str, answer: Answer) -> Answer:
    return Answer(answer.status, answer.body.replace(b"04ABT-1", b"SOMEBODY"), answer.content_type)


@virtual
async def test_a_new_receipt_that_is_somebody_else_s_for_good_is_not_handed_over() -> None:
    async with bench(verify_receipts=False) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        changed_answers(b, of_somebody)
        stopped = await b.driver.stop_transaction("T-1")
        assert stopped.status is UNEXPECTED_ERROR
        assert stopped.signed_meter_value is None
        assert not b.meter.running


@virtual
async def test_a_new_receipt_of_somebody_else_s_may_be_followed_by_the_right_one_for_fifteen_seconds() -> None:
    async with bench(verify_receipts=False) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        follows_s = now_s() + 10.0

        def at_first_of_somebody(method: str, node: str, answer: Answer) -> Answer:
            return of_somebody(method, node, answer) if now_s() < follows_s else answer

        changed_answers(b, at_first_of_somebody)
        assert receipt_of(await b.driver.stop_transaction("T-1")).identification == "04ABT-1"
        assert follows_s < now_s() < follows_s + 1.0


async def replaced(b: Bench, *, sign: bool = False) -> None:
    """Begin a transaction, and have it replaced by another between two looks of the driver's."""
    b.meter.set_load(0, 0)
    await b.until_live()
    assert (await b.driver.start_transaction(request())).status is OK
    b.meter.handle("POST", RECEIPT, END)
    b.meter.configure(signing_delay_s=0.0)
    await asyncio.sleep(0.2)
    b.meter.handle("POST", "/counter/v1/ocmf/user", user("SOMEBODY"))
    b.meter.handle("POST", RECEIPT, BEGIN)
    if sign:
        b.meter.handle("POST", RECEIPT, END)


@pytest.mark.parametrize("sign", [False, True])
@virtual
async def test_the_receipt_of_one_that_took_its_place_is_kept_as_nobody_s(sign: bool, tmp_path: Path) -> None:  # noqa: FBT001  a parameter
    path = tmp_path / "receipts.db"
    async with virtual_journal(path) as journal, bench(journal=journal) as b:
        await replaced(b, sign=sign)
        for _ in range(2):
            stopped = await b.driver.stop_transaction("T-1")
            assert stopped.status is UNEXPECTED_ERROR
            assert stopped.signed_meter_value is None
        assert not b.meter.running
        assert (await b.driver.start_transaction(request("T-2"))).status is OK
        assert receipt_of(await b.driver.stop_transaction("T-2")).identification == "04ABT-2"
    assert [(entry.pagination, entry.transaction_id) for entry in entries(path)] == [("T2", ""), ("T3", "T-2")]


@virtual
async def test_so_is_that_of_one_begun_after_a_power_cut_in_which_ours_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, open_at_power_cut="lost")
    async with virtual_journal(path) as journal, bench(options, journal=journal) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.power_cycle(0.1, 0.1)
        await asyncio.sleep(0.2)
        b.meter.handle("POST", RECEIPT, BEGIN)
        stopped = await b.driver.stop_transaction("T-1")
        assert stopped.status is UNEXPECTED_ERROR
        assert "no receipt for this transaction" in stopped.error
        assert (await b.driver.start_transaction(request("T-2"))).status is OK
        assert receipt_of(await b.driver.stop_transaction("T-2")).identification == "04ABT-2"
    assert [(entry.pagination, entry.transaction_id) for entry in entries(path)] == [("T1", ""), ("T2", "T-2")]


@virtual
async def test_what_took_the_place_of_an_unwanted_one_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with virtual_journal(path) as journal, bench(journal=journal, command_timeout_ms=1000) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        b.once_done("POST", "/user", Fault("lose-answer", node="/receipt", method="POST"))
        starting = asyncio.create_task(b.driver.start_transaction(request()))
        while b.meter.state.begun == 0:
            await asyncio.sleep(0.001)
        b.meter.faults.add(Fault("refuse", node="/gw", count=1000), Fault("refuse", node="/metervalue", count=1000))
        assert (await starting).status is UNEXPECTED_ERROR
        b.meter.configure(signing_delay_s=0.0)
        b.meter.handle("POST", RECEIPT, END)
        b.meter.handle("POST", "/counter/v1/ocmf/user", user("SOMEBODY"))
        b.meter.handle("POST", RECEIPT, BEGIN)
        b.meter.faults.clear()
        await asyncio.sleep(15)
        assert b.meter.running
        assert receipt_of(await b.driver.stop_transaction("T-1")).identification == "04ABT-1"
    assert [(entry.pagination, entry.transaction_id) for entry in entries(path)] == [("T1", "T-1")]


@virtual
async def test_a_start_ends_the_one_that_took_its_place_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    async with virtual_journal(path) as journal, bench(journal=journal) as b:
        await replaced(b)
        assert (await b.driver.start_transaction(request("T-2"))).status is OK
        assert receipt_of(await b.driver.stop_transaction("T-2")).identification == "04ABT-2"
        assert receipt_of(await b.driver.stop_transaction("T-1")).identification == "04ABT-1"
    kept = [(entry.pagination, entry.transaction_id) for entry in entries(path)]
    assert kept == [("T1", "T-1"), ("T2", ""), ("T3", "T-2")]


@virtual
async def test_a_new_receipt_that_disagrees_is_replaced_by_the_right_one() -> None:
    """The record of a B that was closed by a power cut comes first; the one of the second B a moment later."""
    async with bench(SimulatorOptions(MS=SERIAL, private_key=SECRET, receipt_while_signing="previous")) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.handle("POST", RECEIPT, END)
        await asyncio.sleep(0.2)
        other = b.meter.signed[-1].text.replace('"ID":"04ABT-1"', '"ID":"OTHER"')
        b.meter.handle("POST", "/counter/v1/ocmf/user", user("04ABT-1"))
        b.meter.handle("POST", RECEIPT, BEGIN)

        def older(method: str, node: str, answer: Answer) -> Answer:
            is_old = node in ("receipt", "transaction") and method == "GET" and b'"PG":"T1"' in answer.body
            return Answer(200, other.encode(), "text/plain") if is_old else answer

        changed_answers(b, older)
        receipt = receipt_of(await b.driver.stop_transaction("T-1"))
        assert receipt.pagination == "T2"
        assert receipt.identification == "04ABT-1"


@virtual
async def test_the_last_receipt_of_the_same_card_is_not_taken_for_the_new_one() -> None:
    options = SimulatorOptions(
        MS=SERIAL, private_key=SECRET, receipt_while_signing="previous", receipt_in_transaction="previous"
    )
    async with bench(options) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request("A"))).status is OK
        assert (await b.driver.stop_transaction("A")).status is OK
        b.meter.faults.add(Fault("server-error", node="/transaction", count=1000))
        b.meter.faults.add(Fault("refuse", node="/metervalue"))
        await asyncio.sleep(2)
        starting = await b.driver.start_transaction(request("B", identification_data="04ABA"))
        assert starting.status is OK
        b.meter.faults.clear()
        assert receipt_of(await b.driver.stop_transaction("B")).pagination == "T2"


@virtual
async def test_a_transaction_that_runs_is_not_given_the_last_tuple_of_the_same_card() -> None:
    sink = Sink()
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, receipt_while_signing="previous", signing_delay_s=1.0)
    async with bench(options, sink=sink) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        b.meter.faults.add(Fault("refuse", node="/transaction", status=503, count=1000))
        b.meter.handle("POST", "/counter/v1/ocmf/user", user("04ABT-1"))
        b.meter.handle("POST", RECEIPT, BEGIN)
        b.meter.handle("POST", RECEIPT, END)
        await asyncio.sleep(8)
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.faults.clear()
        assert receipt_of(await b.driver.stop_transaction("T-1")).pagination == "T2"
    assert {(kept.receipt.pagination, kept.transaction_id) for kept in sink.kept} == {("T1", ""), ("T2", "T-1")}


@virtual
async def test_a_receipt_without_times_is_handed_over_all_the_same() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()

        def timeless(method: str, node: str, answer: Answer) -> Answer:
            if method == "GET" and node in ("receipt", "transaction"):
                return Answer(answer.status, re.sub(rb'"TM":"[^"]*",', b"", answer.body), answer.content_type)
            return answer

        changed_answers(b, timeless)
        assert (await b.driver.start_transaction(request())).status is OK
        stopped = await b.driver.stop_transaction("T-1")
        assert [reading.TM for reading in receipt_of(stopped).readings] == [None, None]
        assert stopped.signed_meter_value is not None
        assert stopped.signed_meter_value.timestamp is None


@virtual
async def test_a_late_receipt_is_kept_before_the_next_session_takes_its_place() -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, open_at_power_cut="closed-late", late_close_s=40.0)
    async with bench(options) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request("A"))).status is OK
        b.meter.power_cycle(off_s=1, boot_s=1)
        assert "no receipt for this transaction" in (await b.driver.stop_transaction("A")).error
        await asyncio.sleep(40 - 15)
        assert (await b.driver.start_transaction(request("B"))).status is OK
        assert receipt_of(await b.driver.stop_transaction("A")).identification == "04ABA"
        assert receipt_of(await b.driver.stop_transaction("B")).identification == "04ABB"


@virtual
async def test_a_receipt_that_nobody_fetched_is_found_while_nothing_happens() -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, open_at_power_cut="closed-late", late_close_s=20.0)
    async with bench(options) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request("A"))).status is OK
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(60)
        since = len(b.meter.requests)
        assert receipt_of(await b.driver.stop_transaction("A")).identification == "04ABA"
        assert {(made.method, made.node) for made in list(b.meter.requests)[since:]} <= {("GET", "/metervalue")}


@virtual
async def test_an_older_transaction_does_not_get_the_receipt_that_a_later_one_has_not_had_yet() -> None:
    async with bench(SimulatorOptions(MS=SERIAL, private_key=SECRET, open_at_power_cut="lost")) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request("A"))).status is OK
        b.meter.power_cycle(off_s=0.5, boot_s=0.5)
        await asyncio.sleep(30)
        assert (await b.driver.start_transaction(request("B"))).status is OK
        b.meter.configure(open_at_power_cut="closed")
        b.meter.power_cycle(off_s=0.5, boot_s=0.5)
        b.meter.faults.add(Fault("refuse", node="/transaction", count=12))
        await asyncio.sleep(5)
        stops = [b.driver.stop_transaction("A"), b.driver.stop_transaction("B")]
        of_a, of_b = await asyncio.gather(*stops)
        assert "no receipt for this transaction" in of_a.error
        assert receipt_of(of_b).identification == "04ABB"


@virtual
async def test_somebody_elses_transaction_in_between_is_not_taken_for_this_ones() -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, receipt_while_signing="previous", signing_delay_s=2.0)
    async with bench(options) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request("before"))).status is OK
        assert (await b.driver.stop_transaction("before")).status is OK
        b.meter.handle("POST", "/counter/v1/ocmf/user", user("04ABT-1"))
        b.meter.handle("POST", RECEIPT, BEGIN)
        await asyncio.sleep(1.5)
        b.meter.handle("POST", RECEIPT, END)
        await asyncio.sleep(3)
        assert (await b.driver.start_transaction(request())).status is OK
        assert receipt_of(await b.driver.stop_transaction("T-1")).pagination == "T3"


# --- starts and stops out of order ---


@virtual
async def test_a_start_whose_transaction_ended_by_itself_begins_again() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.power_cycle(off_s=0.5, boot_s=0.5)
        await asyncio.sleep(5)
        assert not b.meter.running
        assert (await b.driver.start_transaction(request())).status is OK
        assert b.meter.running


@virtual
async def test_a_start_given_up_in_the_queue_has_no_receipt() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request("A"))).status is OK
        b.meter.faults.add(Fault("reset", count=10_000))
        stop = asyncio.create_task(b.driver.stop_transaction("A"))
        await asyncio.sleep(0.1)
        assert (await b.driver.start_transaction(request("B"))).status is UNEXPECTED_ERROR
        b.meter.faults.clear()
        assert receipt_of(await stop).identification == "04ABA"
        assert "refused" in (await b.driver.stop_transaction("B")).error
        assert b.meter.state.begun == 1


@virtual
async def test_what_runs_on_a_meter_put_in_anothers_place_is_not_ended_for_a_transaction_of_the_other() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.configure(MS="1SIM0000000099")
        await asyncio.sleep(5)
        assert SERIAL in (await b.driver.stop_transaction("T-1")).error
        assert b.meter.running


@pytest.mark.parametrize("shown", [False, True])
@virtual
async def test_whether_the_id_is_shown_is_as_configured(shown: bool) -> None:  # noqa: FBT001
    bodies = []
    async with bench(US=shown) as b:
        await b.until_live()
        handle = b.meter.handle

        def noted(method: str, path: str, body: bytes = b"") -> Answer:
            if path.endswith("/user"):
                bodies.append(json.loads(body))
            return handle(method, path, body)

        b.meter.handle = noted  # type: ignore[method-assign]  # the meter of this test
        assert (await b.driver.start_transaction(request())).status is OK
    assert [body["US"] for body in bodies] == [shown]


@virtual
async def test_what_a_station_sends_is_refused_where_it_cannot_be_read() -> None:
    async with bench() as b:
        await b.until_live()
        values: tuple[object, ...] = (None, [], {}, {"transaction_id": "X"}, {"transaction_id": "X", "evse_id": 7})
        for value in values:
            assert (await b.driver.start_from_json(value)).status is UNEXPECTED_ERROR
        assert "refused" in (await b.driver.stop_from_json("X")).error
        assert (await b.driver.stop_from_json(7)).status is UNEXPECTED_ERROR


@virtual
async def test_a_station_that_does_not_stop_asking_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "iem_dcr.driver")
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        b.meter.configure(MS=SERIAL, private_key=SECRET + 1)
        assert (await b.driver.start_transaction(request("A"))).status is OK
        caplog.clear()
        for number in range(20):
            assert (await b.driver.start_transaction(request("A"))).status is OK
            odd = request(f"B{number}", tariff_text="0,59 €", identification_level="INVALID", evse_id="another")
            assert (await b.driver.start_transaction(odd)).status is not OK
            assert (await b.driver.stop_transaction(f"B{number}")).status is not OK
        assert len(caplog.records) == 5 * 5
        await asyncio.sleep(60)
        assert (await b.driver.stop_transaction("B1")).status is not OK
    assert "more lines like the next were left out" in caplog.text


@virtual
async def test_a_receipt_without_pagination_is_matched_by_id_and_beginning() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()

        def unpaged(method: str, node: str, answer: Answer) -> Answer:
            if method == "GET" and node in ("receipt", "transaction"):
                return Answer(answer.status, answer.body.replace(b'"PG":"T1",', b""), answer.content_type)
            return answer

        changed_answers(b, unpaged)
        assert (await b.driver.start_transaction(request())).status is OK
        receipt = receipt_of(await b.driver.stop_transaction("T-1"))
        assert receipt.pagination is None
        assert receipt.identification == "04ABT-1"
        assert ocmf.verify(receipt, b.driver.public_key).outcome is ocmf.Outcome.INVALID


@virtual
async def test_a_receipt_damaged_on_its_way_is_fetched_once_more(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()

        def damage(method: str, node: str, answer: Answer) -> Answer:
            if method == "GET" and node == "receipt" and answer.status == 200:
                return Answer(200, answer.body.replace(b'"ST":"G"', b'"ST":"N"'), answer.content_type)
            return answer

        changed_answers(b, damage)
        assert (await b.driver.start_transaction(request())).status is OK
        stopped = await b.driver.stop_transaction("T-1")
        assert receipt_of(stopped).text == b.meter.signed[-1].text
    assert [record.levelno for record in caplog.records if "does not verify" in record.getMessage()] == [logging.ERROR]
