"""The receipts on the page: from the journal or from memory, each its own meter's, and the file is the genuine one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from iem_dcr import ocmf
from iem_dcr.journal import JournalReader, forget
from iem_dcr.ocmf.import_formats import read_document
from iem_dcr.ocmf.rules import Severity
from iem_dcr.web import receipts
from iem_dcr.web.receipts import MAX_FINDINGS
from tests.support.bench import bench, meter_options, request
from tests.support.journals import METER, journal, kept
from tests.support.served_page import observed, read_event, served, value, wall
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path

    from iem_dcr.service.observation import ObservedMeter
    from tests.support.served_page import Served

ROW = re.compile(r'<tr role="row" id="([jm]\d+-[0-9a-f]{12})">(.*?)</tr>', re.DOTALL)
CELL = re.compile(r"<t[hd][^>]*>(.*?)</t[hd]>")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a journal with receipts of two meters."""
    path = tmp_path / "receipts.db"

    async def filled() -> None:
        async with journal(path) as opened:
            for number in range(1, 4):
                await opened.keep(kept(number, f"T-{number}"))
            await opened.keep(kept(4, "T-4", meter="another"))

    asyncio.run(filled())
    return path


@dataclass
class KeptAt:
    """A journal that is open."""

    path: Path | None


def meter_with(path: Path) -> ObservedMeter:
    meter = observed()
    meter.attach(None, "pm1", KeptAt(path))
    meter.value_read(value(MS=METER), wall())
    return meter


async def found(page: Served, path: str = "/meters/pm1") -> dict[str, list[str]]:
    """Return the cells of each receipt, without their markup, by its key."""
    answer = await page.ask(path)
    assert answer.status == 200
    return {
        key: [re.sub("<[^>]*>", "", cell) for cell in CELL.findall(cells)] for key, cells in ROW.findall(answer.text)
    }


async def rows(page: Served) -> dict[str, list[str]]:
    """Return the same by the first part of the key."""
    return {key.partition("-")[0]: cells for key, cells in (await found(page)).items()}


async def path_of(page: Served, key: str) -> str:
    """Return the path of the receipt whose key begins so."""
    (whole,) = [whole for whole in await found(page) if whole.startswith(f"{key}-")]
    return f"/meters/pm1/receipts/{whole}"


# --- from the journal ---


@virtual
async def test_those_of_earlier_processes_and_one_that_is_erased(path: Path) -> None:
    async with served([meter_with(path)]) as page:
        cells = await rows(page)
        assert list(cells) == ["j3", "j2", "j1"]
        assert cells["j1"][0] == "T1"
        assert cells["j1"][2:4] == ["2.100 kWh", "valid"]
        assert cells["j1"][5:] == ["T-1", "XML"]
        one = await page.ask(await path_of(page, "j1"))
        # It is judged anew: nobody signed what the tests file.
        assert one.status == 200
        assert "not checked" in one.text
        assert "04…(10)" in one.text
        assert "04AB000001" not in one.text
        file = await page.ask(await path_of(page, "j1") + ".xml")
        assert file.headers["Content-Disposition"] == 'attachment; filename="pm1-T1.xml"'
        assert file.headers["Cache-Control"] == "no-store"
        (entry,) = read_document(file.body)
        assert entry.text == kept(1).receipt.text
        erased = await asyncio.to_thread(lambda: forget(path, transaction_id="T-2"))
        assert erased.receipts == 1
        cells = await rows(page)
        assert (cells["j2"][3], cells["j2"][6]) == ("erased", "—")
        assert (await page.ask(await path_of(page, "j2") + ".xml")).status == 404


@virtual
async def test_not_accepted_stands_beside_valid(path: Path) -> None:
    async with journal(path) as opened:
        await opened.keep(kept(9, "T-9", accepted=False))
    in_memory = observed("pm2")
    await in_memory.keep(kept(9, "T-9", accepted=False))
    async with served([meter_with(path), in_memory]) as page:
        assert [cells[3] for cells in (await found(page)).values()] == ["valid, not accepted", *["valid"] * 3]
        assert [cells[3] for cells in (await found(page, "/meters/pm2")).values()] == ["valid, not accepted"]


