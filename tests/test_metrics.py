"""/metrics and /health: what is told after real sessions, in a format that others read, and of whom nothing is told."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from iem_dcr.config import Settings
from iem_dcr.device.client import MeterClient
from iem_dcr.errors import MeterError, RefusedError
from iem_dcr.everest_api.topics import Topics
from iem_dcr.service.counters import BUCKETS_S, COMMANDS, FAULTS, REASONS, REQUESTS, RESULTS, VERDICTS, Durations
from iem_dcr.service.health import Health
from iem_dcr.service.metrics import METERS_AT_ONCE, UP_AGE_S, Metrics
from iem_dcr.service.observation import ObservedMeter
from iem_dcr.service.web_settings import WebSettings
from iem_dcr.simulator import Fault, SimulatorOptions, SimulatorServer
from tests.support.api_bench import request, start_payload
from tests.support.bench import SECRET, SERIAL
from tests.support.service_site import Site, site
from tests.support.virtual_time import run_virtual, virtual

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from prometheus_client.core import Metric

    from iem_dcr.diagnostics.status import Status

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105  one of tests
WEB = WebSettings("127.0.0.1:0")
MOST_SERIES = 90


class Scraped:
    """What a Prometheus sees."""

    def __init__(self, text: str, read: Callable[[str], Any] = plain) -> None:
        self.text = text
        self.families: dict[str, Metric] = {family.name: family for family in read(text)}

    def samples(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        for family in self.families.values():
            for sample in family.samples:
                if sample.name == name:
                    yield sample.labels, sample.value

    def of(self, name: str, module_id: str = "pm1", **labels: str) -> float | None:
        """The one number with these labels, or None."""
        found = [number for got, number in self.samples(name) if got == {"module_id": module_id, **labels}]
        assert len(found) <= 1
        return found[0] if found else None


async def get(running: Site, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    """Ask the page. Returns status, Content-Type and body."""
    assert running.service.page is not None
    await running.service.page.listening.wait()
    url = running.service.page.url.rstrip("/") + path
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as response:
        return response.status, response.headers.get("Content-Type", ""), await response.text()


async def scrape(running: Site, **headers: str) -> Scraped:
    status, content_type, text = await get(running, "/metrics", **headers)
    assert status == 200
    assert content_type.startswith("text/plain; version=0.0.4")
    return Scraped(text)


async def session(running: Site, module_id: str, transaction_id: str) -> None:
    topics = Topics(module_id)
    assert running.bus.receive(topics.start, request(start_payload(transaction_id), f"reply/{transaction_id}/start"))
    await running.pass_time(5.0)
    assert running.bus.receive(topics.stop, request(transaction_id, f"reply/{transaction_id}/stop"))
    await running.pass_time(10.0)
    for command in ("start", "stop"):
        (answer,) = running.bus.on(f"reply/{transaction_id}/{command}")
        assert answer.value["status"] == "OK"


def told(tmp_path: Path, story: Callable[[Site], Awaitable[Any]], *module_ids: str | None, **options: Any) -> Any:
    async def main() -> Any:
        async with site(tmp_path, *(module_ids or ("pm1",)), web=options.pop("web", WEB), **options) as running:
            await running.pass_time(3.0)
            return await story(running)

    return run_virtual(main())


# --- what is told -----------------------------------------------------------------------------------------------------


def test_a_session(tmp_path: Path) -> None:
    async def story(running: Site) -> list[Scraped]:
        before = await scrape(running)
        topics = Topics("pm1")
        assert running.bus.receive(topics.start, request(start_payload("T-1"), "reply/1"))
        await running.pass_time(2.3)
        within = await scrape(running)
        assert running.bus.receive(topics.stop, request("T-1", "reply/2"))
        await running.pass_time(10.0)
        assert running.bus.receive(topics.stop, request("T-1", "reply/3"))
        await running.pass_time(3.0)
        await session(running, "pm1", "T-2")
        return [before, within, await scrape(running)]

    before, within, after = told(tmp_path, story, "pm1", "pm2")
    for scraped in (before, within, after):
        for module_id in ("pm1", "pm2"):
            assert scraped.of("iem_dcr_meter_up", module_id) == 1
            assert 0 <= (scraped.of("iem_dcr_value_age_seconds", module_id) or 0.0) <= 1.0
    assert (before.of("iem_dcr_power_watts"), before.of("iem_dcr_transaction_active")) == (0, 0)
    assert before.of("iem_dcr_import_watthours_total") == 20480
    assert within.of("iem_dcr_transaction_active") == 1
    current_a, voltage_v = within.of("iem_dcr_current_amperes"), within.of("iem_dcr_voltage_volts")
    assert current_a
    assert voltage_v
    assert within.of("iem_dcr_power_watts") == pytest.approx(voltage_v * current_a, rel=0.01)
    assert (within.of("iem_dcr_transactions_begun_total"), within.of("iem_dcr_transactions_ended_total")) == (1, 0)
    assert (after.of("iem_dcr_transactions_begun_total"), after.of("iem_dcr_transactions_ended_total")) == (2, 2)
    assert after.of("iem_dcr_commands_total", command="start", result="ok") == 2
    assert after.of("iem_dcr_commands_total", command="stop", result="ok") == 3, "a stop that came twice was answered"
    assert after.of("iem_dcr_commands_total", command="stop", result="failed") == 0
    assert after.of("iem_dcr_receipts_total", verdict="valid") == 2, "and its receipt is counted once"
    assert (after.of("iem_dcr_import_watthours_total") or 0) > 20480
    assert abs(after.of("iem_dcr_clock_difference_seconds") or 1e9) < 1e9
    assert after.of("iem_dcr_transactions_begun_total", "pm2") == 0
    assert list(after.samples("iem_dcr_broker_connected")) == [({}, 1.0)]


def test_requests(tmp_path: Path) -> None:
    async def story(running: Site) -> list[Scraped]:
        before = await scrape(running)
        running.meters["pm1"].faults.add(
            Fault("garbage", node="/metervalue"),
            Fault("stall", node="/metervalue"),
            Fault("lose-answer", node="/metervalue"),
            Fault("refuse", node="/metervalue", status=500),
        )
        await running.pass_time(8.0)
        return [before, await scrape(running)]

    before, after = told(tmp_path, story)
    name = "iem_dcr_request_duration_seconds_count"
    assert (before.of(name, request="live_value") or 0) >= 3
    assert before.of(name, request="read") == 4, "GET /gw, /transaction of v1 and v2, and /publickey"
    assert before.of(name, request="write") == 1, "POST /gw"
    reasons = {labels["reason"]: number for labels, number in after.samples("iem_dcr_requests_failed_total")}
    assert reasons == {
        "unreachable": 0, "timeout": 1, "answer_lost": 1, "refused": 1, "not_understood": 1, "other": 0,
    }  # fmt: skip
    counts = [number for labels, number in after.samples("iem_dcr_request_duration_seconds_bucket")
              if labels["request"] == "live_value"]  # fmt: skip
    assert counts == sorted(counts)
    assert counts[-1] == after.of(name, request="live_value")


def test_a_meter_that_went_away(tmp_path: Path) -> None:
    async def story(running: Site) -> list[Scraped]:
        running.meters["pm1"].power_cycle(off_s=14.0, boot_s=1.0)
        await running.pass_time(12.0)
        dark = await scrape(running)
        await running.pass_time(10.0)
        return [dark, await scrape(running)]

    dark, back = told(tmp_path, story, "pm1", "pm2")
    assert dark.of("iem_dcr_meter_up") == 0
    assert (dark.of("iem_dcr_value_age_seconds") or 0) > 10
    for name in ("power_watts", "import_watthours_total", "transaction_active", "clock_difference_seconds"):
        assert dark.of(f"iem_dcr_{name}") is None, "what is old is no reading"
        assert dark.of(f"iem_dcr_{name}", "pm2") is not None
        assert back.of(f"iem_dcr_{name}") is not None
    assert dark.of("iem_dcr_fault_active", fault="communication") == 1
    assert dark.of("iem_dcr_faults_total", fault="communication") == 1
    assert (dark.of("iem_dcr_requests_failed_total", reason="unreachable") or 0) > 5
    assert back.of("iem_dcr_fault_active", fault="communication") == 0
    assert back.of("iem_dcr_meter_up") == 1


def test_a_meter_that_never_answered(tmp_path: Path) -> None:
    async def story(running: Site) -> Scraped:
        await running.pass_time(5.0)
        return await scrape(running)

    scraped = told(tmp_path, story, "pm1", dead=1)
    assert scraped.of("iem_dcr_meter_up", "dead0") == 0
    assert scraped.of("iem_dcr_value_age_seconds", "dead0") is None
    assert scraped.of("iem_dcr_transactions_begun_total", "dead0") == 0
    assert scraped.of("iem_dcr_meter_up") == 1


def test_the_meters_errors(tmp_path: Path) -> None:
    async def story(running: Site) -> Scraped:
        running.meters["pm1"].configure(XC="0x0001, 0x00000000, 0x00, 0x00")
        await running.pass_time(10.0)
        return await scrape(running)

    scraped = told(tmp_path, story)
    assert faults(scraped) == {"communication": 0, "error_state": 1, "wrong_meter": 0, "transaction_interrupted": 0}


def test_a_transaction_that_ended_by_itself(tmp_path: Path) -> None:
    async def story(running: Site) -> list[Scraped]:
        topics = Topics("pm1")
        assert running.bus.receive(topics.start, request(start_payload("T-1"), "reply/1"))
        await running.pass_time(5.0)
        running.meters["pm1"].power_cycle(off_s=0.5, boot_s=0.5)
        await running.pass_time(30.0)
        interrupted = await scrape(running)
        assert running.bus.receive(topics.stop, request("T-1", "reply/2"))
        await running.pass_time(5.0)
        return [interrupted, await scrape(running)]

    interrupted, told_of = told(tmp_path, story)
    assert faults(interrupted) == {
        "communication": 0, "error_state": 0, "wrong_meter": 0, "transaction_interrupted": 1,
    }  # fmt: skip
    assert not any(faults(told_of).values())


def test_a_register_that_fell(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(running: Site) -> list[Scraped]:
        running.meters["pm1"].configure(import_wh=20000)
        await running.pass_time(10.0)
        fell = await scrape(running)
        running.meters["pm1"].configure(import_wh=20490)
        await running.pass_time(2.0)
        risen = await scrape(running)
        await running.pass_time(10.0)
        published = [each.value["energy_Wh_import"]["total"] for each in running.bus.on(Topics("pm1").values)]
        assert published == sorted(published)
        assert {*published} == {20480.0, 20490.0}
        return [fell, risen, await scrape(running)]

    fell, risen, later = told(tmp_path, story)
    assert 8 <= (fell.of("iem_dcr_held_registers_total") or 0) <= 11
    assert fell.of("iem_dcr_import_watthours_total") == 20000, "the meter's own"
    assert later.of("iem_dcr_held_registers_total") == risen.of("iem_dcr_held_registers_total")
    (error,) = errors(caplog)
    for word in ("import register", "20480", "20000"):
        assert word in error


def test_values_that_stand_still(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(running: Site) -> list[Scraped]:
        running.meters["pm1"].configure(frozen=True)
        await running.pass_time(8.0)
        soon = await scrape(running)
        await running.pass_time(12.0)
        published = len(running.values("pm1"))
        frozen = await scrape(running)
        await running.pass_time(5.0)
        assert len(running.values("pm1")) == published
        running.meters["pm1"].configure(frozen=False)
        await running.pass_time(2.0)
        assert len(running.values("pm1")) > published
        moving = await scrape(running)
        await running.pass_time(10.0)
        return [soon, frozen, moving, await scrape(running)]

    soon, frozen, moving, later = told(tmp_path, story)
    assert soon.of("iem_dcr_frozen_values_total") == 0
    assert 8 <= (frozen.of("iem_dcr_frozen_values_total") or 0) <= 12
    assert (frozen.of("iem_dcr_meter_up"), frozen.of("iem_dcr_fault_active", fault="communication")) == (1, 1)
    assert later.of("iem_dcr_frozen_values_total") == moving.of("iem_dcr_frozen_values_total")
    assert later.of("iem_dcr_fault_active", fault="communication") == 0
    assert caplog.text.count("the live values stand still") == 1


def test_a_serial_at_two_addresses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(running: Site) -> list[list[float | None]]:
        name, seen = "iem_dcr_duplicate_serial_active", []
        serial = running.meters["pm2"].options.MS
        for shown, wait_s in ((serial, 15.0), (SERIAL, 8.0), (SERIAL, 10.0), (serial, 6.0)):
            running.meters["pm2"].configure(MS=shown)
            await running.pass_time(wait_s)
            scraped = await scrape(running)
            seen.append([scraped.of(name, module_id) for module_id in ("pm1", "pm2", "pm3")])
        assert len(running.values("pm1")) > 35, "no driver is held up"
        return seen

    caplog.set_level("INFO")
    assert told(tmp_path, story, "pm1", "pm2", "pm3") == [[0, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]]
    (error,) = [line for line in errors(caplog) if "exchanged" not in line]
    assert SERIAL in error
    assert len(re.findall(r"127\.0\.0\.1:\d+", error)) == 2
    assert f"the meter with serial {SERIAL} answers at only one address again" in caplog.text


def test_a_receipt_that_is_not_valid(tmp_path: Path) -> None:
    async def story(running: Site) -> Scraped:
        running.meters["pm1"].configure(MS=SERIAL, private_key=SECRET + 1)  # its driver has the other key already
        await session(running, "pm1", "T-1")
        return await scrape(running)

    scraped = told(tmp_path, story)
    assert scraped.of("iem_dcr_receipts_total", verdict="invalid") == 1
    assert scraped.of("iem_dcr_receipts_total", verdict="valid") == 0


def test_a_receipt_that_the_transparency_software_refuses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(running: Site) -> Scraped:
        topics = Topics("pm1")
        assert running.bus.receive(topics.start, request(start_payload("T-1"), "reply/1"))
        await running.pass_time(5.0)
        running.meters["pm1"].configure(import_wh=100)
        assert running.bus.receive(topics.stop, request("T-1", "reply/2"))
        await running.pass_time(5.0)
        (answer,) = running.bus.on("reply/2")
        assert answer.value["status"] == "OK"
        assert answer.value["signed_meter_value"]["signed_meter_data"].startswith("OCMF|")
        return await scrape(running)

    scraped = told(tmp_path, story)
    verdicts = {labels["verdict"]: number for labels, number in scraped.samples("iem_dcr_receipts_total")}
    assert verdicts == {"valid": 0, "not_accepted": 1, "invalid": 0, "not_checked": 0}
    (error,) = [line for line in errors(caplog) if "receipt" in line]
    assert "receipt T1 has a valid signature, but the transparency software refuses it: the register falls" in error


def test_a_start_that_fails(tmp_path: Path) -> None:
    async def story(running: Site) -> Scraped:
        running.meters["pm1"].set_load(10.0, 400.0)
        assert running.bus.receive(Topics("pm1").start, request(start_payload(), "reply/1"))
        await running.pass_time(35.0)
        return await scrape(running)

    scraped = told(tmp_path, story)
    assert scraped.of("iem_dcr_commands_total", command="start", result="failed") == 1
    assert scraped.of("iem_dcr_transactions_begun_total") == 0


def faults(scraped: Scraped) -> dict[str, float]:
    return {labels["fault"]: number for labels, number in scraped.samples("iem_dcr_fault_active")}


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


# --- the format, and its bounds ---------------------------------------------------------------------------------------


def test_openmetrics_too(tmp_path: Path) -> None:
    async def story(running: Site) -> tuple[str, str]:
        await session(running, "pm1", "T-1")
        accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
        _, content_type, text = await get(running, "/metrics", Accept=accept)
        return content_type, text

    content_type, text = told(tmp_path, story)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    scraped = Scraped(text, openmetrics)
    assert scraped.of("iem_dcr_receipts_total", verdict="valid") == 1


def test_series_are_bounded(tmp_path: Path) -> None:
    async def story(running: Site) -> list[Scraped]:
        first = await scrape(running)
        for number in range(3):
            meter = running.meters["pm1"]
            meter.configure(MS=f"1SIM{number:010}", XC=f"0x000{number}, 0x00000000, 0x00, 0x00", XS=f"0x{number:016}")
            meter.faults.add(Fault("refuse", status=418 + number, body="x" * 50), Fault("garbage", count=1 + number))
            await running.pass_time(5.0)
        running.meters["pm1"].configure(MS="1SIM0000000000", XC="0x0000, 0x00000000, 0x00, 0x00")
        await running.pass_time(5.0)
        for number in range(2):
            await session(running, "pm1", f"T-{number}")
        return [first, await scrape(running)]

    def series(scraped: Scraped) -> set[str]:
        return {line.rpartition(" ")[0] for line in scraped.text.splitlines() if "module_id=" in line}

    first, after = told(tmp_path, story)
    assert series(first) == series(after), "no number brings a new series"
    assert len(series(first)) <= MOST_SERIES
    for secret in ("T-0", "T-1", "04AB", "1SIM"):
        assert secret not in after.text


def test_labels_have_the_values_that_are_documented(tmp_path: Path) -> None:
    async def story(running: Site) -> Scraped:
        return await scrape(running)

    scraped = told(tmp_path, story)
    known: dict[str, set[str]] = {
        "fault": {*FAULTS},
        "command": {*COMMANDS},
        "result": {*RESULTS},
        "verdict": {*VERDICTS},
        "request": {*REQUESTS},
        "reason": {*REASONS.values(), "other"},
    }
    found: dict[str, set[str]] = {name: set() for name in known}
    for family in scraped.families.values():
        for sample in family.samples:
            for name in known.keys() & sample.labels.keys():
                found[name].add(sample.labels[name])
    assert found == known
    for values in known.values():
        assert all(f"`{value}`" in PAGE for value in values)


def test_buckets() -> None:
    durations = Durations()
    for duration_s in (0.0, 0.005, 0.0051, 1.9, 5.0, 5.1, 1e9):
        durations.add(duration_s)
    assert durations.counts == [2, 1, 0, 0, 0, 0, 0, 0, 1, 1, 2]
    assert list(BUCKETS_S) == sorted(BUCKETS_S)
    assert BUCKETS_S[0] <= 0.005, "a meter on a good network answers within that"
    assert 2.0 in BUCKETS_S, "a driver waits no longer for a live value"


@virtual
async def test_many_meters_are_taken_up_a_few_at_a_time() -> None:
    asked = 0

    class Counted(ObservedMeter):
        def status(self) -> Status:
            nonlocal asked
            asked += 1
            return super().status()

    count = 3 * METERS_AT_ONCE + 1
    metrics = Metrics([Counted(Settings.of({"CI": "A"}), f"pm{n}", "a:80") for n in range(count)], Health)
    written = asyncio.gather(*(metrics.text("") for _ in range(2)))
    while not written.done():
        before = asked
        await asyncio.sleep(0)
        assert asked - before <= METERS_AT_ONCE
    for body, _ in await written:
        assert len(list(Scraped(body.decode()).samples("iem_dcr_meter_up"))) == count


def test_nothing_is_global() -> None:
    assert not [name for name in REGISTRY._names_to_collectors if name.startswith("iem_dcr")]


# --- who may see it ---------------------------------------------------------------------------------------------------


def test_the_token(tmp_path: Path) -> None:
    async def story(running: Site) -> list[int]:
        return [
            (await get(running, path, method, **headers))[0]
            for path, method, headers in (
                ("/metrics", "GET", {}),
                ("/metrics", "GET", {"Authorization": "Bearer wrong"}),
                ("/metrics", "GET", {"Authorization": f"Bearer {TOKEN}"}),
                ("/metrics", "HEAD", {"Authorization": f"Bearer {TOKEN}"}),
                ("/metrics", "POST", {"Authorization": f"Bearer {TOKEN}"}),
                ("/metrics/", "GET", {"Authorization": f"Bearer {TOKEN}"}),
                ("/health/live", "GET", {}),
                ("/health/ready", "GET", {}),
                ("/health/ready", "HEAD", {}),
                ("/health/live", "DELETE", {}),
                ("/health", "GET", {}),
                ("/health/live", "GET", {"Host": "evil.example"}),
            )
        ]

    statuses = told(tmp_path, story, web=WebSettings("127.0.0.1:0", token=TOKEN))
    assert statuses == [401, 401, 200, 200, 405, 404, 200, 200, 200, 405, 401, 421]


# --- health -----------------------------------------------------------------------------------------------------------


async def health(running: Site) -> tuple[int, int]:
    live, _, alive = await get(running, "/health/live")
    ready, _, text = await get(running, "/health/ready")
    assert alive == "live\n"
    assert text == ("ready\n" if ready == 200 else "not ready\n")
    return live, ready


def test_a_dead_meter_makes_nobody_unwell(tmp_path: Path) -> None:
    async def story(running: Site) -> list[tuple[int, int]]:
        running.meters["pm1"].power_cycle(off_s=600.0, boot_s=1.0)
        await running.pass_time(30.0)
        return [await health(running)]

    assert told(tmp_path, story, "pm1", dead=2) == [(200, 200)]


def test_a_lost_broker_is_not_ready_and_lives(tmp_path: Path) -> None:
    async def story(running: Site) -> list[tuple[int, int]]:
        seen = [await health(running)]
        running.bus.disconnect()
        seen.append(await health(running))
        connected = list((await scrape(running)).samples("iem_dcr_broker_connected"))
        assert connected == [({}, 0.0)]
        running.bus.connect()
        return [*seen, await health(running)]

    assert told(tmp_path, story) == [(200, 200), (200, 503), (200, 200)]


def test_ready_once_the_module_id_is_known(tmp_path: Path) -> None:
    async def story(running: Site) -> list[tuple[int, int]]:
        await running.pass_time(5.0)
        seen = [await health(running)]
        unknown = await scrape(running)
        assert [labels["module_id"].partition(":")[0] for labels, _ in unknown.samples("iem_dcr_meter_up")] == [
            "127.0.0.1"
        ]
        running.bus.offered.append("pm9")
        await running.pass_time(15.0)
        assert (await scrape(running)).of("iem_dcr_meter_up", "pm9") == 1
        return [*seen, await health(running)]

    assert told(tmp_path, story, None) == [(200, 503), (200, 200)]


# --- the hook ---------------------------------------------------------------------------------------------------------


@virtual
async def test_requests_are_told_of_once_each() -> None:
    heard: list[tuple[str, str, float, MeterError | None]] = []
    async with (
        SimulatorServer(SimulatorOptions(MS=SERIAL, private_key=SECRET)) as server,
        MeterClient(server.host, server.port) as client,
    ):
        client.on_request = lambda *of: heard.append(of)
        await client.metervalue()
        server.meter.faults.add(Fault("refuse", status=428), Fault("stall", delay_s=30.0))
        with pytest.raises(RefusedError):
            await client.begin()
        task = asyncio.create_task(client.metervalue())
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.answer("/gw")
    assert [(method, node, error and type(error).__name__) for method, node, _, error in heard] == [
        ("GET", "/metervalue", None),
        ("POST", "/receipt", "RefusedError"),
        ("GET", "/gw", None),
    ], "one that was given up came to no end"


@virtual
async def test_without_a_page_nobody_is_told(tmp_path: Path) -> None:
    async with site(tmp_path, "pm1") as running:
        await running.pass_time(3.0)
        assert running.service.page is None
        (meter,) = running.service._meters
        assert meter.api is not None
        assert meter.api.driver._meter.client.on_request is None


# --- the documentation ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Scraped:
    async def story(running: Site) -> Scraped:
        return await scrape(running)

    found: Scraped = told(tmp_path_factory.mktemp("scraped"), story)
    return found


def test_every_metric_is_documented_and_follows_the_conventions(scraped: Scraped) -> None:
    units = ("_seconds", "_watts", "_volts", "_amperes", "_watthours_total", "_total", "_info")
    states = ("_up", "_active", "_connected")
    found = set()
    for family in scraped.families.values():
        if not family.name.startswith("process_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            assert name.endswith(units + states)
            assert family.documentation
            found.add(name)
    assert found == set(re.findall(r"`(iem_dcr_\w+)`", PAGE.partition("## Logs")[0]))


def test_the_configurations_name_what_there_is(scraped: Scraped) -> None:
    (block,) = re.findall(r"^```yml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    scrapes = yaml.safe_load(block)
    alerts = yaml.safe_load((ROOT / "contrib" / "prometheus" / "alerts.yml").read_text("utf-8"))
    assert scrapes["scrape_configs"][0]["authorization"].keys() == {"credentials_file"}
    (group,) = alerts["groups"]
    samples = {sample.name for family in scraped.families.values() for sample in family.samples}
    for rule in group["rules"]:
        assert rule.keys() <= {"alert", "expr", "for"}
        names = re.findall(r"\b(iem_dcr_\w+)(?:\{(\w+)=\"(\w+)\"\})?", rule["expr"])
        assert names or rule["expr"] == f'up{{job="{scrapes["scrape_configs"][0]["job_name"]}"}} == 0'
        for name, label, value in names:
            assert name in samples
            assert not label or any(labels[label] == value for labels, _ in scraped.samples(name))
    assert f"{UP_AGE_S:.0f} s old" in scraped.families["iem_dcr_meter_up"].documentation
