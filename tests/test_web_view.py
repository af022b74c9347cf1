"""What the page says of a meter, and that what changed is enough to show it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iem_dcr.driver.meter_state import COMMUNICATION_FAULT, VENDOR_ERROR, WRONG_SERIAL
from iem_dcr.meter_time import MeterTime
from iem_dcr.powermeter import StationError, TransactionRequestStatus
from iem_dcr.service.web.html import tag, visible
from iem_dcr.service.web.layout import meter_page
from iem_dcr.service.web.meter_view import detail, path_of, row
from iem_dcr.service.web.view import Cell, Row, View
from tests.support.bench import CI, bench, request
from tests.support.served_page import observed, value, wall
from tests.support.virtual_time import VirtualWall, run_virtual, virtual

if TYPE_CHECKING:
    from iem_dcr.service.observation import ObservedMeter

TEXTS = st.text(st.sampled_from("ab<&\u202e"), max_size=3)
CELLS = st.builds(Cell, TEXTS, st.sampled_from(["", "ok"]))
TABLES = st.lists(st.tuples(st.sampled_from("abcde"), CELLS), max_size=5, unique_by=lambda pair: pair[0]).map(
    lambda pairs: tuple(Row(key, (cell,)) for key, cell in pairs)
)
VIEWS = st.builds(lambda one, other, rows: View({"one": one, "other": other}, {"rows": rows}), CELLS, CELLS, TABLES)


def applied(before: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Do what the page's program does."""
    fields = before["fields"] | changes.get("fields", {})
    rows = before["rows"]
    table = changes.get("tables", {}).get("rows")
    if table is not None:
        came = {one["key"]: one for one in table["rows"]}
        rows = list(came.values()) if table["whole"] else [came.get(one["key"], one) for one in rows]
    return {"fields": fields, "rows": rows}


@given(st.lists(VIEWS, min_size=1, max_size=5))
def test_what_changed_is_enough(views: list[View]) -> None:
    shown: dict[str, Any] = {"fields": {}, "rows": []}
    before = View()
    for view in views:
        shown = applied(shown, view.changes(before))
        assert shown == {
            "fields": {name: cell.to_json() for name, cell in view.fields.items()},
            "rows": [one.to_json() for one in view.tables["rows"]],
        }
        assert view.changes(view) == {}
        before = view


@pytest.mark.parametrize(
    ("changes", "state", "wrong"),
    [
        ({}, "ready", []),
        ({"XT": True}, "busy", []),
        ({"XC": "0x01"}, "fault", ["in error: XC is 0x01"]),
        ({"XC": "0x01", "XT": True}, "fault", ["in error: XC is 0x01"]),
        ({"EF": "t"}, "warning", ["EF is t: the time is not reliable"]),
        ({"ST": "M"}, "warning", ["ST is M, not G"]),
        ({"ST": "M", "XC": "0x01"}, "fault", ["in error: XC is 0x01", "ST is M, not G"]),
    ],
)
def test_states(changes: dict[str, Any], state: str, wrong: list[str]) -> None:
    async def seen() -> None:
        meter = observed()
        meter.value_read(value(**changes), wall())
        view = detail(meter, ())
        assert view.fields["state"].kind == row(meter).kind == state
        assert [one.cells[0].text for one in view.tables["troubles"]] == wrong
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        assert row(meter).cells[-1].text == (wrong[0] + more if wrong else "")

    run_virtual(seen())


@virtual
async def test_before_the_first_value_and_after_the_last() -> None:
    meter = observed()
    assert detail(meter, ()).fields["state"].kind == "waiting"
    meter.reading_failed("GET /metervalue: nobody there")
    assert detail(meter, ()).fields["state"].kind == "silent"
    meter.value_read(value(), wall())
    meter.reading_failed("GET /metervalue: no answer within 2 s")
    assert detail(meter, ()).fields["state"].kind != "silent"
    await asyncio.sleep(4)
    view = detail(meter, ())
    assert view.fields["state"].kind == "silent"
    assert view.fields["age"] == Cell(", 4 s ago", "old")
    (trouble,) = view.tables["troubles"]
    assert "(4 s): GET /metervalue: no answer within 2 s" in trouble.cells[0].text


