"""Live values on their schedule, faults and errors, commands before ticks, and logs that stay small."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from iem_dcr import ocmf
from iem_dcr.device.client import MeterClient
from iem_dcr.driver.meter_state import COMMUNICATION_FAULT
from iem_dcr.powermeter import Powermeter, StationError, TransactionRequestStatus
from iem_dcr.simulator import Answer, Fault
from tests.support.bench import SERIAL, RememberingStation, bench, meter_options, request
from tests.support.driving import (
    OTHER_SERIAL,
    changed_answers,
    exchange,
    live_bench,
    logged,
    start,
    start_fails,
    stop_driver,
    stop_fails,
)
from tests.support.stories import Story, stories
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path

SET, CLEARED = "'XC=0x0000, 0x00000010, 0x00, 0x00'", "'XC=0x0000, 0x00000000, 0x00, 0x00'"
"""The error state of a meter."""


STORIES = stories("""
two failed readings are a fault and one is not: [refuse|lose-answer|server-error|garbage|garbage-http|stall|reset]
    wait 0.5; fault $1 /metervalue; wait 4; fault $1 /metervalue; wait 4; fault $1 /metervalue; wait 4; raised 0;
    fault $1 /metervalue count=4; wait 30; raised 1 CommunicationFault; calm
a lasting failure publishes nothing and is one warning
    fault refuse /metervalue count=20; mute 18; logged 1
a meter that is absent at the start is a fault until it comes
    driver resilience_initial_connection_retry_delay=2000; unseen; cut 20 5; mute 24; raised 1 CommunicationFault;
    wait 3.2; live; keys 1; calm
a silent meter is a fault during a stop
    start A; fault stall count=0; later 10 troubled; later 11 heal; stop A; calm
a slow meter is no fault during a stop
    meter signing_delay_s=10.0; start A; upon /receipt fault stall /metervalue count=0; stop A 10..12; raised 0
an error state is raised after three readings and cleared by one
    configure 'XC=0x0000, 0x00000010, 0x00, 0x00'; wait 2; raised 0; configure 'XC=0x0000, 0x00000000, 0x00, 0x00';
    wait 1; configure 'XC=0x0000, 0x00000010, 0x00, 0x00'; wait 2; raised 0; configure XC=0x0,0x0,0x0,0x0; wait 1;
    configure 'XC=0x0000, 0x00000010, 0x00, 0x00'; wait 13; raised 1 0x00000010; troubled;
    configure XC=0x0,0x0,0x0,0x0; wait 1; calm
an error state in a transaction is only logged
    start A; configure 'XC=0x0000, 0x00000010, 0x00, 0x00'; wait 10; raised 0; logged 1 XC; stop A; wait 4;
    raised 1 VendorError
a stalled reading gives way to a command after 0.5 s
    wait 0.5; fault stall /metervalue delay_s=30; wait 0.7; start A 0..0.35; wait 4; raised 0

live values go on while a command waits
    driver stop_current_wait_ms=10000; start A; load 10; later 8 load 0; stop A lively 8..11
commands are done in order
    later 0 start A; later 0 stop A; later 0 start B; later 0 stop B; wait 20; signed 04ABA 04ABB
E that no stop waits for is sent every ten seconds
    driver stop_current_wait_ms=0; start A; load 50; stop A fails; wait 600; requests POST /receipt 22 70

# another meter
gets no POST and is not published
    driver meter_serial=1ISA0000000001 'TT_initial=0,59 EUR/kWh'; unseen; mute 30; keys 0;
    start A fails 1ISA0000000001; stop A fails; posts; raised 1 'has serial 1SIM0000000042, but 1ISA0000000001';
    logged some 1SIM0000000042 1ISA0000000001; configure MS=1ISA0000000001; wait 30; calm; provisioned; start B
gets no E
    driver meter_serial=1SIM0000000042; start A; configure MS=1SIM0000000099; wait 3;
    stop A fails 1SIM0000000042 quietly; wait 20 quietly
is logged and initialised
    wait 1; exchange; cut 1 0.5; wait 20; posts /gw /gw; keys 2; logged 1 1SIM0000000042 1SIM0000000099
with the same serial and another key is an error in the log
    exchange 1SIM0000000042; cut 1 0.5; wait 10; keys 2; logged 1 'public key changed'
