"""Initialisation, clock, tariff text and public key, against the simulated meter over real HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from iem_dcr import ocmf
from iem_dcr.simulator import Fault
from tests.support.bench import CI, Bench, bench
from tests.support.driving import (
    FOR_GOOD,
    live_bench,
    logged,
    own_receipt,
    post,
    start,
    start_fails,
    stop_fails,
)
from tests.support.stories import Story, stories
from tests.support.virtual_time import VirtualWall, virtual

if TYPE_CHECKING:
    from pathlib import Path

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


WITH_TARIFF = {"TT_initial": TARIFF}
FROZEN = "TM=2026-03-01T13:00:00,000+0100"
STORIES = stories("""
a powered-up meter gets charge point, clock and tariff once
    driver 'TT_initial=0,59 EUR/kWh'; wait 600; posts /gw /tariff; provisioned
other frozen values are a warning
    unseen; post gw CT=CBIDC CI=OTHER-7 TM=2026-03-01T13:00:00,000+0100; wait 20; posts /datetime; logged 1;
    logged 1 CBIDC OTHER-7 EVSEID DE*TST*E0001*1 Power-cycle
a refused /gw sets the clock and is tried again
    unseen; fault refuse POST /gw; live; posts /gw /datetime; logged some Power-cycle; wait 15; provisioned;
    requests POST /gw 2
a lost answer to /gw is followed by a look: [lose-answer|garbage-http|wrong-length]
    unseen; fault $1 POST /gw; wait 15; provisioned; requests POST /gw 1; logged 0 frozen; start A
a lost /gw is sent again: [lose-request|reset]
    unseen; fault $1 POST /gw; wait 15; provisioned; requests POST /gw 2; logged 0 frozen; start A
a charge point that cannot be set is a warning and fails a start: [server-error|lose-request]
    unseen; fault $1 POST /gw count=0; wait 60; start A fails /gw {meter}; logged some /gw
nothing is posted during a transaction
    driver 'TT_initial=0,59 EUR/kWh'; unseen; post receipt TX=B; wait 200; posts; stop '' T1; wait 3;
    posts /gw /receipt /tariff
a power cycle between readings is noticed by the clock: after [1.5|30.5|70.5] s
    driver 'TT_initial=0,59 EUR/kWh'; wait $1; cut 0.1 0.1; wait 3; provisioned; posts /gw /tariff /gw /tariff; raised 0
a meter that kept its setup is left alone after a fault
    fault lose-request /metervalue count=5; wait 20; raised 1; calm; requests GET /gw 2; posts /gw
a missing key is requested again
    unseen; fault refuse /publickey count=3; live; keys 0; wait 60; keys 1; exchange; fault refuse /publickey; wait 100;
    keys 2

# clock
set every interval
    driver datetime_resync_interval=1; wait 3660; requests POST /datetime 1
far off: set once a minute at most
    shift 4; wait 100; posts /gw; fault refuse POST /datetime count=3; shift 60; wait 150;
    posts /gw /datetime /datetime /datetime; logged 1 'clock was not set'; wait 60; provisioned; raised 0
not set during a transaction
    wait 61; start A; shift 60; wait 200; requests POST /datetime 0; stop A; wait 3; posted /datetime
set before a start
    wait 61.2; shift -3600; start A; posts /gw /datetime /receipt /user /receipt; stop A; logged 0
refused before a start: logged
    wait 61.2; fault refuse /datetime count=0; shift -3600; start A; posts /gw /datetime /receipt /user /receipt;
    stop A; logged 1 'signed with a wrong clock'

# tariff texts
made printable with one warning
    driver 'TT_initial=0,59 €/kWh für alle | überall'; tariff '0,59 EUR/kWh fuer alle / ueberall'; logged 1;
    logged 1 € EUR
refused: one warning
    driver 'TT_initial=0,59 EUR/kWh'; unseen; fault refuse /tariff; wait 60; posts /gw /tariff;
    logged 1 'tariff text'; start A
an exchanged meter gets it
    driver 'TT_initial=0,59 EUR/kWh'; post tariff TT=another; configure MS=1SIM0000000099; wait 30;
    tariff '0,59 EUR/kWh'
""")


@pytest.mark.parametrize("story", STORIES, ids=str)
@virtual
async def test_provisioning(story: Story, path: Path) -> None:
    await story.tell(path)


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
async def test_first_value_comes_at_once_after_the_key() -> None:
    async with bench() as b:
        await b.until_live()
        assert asyncio.get_running_loop().time() < 0.3
        assert b.station.keys == [ocmf.public_key_der_hex(b.station.keys[0])]


@virtual
async def test_offset_of_summer_time_is_written() -> None:
    async with bench(wall=VirtualWall(SUMMER), timezone="+0100") as b:
        await b.until_live()
        assert "+0200" in gateway(b)["TM"]
        assert is_clock_right(b)


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