@virtual
async def test_each_is_shown_under_its_own_meter_only(path: Path) -> None:
    async with served([meter_with(path)]) as page:
        whole = (await path_of(page, "j1")).rpartition("/")[2]
        others = receipts.key_of("j", 4, kept(4, meter="another").receipt.text)
        keys = [others, whole[:-1], whole + "0", whole.replace("j1", "j2"), whole.replace("j", "m"), whole.upper()]
        for key in (*keys, "j1", "j0-" + "0" * 12, "j-1", "x1", "j", "j" + "9" * 30, "..", "%2e%2e", f"{whole}/.."):
            for suffix in ("", ".xml"):
                answer = await page.ask(f"/meters/pm1/receipts/{key}{suffix}")
                assert answer.status == 404, key
                assert "OCMF" not in answer.text


@virtual
async def test_a_journal_that_cannot_be_read(path: Path, tmp_path: Path) -> None:
    for broken in (tmp_path / "none.db", tmp_path):
        meter = meter_with(broken)
        await meter.keep(kept(7, "T-7"))
        async with served([meter]) as page:
            assert list(await rows(page)) == ["m1"]
            assert "Only receipts since the service started: " in (await page.ask("/meters/pm1")).text
            in_memory = await path_of(page, "m1")
            assert (await page.ask(in_memory)).status == 200
            assert (await page.ask(in_memory.replace("/m1", "/j1"))).status == 503
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE receipts SET tuple = X'00FF', findings = '[1]', outcome = 'x' WHERE id = 1")
    async with served([meter_with(path)]) as page:
        assert (await rows(page))["j1"][3] == "not checked"
        assert (await page.ask(await path_of(page, "j1"))).status == 404


@virtual
async def test_before_the_meter_has_said_who_it_is(path: Path) -> None:
    meter = observed()
    kept_at = KeptAt(None)
    meter.attach(None, "pm1", kept_at)
    async with served([meter]) as page:
        assert await rows(page) == {}
        assert "serial number" not in (await page.ask("/meters/pm1")).text
        kept_at.path = path
        assert "as soon as the serial number of the meter is known" in (await page.ask("/meters/pm1")).text
        reader, writer = await page.connect()
        writer.write(page.request("/meters/pm1/events"))
        await reader.readuntil(b"\r\n\r\n")
        assert "as soon as" in " ".join((await read_event(reader))[1]["parts"])
        meter.value_read(value(MS=METER), wall())
        (part,) = [part for part in (await read_event(reader))[1]["parts"] if 'id="receipts"' in part]
        assert (len(ROW.findall(part)), "as soon as" in part) == (3, False)
        writer.transport.abort()


def test_a_disk_that_hangs_holds_up_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "JOURNAL_TIMEOUT_S", 0.05)
    over = threading.Event()
    monkeypatch.setattr(JournalReader, "latest", lambda *_: over.wait(30) and [])

    async def asked() -> None:
        async with served([meter_with(path)]) as page:
            for _ in range(5):
                assert "the journal does not answer" in (await page.ask("/meters/pm1")).text
            assert (await page.ask("/")).status == 200
            over.set()
            await asyncio.sleep(0.1)
            assert "does not answer" not in (await page.ask("/meters/pm1")).text

    try:
        asyncio.run(asked())
    finally:
        over.set()


def test_those_who_look_leave_the_threads_of_the_drivers_alone(path: Path) -> None:
    over = threading.Event()

    async def asked() -> None:
        remembering = observed("pm2")
        await remembering.keep(kept(1, "T-1"))
        one = ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(one)
        one.submit(over.wait, 60)
        async with served([meter_with(path), remembering]) as page, asyncio.timeout(30):
            for key in await rows(page):
                assert (await page.ask(await path_of(page, key))).status == 200
            assert len(await found(page, "/meters/pm2")) == 1
        over.set()

    try:
        asyncio.run(asked())
    finally:
        over.set()


# --- from memory ---


