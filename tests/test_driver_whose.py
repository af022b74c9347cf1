"""Whose receipt it is: transactions superseded, in doubt, under ids used before, cut short, or on another meter."""

from __future__ import annotations

import asyncio

from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import Answer, Fault, SimulatorOptions
from tests.support.bench import SECRET, SERIAL, Bench, bench, request
from tests.support.virtual_time import virtual
from tests.test_driver_corners import END, changed_answers
from tests.test_driver_power import fated
from tests.test_driver_start import BEGIN, RECEIPT, receipt_of

OK = TransactionRequestStatus.OK
UNEXPECTED_ERROR = TransactionRequestStatus.UNEXPECTED_ERROR
ANOTHER_KEY = SECRET + 1


async def live(b: Bench) -> None:
    b.meter.set_load(0, 0)
    await b.until_live()


async def begin(b: Bench, name: str) -> None:
    assert (await b.driver.start_transaction(request(name))).status is OK
    await asyncio.sleep(3)


async def expect_own(b: Bench, name: str) -> None:
    assert receipt_of(await b.driver.stop_transaction(name)).identification == f"04AB{name}"


async def expect_lost(b: Bench, name: str) -> None:
    """Stop a transaction that the meter has lost: there is no receipt, and what runs goes on."""
    running = b.meter.running
    stopped = await b.driver.stop_transaction(name)
    assert stopped.status is UNEXPECTED_ERROR
    assert stopped.signed_meter_value is None
    assert "lost" in stopped.error
    assert b.meter.running is running


def session_of_nobodys(b: Bench) -> None:
    b.meter.handle("POST", RECEIPT, BEGIN)
    b.meter.handle("POST", RECEIPT, END)


# --- superseded transactions ---


@virtual
async def test_a_transaction_that_the_meter_lost_gets_no_receipt_of_the_one_after_it() -> None:
    async with bench(fated("lost")) as b:
        await live(b)
        await begin(b, "A")
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(10)
        await begin(b, "B")
        await expect_own(b, "B")
        await expect_lost(b, "A")


@virtual
async def test_a_receipt_that_could_not_be_read_when_it_was_due_is_not_lost_to_the_next_one() -> None:
    async with bench(fated("closed")) as b:
        await live(b)
        await begin(b, "A")
        b.meter.faults.add(Fault("refuse", node="/transaction", status=503, count=6))
        b.meter.power_cycle(off_s=0.2, boot_s=0.2)
        await asyncio.sleep(3)
        await begin(b, "B")
        b.meter.faults.clear()
        await asyncio.sleep(20)
        await expect_own(b, "B")
        await expect_own(b, "A")


@virtual
async def test_a_receipt_that_began_at_another_time_than_expected_is_kept_before_the_next_one() -> None:
    async with bench(fated("closed")) as b:
        await live(b)
        jumps: list[float] = []

        def jump_before_b(method: str, node: str, answer: Answer) -> Answer:
            if node == "metervalue" and b.requests("POST", "/user") == 1 and not jumps:
                jumps.append(120.0)
                b.meter.shift_clock(jumps[0])
            return answer

        changed_answers(b, jump_before_b)
        await begin(b, "A")
        assert jumps
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(60)
        await begin(b, "B")
        await expect_own(b, "B")
        await expect_own(b, "A")


@virtual
async def test_a_late_receipt_from_before_the_restart_is_not_taken_for_the_first_one_after_it() -> None:
    options = fated("closed-late", signing_delay_s=3.0, receipt_while_signing="previous")
    async with bench(options) as b:
        b.meter.set_load(0, 0)
        session_of_nobodys(b)
        await asyncio.sleep(4)
        b.meter.handle("POST", RECEIPT, BEGIN)
        b.meter.power_cycle(off_s=0.1, boot_s=0.1)
        await b.until_live()
        await b.driver.stop_transaction("")
        await asyncio.sleep(30)
        assert len(b.meter.signed) == 2
        await begin(b, "A")
        await expect_own(b, "A")


