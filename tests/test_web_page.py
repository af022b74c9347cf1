"""The bring-up page in a real browser: what a person sees of a session, of a lost server, on a phone, by keyboard."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from iem_dcr import ocmf
from iem_dcr.ocmf.import_formats import read_document
from iem_dcr.service.web_settings import WebSettings
from tests.support.browser import PATIENCE_MS, PHONE, chromium, is_as_wide_as, opened
from tests.support.page_site import PageSite
from tests.support.tools import needs_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Locator, Page

TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105  one of tests
ID = "04A2B3C4D5E6F7"
POINTS = (
    "Array.from(document.querySelectorAll('[data-chart=power] .line'))"
    ".reduce((sum, line) => sum + line.getAttribute('d').split(/[ML]/).length - 1, 0)"
)
"""How many points the lines of a chart have."""
OUTPUTS = "Array.from(document.querySelectorAll('output'), (one) => one.textContent)"
"""What the charts read at the chosen moment."""
READING = re.compile(r"\d\d:\d\d:\d\d  \d+\.\d+ (kW|V|A|kWh)")
IMAGE = "<img src=x onerror=document.title='taken'>"
AWAY = ("net::ERR_",)
BACKWARDS = "\u202etxt"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def site() -> Iterator[PageSite]:
    """Yield a site of two meters; the first has a receipt."""
    with PageSite("pm1", "pm2", charge_s=0.3, load_delay_s=0.0) as running:
        running.begin("T-1")
        running.end("T-1")
        yield running


def live(page: Page) -> None:
    page.locator("#live", has_text=re.compile("^Live$")).wait_for()


def field(page: Page, label: str) -> Locator:
    """Return the value that stands behind a label."""
    return page.locator(f"dt:text-is('{label}') + dd").first


def shows(label: str, begin: str) -> str:
    """Return the expression for a value behind a label that begins so."""
    values = f"Array.from(document.querySelectorAll('dt')).filter((one) => one.textContent.trim() === '{label}')"
    return f"{values}.some((one) => one.nextElementSibling.textContent.trim().startsWith('{begin}'))"


def until(page: Page, condition: str) -> None:
    """Wait for what an expression says; the page's rules forbid Playwright's own way, which evaluates a text in it.

    What has to be true together belongs into one expression, because the page changes between two calls.
    """
    give_up = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < give_up, condition
        page.wait_for_timeout(20)


# --- a session ---


def test_a_session_from_begin_to_receipt(browser: Browser, tmp_path: Path) -> None:
    with PageSite("pm1", charge_s=0.3, load_delay_s=0.0) as site, opened(browser, site.url) as page:
        page.get_by_role("listitem").get_by_role("link").last.click()
        site.begin("T-1")
        told = {"State": "runs since", "User": "04…(14) (ISO14443)", "Tariff": "0.49 EUR/kWh"}
        until(page, " && ".join(shows(label, begin) for label, begin in told.items()))
        until(page, "parseFloat(document.querySelector('.hero dd').textContent) > 0")
        site.end("T-1")
        receipt = page.get_by_role("link", name="T1", exact=True)
        receipt.wait_for()
        row = page.locator("#receipts tbody tr")
        assert row.get_by_role("cell").nth(2).inner_text() == "valid"
        with page.expect_download() as download:
            row.get_by_role("link", name="XML").click()
        download.value.save_as(tmp_path / "receipt.xml")
        receipt.click()
        page.get_by_role("heading", level=1).get_by_text("valid").wait_for()
        assert ID not in page.content()
        page.get_by_role("navigation").get_by_role("link").last.click()
        live(page)
    (entry,) = read_document((tmp_path / "receipt.xml").read_bytes())
    assert ID in entry.text
    assert ocmf.verify(ocmf.parse(entry.text), entry.key).outcome is ocmf.Outcome.VALID


def test_a_fault_and_its_end(browser: Browser) -> None:
    with PageSite("pm1", charge_s=0.3) as site, opened(browser, site.url) as page:
        live(page)
        page.get_by_text("1 of 1 meter answers").wait_for()
        site.meter(lambda meter: meter.configure(XC="0x0001, 0x00000000, 0x00, 0x00"))
        page.locator("#meters .state", has_text="Fault").wait_for()
        page.locator("#meters").get_by_text("in error: XC is 0x0001").wait_for()
        page.get_by_role("listitem").get_by_role("link").last.click()
        page.get_by_role("cell", name="active").wait_for()
        assert page.locator("#errors tbody tr").count() == 1
        site.meter(lambda meter: meter.configure(XC="0x0, 0x0, 0x0, 0x0"))
        page.get_by_role("cell", name=re.compile("^cleared after")).wait_for()
        page.locator(".state", has_text=re.compile("Ready|Warning")).wait_for()
        site.meter(lambda meter: meter.power_cycle(off_s=60.0, boot_s=0.0))
        until(
            page,
            "document.querySelector('.state').textContent.includes('No answer')"
            " && Array.from(document.querySelectorAll('li'))"
            r".some((one) => /no answer since \d\d:\d\d:\d\d/.test(one.textContent))"
            " && document.querySelector('.age').dataset.kind === 'warning'"
            " && document.querySelector('#live').textContent.trim() === 'Live'",
        )


# --- what survives ---


def test_a_lost_server_is_said_and_it_comes_back(browser: Browser) -> None:
    with PageSite("pm1") as site, opened(browser, f"{site.url}/meters/pm1", expected=AWAY) as page:
        live(page)
        until(page, f"{POINTS} >= 2")
        before = page.evaluate(POINTS)
        site.stop()
        said = r"^Connection lost\. Trying again\. The data is [1-9] s old\.$"
        page.locator("#live", has_text=re.compile(said)).wait_for()
        assert page.locator("body.lost").count() == 1
        assert page.get_by_text(re.compile("last value")).is_visible()
        assert not page.locator(".age").is_visible()
        site.start()
        live(page)
        assert page.locator("body.lost").count() == 0
        # What was seen before the service was started anew is still there, and goes on.
        until(page, f"{POINTS} > {before}")
        page.reload()  # what this service has read is there again
        live(page)
        until(page, f"{POINTS} >= 1")


def test_without_scripts_it_shows_what_is(browser: Browser, site: PageSite) -> None:
    with opened(browser, site.url, java_script_enabled=False) as page:
        assert "Not live" in page.locator("#live").inner_text()
        assert page.locator("#meters > li").count() == 2
        page.locator("#m0").get_by_role("link").click()
        assert field(page, "Serial").inner_text() == "1SIM0000000042"
        page.get_by_role("link", name="T1", exact=True).click()
        assert "The signature matches" in page.content()


# --- who looks how ---


def paths(site: PageSite, page: Page) -> list[str]:
    page.goto(f"{site.url}/meters/pm1")
    receipt = page.get_by_role("link", name="T1", exact=True).get_attribute("href")
    assert receipt is not None
    return ["/", "/meters/pm1", receipt]


@pytest.mark.parametrize("width", [PHONE["width"], 768, 1025])
def test_nothing_is_scrolled_sideways(browser: Browser, site: PageSite, width: int) -> None:
    with opened(browser, site.url, viewport=PHONE | {"width": width}, has_touch=True, is_mobile=True) as page:
        for path in paths(site, page):
            page.goto(site.url + path)
            assert is_as_wide_as(page, width), path
            assert (
                page.evaluate(
                    "Array.from(document.querySelectorAll('.card, figure, .hero, .tiles > *, .meters > *, th, td, dd'))"
                    ".filter((one) => one.offsetParent && one.scrollWidth > one.clientWidth + 1)"
                    ".map((one) => one.className || one.localName)"
                )
                == []
            )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_anybody_out(browser: Browser, site: PageSite, scheme: Any) -> None:
    axe = needs_module("axe_playwright_python.sync_playwright").Axe()
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if scheme == "dark":  # only the colours are others
        options["runOnly"] = ["color-contrast"]
    grounds = {"light": "rgb(244, 246, 247)", "dark": "rgb(16, 23, 26)"}
    with opened(browser, site.url, color_scheme=scheme, expected=("404 (Not Found)",)) as page:
        for path in (*paths(site, page), "/nowhere"):
            page.goto(site.url + path)
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == grounds[scheme]
            if page.locator("#live").count():
                live(page)
            found = axe.run(page, options=options).response["violations"]
            assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
            assert page.get_by_role("main").count() == 1
            assert page.get_by_role("heading", level=1).count() == 1


def test_by_keyboard(browser: Browser, site: PageSite) -> None:
    with opened(browser, site.url) as page:
        live(page)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.pathname") == "/meters/pm1"
        page.keyboard.press("Enter")
        page.wait_for_url("**/meters/pm1")
        until(page, f"{POINTS} >= 2")
        chart = page.locator("[data-chart=voltage] svg")
        chart.focus()
        units: list[str] = []
        give_up = time.monotonic() + PATIENCE_MS / 1000
        while units != ["kW", "V", "A", "kWh"]:  # a new point may have moved the moment into a gap
            assert time.monotonic() < give_up, units
            page.keyboard.press("ArrowLeft")
            units = [read[1] if (read := READING.fullmatch(text)) else text for text in page.evaluate(OUTPUTS)]
        assert page.evaluate(OUTPUTS.replace("textContent", "ariaLive")) == ["off", "polite", "off", "off"]
        page.keyboard.press("Escape")
        until(page, "document.querySelector('output').textContent === ''")
        assert "Voltage over the last 30 minutes: from" in (chart.get_attribute("aria-label") or "")


def test_the_range_of_the_charts_and_one_without_values(browser: Browser, tmp_path: Path) -> None:
    with PageSite("pm1", null=("U2",)) as site, opened(browser, f"{site.url}/meters/pm1?range=10min") as page:
        live(page)
        until(page, f"{POINTS} >= 2")
        voltage = page.locator("[data-chart=voltage]")
        voltage.get_by_text("No data in the last 10 minutes").wait_for()
        assert not voltage.locator("svg").is_visible()
        assert page.get_by_role("radio", name="10 minutes").is_checked()
        assert "Power over the last 10 minutes: from 0.00 kW" in (
            page.locator("svg").first.get_attribute("aria-label") or ""
        )
        page.get_by_role("radio", name="10 minutes").focus()
        page.keyboard.press("ArrowLeft")
        page.wait_for_url("**/meters/pm1?range=24h")
        page.locator("svg[aria-label^='Power over the last 24 hours']").wait_for()
        with page.expect_download() as download:
            page.get_by_role("link", name="CSV").click()
        assert download.value.suggested_filename == "pm1-24h.csv"
        download.value.save_as(tmp_path / "day.csv")
        assert (tmp_path / "day.csv").read_text("utf-8").startswith("time,power_w,")
        page.reload()
        live(page)
        assert page.get_by_role("radio", name="24 hours").is_checked()


def test_a_focus_is_not_lost_to_what_is_new(browser: Browser, site: PageSite) -> None:
    with opened(browser, site.url) as page:
        live(page)
        page.locator("#m1").get_by_role("link").focus()
        site.meter(lambda meter: meter.configure(EF="t"), 1)
        page.locator("#m1 .state", has_text="Warning").wait_for()
        assert page.evaluate("document.activeElement.pathname") == "/meters/pm2"
        site.meter(lambda meter: meter.configure(EF=""), 1)


def test_finding_a_meter_among_many(browser: Browser) -> None:
    with PageSite(*(f"charger_{number:02}" for number in range(9))) as site, opened(browser, site.url) as page:
        live(page)
        page.get_by_label("Find a meter").fill("CHARGER_07")
        until(page, "document.querySelectorAll('#meters > li:not([hidden])').length === 1")
        page.get_by_label("Find a meter").press("Enter")
        assert page.locator("#m7").is_visible()
        assert not page.locator("#m1").is_visible()


# --- security ---


def test_what_a_meter_says_is_text_and_nothing_else(browser: Browser) -> None:
    hostile = f'{IMAGE}"><script>document.title="taken"</script>'
    name = 'pm"><img src=x onerror=alert(1)>&amp;'
    with PageSite(
        name, MS=hostile, XS=IMAGE, ST="<b>G</b>", EF="E</td><script>", charge_s=0.3, load_delay_s=0.0
    ) as site:
        site.begin(f"T-1{IMAGE}", tariff_text=IMAGE, identification_data=f"{IMAGE[:30]}")
        # The simulator's options take no controls; a meter may send them all the same.
        site.meter(lambda meter: object.__setattr__(meter.options, "XC", f"\u202etxt\x1b[31m\x00{IMAGE}"))
        with opened(browser, site.url) as page:
            page.locator("#m0").get_by_role("link").click()
            field(page, "Serial").get_by_text(IMAGE).wait_for()
            live(page)
            shown = [field(page, label).inner_text() for label in ("Tariff", "Id", "User")]
            assert shown == [IMAGE, f"T-1{IMAGE}", "<i…(30) (ISO14443)"]
            field(page, "XC").get_by_text("txt").wait_for()
            site.end(f"T-1{IMAGE}")
            receipt = page.get_by_role("link", name="T1", exact=True)
            receipt.wait_for()
            check_harmless(page)
            receipt.click()
            page.get_by_role("heading", level=1).get_by_text("Receipt T1").wait_for()
            assert IMAGE in page.locator("main").inner_text()
            check_harmless(page)


def check_harmless(page: Page) -> None:
    harmful = 'img, b, script:not([src="/static/page.js"]), [onerror]'
    assert page.locator(harmful).count() == 0
    assert not any(mark in page.content() for mark in ("\u202e", "\x1b", "\x00"))
    assert "taken" not in page.title()


def test_a_token_is_asked_for(browser: Browser) -> None:
    web = WebSettings("127.0.0.1:0", token=TOKEN)
    with (
        PageSite("pm1", web=web) as site,
        opened(browser, f"{site.url}/meters/pm1", expected=("403 (Forbidden)", "401 (", *AWAY)) as page,
    ):
        page.wait_for_url("**/login")
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button").click()
        page.get_by_role("alert").get_by_text("That is not the token.").wait_for()
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        live(page)
        assert page.locator("#m0").get_by_role("link").is_visible()
        page.context.clear_cookies()
        site.stop()
        site.start()
        page.wait_for_url("**/login")
