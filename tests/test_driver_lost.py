"""Lost answers: a start or stop still succeeds, nothing is begun or ended twice, nothing runs unknown."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

import pytest

from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import Fault, SimulatorOptions
from tests.support.bench import CI, SECRET, SERIAL, Bench, bench, request
from tests.support.virtual_time import virtual
from tests.test_driver_start import receipt_of

if TYPE_CHECKING:
    from iem_dcr.powermeter import TransactionStartResponse
    from iem_dcr.simulator import FaultKind

OK = TransactionRequestStatus.OK
UNEXPECTED_ERROR = TransactionRequestStatus.UNEXPECTED_ERROR
ACTED = ("lose-answer", "drip", "garbage-http", "wrong-length")
NOT_ACTED = ("lose-request", "reset")
REPEATED = {
    "refuse": {"idle_end": "refuse", "second_begin": "refuse"},
    "accept": {"idle_end": "accept", "second_begin": "ignore"},
}
STALLED = ("stall", "stall acting", "server-error", "server-error acting")


def fault(kind: str, node: str, count: int = 1) -> Fault:
    name, _, acting = kind.partition(" ")
    return Fault(cast("FaultKind", name), node=node, method="POST", count=count, acts=bool(acting))


async def begun(b: Bench) -> None:
    assert (await b.driver.start_transaction(request())).status is OK
    assert b.meter.running


async def in_doubt(b: Bench) -> asyncio.Task[TransactionStartResponse]:
    """Return a start whose B was acted on just now, and whose answer will be lost."""
    b.once_done("POST", "/user", fault("lose-answer", "/receipt"))
    starting = asyncio.create_task(b.driver.start_transaction(request()))
    while not b.meter.running:
        await asyncio.sleep(0)
    return starting


@pytest.mark.parametrize("repeated", ["refuse", "accept"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", ACTED + NOT_ACTED + STALLED)
@pytest.mark.parametrize("node", ["/user", "/receipt"])
@virtual
async def test_a_start_whose_answer_was_lost_succeeds(node: str, kind: str, count: int, repeated: str) -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET).changed(REPEATED[repeated])
    async with bench(options, resilience_transaction_request_retries=0) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        if node == "/user":
            b.meter.faults.add(fault(kind, node, count))
        else:
            b.once_done("POST", "/user", fault(kind, node, count))
        await begun(b)
        assert receipt_of(await b.driver.stop_transaction("T-1")).identification == "04ABT-1"
        assert b.meter.state.begun == b.meter.state.ended <= 2


@pytest.mark.parametrize("repeated", ["refuse", "accept"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", ACTED + NOT_ACTED + STALLED)
@virtual
async def test_a_stop_whose_answer_was_lost_succeeds(kind: str, count: int, repeated: str) -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET).changed(REPEATED[repeated])
    async with bench(options, resilience_transaction_request_retries=0) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        await begun(b)
        b.meter.faults.add(fault(kind, "/receipt", count))
        assert receipt_of(await b.driver.stop_transaction("T-1")).identification == "04ABT-1"
        assert (b.meter.state.begun, b.meter.state.ended) == (1, 1)


@virtual
async def test_b_is_sent_again_only_after_e_and_a_user() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        b.once_done("POST", "/user", fault("lose-request", "/receipt"))
        await begun(b)
        assert b.posts()[-6:] == ["/receipt", "/user", "/receipt"] * 2
        assert b.meter.state.begun == 1


@virtual
async def test_what_a_b_in_doubt_began_is_ended_and_its_receipt_is_nobodys_before_the_next_one_begins() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await (await in_doubt(b))).status is OK
        assert (b.meter.state.begun, b.meter.state.ended) == (2, 1)
        receipt = receipt_of(await b.driver.stop_transaction("T-1"))
        assert (receipt.pagination, receipt.identification) == ("T2", "04ABT-1")


@virtual
async def test_a_b_in_doubt_whose_transaction_is_over_already_is_followed_by_another() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        starting = await in_doubt(b)
        b.meter.handle("POST", "/counter/v1/ocmf/receipt", b'{"TX":"E"}')
        assert (await starting).status is OK
        assert b.meter.state.begun == 2
        assert b.requests("POST", "/user") == 2
        receipt = receipt_of(await b.driver.stop_transaction("T-1"))
        assert (receipt.pagination, receipt.identification) == ("T2", "04ABT-1")


@virtual
async def test_a_lost_answer_takes_none_of_the_configured_retries() -> None:
    async with bench(resilience_transaction_request_retries=2) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        b.once_done(
            "POST",
            "/user",
            fault("lose-request", "/receipt"),
            Fault("refuse", node="/receipt", method="POST", count=1000),
        )
        assert (await b.driver.start_transaction(request())).status is UNEXPECTED_ERROR
        assert b.requests("POST", "/user") == 1 + 3


@pytest.mark.parametrize("kind", ["lose-answer", "stall acting", "server-error acting"])
@virtual
async def test_a_start_that_failed_in_doubt_leaves_nothing_running(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "iem_dcr.driver")
    async with bench(command_timeout_ms=1000) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        b.once_done("POST", "/user", fault(kind, "/receipt"), Fault("refuse", node="/gw", count=1000))
        assert (await b.driver.start_transaction(request())).status is UNEXPECTED_ERROR
        assert (b.meter.state.begun, b.meter.state.ended) == (1, 0)
        b.meter.faults.clear()
        await asyncio.sleep(15)
        assert (b.meter.state.begun, b.meter.state.ended) == (1, 1)
        assert "a transaction that the station does not want may run" in caplog.text
        late = await b.driver.stop_transaction("T-1")
        assert receipt_of(late).identification == "04ABT-1"


@virtual
async def test_a_power_cycle_while_b_is_in_doubt_begins_everything_anew() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        starting = await in_doubt(b)
        b.meter.power_cycle(off_s=0.5, boot_s=1)
        assert (await starting).status is OK
        assert [record.TX for record in b.meter.signed] == ["P"]
        receipt = receipt_of(await b.driver.stop_transaction("T-1"))
        assert receipt.pagination == "T2"
        assert f'"CI":"{CI}"' in receipt.text


@virtual
async def test_a_start_in_doubt_goes_on_for_as_long_as_it_may_take() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        starting = await in_doubt(b)
        b.meter.faults.add(Fault("refuse", node="/gw", status=503, count=1000))
        await asyncio.sleep(20)
        b.meter.faults.clear()
        assert (await starting).status is OK
        assert (b.meter.state.begun, b.meter.state.ended) == (2, 1)
        assert receipt_of(await b.driver.stop_transaction("T-1")).pagination == "T2"


@virtual
async def test_a_start_whose_meter_goes_away_before_b_fails_in_time_and_leaves_nothing_running() -> None:
    loop = asyncio.get_running_loop()
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        before = loop.time()
        b.once_done("POST", "/user", Fault("refuse", status=503, count=100_000))
        assert (await b.driver.start_transaction(request())).status is UNEXPECTED_ERROR
        assert loop.time() - before <= 30
        b.meter.faults.clear()
        await asyncio.sleep(15)
        assert b.meter.state.begun == 0


@virtual
async def test_a_b_in_doubt_that_a_power_cut_closed_does_not_lend_its_receipt_to_the_next_b() -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, receipt_while_signing="previous", signing_delay_s=2.0)
    async with bench(options) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        starting = await in_doubt(b)
        b.meter.power_cycle(off_s=0.5, boot_s=1)
        assert (await starting).status is OK
        assert receipt_of(await b.driver.stop_transaction("T-1")).pagination == "T2"


@virtual
async def test_a_b_in_doubt_that_runs_on_after_a_power_cut_is_ended_although_the_start_could_not() -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, open_at_power_cut="running")
    async with bench(options) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        starting = await in_doubt(b)
        b.meter.power_cycle(off_s=0.5, boot_s=1)
        b.meter.set_load(50, 400)
        failed = await starting
        assert failed.status is UNEXPECTED_ERROR
        assert b.driver.address in failed.error
        assert b.meter.running
        b.meter.clear_load()
        await asyncio.sleep(15)
        assert (b.meter.state.begun, b.meter.state.ended) == (1, 1)
        assert receipt_of(await b.driver.stop_transaction("T-1")).identification == "04ABT-1"


@pytest.mark.parametrize("fate", ["closed", "closed-late", "running", "lost"])
@virtual
async def test_a_power_cycle_between_user_and_b(fate: str) -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET).changed({"open_at_power_cut": fate})
    async with bench(options) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        starting = asyncio.create_task(b.driver.start_transaction(request()))
        while b.requests("POST", "/user") == 0:
            await asyncio.sleep(0)
        b.meter.power_cycle(off_s=0.5, boot_s=1)
        assert (await starting).status is OK
        receipt = receipt_of(await b.driver.stop_transaction("T-1"))
        assert receipt.identification == "04ABT-1"
        assert f'"CI":"{CI}"' in receipt.text


@pytest.mark.parametrize("where", ["/receipt", "/transaction"])
@pytest.mark.parametrize(
    "kind", ["lose-answer", "stall", "garbage", "garbage-http", "wrong-length", "server-error", "reset"]
)
@virtual
async def test_a_receipt_whose_way_is_disturbed_still_comes(kind: str, where: str) -> None:
    async with bench(command_timeout_ms=1000) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        await begun(b)
        b.meter.faults.add(Fault(cast("FaultKind", kind), node=where, method="GET", count=5))
        if where == "/transaction":
            b.meter.faults.add(Fault("refuse", node="/receipt", method="GET", count=40))
        assert receipt_of(await b.driver.stop_transaction("T-1")).text == b.meter.signed[-1].text


@virtual
async def test_a_stop_whose_caller_gave_up_is_finished_and_its_receipt_kept() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        await begun(b)
        caller = asyncio.create_task(b.driver.stop_transaction("T-1"))
        await asyncio.sleep(0.01)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        await asyncio.sleep(2)
        assert not b.meter.running
        assert receipt_of(await b.driver.stop_transaction("T-1")).identification == "04ABT-1"


@virtual
async def test_a_start_whose_caller_gave_up_in_the_moment_of_its_answer_does_not_run_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "iem_dcr.driver")
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        caller = asyncio.create_task(b.driver.start_transaction(request()))

        class GiveUp(logging.Handler):
            """What is logged last before the answer is given has the caller give up."""

            def emit(self, record: logging.LogRecord) -> None:
                if "begun for" in record.getMessage():
                    caller.cancel()

        log, handler = logging.getLogger("iem_dcr.driver"), GiveUp()
        log.addHandler(handler)
        with pytest.raises(asyncio.CancelledError):
            await caller
        log.removeHandler(handler)
        await asyncio.sleep(15)
        assert (b.meter.state.begun, b.meter.state.ended) == (1, 1)


@virtual
async def test_a_start_whose_caller_gave_up_does_not_run_on() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        b.meter.faults.add(Fault("stall", node="/user", delay_s=2))
        caller = asyncio.create_task(b.driver.start_transaction(request()))
        await asyncio.sleep(0.5)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        await asyncio.sleep(15)
        assert b.meter.state.begun == b.meter.state.ended
        assert not b.meter.running