@virtual
async def test_the_receipt_of_a_transaction_ended_for_a_start_that_failed_is_not_the_next_ones() -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, signing_delay_s=20.0, receipt_while_signing="previous")
    async with bench(options) as b:
        b.meter.set_load(0, 0)
        b.meter.handle("POST", RECEIPT, BEGIN)
        await b.until_live()
        assert (await b.driver.start_transaction(request("A"))).status is UNEXPECTED_ERROR
        await asyncio.sleep(20)
        b.meter.configure(signing_delay_s=3.0)
        await begin(b, "B")
        await expect_own(b, "B")


@virtual
async def test_the_same_card_twice_gets_two_receipts_also_where_the_last_tuple_cannot_be_read() -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, signing_delay_s=1.0, receipt_while_signing="previous")
    async with bench(options) as b:
        await live(b)
        b.meter.faults.add(Fault("refuse", node="/transaction", status=503, count=100_000))
        pages = []
        for name in ("A", "B"):
            assert (await b.driver.start_transaction(request(name, identification_data="04ABCD"))).status is OK
            pages.append(receipt_of(await b.driver.stop_transaction(name)).pagination)
            b.meter.faults.add(Fault("lose-request", node="/metervalue"))
            await asyncio.sleep(12)
        assert pages == ["T1", "T2"]


@virtual
async def test_with_strict_ids_a_receipt_that_comes_late_is_not_handed_over_as_the_last_one() -> None:
    options = fated("closed-late", late_close_s=40.0)
    async with bench(options, resilience_transaction_request_retries=0, strict_transaction_ids=True) as b:
        await live(b)
        await begin(b, "A")
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(20)
        b.meter.faults.add(Fault("refuse", node="/receipt", method="POST", count=2))
        assert (await b.driver.start_transaction(request("B"))).status is not OK
        b.meter.faults.add(Fault("refuse", node="/transaction", status=503, count=6))
        await asyncio.sleep(25)
        stopped = await b.driver.stop_transaction("never heard of")
        assert stopped.status is UNEXPECTED_ERROR
        assert "another" in stopped.error
        await expect_own(b, "A")


@virtual
async def test_of_two_transactions_of_one_card_the_nearer_one_gets_the_receipt() -> None:
    """The meter lost the first; the second was closed by a power cut, and nobody had asked for its receipt yet."""
    async with bench(fated("lost")) as b:
        await live(b)
        for name in ("A", "B"):
            assert (await b.driver.start_transaction(request(name, identification_data="04ABCD"))).status is OK
            b.meter.power_cycle(off_s=1, boot_s=1)
            await asyncio.sleep(10)
            b.meter.configure(open_at_power_cut="closed")
        await expect_lost(b, "A")
        assert receipt_of(await b.driver.stop_transaction("B")).pagination == "T1"


@virtual
async def test_a_transaction_does_not_get_the_receipt_that_an_earlier_one_of_the_card_still_waits_for() -> None:
    options = fated("closed", receipt_while_signing="previous", signing_delay_s=3.0)
    async with bench(options) as b:
        await live(b)
        assert (await b.driver.start_transaction(request("A", identification_data="04ABCD"))).status is OK
        b.meter.faults.add(Fault("refuse", node="/transaction", status=503, count=100_000))
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(10)
        assert (await b.driver.start_transaction(request("B", identification_data="04ABCD"))).status is OK
        b.meter.handle("POST", RECEIPT, END)
        assert receipt_of(await b.driver.stop_transaction("B")).pagination == "T2"
        assert receipt_of(await b.driver.stop_transaction("A")).pagination == "T1"


@virtual
async def test_the_stop_of_an_older_transaction_does_not_end_the_watch_for_one_in_doubt() -> None:
    async with bench(fated("closed"), command_timeout_ms=1000) as b:
        await live(b)
        await begin(b, "A")
        b.meter.faults.add(Fault("refuse", node="/transaction", status=503, count=100_000))
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(10)
        b.once_done(
            "POST",
            "/user",
            Fault("lose-answer", node="/receipt", method="POST"),
            Fault("refuse", node="/gw", count=1000),
        )
        assert (await b.driver.start_transaction(request("B"))).status is UNEXPECTED_ERROR
        assert b.meter.running
        b.meter.faults.clear()
        await expect_own(b, "A")
        await asyncio.sleep(15)
        assert not b.meter.running