@virtual
async def test_those_that_this_process_remembers_and_one_that_was_tampered_with() -> None:
    meter = observed()
    options = meter_options(charge_s=2.0, signature_encoding="der")
    async with bench(options, observer=meter, sink=meter) as b, served([meter]) as page:
        meter.attach(b.driver)
        await b.until_live()
        await b.driver.start_transaction(request("T-1", tariff_text="0.49 EUR/kWh"))
        await asyncio.sleep(4)
        stopped = await b.driver.stop_transaction("T-1")
        assert stopped.signed_meter_value is not None
        (cells,) = (await rows(page)).values()
        assert (cells[0], cells[3], cells[4], cells[5]) == ("T1", "valid", "2 info", "T-1")
        one = await page.ask(await path_of(page, "m1"))
        assert "The signature matches, and there are no objections to the receipt." in one.text
        assert "0.49 EUR/kWh" in one.text
        assert "04ABT-1" not in one.text
        file = await page.ask(await path_of(page, "m1") + ".xml")
        (entry,) = read_document(file.body)
        assert entry.text == stopped.signed_meter_value.signed_meter_data
        assert ocmf.verify(ocmf.parse(entry.text), entry.key).outcome is ocmf.Outcome.VALID
        forged = ocmf.parse(entry.text.replace("00000020.", "00000021.", 1))
        await meter.keep(kept(0, "T-2", receipt=forged, outcome=ocmf.Outcome.INVALID, public_key=b.driver.public_key))
        assert [cells[3] for cells in (await rows(page)).values()] == ["not valid", "valid"]
        assert "The signature does not match" in (await page.ask(await path_of(page, "m2"))).text


@virtual
async def test_a_receipt_without_anything_in_it() -> None:
    meter = observed()
    await meter.keep(kept(0, "", receipt=ocmf.parse('OCMF|{"ID":"secret-id-of-a-person"}|{}'), outcome=None))
    async with served([meter]) as page:
        ((key, cells),) = (await rows(page)).items()
        assert (cells[0], cells[2], cells[3]) == ("without PG", "—", "not checked")
        assert "error" in cells[4]
        for suffix in ("", ".xml"):
            answer = await page.ask(await path_of(page, key) + suffix)
            assert answer.status == 200
            assert ("secret-id" in answer.text) == (suffix == ".xml")


@virtual
async def test_an_end_that_is_not_ordinary_is_told() -> None:
    meter = observed()
    ways = {"E": "", "L": "locally", "R": "remotely", "A": "by an abort", "P": "by a power failure"}
    for number, TX in enumerate(ways, 1):
        text = f'OCMF|{{"RD":[{{"TX":"B"}},{{"TX":"{TX}","TM":"2026-03-01T12:00:00,000+0100 S"}}]}}|{{}}'
        await meter.keep(kept(number, f"T-{number}", receipt=ocmf.parse(text)))
    async with served([meter]) as page:
        for number, way in enumerate(ways.values(), 1):
            said = f", ended {way}" if way else ""
            answer = await page.ask(await path_of(page, f"m{number}"))
            assert f"2026-03-01 12:00:00 +0100, synchronised{said}<" in answer.text


@virtual
async def test_an_old_link_never_leads_to_another_receipt() -> None:
    """Numbers begin anew with a process: a page that is still open may ask for what they meant before."""
    before, after = observed(), observed()
    await before.keep(kept(1, "T-1"))
    await after.keep(kept(2, "T-2"))
    async with served([before]) as page:
        old = await path_of(page, "m1")
        assert (await page.ask(old)).status == 200
    async with served([after]) as page:
        for suffix in ("", ".xml"):
            assert (await page.ask(old + suffix)).status == 404


@virtual
async def test_of_thousands_of_findings_the_worst_are_shown() -> None:
    readings = [{"TM": "2026", "TX": "B", "RI": f"unknown {number}", "RV": 1} for number in range(300)]
    tuple_text = f"OCMF|{json.dumps({'FV': '1.0', 'PG': 'T1', 'RD': readings})}|{{}}"
    meter = observed()
    await meter.keep(kept(0, "", receipt=ocmf.parse(tuple_text), outcome=None))
    async with served([meter]) as page:
        said = (await page.ask(await path_of(page, "m1"))).text
        body = said.partition('class="findings"')[2].partition("</table>")[0]
        severities = re.findall(r'role="rowheader"[^>]*>(\w+)<', body)
        assert len(severities) == MAX_FINDINGS
        order = [severity.value for severity in Severity]
        assert severities == sorted(severities, key=order.index)
        assert re.search(r"And \d{3,} more. Run iem-dcr verify", said)
