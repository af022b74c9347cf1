"""What the page says of a meter, and that nothing in it becomes markup."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from iem_dcr.driver.meter_state import COMMUNICATION_FAULT, VENDOR_ERROR, WRONG_SERIAL
from iem_dcr.meter_time import MeterTime
from iem_dcr.powermeter import StationError, TransactionRequestStatus
from iem_dcr.web import templates
from iem_dcr.web.pages import RANGES
from iem_dcr.web.views import MeterView, path_of
from tests.support.bench import CI, bench, request
from tests.support.served_page import observed, value, wall
from tests.support.virtual_time import VirtualWall, virtual

if TYPE_CHECKING:
    from iem_dcr.service.observation import ObservedMeter


def page(meter: ObservedMeter) -> str:
    return templates.render("meter.html", view=MeterView.of(meter), rows=(), note="", ranges=RANGES, chosen="30min")


def text(html: str) -> str:
    """Return what stands on a page, with one space where there are more."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def pairs(html: str) -> dict[str, str]:
    """Return the values of a page by their labels."""
    found = re.findall(r"<dt>(.*?)</dt><dd[^>]*>(.*?)</dd>", html, re.DOTALL)
    return {label: text(said).strip() for label, said in found}


def wrong(meter: ObservedMeter) -> list[str]:
    return [trouble.text for trouble in MeterView.of(meter).troubles]


@pytest.mark.parametrize(("changes", "state", "expected"), [
    ({}, "ready", []), ({"XT": True}, "busy", []), ({"XC": "0x01", "XT": True}, "fault", ["in error: XC is 0x01"]),
    ({"EF": "t"}, "warning", ["EF is t: the time is not reliable"]), ({"ST": "M"}, "warning", ["ST is M, not G"]),
    ({"ST": "M", "XC": "0x01"}, "fault", ["in error: XC is 0x01", "ST is M, not G"]),
])  # fmt: skip
@virtual
async def test_states(changes: dict[str, Any], state: str, expected: list[str]) -> None:
    meter = observed()
    meter.value_read(value(**changes), wall())
    view = MeterView.of(meter)
    assert (view.state, wrong(meter)) == (state, expected)
    card = templates.render("card.html", id="m0", view=view)
    assert f'data-kind="{state}">{view.state_name}<' in card
    more = f" (and {len(expected) - 1} more)" if len(expected) > 1 else ""
    assert (f">{expected[0]}{more}<" in card) if expected else ('class="wrong"' not in card)


@virtual
async def test_before_the_first_value_and_after_the_last() -> None:
    meter = observed()
    assert MeterView.of(meter).state == "waiting"
    assert pairs(page(meter))["Power"] == "— kW"
    meter.reading_failed("GET /metervalue: nobody there")
    assert MeterView.of(meter).state == "silent"
    meter.value_read(value(), wall())
    meter.reading_failed("GET /metervalue: no answer within 2 s")
    assert MeterView.of(meter).state != "silent"
    await asyncio.sleep(4)
    assert MeterView.of(meter).state == "silent"
    assert '<span class="age" data-kind="warning">, 4 s ago</span>' in page(meter)
    (trouble,) = wrong(meter)
    assert "(4 s): GET /metervalue: no answer within 2 s" in trouble


@virtual
async def test_a_clock_and_a_meter_that_is_the_wrong_one() -> None:
    meter = observed(meter_serial="1SIM")
    meter.value_read(value(TM=MeterTime(wall() - timedelta(minutes=2), "U")), wall())
    said = pairs(page(meter))
    assert said["Difference"] == "2 min 00 s behind this host"
    assert said["Its clock"].endswith(", unknown")
    assert MeterView.of(meter).state == "warning"
    meter.error_raised(StationError(VENDOR_ERROR, WRONG_SERIAL, "the meter has serial 7, configured is 1SIM"))
    meter.error_raised(COMMUNICATION_FAULT)
    assert MeterView.of(meter).state == "fault"
    assert wrong(meter)[0] == "the meter has serial 7, configured is 1SIM"
    assert page(meter).count(">active<") == 2
    await asyncio.sleep(61)
    meter.error_cleared(COMMUNICATION_FAULT)
    html = page(meter)
    assert html.count(">active<") == 1
    assert html.index("cleared after 1 min 01 s") < html.index(">active<")