@virtual
async def test_a_stop_does_not_get_the_receipt_that_a_later_transaction_of_the_card_still_waits_for() -> None:
    async with bench(fated("lost")) as b:
        await live(b)
        assert (await b.driver.start_transaction(request("A", identification_data="04ABCD"))).status is OK
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(10)
        assert (await b.driver.start_transaction(request("B", identification_data="04ABCD"))).status is OK
        b.meter.faults.add(Fault("refuse", node="/receipt", method="GET", count=1000))
        b.meter.handle("POST", RECEIPT, END)
        await asyncio.sleep(1.5)
        await expect_lost(b, "A")
        assert receipt_of(await b.driver.stop_transaction("B")).pagination == "T1"


@virtual
async def test_the_tariff_text_of_a_transaction_whose_stop_got_no_answer_is_not_the_next_ones() -> None:
    async with bench(TT_initial="0,59 EUR/kWh") as b:
        await live(b)
        assert (await b.driver.start_transaction(request("A", tariff_text="9,99 EUR/kWh"))).status is OK
        b.meter.faults.add(Fault("lose-answer", node="/receipt", method="POST"))
        stopping = asyncio.create_task(b.driver.stop_transaction("A"))
        while b.meter.running:
            await asyncio.sleep(0.001)
        b.meter.faults.add(Fault("reset", count=100_000))
        assert (await stopping).status is UNEXPECTED_ERROR
        b.meter.faults.clear()
        await asyncio.sleep(30)
        assert '"TT":"9,99 EUR/kWh"' in receipt_of(await b.driver.stop_transaction("A")).text
        await begin(b, "B")
        assert '"TT":"0,59 EUR/kWh"' in receipt_of(await b.driver.stop_transaction("B")).text


# --- doubtful starts ---


@virtual
async def test_a_doubtful_b_that_ran_on_through_a_power_cut_is_not_filed_under_an_older_transaction() -> None:
    async with bench(fated("lost")) as b:
        await live(b)
        await begin(b, "A")
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(30)
        b.meter.configure(open_at_power_cut="running")
        b.once_done("POST", "/user", Fault("lose-answer", node="/receipt", method="POST"))
        starting = asyncio.create_task(b.driver.start_transaction(request("B")))
        while not b.meter.running:
            await asyncio.sleep(0.001)
        b.meter.power_cycle(off_s=0.5, boot_s=1)
        assert (await starting).status is OK
        await b.driver.stop_transaction("B")
        await expect_lost(b, "A")


@virtual
async def test_a_doubtful_start_does_not_take_the_late_receipt_of_the_one_before_it() -> None:
    async with bench(fated("closed-late", late_close_s=40.0), resilience_transaction_request_retries=0) as b:
        await live(b)
        await begin(b, "A")
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(20)
        b.once_done(
            "POST",
            "/user",
            Fault("lose-request", node="/receipt", method="POST"),
            Fault("refuse", node="/receipt", method="POST", count=2),
        )
        assert (await b.driver.start_transaction(request("B"))).status is UNEXPECTED_ERROR
        await asyncio.sleep(60)
        assert (await b.driver.stop_transaction("B")).status is UNEXPECTED_ERROR
        await expect_own(b, "A")


# --- the same start again ---


@virtual
async def test_a_start_repeated_after_its_caller_gave_up_goes_on() -> None:
    async with bench() as b:
        await live(b)
        await asyncio.sleep(0.1)
        b.once_done("POST", "/user", Fault("stall", node="/receipt", method="POST", delay_s=2, acts=True))
        caller = asyncio.create_task(b.driver.start_transaction(request()))
        await asyncio.sleep(0.5)
        caller.cancel()
        assert (await b.driver.start_transaction(request())).status is OK
        await asyncio.sleep(15)
        assert b.meter.running


