"""Live values on their schedule, faults, and what gives way to what."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
from decimal import Decimal

import pytest

from iem_dcr import ocmf
from iem_dcr.driver.meter_state import COMMUNICATION_FAULT
from iem_dcr.powermeter import Powermeter, StationError, TransactionRequestStatus
from iem_dcr.simulator import Fault, SimulatorOptions
from tests.support.bench import SECRET, SERIAL, Bench, RememberingStation, bench, request
from tests.support.virtual_time import virtual

OK = TransactionRequestStatus.OK
BAD = "0x0000, 0x00000010, 0x00, 0x00"
HEALTHY = "0x0000, 0x00000000, 0x00, 0x00"
VENDOR_ERROR = ("powermeter/VendorError", "IEM-DCR error state")


def published_at(b: Bench) -> list[float]:
    return [at for at, _ in b.station.values]


@virtual
async def test_values_are_the_meters_own_and_exact() -> None:
    async with bench(SimulatorOptions(MS=SERIAL, private_key=SECRET, import_wh=446_540, export_wh=4_881)) as b:
        b.meter.set_load(5, 60)
        await b.until_live()
        value = b.station.values[0][1]
        assert value.energy_wh_import == Decimal(446_540)
        assert value.to_json()["energy_Wh_import"] == {"total": 446540.0}
        assert value.to_json()["energy_Wh_export"] == {"total": 4881.0}
        assert value.to_json()["current_A"] == {"DC": 5.0}
        assert value.to_json()["voltage_V"] == {"DC": 60.0}
        assert value.to_json()["power_W"] == {"total": 300.0}
        assert value.meter_id == "1SIM0000000042"


@virtual
async def test_the_schedule_does_not_drift_and_skips_what_it_missed() -> None:
    async with bench() as b:
        await b.until_live()
        first = published_at(b)[0]
        await asyncio.sleep(10)
        b.meter.faults.add(Fault("drip", node="/metervalue", delay_s=0.003))
        await asyncio.sleep(10)
        b.meter.faults.add(Fault("stall", node="/metervalue", delay_s=2.5))
        await asyncio.sleep(100)
        at = [moment - first for moment in published_at(b)]
        late = [moment for moment in at if abs(moment - round(moment)) > 0.001]
        assert len(late) == 1
        assert min(after - before for before, after in itertools.pairwise(at)) > 0.1
        assert 117 <= len(at) <= 119


@virtual
async def test_a_missing_export_register_is_left_out_and_a_missing_import_register_is_a_failure() -> None:
    async with bench() as b:
        await b.until_live()
        b.meter.configure(RD_rows=("1-b:1.8.e",))
        await asyncio.sleep(1)
        assert "energy_Wh_export" not in b.station.values[-1][1].to_json()
        count = len(b.station.values)
        b.meter.configure(RD_rows=("1-b:2.8.e",))
        await asyncio.sleep(4)
        assert len(b.station.values) == count
        assert b.station.raised == [COMMUNICATION_FAULT]


@pytest.mark.parametrize("kind", ["refuse", "lose-answer", "server-error", "garbage", "garbage-http", "stall", "reset"])
@virtual
async def test_two_failed_readings_are_a_fault_and_one_is_not(kind: str) -> None:
    async with bench() as b:
        await b.until_live()
        await asyncio.sleep(0.5)
        b.meter.faults.add(Fault(kind, node="/metervalue"))  # type: ignore[arg-type]  # one of the kinds
        await asyncio.sleep(10)
        assert not b.station.raised
        b.meter.faults.add(Fault(kind, node="/metervalue", count=4))  # type: ignore[arg-type]  # one of the kinds
        await asyncio.sleep(30)
        assert b.station.raised == b.station.cleared == [COMMUNICATION_FAULT]
        assert (
            StationError(
                "powermeter/CommunicationFault",
                "Communication timed out",
                "This error is raised due to communication timeout",
            )
            == COMMUNICATION_FAULT
        )


@virtual
async def test_a_failed_reading_publishes_nothing() -> None:
    async with bench() as b:
        await b.until_live()
        count = len(b.station.values)
        b.meter.faults.add(Fault("refuse", node="/metervalue", count=10))
        await asyncio.sleep(9)
        assert len(b.station.values) == count


@virtual
async def test_a_failure_that_goes_on_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        await b.until_live()
        b.meter.faults.add(Fault("refuse", node="/metervalue", count=20))
        await asyncio.sleep(18)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


# --- the meter's error state ---


@virtual
async def test_an_error_state_is_raised_after_three_readings_and_cleared_by_a_healthy_one() -> None:
    async with bench() as b:
        await b.until_live()
        b.meter.configure(XC=BAD)
        await asyncio.sleep(2)
        assert not b.station.raised
        await asyncio.sleep(1)
        assert set(b.station.active) == {VENDOR_ERROR}
        assert BAD in b.station.raised[0].message
        await asyncio.sleep(10)
        assert len(b.station.raised) == 1
        b.meter.configure(XC="0x0,0x0,0x0,0x0")
        await asyncio.sleep(1)
        assert not b.station.active


@virtual
async def test_an_error_state_in_a_transaction_is_a_log_line_only(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.configure(XC=BAD)
        await asyncio.sleep(10)
        assert not b.station.raised
        assert len([record for record in caplog.records if "XC" in record.getMessage()]) == 1
        assert (await b.driver.stop_transaction("T-1")).status is OK
        await asyncio.sleep(4)
        assert set(b.station.active) == {VENDOR_ERROR}


# --- another meter ---


@virtual
async def test_a_meter_with_another_serial_gets_nothing_posted(caplog: pytest.LogCaptureFixture) -> None:
    async with bench(meter_serial="1ISA0000000001", TT_initial="0,59 EUR/kWh") as b:
        await asyncio.sleep(30)
        started = await b.driver.start_transaction(request())
        stopped = await b.driver.stop_transaction("T-1")
        assert b.posts() == []
        for text in (started.error, b.station.raised[0].message, caplog.text):
            assert "1ISA0000000001" in text
            assert "1SIM0000000042" in text
        assert stopped.signed_meter_value is None
        assert [error.type for error in b.station.raised] == ["powermeter/VendorError"]
        assert started.status is TransactionRequestStatus.UNEXPECTED_ERROR
        b.meter.configure(MS="1ISA0000000001")
        await asyncio.sleep(30)
        assert not b.station.active
        assert b.posts()[:1] == ["/gw"]
        assert (await b.driver.start_transaction(request("T-2"))).status is OK


@virtual
async def test_a_meter_that_is_silent_within_a_stop_is_a_fault_before_the_stop_is_over() -> None:
    async with bench() as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.faults.add(Fault("stall", count=100_000))
        stopping = asyncio.create_task(b.driver.stop_transaction("T-1"))
        await asyncio.sleep(10)
        assert b.station.active
        b.meter.faults.clear()
        assert (await stopping).status is OK
        assert not b.station.active


@virtual
async def test_a_meter_that_answers_too_slowly_for_a_reading_within_a_stop_is_no_fault() -> None:
    async with bench(SimulatorOptions(MS=SERIAL, private_key=SECRET, signing_delay_s=10)) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        stopping = asyncio.create_task(b.driver.stop_transaction("T-1"))
        while b.meter.running:
            await asyncio.sleep(0)
        b.meter.faults.add(Fault("stall", node="/metervalue", count=100_000))
        assert (await stopping).status is OK
        assert not b.station.raised


@virtual
async def test_an_exchanged_meter_is_an_error_in_the_log_and_initialised_anew(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        await b.until_live()
        await asyncio.sleep(1)
        b.meter.configure(MS="1SIM0000000099", private_key=SECRET + 1)
        b.meter.power_cycle(off_s=1, boot_s=0.5)
        await asyncio.sleep(20)
        assert b.posts() == ["/gw", "/gw"]
        assert len(b.station.keys) == 2
        assert b.station.keys[0] != b.station.keys[1]
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "1SIM0000000042" in errors[0]
    assert "1SIM0000000099" in errors[0]
    assert len(errors) == 1


@virtual
async def test_what_makes_up_serials_without_end_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        await b.until_live()
        for number in range(50):
            b.meter.configure(MS=f"1SIM{number}")
            await asyncio.sleep(3)
        assert len(b.station.values) >= 50
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "exchanged 16 times" in errors[-1]
    assert len(errors) == 17


@virtual
async def test_another_key_of_the_same_meter_is_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        await b.until_live()
        b.meter.configure(MS=SERIAL, private_key=SECRET + 1)
        b.meter.power_cycle(off_s=1, boot_s=0.5)
        await asyncio.sleep(10)
        assert len(b.station.keys) == 2
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "public key changed" in errors[0]


# --- commands before ticks ---


@virtual
async def test_a_stalled_reading_gives_way_to_a_command_after_half_a_second() -> None:
    loop = asyncio.get_running_loop()
    async with bench() as b:
        await b.until_live()
        await asyncio.sleep(0.5)
        b.meter.faults.add(Fault("stall", node="/metervalue", delay_s=30))
        await asyncio.sleep(0.7)
        before = loop.time()
        assert (await b.driver.start_transaction(request())).status is OK
        assert loop.time() - before < 0.35
        await asyncio.sleep(4)
        assert not b.station.raised


@virtual
async def test_live_values_and_faults_go_on_while_a_command_waits() -> None:
    async with bench(stop_current_wait_ms=10_000) as b:
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.set_load(10, 400)
        count = len(b.station.values)
        stop = asyncio.create_task(b.driver.stop_transaction("T-1"))
        await asyncio.sleep(8)
        assert len(b.station.values) - count >= 8
        b.meter.clear_load()
        assert (await stop).status is OK


@virtual
async def test_commands_are_done_in_the_order_of_the_station() -> None:
    async with bench() as b:
        await b.until_live()
        b.meter.set_load(0, 0)
        answers = await asyncio.gather(
            b.driver.start_transaction(request("A")),
            b.driver.stop_transaction("A"),
            b.driver.start_transaction(request("B")),
            b.driver.stop_transaction("B"),
        )
        assert [answer.status for answer in answers] == [OK] * 4
        assert [record.ID for record in b.meter.signed] == ["04ABA", "04ABB"]


class BrokenStation(RememberingStation):
    """A station that fails at whatever it is told."""

    def publish_powermeter(self, value: Powermeter) -> None:
        raise RuntimeError("no")

    def publish_public_key(self, key: str) -> None:
        raise RuntimeError("no")

    def raise_error(self, error: StationError) -> None:
        raise RuntimeError("no")


@virtual
async def test_a_station_that_fails_does_not_stop_the_driver(caplog: pytest.LogCaptureFixture) -> None:
    async with bench(station=BrokenStation()) as b:
        await asyncio.sleep(3)
        b.meter.faults.add(Fault("refuse", node="/metervalue", count=3))
        await asyncio.sleep(5)
        assert (await b.driver.start_transaction(request())).status is OK
        assert "does not take" in caplog.text


@virtual
async def test_a_driver_that_is_not_running_answers() -> None:
    async with bench() as b:
        await b.until_live()
        b.task.cancel()
        await asyncio.gather(b.task, return_exceptions=True)
        started = await b.driver.start_transaction(request())
        stopped = await b.driver.stop_transaction("")
        assert "not running" in started.error
        assert "not running" in stopped.error


@virtual
async def test_a_command_under_way_is_answered_when_the_driver_stops() -> None:
    async with bench() as b:
        await b.until_live()
        b.meter.faults.add(Fault("stall", node="/gw", delay_s=30))
        start = asyncio.create_task(b.driver.start_transaction(request()))
        stop = asyncio.create_task(b.driver.stop_transaction(""))
        await asyncio.sleep(1)
        b.task.cancel()
        await asyncio.gather(b.task, return_exceptions=True)
        assert "stopping" in (await start).error
        assert "stopping" in (await stop).error


@virtual
async def test_a_driver_may_run_again() -> None:
    async with bench() as b:
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is OK
        b.task.cancel()
        await asyncio.gather(b.task, return_exceptions=True)
        again = asyncio.create_task(b.driver.run())
        await asyncio.sleep(5)
        assert (await b.driver.stop_transaction("T-1")).status is OK
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)


@virtual
async def test_cryptography_is_imported_in_a_worker_after_the_first_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "iem_dcr.ocmf.ecdsa", raising=False)
    monkeypatch.delattr(ocmf, "ecdsa", raising=False)
    async with bench() as b:
        await asyncio.sleep(0)
        assert "iem_dcr.ocmf.ecdsa" not in sys.modules
        await b.until_live()
        await asyncio.sleep(1)
        assert "iem_dcr.ocmf.ecdsa" in sys.modules


@virtual
async def test_what_comes_and_goes_every_other_second_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "iem_dcr")
    async with bench() as b:
        await b.until_live()
        caplog.clear()
        for _ in range(150):
            b.meter.faults.add(Fault("garbage", node="/metervalue"))
            await asyncio.sleep(2)
        lines = [record.message for record in caplog.records if record.levelno >= logging.INFO]
    failed = [line for line in lines if "no live value" in line]
    works = [line for line in lines if "works again" in line]
    assert 20 <= len(failed) <= 30
    assert 20 <= len(works) <= 30
    assert len(lines) <= 70
    assert sum("no live value" in record.message for record in caplog.records) == 150
    assert any("more lines like the next" in line for line in lines)
