"""Initialisation, clock, tariff text and public key, against the simulated meter over real HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta

import pytest

from iem_dcr import ocmf
from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import Fault, SimulatorOptions
from tests.support.bench import CI, SECRET, SERIAL, Bench, bench, request
from tests.support.virtual_time import VirtualWall, virtual

OK = TransactionRequestStatus.OK
SUMMER = datetime(2026, 7, 1, 12, tzinfo=UTC)


def gateway(b: Bench) -> dict[str, str]:
    answer: dict[str, str] = json.loads(b.meter.handle("GET", "/counter/v1/ocmf/gw").body)
    return answer


def clock_off(b: Bench) -> timedelta:
    value = b.driver.value
    assert value is not None
    assert value.TM is not None
    return value.TM.instant - b.wall()


@virtual
async def test_a_meter_that_was_powered_up_gets_charge_point_clock_and_tariff_once() -> None:
    async with bench(TT_initial="0,59 EUR/kWh") as b:
        await b.until_live()
        await asyncio.sleep(600)
        assert b.posts() == ["/gw", "/tariff"]
        assert gateway(b)["CT"] == "EVSEID"
        assert gateway(b)["CI"] == CI
        assert abs(clock_off(b)) <= timedelta(seconds=1)


@virtual
async def test_the_first_value_comes_at_once_and_the_key_before_it() -> None:
    async with bench() as b:
        await b.until_live()
        assert asyncio.get_running_loop().time() < 0.3
        assert b.station.keys == [ocmf.public_key_der_hex(b.station.keys[0])]


@virtual
async def test_a_bare_key_is_published_as_der() -> None:
    async with bench(SimulatorOptions(MS=SERIAL, private_key=SECRET, public_key_form="raw")) as b:
        await b.until_live()
        assert b.station.keys[0].startswith("3059301306072a8648ce3d0201")


@virtual
async def test_a_key_that_is_not_had_is_asked_for_again_and_never_published_empty() -> None:
    async with bench() as b:
        b.meter.faults.add(Fault("refuse", node="/publickey", count=3))
        await b.until_live()
        assert b.station.keys == []
        await asyncio.sleep(60)
        assert len(b.station.keys) == 1


@virtual
async def test_summer_time_is_written_as_the_offset_in_force() -> None:
    async with bench(wall=VirtualWall(SUMMER), timezone="+0100") as b:
        await b.until_live()
        assert "+0200" in gateway(b)["TM"]
        assert abs(clock_off(b)) <= timedelta(seconds=1)


@virtual
async def test_a_meter_already_set_up_as_configured_is_a_plain_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with bench() as b:
        b.meter.handle("POST", "/counter/v1/ocmf/gw", gw_body("EVSEID", CI))
        b.meter.requests.clear()
        await b.until_live()
        await asyncio.sleep(5)
        assert b.posts() == ["/datetime"]
        assert abs(clock_off(b)) <= timedelta(seconds=1)
    assert f"already set up: CT EVSEID, CI {CI}" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@virtual
async def test_other_frozen_values_are_a_warning_that_names_all(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        b.meter.handle("POST", "/counter/v1/ocmf/gw", gw_body("CBIDC", "OTHER-7"))
        b.meter.requests.clear()
        await b.until_live()
        await asyncio.sleep(20)
        assert b.posts() == ["/datetime"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    for word in ("CBIDC", "OTHER-7", "EVSEID", CI, "power cycle"):
        assert word in warnings[0]


@virtual
async def test_a_refused_gw_sets_the_clock_alone_and_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        b.meter.faults.add(Fault("refuse", node="/gw", method="POST"))
        await b.until_live()
        assert b.posts()[:2] == ["/gw", "/datetime"]
        assert "power cycle" in caplog.text
        await asyncio.sleep(15)
        assert gateway(b)["CI"] == CI
        assert b.posts().count("/gw") == 2


@pytest.mark.parametrize("kind", ["lose-answer", "lose-request", "garbage-http", "wrong-length", "reset"])
@virtual
async def test_a_lost_answer_to_gw_is_settled_by_looking(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        b.meter.faults.add(Fault(kind, node="/gw", method="POST"))  # type: ignore[arg-type]  # one of the kinds
        await b.until_live()
        acted = kind in ("lose-answer", "garbage-http", "wrong-length")
        assert gateway(b)["CI"] == CI
        assert b.requests("POST", "/gw") == (1 if acted else 2)
        assert "frozen" not in caplog.text
        assert (await b.driver.start_transaction(request())).status is OK


@virtual
async def test_a_meter_that_is_not_there_is_tried_without_end_and_reached_when_it_comes() -> None:
    async with bench(powered=False, resilience_initial_connection_retry_delay=2000) as b:
        await asyncio.sleep(24)
        assert not b.station.values
        await asyncio.sleep(3.2)
        assert b.station.values
        assert b.station.keys


@virtual
async def test_nothing_but_questions_while_a_transaction_runs_and_the_rest_after_it() -> None:
    async with bench(TT_initial="0,59 EUR/kWh") as b:
        b.meter.set_load(0, 0)
        b.meter.handle("POST", "/counter/v1/ocmf/receipt", b'{"TX":"B"}')
        b.meter.requests.clear()
        await b.until_live()
        await asyncio.sleep(200)
        assert b.posts() == []
        stopped = await b.driver.stop_transaction("")
        assert stopped.status is OK
        await asyncio.sleep(3)
        assert b.posts() == ["/receipt", "/gw", "/tariff"]


@pytest.mark.parametrize("after_s", [1.5, 30.5, 70.5])
@virtual
async def test_a_power_cycle_without_a_failed_reading_is_seen_by_the_clock(after_s: float) -> None:
    async with bench(TT_initial="0,59 EUR/kWh") as b:
        await b.until_live()
        await asyncio.sleep(after_s)
        b.meter.power_cycle(off_s=0.1, boot_s=0.1)
        await asyncio.sleep(3)
        assert gateway(b)["CI"] == CI
        assert b.posts() == ["/gw", "/tariff"] * 2
        assert not b.station.raised


@virtual
async def test_after_a_fault_a_meter_that_kept_its_setup_is_left_alone() -> None:
    async with bench() as b:
        await b.until_live()
        b.meter.faults.add(Fault("lose-request", node="/metervalue", count=5))
        await asyncio.sleep(20)
        assert len(b.station.raised) == len(b.station.cleared) == 1
        assert b.requests("GET", "/gw") == 2
        assert b.posts() == ["/gw"]


# --- clock ---


@virtual
async def test_the_clock_is_set_every_interval() -> None:
    async with bench(datetime_resync_interval=1) as b:
        await b.until_live()
        await asyncio.sleep(3600 + 60)
        assert b.meter.request_counts["POST", "/datetime"] == 1


@virtual
async def test_a_clock_that_is_off_is_set_at_most_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        await b.until_live()
        await asyncio.sleep(100)
        b.meter.faults.add(Fault("refuse", node="/datetime", method="POST", count=3))
        b.meter.shift_clock(60)
        await asyncio.sleep(150)
        assert b.posts() == ["/gw", "/datetime", "/datetime", "/datetime"]
        warnings = [record for record in caplog.records if "clock was not set" in record.getMessage()]
        assert [record.levelno for record in warnings] == [logging.WARNING]
        await asyncio.sleep(60)
        assert abs(clock_off(b)) <= timedelta(seconds=1)
        assert not b.station.raised


@virtual
async def test_a_clock_that_is_a_little_off_is_left() -> None:
    async with bench() as b:
        await b.until_live()
        b.meter.shift_clock(4)
        await asyncio.sleep(600)
        assert b.posts() == ["/gw"]


@virtual
async def test_no_clock_is_set_while_a_transaction_runs() -> None:
    async with bench() as b:
        await b.until_live()
        await asyncio.sleep(61)
        assert (await b.driver.start_transaction(request())).status is OK
        b.meter.shift_clock(60)
        await asyncio.sleep(200)
        assert "/datetime" not in b.posts()
        assert (await b.driver.stop_transaction("T-1")).status is OK
        await asyncio.sleep(3)
        assert b.posts()[-1] == "/datetime"


@virtual
async def test_a_host_without_a_clock_makes_gw_wait_and_never_sends_its_time_with_datetime(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bench(wall=VirtualWall(datetime(1970, 1, 1, tzinfo=UTC))) as b:
        await b.until_live()
        await asyncio.sleep(50)
        assert b.posts() == []
        refused = await b.driver.start_transaction(request())
        assert "clock" in refused.error
        await asyncio.sleep(30)
        assert b.posts() == ["/gw"]
        assert "1970" in gateway(b)["TM"]
        await asyncio.sleep(300)
        assert b.posts() == ["/gw"]
        b.wall.set(SUMMER)
        await asyncio.sleep(2)
        assert b.posts() == ["/gw", "/datetime"]
        assert abs(clock_off(b)) <= timedelta(seconds=1)
    assert len([record for record in caplog.records if "the host's clock" in record.getMessage()]) == 3


@virtual
async def test_a_transaction_that_went_on_over_a_power_cut_has_its_time_of_waiting_for_the_host_s_clock() -> None:
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, charge_s=1.0, open_at_power_cut="running")
    async with bench(options, wall=VirtualWall(datetime(1970, 1, 1, tzinfo=UTC))) as b:
        await asyncio.sleep(80)
        assert (await b.driver.start_transaction(request("T-1"))).status is TransactionRequestStatus.OK
        b.meter.power_cycle(off_s=1.0, boot_s=1.0)
        await asyncio.sleep(80)
        assert b.meter.running
        assert (await b.driver.start_transaction(request("T-2"))).status is TransactionRequestStatus.OK
        assert b.posts().count("/gw") == 2


@virtual
async def test_gw_goes_as_soon_as_the_host_has_a_clock() -> None:
    async with bench(wall=VirtualWall(datetime(2000, 1, 1, tzinfo=UTC))) as b:
        await b.until_live()
        await asyncio.sleep(20)
        b.wall.set(SUMMER)
        await asyncio.sleep(12)
        assert b.posts() == ["/gw"]
        assert "2026" in gateway(b)["TM"]


# --- texts ---


@virtual
async def test_a_tariff_text_is_put_into_a_readable_form_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with bench(TT_initial="0,59 €/kWh für alle | überall") as b:
        await b.until_live()
        assert b.meter.as_json()["TT"] == "0,59 EUR/kWh fuer alle / ueberall"
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "€" in warnings[0]
    assert "EUR" in warnings[0]


@virtual
async def test_a_refused_tariff_text_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with bench(TT_initial="0,59 EUR/kWh") as b:
        b.meter.faults.add(Fault("refuse", node="/tariff"))
        await b.until_live()
        await asyncio.sleep(60)
        assert b.posts() == ["/gw", "/tariff"]
        assert len([record for record in caplog.records if "tariff text" in record.getMessage()]) == 1
        assert (await b.driver.start_transaction(request())).status is OK


@virtual
async def test_a_tariff_text_of_one_session_does_not_outlast_it() -> None:
    async with bench(TT_initial="0,59 EUR/kWh") as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        for fields, signed in (({"tariff_text": "0,99 EUR/kWh"}, "0,99"), ({}, "0,59")):
            assert (await b.driver.start_transaction(request(signed, **fields))).status is OK
            stopped = await b.driver.stop_transaction(signed)
            assert stopped.signed_meter_value is not None
            assert f'"TT":"{signed} EUR/kWh"' in stopped.signed_meter_value.signed_meter_data


def gw_body(CT: str, CI: str) -> bytes:
    return json.dumps({"CT": CT, "CI": CI, "TM": "2026-03-01T13:00:00,000+0100"}).encode()