@virtual
async def test_a_transaction_from_its_begin_to_its_receipt() -> None:
    meter = observed()
    async with bench(observer=meter, sink=meter) as b:
        meter.attach(b.driver)
        await b.until_live()
        said = pairs(page(meter))
        assert [said[label] for label in ("State", "Charged", "Id")] == ["none", "—", "—"]
        assert "Energy of this session" not in said
        await b.driver.start_transaction(request("T-1", tariff_text="0.49 EUR/kWh"))
        await asyncio.sleep(14)
        said = pairs(page(meter))
        assert re.fullmatch(r"runs since \d\d:\d\d:\d\d \(1\d s\)", said["State"])
        assert [said[label] for label in ("Id", "User", "Tariff")] == ["T-1", "04…(7) (ISO14443)", "0.49 EUR/kWh"]
        energy_kwh = float(said["Energy of this session"].removesuffix(" kWh"))
        assert energy_kwh > 0
        assert said["Charged"] == f"{energy_kwh:.3f} kWh"
        mean_kw = float(said["Mean power"].removesuffix(" kW"))
        assert abs(mean_kw - energy_kwh * 3600 / 14) < 0.2 * mean_kw
        await b.driver.stop_transaction("T-1")
        await asyncio.sleep(2)
        said = pairs(page(meter))
        assert [said[label] for label in ("State", "Charged", "Id")] == ["none", "—", "—"]


@virtual
async def test_a_transaction_that_nobody_here_began() -> None:
    meter = observed()
    meter.value_read(value(XT=True), wall())
    await asyncio.sleep(12)
    said = pairs(page(meter))
    assert said["State"].startswith("runs, since before ")
    assert (said["Id"], said["Mean power"]) == ("not begun by this service", "— kW")
    assert MeterView.of(meter).session_time == "over 12 s"


@virtual
async def test_a_charge_point_that_is_another_than_configured() -> None:
    meter = observed(CI="DE*ABC*E1*1")
    assert MeterView.of(meter).title == "DE*ABC*E1*1"
    async with bench(observer=meter, wall=VirtualWall(datetime(1970, 1, 1, tzinfo=UTC))) as b:
        meter.attach(b.driver)
        await b.until_live()
        not_set = "not set since the meter was powered up"
        assert ("Charge point (CI)", not_set, "warning") in MeterView.of(meter).charge_point()
        await asyncio.sleep(70)
        assert (await b.driver.start_transaction(request())).status is TransactionRequestStatus.OK
        view = MeterView.of(meter)
        another = f"{CI} (configured: DE*ABC*E1*1)"
        assert [*view.charge_point()] == [("Type (CT)", "EVSEID", ""), ("Charge point (CI)", another, "warning")]
        assert view.title == CI


# --- HTML ---


@virtual
async def test_no_text_becomes_markup() -> None:
    hostile = "<img src=x onerror=a()>\"'><script>"
    meter = observed('a"<?é')
    meter.value_read(value(MS=hostile, XC=hostile, XS=hostile, ST=hostile, EF=hostile), wall())
    meter.error_raised(StationError(VENDOR_ERROR, WRONG_SERIAL, hostile))
    html = page(meter)
    assert html.count("&lt;img src=x onerror=a()&gt;&#34;&#39;&gt;&lt;script&gt;") > 5
    assert not re.search(r"<img|<script(?! src=)|<[^>]* onerror", html)
    assert path_of(meter) == "/meters/a%22%3C%3F%C3%A9"


def test_what_is_not_visible_is_a_space() -> None:
    said = templates.render("message.html", title="a\x00b\u202ec\nd\ud800e", text=None, is_known=False)
    assert "<h1>a b c d e</h1>\n<p>—</p>" in said