@virtual
async def test_a_start_repeated_after_a_stop_that_failed_goes_on() -> None:
    async with bench(stop_current_wait_ms=0) as b:
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.set_load(50, 400)
        assert (await b.driver.stop_transaction("T-1")).status is UNEXPECTED_ERROR
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.clear_load()
        await asyncio.sleep(15)
        assert b.meter.running


@virtual
async def test_a_start_repeated_after_its_transaction_was_ended_unseen_is_not_taken_for_running() -> None:
    async with bench() as b:
        await live(b)
        await begin(b, "A")
        stopping = asyncio.create_task(b.driver.stop_transaction("A"))
        while b.meter.running:
            await asyncio.sleep(0.001)
        b.meter.faults.add(Fault("stall", count=100_000))
        assert (await stopping).status is UNEXPECTED_ERROR
        assert (await b.driver.start_transaction(request("A"))).status is UNEXPECTED_ERROR


# --- ids used again ---


@virtual
async def test_a_start_that_is_refused_does_not_take_the_receipt_that_its_id_had_before() -> None:
    async with bench() as b:
        await live(b)
        await begin(b, "A")
        await expect_own(b, "A")
        assert (await b.driver.start_transaction(request("A", evse_id="another"))).status is not OK
        await begin(b, "B")
        await expect_own(b, "A")
        assert b.meter.running


@virtual
async def test_the_last_receipt_stays_that_of_the_id_it_was_handed_over_for() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        session_of_nobodys(b)
        await b.until_live()
        await asyncio.sleep(20)
        first = receipt_of(await b.driver.stop_transaction("old")).text
        await begin(b, "A")
        await expect_own(b, "A")
        assert receipt_of(await b.driver.stop_transaction("old")).text == first


# --- runs cut short ---


async def run_again(b: Bench) -> None:
    b.task.cancel()
    await asyncio.gather(b.task, return_exceptions=True)
    b.task = asyncio.create_task(b.driver.run())
    await asyncio.sleep(20)


@virtual
async def test_a_start_that_the_end_of_the_run_cut_short_is_ended_by_the_next_run() -> None:
    async with bench() as b:
        await live(b)
        await asyncio.sleep(0.1)
        b.once_done("POST", "/user", Fault("stall", node="/receipt", method="POST", delay_s=2, acts=True))
        starting = asyncio.create_task(b.driver.start_transaction(request()))
        await asyncio.sleep(0.5)
        assert b.meter.running
        await run_again(b)
        assert "stopping" in (await starting).error
        assert (b.meter.state.begun, b.meter.state.ended) == (1, 1)


@virtual
async def test_a_stop_that_the_end_of_the_run_cut_short_is_made_up_for_by_the_next_run() -> None:
    async with bench() as b:
        await live(b)
        await begin(b, "T-1")
        b.meter.faults.add(Fault("stall", node="/receipt", method="POST", delay_s=2))
        stopping = asyncio.create_task(b.driver.stop_transaction("T-1"))
        await asyncio.sleep(0.5)
        await run_again(b)
        assert "stopping" in (await stopping).error
        assert not b.meter.running
        await expect_own(b, "T-1")


# --- exchanged meters ---


@virtual
async def test_the_key_of_an_exchanged_meter_is_asked_for_until_it_is_had() -> None:
    async with bench() as b:
        await live(b)
        b.meter.configure(MS="1SIM0000000099", private_key=ANOTHER_KEY)
        b.meter.faults.add(Fault("refuse", node="/publickey"))
        await asyncio.sleep(100)
        assert len(set(b.station.keys)) == 2


@virtual
async def test_an_exchanged_meter_gets_the_tariff_text_although_it_is_set_up() -> None:
    async with bench(TT_initial="0,59 EUR/kWh") as b:
        await live(b)
        b.meter.handle("POST", "/counter/v1/ocmf/tariff", b'{"TT":"another"}')
        b.meter.configure(MS="1SIM0000000099")
        await asyncio.sleep(30)
        assert b.meter.as_json()["TT"] == "0,59 EUR/kWh"
