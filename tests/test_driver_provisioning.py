"""Initialisation, clock, tariff text and public key, against the simulated meter over real HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta

import pytest

from iem_dcr import ocmf
from iem_dcr.simulator import Fault
from tests.support.bench import CI, Bench, bench
from tests.support.driving import (
    FOR_GOOD,
    OTHER_SERIAL,
    begin_by_hand,
    exchange,
    live_bench,
    logged,
    own_receipt,
    post,
    start,
    start_fails,
    stop,
    stop_fails,
)
from tests.support.virtual_time import VirtualWall, virtual

SUMMER = datetime(2026, 7, 1, 12, tzinfo=UTC)
NEVER_SET = datetime(1970, 1, 1, tzinfo=UTC)
TARIFF = "0,59 EUR/kWh"


def gateway(b: Bench) -> dict[str, str]:
    answer: dict[str, str] = json.loads(b.meter.handle("GET", "/counter/v1/ocmf/gw").body)
    return answer


def is_clock_right(b: Bench) -> bool:
    value = b.driver.value
    assert value is not None
    assert value.TM is not None
    return abs(value.TM.instant - b.wall()) <= timedelta(seconds=1)


def freeze(b: Bench, CT: str, CI: str) -> None:
    """Set up the meter before the driver does, for as long as it has power."""
    post(b, "gw", CT=CT, CI=CI, TM="2026-03-01T13:00:00,000+0100")
    b.meter.requests.clear()


@virtual
async def test_powered_up_meter_gets_charge_point_clock_and_tariff_once() -> None:
    async with bench(TT_initial=TARIFF) as b:
        await b.until_live()
        await asyncio.sleep(600)
        assert b.posts() == ["/gw", "/tariff"]
        assert (gateway(b)["CT"], gateway(b)["CI"]) == ("EVSEID", CI)
        assert is_clock_right(b)


@virtual
async def test_meter_that_is_already_set_up_is_an_info_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with bench() as b:
        freeze(b, "EVSEID", CI)
        await b.until_live()
        await asyncio.sleep(5)
        assert b.posts() == ["/datetime"]
        assert is_clock_right(b)
    assert f"already set up: CT EVSEID, CI {CI}" in caplog.text
    assert not logged(caplog)


@virtual
async def test_other_frozen_values_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        freeze(b, "CBIDC", "OTHER-7")
        await b.until_live()
        await asyncio.sleep(20)
        assert b.posts() == ["/datetime"]
    (warning,) = logged(caplog)
    for word in ("CBIDC", "OTHER-7", "EVSEID", CI, "Power-cycle"):
        assert word in warning


@virtual
async def test_refused_gw_sets_the_clock_and_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        b.meter.faults.add(Fault("refuse", node="/gw", method="POST"))
        await b.until_live()
        assert b.posts()[:2] == ["/gw", "/datetime"]
        assert "Power-cycle" in caplog.text
        await asyncio.sleep(15)
        assert gateway(b)["CI"] == CI
        assert b.posts().count("/gw") == 2


@pytest.mark.parametrize("kind", ["lose-answer", "lose-request", "garbage-http", "wrong-length", "reset"])
@virtual
async def test_lost_answer_to_gw_is_followed_by_a_look(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        b.meter.faults.add(Fault(kind, node="/gw", method="POST"))  # type: ignore[arg-type]  # one of the kinds
        await b.until_live()
        await asyncio.sleep(15)
        assert gateway(b)["CI"] == CI
        assert b.requests("POST", "/gw") == (2 if kind in ("lose-request", "reset") else 1)
        assert "frozen" not in caplog.text
        await start(b)


@pytest.mark.parametrize("kind", ["server-error", "lose-request"])
@virtual
async def test_charge_point_that_cannot_be_set_is_a_warning_and_fails_a_start(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench() as b:
        b.meter.faults.add(Fault(kind, node="/gw", method="POST", count=FOR_GOOD))  # type: ignore[arg-type]  # one of the kinds
        await b.until_live()
        await asyncio.sleep(60)
        error = await start_fails(b)
        assert b.driver.address in error
        assert "/gw" in error
    assert logged(caplog, "/gw")


@virtual
async def test_nothing_is_posted_during_a_transaction() -> None:
    async with bench(TT_initial=TARIFF) as b:
        b.meter.set_load(0, 0)
        begin_by_hand(b)
        b.meter.requests.clear()
        await b.until_live()
        await asyncio.sleep(200)
        assert b.posts() == []
        await stop(b, "")
        await asyncio.sleep(3)
        assert b.posts() == ["/gw", "/receipt", "/tariff"]


@pytest.mark.parametrize("after_s", [1.5, 30.5, 70.5])
@virtual
async def test_power_cycle_between_readings_is_noticed_by_the_clock(after_s: float) -> None:
    async with bench(TT_initial=TARIFF) as b:
        await b.until_live()
        await asyncio.sleep(after_s)
        b.meter.power_cycle(off_s=0.1, boot_s=0.1)
        await asyncio.sleep(3)
        assert gateway(b)["CI"] == CI
        assert b.posts() == ["/gw", "/tariff"] * 2
        assert not b.station.raised


@virtual
async def test_meter_that_kept_its_setup_is_left_alone_after_a_fault() -> None:
    async with bench() as b:
        await b.until_live()
        b.meter.faults.add(Fault("lose-request", node="/metervalue", count=5))
        await asyncio.sleep(20)
        assert len(b.station.raised) == len(b.station.cleared) == 1
        assert b.requests("GET", "/gw") == 2
        assert b.posts() == ["/gw"]


# --- the public key ---


@virtual
async def test_first_value_comes_at_once_after_the_key() -> None:
    async with bench() as b:
        await b.until_live()
        assert asyncio.get_running_loop().time() < 0.3
        assert b.station.keys == [ocmf.public_key_der_hex(b.station.keys[0])]


@virtual
async def test_missing_key_is_requested_again_and_never_published_empty() -> None:
    async with bench() as b:
        b.meter.faults.add(Fault("refuse", node="/publickey", count=3))
        await b.until_live()
        assert b.station.keys == []
        await asyncio.sleep(60)
        assert len(b.station.keys) == 1
        exchange(b)
        b.meter.faults.add(Fault("refuse", node="/publickey"))
        await asyncio.sleep(100)
        assert len(set(b.station.keys)) == 2


# --- clock ---


@virtual
async def test_offset_of_summer_time_is_written() -> None:
    async with bench(wall=VirtualWall(SUMMER), timezone="+0100") as b:
        await b.until_live()
        assert "+0200" in gateway(b)["TM"]
        assert is_clock_right(b)


@virtual
async def test_clock_is_set_every_interval() -> None:
    async with bench(datetime_resync_interval=1) as b:
        await b.until_live()
        await asyncio.sleep(3600 + 60)
        assert b.meter.request_counts["POST", "/datetime"] == 1


@virtual
async def test_clock_that_is_far_off_is_set_once_a_minute_at_most(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bench() as b:
        await b.until_live()
        b.meter.shift_clock(4)
        await asyncio.sleep(100)
        assert b.posts() == ["/gw"]
        b.meter.faults.add(Fault("refuse", node="/datetime", method="POST", count=3))
        b.meter.shift_clock(60)
        await asyncio.sleep(150)
        assert b.posts() == ["/gw", "/datetime", "/datetime", "/datetime"]
        assert len(logged(caplog, "clock was not set")) == 1
        await asyncio.sleep(60)
        assert is_clock_right(b)
        assert not b.station.raised


@virtual
async def test_no_clock_is_set_during_a_transaction() -> None:
    async with bench() as b:
        await b.until_live()
        await asyncio.sleep(61)
        await start(b)
        b.meter.shift_clock(60)
        await asyncio.sleep(200)
        assert "/datetime" not in b.posts()
        await own_receipt(b)
        await asyncio.sleep(3)
        assert b.posts()[-1] == "/datetime"


@pytest.mark.parametrize("is_set", [True, False])
@virtual
async def test_clock_is_set_before_a_start_or_its_error_is_logged(
    caplog: pytest.LogCaptureFixture, *, is_set: bool
) -> None:
    async with live_bench() as b:
        await asyncio.sleep(61.2)
        if not is_set:
            b.meter.faults.add(Fault("refuse", node="/datetime", count=FOR_GOOD))
        b.meter.shift_clock(-3600)
        await start(b)
        assert b.posts() == ["/gw", "/datetime", "/receipt", "/user", "/receipt"]
        await own_receipt(b)
    assert len(logged(caplog, "signed with a wrong clock")) == (not is_set)


@virtual
async def test_host_without_a_clock_delays_gw_and_sends_no_datetime(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bench(wall=VirtualWall(NEVER_SET)) as b:
        await b.until_live()
        await asyncio.sleep(20)
        assert "clock" in await start_fails(b)
        assert b.posts() == []
        await asyncio.sleep(30)
        assert b.posts() == ["/gw"]
        assert "1970" in gateway(b)["TM"]
        await asyncio.sleep(300)
        assert b.posts() == ["/gw"]
        b.wall.set(SUMMER)
        await asyncio.sleep(2)
        assert b.posts() == ["/gw", "/datetime"]
        assert is_clock_right(b)
    assert len(logged(caplog, "the host's clock")) == 3


@virtual
async def test_gw_is_sent_as_soon_as_the_host_has_a_clock() -> None:
    async with bench(wall=VirtualWall(datetime(2000, 1, 1, tzinfo=UTC))) as b:
        await b.until_live()
        await asyncio.sleep(20)
        b.wall.set(SUMMER)
        await asyncio.sleep(12)
        assert b.posts() == ["/gw"]
        assert "2026" in gateway(b)["TM"]


# --- tariff texts ---


@virtual
async def test_tariff_text_is_made_printable_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with bench(TT_initial="0,59 €/kWh für alle | überall") as b:
        await b.until_live()
        assert b.meter.as_json()["TT"] == "0,59 EUR/kWh fuer alle / ueberall"
    (warning,) = logged(caplog)
    assert "€" in warning
    assert "EUR" in warning


@virtual
async def test_refused_tariff_text_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with bench(TT_initial=TARIFF) as b:
        b.meter.faults.add(Fault("refuse", node="/tariff"))
        await b.until_live()
        await asyncio.sleep(60)
        assert b.posts() == ["/gw", "/tariff"]
        assert len(logged(caplog, "tariff text")) == 1
        await start(b)


@virtual
async def test_exchanged_meter_gets_the_tariff_text() -> None:
    async with live_bench(TT_initial=TARIFF) as b:
        post(b, "tariff", TT="another")
        b.meter.configure(MS=OTHER_SERIAL)
        await asyncio.sleep(30)
        assert b.meter.as_json()["TT"] == TARIFF


@pytest.mark.parametrize("is_answered", [True, False])
@virtual
async def test_tariff_text_of_a_session_ends_with_it(*, is_answered: bool) -> None:
    async with live_bench(TT_initial=TARIFF) as b:
        await start(b, "A", tariff_text="9,99 EUR/kWh")
        if not is_answered:
            b.meter.faults.add(Fault("lose-answer", node="/receipt", method="POST"))
            stopping = asyncio.create_task(stop_fails(b, "A"))
            while b.meter.running:
                await asyncio.sleep(0.001)
            b.meter.faults.add(Fault("reset", count=FOR_GOOD))
            await stopping
            b.meter.faults.clear()
            await asyncio.sleep(30)
        for name, signed in (("A", "9,99 EUR/kWh"), ("B", TARIFF)):
            assert f'"TT":"{signed}"' in (await own_receipt(b, name)).text
            if name == "A":
                await start(b, "B")