@virtual
async def test_a_clock_and_a_meter_that_is_the_wrong_one() -> None:
    meter = observed(meter_serial="1SIM")
    meter.value_read(value(TM=MeterTime(wall() - timedelta(minutes=2), "U")), wall())
    view = detail(meter, ())
    assert view.fields["clock-off"].text == "2 min 00 s behind this host"
    assert view.fields["clock"].text.endswith(", unknown")
    assert view.fields["state"].kind == "warning"
    meter.error_raised(StationError(VENDOR_ERROR, WRONG_SERIAL, "the meter has serial 7, configured is 1SIM"))
    meter.error_raised(COMMUNICATION_FAULT)
    view = detail(meter, ())
    assert view.fields["state"].kind == "fault"
    assert view.tables["troubles"][0].cells[0].text == "the meter has serial 7, configured is 1SIM"
    assert [one.cells[1].text for one in view.tables["errors"]] == ["stands", "stands"]
    await asyncio.sleep(61)
    meter.error_cleared(COMMUNICATION_FAULT)
    assert [one.cells[1].text for one in detail(meter, ()).tables["errors"]] == ["over after 1 min 01 s", "stands"]


@virtual
async def test_a_transaction_from_its_begin_to_its_receipt() -> None:
    meter = observed()
    async with bench(observer=meter, sink=meter) as b:
        meter.attach(b.driver)
        await b.until_live()
        assert said(meter) == ["none", "—", "—", "—", "—"]
        await b.driver.start_transaction(request("T-1", tariff_text="0.49 EUR/kWh"))
        await asyncio.sleep(4)
        running = said(meter)
        assert running[0].startswith("runs since ")
        assert running[1].endswith(" kWh")
        assert running[2:] == ["T-1", "04…(7) (ISO14443)", "0.49 EUR/kWh"]
        await b.driver.stop_transaction("T-1")
        await asyncio.sleep(2)
        assert said(meter) == ["none", "—", "—", "—", "—"]


@virtual
async def test_a_transaction_that_nobody_here_began() -> None:
    meter = observed()
    meter.value_read(value(XT=True), wall())
    state, _, whose, *_ = said(meter)
    assert state.startswith("runs, since before ")
    assert whose == "not begun by this service"


@virtual
async def test_a_charge_point_that_is_another_than_configured() -> None:
    meter = observed(CI="DE*ABC*E1*1")
    async with bench(observer=meter, wall=VirtualWall(datetime(1970, 1, 1, tzinfo=UTC))) as b:
        meter.attach(b.driver)
        await b.until_live()
        assert detail(meter, ()).fields["CI"] == Cell("not set since the meter was powered up", "warning")
        await asyncio.sleep(70)
        assert (await b.driver.start_transaction(request())).status is TransactionRequestStatus.OK
        assert detail(meter, ()).fields["CT"] == Cell("EVSEID")
        assert detail(meter, ()).fields["CI"] == Cell(f"{CI} (configured is DE*ABC*E1*1)", "warning")


def said(meter: ObservedMeter) -> list[str]:
    fields = detail(meter, ()).fields
    return [fields[name].text for name in ("transaction", "charged", "transaction-id", "user", "tariff")]


# --- HTML ---


class Names(HTMLParser):
    """The names of a page's elements and of their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes.update(name for name, _ in attrs)


def page_of(**changes: Any) -> str:
    async def made() -> str:
        meter = observed("pm1")
        meter.value_read(value(**changes), wall())
        return meter_page(meter, detail(meter, ()))

    return run_virtual(made())


@settings(max_examples=50)
@given(st.text(max_size=30) | st.text(st.sampled_from("<>&\"'=/ abonx"), max_size=30))
def test_no_text_becomes_markup(text: str) -> None:
    page = page_of(MS=text, XC=text, XS=text, ST=text, EF=text)
    page.encode()
    found, ordinary = Names(page), Names(page_of(XC="0x01"))
    assert found.elements <= ordinary.elements
    assert found.attributes <= ordinary.attributes


def test_what_is_not_visible_is_a_space() -> None:
    assert visible("a\x00b\u202ec\nd\ud800e") == "a b c d e"
    assert tag("p", "a", None, tag("b", "c"), "d", "e", class_="x\x1b", data_key=None).get("class") == "x "
    assert path_of(observed('a"<?é')) == "/meters/a%22%3C%3F%C3%A9"