""")


@pytest.mark.parametrize("story", STORIES, ids=str)
@virtual
async def test_live_values(story: Story, path: Path) -> None:
    await story.tell(path)


@virtual
async def test_values_are_exact() -> None:
    async with bench(meter_options(import_wh=446_540, export_wh=4_881)) as b:
        b.meter.set_load(5, 60)
        await b.until_live()
        value = b.station.values[0][1]
        assert value.energy_wh_import == Decimal(446_540)
        assert value.meter_id == SERIAL
        written = value.to_json()
        assert written["energy_Wh_import"] == {"total": 446540.0}
        assert written["energy_Wh_export"] == {"total": 4881.0}
        assert (written["current_A"], written["voltage_V"]) == ({"DC": 5.0}, {"DC": 60.0})
        assert written["power_W"] == {"total": 300.0}


@virtual
async def test_schedule_does_not_drift_and_skips_what_it_missed() -> None:
    async with bench() as b:
        await b.until_live()
        first_s = b.station.values[0][0]
        await asyncio.sleep(10)
        b.meter.faults.add(Fault("drip", node="/metervalue", delay_s=0.003))
        await asyncio.sleep(10)
        b.meter.faults.add(Fault("stall", node="/metervalue", delay_s=2.5))
        await asyncio.sleep(30)
        at_s = [moment_s - first_s for moment_s, _ in b.station.values]
        assert len([moment_s for moment_s in at_s if abs(moment_s - round(moment_s)) > 0.001]) == 1
        assert min(after_s - before_s for before_s, after_s in itertools.pairwise(at_s)) > 0.1
        assert 47 <= len(at_s) <= 49


@virtual
async def test_missing_export_register_is_left_out_and_a_missing_import_register_is_a_failure() -> None:
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


# --- communication faults ---


def test_communication_fault_has_the_vendors_words() -> None:
    words = ("Communication timed out", "This error is raised due to communication timeout")
    assert StationError("powermeter/CommunicationFault", *words) == COMMUNICATION_FAULT


# --- commands before ticks ---


@virtual
async def test_slow_reading_may_finish_within_half_a_second() -> None:
    async with live_bench() as b:
        await asyncio.sleep(0.9)
        b.meter.faults.add(Fault("drip", node="/metervalue", delay_s=0.0005))
        count = len(b.station.values)
        await asyncio.sleep(0.15)
        assert len(b.station.values) == count
        await start(b)
        assert len(b.station.values) == count + 1


# --- the run ---


class BrokenStation(RememberingStation):
    """A station that fails at whatever it is told."""

    def publish_powermeter(self, value: Powermeter) -> None:
        raise RuntimeError("no")

    def publish_public_key(self, key: str) -> None:
        raise RuntimeError("no")

    def raise_error(self, error: StationError) -> None:
        raise RuntimeError("no")


@virtual
async def test_station_that_fails_does_not_stop_the_driver(caplog: pytest.LogCaptureFixture) -> None:
    async with bench(station=BrokenStation()) as b:
        await asyncio.sleep(3)
        b.meter.faults.add(Fault("refuse", node="/metervalue", count=3))
        await asyncio.sleep(5)
        await start(b)
        assert "the station failed to" in caplog.text


@virtual
async def test_commands_are_answered_when_the_driver_stops() -> None:
    async with bench() as b:
        await b.until_live()
        b.meter.faults.add(Fault("stall", node="/gw", delay_s=30))
        commands = [asyncio.create_task(start_fails(b)), asyncio.create_task(stop_fails(b, ""))]
        await asyncio.sleep(1)
        await stop_driver(b)
        assert ["stopping" in await command for command in commands] == [True, True]
        assert "not running" in await start_fails(b)
        assert "not running" in await stop_fails(b, "")


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
async def test_bug_in_a_reading_does_not_end_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    async with live_bench() as b:
        with monkeypatch.context() as defect:
            defect.setattr(MeterClient, "metervalue", fails)
            await asyncio.sleep(3)
        assert "a defect" in caplog.text
        count = len(b.station.values)
        await asyncio.sleep(3)
        assert len(b.station.values) > count


# --- what comes again and again fills no log and sends no storm ---


@virtual
async def test_ever_new_serials_do_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        await b.until_live()
        for number in range(30):
            b.meter.configure(MS=f"1SIM{number}")
            await asyncio.sleep(3)
        assert len(b.station.values) >= 30
    assert "exchanged 16 times" in logged(caplog)[-1]
    assert len(logged(caplog)) == 17


@virtual
async def test_two_meters_at_one_address_do_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with live_bench() as b:
        serials = itertools.cycle((OTHER_SERIAL, SERIAL))

        def other_serial(_method: str, node: str, answer: Answer) -> Answer:
            body = answer.body.replace(SERIAL.encode(), next(serials).encode()) if node == "metervalue" else answer.body
            return Answer(answer.status, body, answer.content_type)

        changed_answers(b, other_serial)
        caplog.clear()
        await asyncio.sleep(100)
        assert len(caplog.records) < 20
        assert {value.meter_id for _, value in b.station.values} == {SERIAL}


@virtual
async def test_fault_that_comes_and_goes_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "iem_dcr")
    async with bench() as b:
        await b.until_live()
        caplog.clear()
        for _ in range(150):
            b.meter.faults.add(Fault("garbage", node="/metervalue"))
            await asyncio.sleep(2)
    assert 20 <= len(logged(caplog, "no live value", logging.INFO)) <= 30
    assert 20 <= len(logged(caplog, "works again", logging.INFO)) <= 30
    assert len(logged(caplog, level=logging.INFO)) <= 70
    assert len(logged(caplog, "no live value", logging.DEBUG)) == 150
    assert logged(caplog, "more lines like the next one", logging.INFO)


@virtual
async def test_repeated_commands_do_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "iem_dcr.driver")
    async with live_bench() as b:
        exchange(b, SERIAL)
        await start(b, "A")
        caplog.clear()
        for number in range(20):
            await start(b, "A")
            odd = request(f"B{number}", tariff_text="0,59 €", identification_level="INVALID", evse_id="another")
            assert (await b.driver.start_transaction(odd)).status is TransactionRequestStatus.NOT_SUPPORTED
            await stop_fails(b, f"B{number}")
        assert len(caplog.records) == 5 * 5
        await asyncio.sleep(60)
        await stop_fails(b, "B1")
    assert "more lines like the next one were suppressed" in caplog.text


@virtual
async def test_clock_that_keeps_jumping_causes_few_requests() -> None:
    async with live_bench() as b:
        by_s = itertools.cycle((20, -20))

        def jump(_method: str, node: str, answer: Answer) -> Answer:
            if node == "metervalue":
                b.meter.shift_clock(next(by_s))
            return answer

        changed_answers(b, jump)
        before = sum(b.meter.request_counts.values())
        await asyncio.sleep(100)
        assert sum(b.meter.request_counts.values()) - before < 160
