"""Under pressure: meters that answer oddly or to no end, keepers that hang, wrong meters, and defects of our own."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr import ocmf
from iem_dcr.device.client import MeterClient
from iem_dcr.driver.ledger import Ledger
from iem_dcr.driver.meter_state import COMMUNICATION_FAULT
from iem_dcr.errors import MeterError
from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import Answer, Fault, SimulatorOptions
from tests.support.bench import SECRET, SERIAL, Bench, bench, request
from tests.support.raw_server import Do, RawServer, Then
from tests.support.virtual_time import run_virtual, virtual
from tests.test_driver_corners import END, changed_answers
from tests.test_driver_power import fated
from tests.test_driver_start import BEGIN, RECEIPT, receipt_of

if TYPE_CHECKING:
    from iem_dcr.driver import KeptReceipt

OK = TransactionRequestStatus.OK
UNEXPECTED_ERROR = TransactionRequestStatus.UNEXPECTED_ERROR
OURS, ANOTHER = "1SIM0000000042", "1SIM0000000099"
FOR_GOOD = 100_000


async def live(b: Bench) -> None:
    b.meter.set_load(0, 0)
    await b.until_live()


def asked(b: Bench) -> int:
    return sum(b.meter.request_counts.values())


# --- storms ---


@virtual
async def test_an_end_that_nobody_waits_for_is_tried_now_and_then() -> None:
    async with bench() as b:
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.set_load(50, 400)
        assert (await b.driver.stop_transaction("T-1")).status is UNEXPECTED_ERROR
        before = b.meter.request_counts["POST", "/receipt"]
        await asyncio.sleep(600)
        assert 20 <= b.meter.request_counts["POST", "/receipt"] - before <= 60


@virtual
async def test_a_meter_whose_clock_jumps_all_the_time_is_not_initialised_all_the_time() -> None:
    async with bench() as b:
        await live(b)
        by_s = itertools.cycle((20, -20))

        def jump(method: str, node: str, answer: Answer) -> Answer:
            if node == "metervalue":
                b.meter.shift_clock(next(by_s))
            return answer

        changed_answers(b, jump)
        before = asked(b)
        await asyncio.sleep(100)
        assert asked(b) - before < 160


@virtual
async def test_two_meters_at_one_address_are_a_handful_of_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with bench() as b:
        await live(b)
        serials = itertools.cycle((ANOTHER, OURS))

        def other_serial(method: str, node: str, answer: Answer) -> Answer:
            if node != "metervalue":
                return answer
            return Answer(200, answer.body.replace(OURS.encode(), next(serials).encode()))

        changed_answers(b, other_serial)
        caplog.clear()
        await asyncio.sleep(100)
        assert len(caplog.records) < 20
        assert {value.meter_id for _, value in b.station.values} == {OURS}


@virtual
async def test_a_last_receipt_that_is_not_had_for_ten_minutes_fills_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with bench(fated("lost")) as b:
        await live(b)
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.power_cycle(off_s=1, boot_s=1)
        await asyncio.sleep(20)
        b.meter.faults.add(Fault("server-error", node="/transaction", count=FOR_GOOD))
        caplog.clear()
        await asyncio.sleep(600)
        assert b.requests("GET", "/transaction") > 20
    assert len(caplog.records) < 10


# --- keepers ---


class SlowKeeper:
    """Keeps a receipt after so many seconds."""

    def __init__(self, delay_s: float) -> None:
        self.kept: list[str] = []
        self._delay_s = delay_s

    async def keep(self, kept: KeptReceipt) -> None:
        await asyncio.sleep(self._delay_s)
        self.kept.append(kept.receipt.text)


@virtual
async def test_a_keeper_that_takes_longer_than_a_stop_may_withholds_nothing_and_keeps_in_the_end() -> None:
    keeper = SlowKeeper(70)
    async with bench(sink=keeper) as b:
        await live(b)
        assert (await b.driver.start_transaction(request())).status is OK
        receipt = receipt_of(await b.driver.stop_transaction("T-1"))
        assert keeper.kept == []
        await asyncio.sleep(71)
        assert set(keeper.kept) == {receipt.text}


@virtual
async def test_live_values_go_on_while_a_keeper_hangs() -> None:
    async with bench(sink=SlowKeeper(1e6)) as b:
        await live(b)
        assert (await b.driver.start_transaction(request())).status is OK
        receipt_of(await b.driver.stop_transaction("T-1"))
        count = len(b.station.values)
        await asyncio.sleep(10)
        assert len(b.station.values) - count >= 9


# --- hostile and odd answers ---

PIECES = (
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.0 200\r\n",
    b"HTTP/1.1 204 No\r\n",
    b"HTTP/1.1 101 Up\r\n",
    b"HTTP/1.1 200 OK\r\nUpgrade: x\r\nConnection: upgrade\r\n",
    b"HTTP/1.1 302 F\r\n",
    b"HTTP/1.1 401 U\r\nWWW-Authenticate: Digest \r\n",
    b"HTTP/1.1 417 E\r\n",
    b"HTTP/1.1 999 F\r\n",
    b"HTTP/1.1 99999 F\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: -5\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n",
    b"Content-Length: 99999999999999999999999\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Content-Encoding: br\r\n",
    b"Content-Type: \xff;;;=\r\n",
    b"Connection: keep-alive\r\n",
    b"Location: http://[::1\r\n",
    b"Set-Cookie: \x00=1\r\n",
    b"X: " + b"a" * 9000 + b"\r\n",
    b": novalue\r\n",
    b"\r\n",
    b"ZZZ\r\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffffffffff\r\n",
    b"{}",
    b'{"CT":"","CI":"","TM":"x"}',
    b"\xff\xfe\x00",
)


@given(
    st.booleans(), st.lists(st.sampled_from(PIECES), min_size=1, max_size=6), st.sampled_from([Then.CLOSE, Then.KEEP])
)
def test_pieces_of_http_in_any_order_are_an_answer_or_a_meter_error(
    begins_well: bool,  # noqa: FBT001  drawn
    pieces: list[bytes],
    then: Then,
) -> None:
    said = b"".join([PIECES[0], *pieces] if begins_well else pieces)
    failures: list[MeterError] = []

    async def ask_everything() -> None:
        async with RawServer([Do(said, then)] * 20) as server:
            async with MeterClient("127.0.0.1", server.port, timeout_s=1.0) as client:
                for ask in (client.gw, client.begin, client.receipt, client.transaction):
                    try:
                        await ask()
                    except MeterError as error:
                        failures.append(error)
            assert server.requests

    run_virtual(ask_everything())
    assert all(str(error).isprintable() for error in failures)


@pytest.mark.parametrize("kind", ["server-error", "lose-request"])
@virtual
async def test_a_charge_point_that_cannot_be_set_is_a_warning_and_the_reason_of_a_refused_start(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench() as b:
        b.meter.faults.add(Fault(kind, node="/gw", method="POST", count=FOR_GOOD))  # type: ignore[arg-type]  # one of the kinds
        await b.until_live()
        await asyncio.sleep(60)
        refused = await b.driver.start_transaction(request())
        assert b.driver.address in refused.error
        assert "/gw" in refused.error
    assert [record for record in caplog.records if record.levelno >= logging.WARNING and "/gw" in record.getMessage()]


@virtual
async def test_a_meter_in_the_year_one_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        await live(b)

        def ancient(method: str, node: str, answer: Answer) -> Answer:
            if node == "metervalue":
                value = json.loads(answer.body) | {"TM": "0001-01-01T00:00:05,000+0000 U"}
                return Answer(200, json.dumps(value).encode())
            return Answer(500) if node == "transaction" else answer

        changed_answers(b, ancient)
        await b.driver.start_transaction(request())
        await b.driver.stop_transaction("T-1")
        await asyncio.sleep(30)
        assert not b.task.done()
    assert "Traceback" not in caplog.text


@virtual
async def test_a_meter_that_is_not_there_from_the_start_is_a_fault() -> None:
    async with bench(powered=False) as b:
        await asyncio.sleep(19)
        assert b.station.raised == [COMMUNICATION_FAULT]
        await asyncio.sleep(20)
        assert not b.station.active


@virtual
async def test_one_failed_reading_fails_no_stop_that_may_not_wait_for_the_meter() -> None:
    async with bench(initial_connection_wait_ms=0) as b:
        b.meter.set_load(0, 0)
        b.meter.handle("POST", RECEIPT, BEGIN)
        b.meter.handle("POST", RECEIPT, END)
        await b.until_live()
        await asyncio.sleep(3.5)
        b.meter.faults.add(Fault("server-error", node="/metervalue"))
        assert receipt_of(await b.driver.stop_transaction("old")).pagination == "T1"


@virtual
async def test_a_reading_that_stalls_within_a_stop_does_not_hold_it_up() -> None:
    loop = asyncio.get_running_loop()
    async with bench(SimulatorOptions(MS=SERIAL, private_key=SECRET, signing_delay_s=1.2)) as b:
        await live(b)
        await asyncio.sleep(0.5)
        assert (await b.driver.start_transaction(request())).status is OK
        before = loop.time()
        stopping = asyncio.create_task(b.driver.stop_transaction("T-1"))
        await asyncio.sleep(0.3)
        b.meter.faults.add(Fault("stall", node="/metervalue"))
        receipt_of(await stopping)
        assert loop.time() - before < 2.1


@virtual
async def test_a_stop_that_runs_out_of_time_gives_what_the_meter_did_as_the_reason() -> None:
    async with bench() as b:
        await live(b)
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.faults.add(Fault("reset", count=FOR_GOOD))
        assert "connection lost" in (await b.driver.stop_transaction("T-1")).error


# --- the wrong meter ---


@virtual
async def test_a_wrong_meter_in_a_session_is_not_even_sent_its_end() -> None:
    async with bench(meter_serial=OURS) as b:
        await live(b)
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.configure(MS=ANOTHER)
        await asyncio.sleep(3)
        before = b.posts()
        assert OURS in (await b.driver.stop_transaction("T-1")).error
        await asyncio.sleep(20)
        assert b.posts() == before


@virtual
async def test_a_meter_that_comes_in_anothers_place_within_a_start_is_the_one_that_signs() -> None:
    async with bench() as b:
        await live(b)
        await asyncio.sleep(0.2)

        def exchange(method: str, node: str, answer: Answer) -> Answer:
            b.meter.configure(MS=ANOTHER)
            return answer

        changed_answers(b, exchange)
        assert (await b.driver.start_transaction(request())).status is OK
        assert receipt_of(await b.driver.stop_transaction("T-1")).meter_serial == ANOTHER


# --- personal data ---


@virtual
async def test_an_id_that_the_meter_repeats_in_its_refusal_stays_out_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with bench() as b:
        await live(b)
        b.meter.faults.add(Fault("refuse", node="/user", body="bad user 04AB99887766", count=10))
        refused = await b.driver.start_transaction(request(identification_data="04AB99887766"))
        assert refused.status is UNEXPECTED_ERROR
        assert "POST /user" in refused.error
    assert "POST /user" in caplog.text
    assert "04AB99887766" not in caplog.text


# --- defects of our own ---


def fail(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("a defect")


@virtual
async def test_a_defect_after_b_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench() as b:
        await live(b)
        with monkeypatch.context() as defect:
            defect.setattr(Ledger, "on_begin_accepted", fail)
            assert "internal error" in (await b.driver.start_transaction(request())).error
        assert b.meter.running
        await asyncio.sleep(20)
        assert (b.meter.state.begun, b.meter.state.ended) == (1, 1)


@virtual
async def test_a_defect_in_a_reading_does_not_end_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench() as b:
        await live(b)
        with monkeypatch.context() as defect:
            defect.setattr(MeterClient, "metervalue", fail)
            await asyncio.sleep(3)
        assert "a defect" in caplog.text
        count = len(b.station.values)
        await asyncio.sleep(3)
        assert len(b.station.values) > count


@virtual
async def test_a_verification_that_breaks_withholds_no_receipt(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ocmf, "verify", fail)
    async with bench() as b:
        await live(b)
        assert (await b.driver.start_transaction(request())).status is OK
        assert receipt_of(await b.driver.stop_transaction("T-1")).identification == "04ABT-1"
    assert "could not be verified" in caplog.text


@pytest.mark.parametrize("after_tick_s", [0.05, 0.3])
@virtual
async def test_a_reading_is_not_cut_short_by_the_end_of_a_wait(
    after_tick_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        b.meter.faults.add(Fault("refuse", node="/gw", count=1000))
        b.meter.faults.add(Fault("refuse", node="/metervalue"))
        await asyncio.sleep(2 + after_tick_s)
        b.meter.faults.add(Fault("drip", node="/metervalue", count=1000, delay_s=0.0008))
        caplog.clear()
        assert (await b.driver.start_transaction(request())).status is TransactionRequestStatus.UNEXPECTED_ERROR
        assert "no live value" not in caplog.text
