"""Stopping a transaction: its own receipt, the last one, or none; never another's."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from iem_dcr import ocmf
from iem_dcr.ocmf import Outcome
from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import Fault, SimulatorOptions
from tests.support.bench import SECRET, SERIAL, Bench, bench, request
from tests.support.virtual_time import virtual
from tests.test_driver_start import BEGIN, RECEIPT, expect_refused, receipt_of

if TYPE_CHECKING:
    from iem_dcr.driver import KeptReceipt

OK = TransactionRequestStatus.OK
UNEXPECTED_ERROR = TransactionRequestStatus.UNEXPECTED_ERROR
END = b'{"TX":"E"}'


async def session(b: Bench, name: str = "T-1") -> str:
    assert (await b.driver.start_transaction(request(name))).status is OK
    return receipt_of(await b.driver.stop_transaction(name)).text


@pytest.mark.parametrize("firmware", ["v1", "v2"])
@pytest.mark.parametrize("wrapping", ["raw", "quoted", "braced", "json-string", "object"])
@pytest.mark.parametrize("encoding", ["unpadded-der", "der", "raw"])
@virtual
async def test_the_receipt_is_handed_over_byte_for_byte(firmware: str, wrapping: str, encoding: str) -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET).changed(
        {"firmware": firmware, "receipt_wrapping": wrapping, "signature_encoding": encoding}
    )
    async with bench(options) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        stopped = await b.driver.stop_transaction("T-1")
        value = stopped.to_json()["signed_meter_value"]
        assert isinstance(value, dict)
        assert value["signed_meter_data"] == b.meter.signed[-1].text
        assert value["signing_method"] == ""
        assert value["encoding_method"] == "OCMF"
        assert value["public_key"] == b.station.keys[-1]
        assert ocmf.verify(receipt_of(stopped), value["public_key"]).outcome is Outcome.VALID


@virtual
async def test_the_live_value_after_the_end_is_published_before_the_answer() -> None:
    async with bench() as b:
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        await asyncio.sleep(3.5)
        count = len(b.station.values)
        stopped = await b.driver.stop_transaction("T-1")
        after = b.station.values[count][1]
        receipt = receipt_of(stopped)
        assert receipt.end is not None
        assert after.energy_wh_import == receipt.end.energy_wh


@pytest.mark.parametrize("answer", ["refuse", "nothing", "previous"])
@pytest.mark.parametrize("signing_s", [0.0, 0.12, 3.0, 30.0])
@virtual
async def test_the_receipt_is_awaited_and_never_an_older_one(answer: str, signing_s: float) -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, signing_delay_s=signing_s).changed(
        {"receipt_while_signing": answer, "receipt_in_transaction": answer}
    )
    loop = asyncio.get_running_loop()
    async with bench(options) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        for name in ("A", "B", "C"):
            assert (await b.driver.start_transaction(request(name))).status is OK
            before = loop.time()
            assert receipt_of(await b.driver.stop_transaction(name)).identification == f"04AB{name}"
            assert loop.time() - before <= max(2 * signing_s, signing_s + 0.26) + 0.03


@virtual
async def test_a_receipt_that_never_comes_from_receipt_comes_from_transaction() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.faults.add(Fault("refuse", node="/receipt", method="GET", count=1000))
        assert receipt_of(await b.driver.stop_transaction("T-1")).identification == "04ABT-1"


# --- none running ---


@pytest.mark.parametrize("transaction_id", ["", "never heard of"])
@virtual
async def test_the_last_receipt_whatever_the_id_where_nothing_is_known_of_it(transaction_id: str) -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        b.meter.handle("POST", RECEIPT, BEGIN)
        b.meter.handle("POST", RECEIPT, END)
        await asyncio.sleep(1)
        assert receipt_of(await b.driver.stop_transaction(transaction_id)).text == b.meter.signed[-1].text
        assert b.meter.state.ended == 1


@virtual
async def test_with_strict_ids_a_receipt_that_is_anothers_is_not_handed_over_as_the_last_one() -> None:
    async with bench(strict_transaction_ids=True) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        text = await session(b, "A")
        refused = await b.driver.stop_transaction("never heard of")
        assert refused.status is UNEXPECTED_ERROR
        assert refused.signed_meter_value is None
        assert "another" in refused.error
        assert receipt_of(await b.driver.stop_transaction("")).text == text
        assert receipt_of(await b.driver.stop_transaction("A")).text == text


@pytest.mark.parametrize("firmware", ["v1", "v2"])
@virtual
async def test_an_error_when_there_has_never_been_one(firmware: str) -> None:
    async with bench(SimulatorOptions(MS=SERIAL, private_key=SECRET).changed({"firmware": firmware})) as b:
        await b.until_live()
        stopped = await b.driver.stop_transaction("")
        assert stopped.status is UNEXPECTED_ERROR
        assert "none before" in stopped.error


@virtual
async def test_a_second_stop_returns_the_same_receipt_also_after_another_session() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        first = await session(b, "A")
        assert receipt_of(await b.driver.stop_transaction("A")).text == first
        second = await session(b, "B")
        assert receipt_of(await b.driver.stop_transaction("A")).text == first
        assert receipt_of(await b.driver.stop_transaction("B")).text == second


@virtual
async def test_a_stop_for_an_unknown_id_ends_what_runs_and_its_own_id_has_that_receipt_too() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request("A"))).status is OK
        text = receipt_of(await b.driver.stop_transaction("B")).text
        assert not b.meter.running
        assert receipt_of(await b.driver.stop_transaction("A")).text == text
        assert b.meter.state.ended == 1


@pytest.mark.parametrize("transaction_id", ["", "from before the restart"])
@virtual
async def test_a_transaction_from_before_is_ended_and_handed_over(transaction_id: str) -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        b.meter.handle("POST", RECEIPT, BEGIN)
        await b.until_live()
        receipt = receipt_of(await b.driver.stop_transaction(transaction_id))
        assert receipt.pagination == "T1"
        assert receipt_of(await b.driver.stop_transaction(transaction_id)).text == receipt.text


@virtual
async def test_a_stop_of_what_runs_waits_for_a_meter_that_is_silent() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        b.meter.handle("POST", RECEIPT, BEGIN)
        await b.until_live()
        b.meter.faults.add(Fault("stall", count=100_000))
        stopping = asyncio.create_task(b.driver.stop_transaction("from before the restart"))
        await asyncio.sleep(20)
        b.meter.faults.clear()
        assert receipt_of(await stopping).pagination == "T1"


@virtual
async def test_the_stop_of_a_refused_start_gets_nobodys_receipt() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        await session(b, "A")
        await b.driver.start_transaction(request("B", evse_id="another"))
        await expect_refused(b, "B")
        assert receipt_of(await b.driver.stop_transaction("A")).identification == "04ABA"


# --- refusals and currents ---


@virtual
async def test_an_end_refused_because_of_a_current_is_tried_until_it_falls() -> None:
    async with bench(resilience_transaction_request_retries=0) as b:
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.set_load(100, 400)
        stop = asyncio.create_task(b.driver.stop_transaction("T-1"))
        await asyncio.sleep(6)
        b.meter.clear_load()
        assert receipt_of(await stop).identification == "04ABT-1"


@virtual
async def test_an_end_that_is_refused_for_good_says_that_a_current_flows_and_is_made_later() -> None:
    loop = asyncio.get_running_loop()
    async with bench(stop_current_wait_ms=2000) as b:
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.set_load(100, 400)
        before = loop.time()
        stopped = await b.driver.stop_transaction("T-1")
        assert stopped.status is UNEXPECTED_ERROR
        assert b.driver.address in stopped.error
        assert "a current still flows" in stopped.error
        assert 1.9 <= loop.time() - before < 3.5
        b.meter.clear_load()
        await asyncio.sleep(12)
        assert not b.meter.running
        assert receipt_of(await b.driver.stop_transaction("T-1")).identification == "04ABT-1"
        assert b.meter.state.ended == 1


@virtual
async def test_an_end_that_is_refused_without_a_current_is_tried_again_whatever_the_retries_are() -> None:
    async with bench(resilience_transaction_request_retries=0) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.faults.add(Fault("refuse", node="/receipt", method="POST", count=3))
        assert receipt_of(await b.driver.stop_transaction("T-1")).identification == "04ABT-1"
        assert b.meter.state.ended == 1


@virtual
async def test_a_stop_needs_four_requests_and_the_reading_after_it() -> None:
    async with bench(SimulatorOptions(MS=SERIAL, private_key=SECRET, signing_delay_s=0.0)) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        await asyncio.sleep(2.5)
        since = len(b.meter.requests)
        assert receipt_of(await b.driver.stop_transaction("T-1")).identification == "04ABT-1"
        assert [(entry.method, entry.node) for entry in list(b.meter.requests)[since:]] == [
            ("GET", "/gw"),
            ("POST", "/receipt"),
            ("GET", "/receipt"),
            ("GET", "/metervalue"),
        ]


@virtual
async def test_a_reading_that_fails_does_not_fail_a_stop() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        ended = b.requests("POST", "/receipt")
        stopping = asyncio.create_task(b.driver.stop_transaction("T-1"))
        while b.requests("POST", "/receipt") == ended:
            await asyncio.sleep(0)
        b.meter.faults.add(Fault("refuse", node="/metervalue"))
        assert receipt_of(await stopping).identification == "04ABT-1"


# --- verification and keeping ---


@virtual
async def test_a_receipt_that_does_not_verify_is_handed_over_with_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        b.meter.configure(MS=SERIAL, private_key=SECRET + 1)
        assert (await b.driver.start_transaction(request())).status is OK
        assert receipt_of(await b.driver.stop_transaction("T-1")).text == b.meter.signed[-1].text
        address = b.driver.address
    (error,) = {record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR}
    assert address in error
    assert "does not verify" in error


@virtual
async def test_verification_can_be_switched_off(caplog: pytest.LogCaptureFixture) -> None:
    async with bench(verify_receipts=False) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        b.meter.configure(MS=SERIAL, private_key=SECRET + 1)
        await session(b)
    assert not caplog.records


class Sink:
    """Keeps receipts in a list, or fails to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.kept: list[KeptReceipt] = []
        self._fails = fails

    async def keep(self, kept: KeptReceipt) -> None:
        if self._fails:
            raise OSError("no space left")
        self.kept.append(kept)


@virtual
async def test_every_receipt_is_kept_before_it_is_handed_over() -> None:
    sink = Sink()
    async with bench(sink=sink) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        text = await session(b)
        assert {(kept.transaction_id, kept.receipt.text, kept.outcome) for kept in sink.kept} == {
            ("T-1", text, Outcome.VALID)
        }


@virtual
async def test_a_keeper_that_fails_does_not_fail_a_stop(caplog: pytest.LogCaptureFixture) -> None:
    async with bench(sink=Sink(fails=True)) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        await session(b)
    assert "was not kept" in caplog.text
