"""/metrics and /health: what is told after real sessions, in a format that others read, and of whom nothing is told."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from iem_dcr.config import Settings
from iem_dcr.everest_api.topics import Topics
from iem_dcr.service.counters import Durations
from iem_dcr.service.metrics import METERS_AT_ONCE, UP_AGE_S, Metrics
from iem_dcr.service.observation import Health, ObservedMeter
from iem_dcr.simulator import Fault
from tests.support.api_bench import request, start_payload
from tests.support.bench import SECRET, SERIAL
from tests.support.scraped import Scraped, get, scrape, watched
from tests.support.virtual_time import run_virtual, virtual

if TYPE_CHECKING:
    from iem_dcr.diagnostics.status import Status
    from tests.support.service_site import Site

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105  one of tests
MOST_SERIES = 90


async def started(running: Site, transaction_id: str = "T-1", charge_s: float = 5.0) -> None:
    """Begin a transaction at pm1; the car charges for 2 s."""
    assert running.bus.receive(Topics("pm1").start, request(start_payload(transaction_id), f"start/{transaction_id}"))
    await running.pass_time(charge_s)


async def stopped(running: Site, transaction_id: str = "T-1", reply_to: str = "") -> Any:
    """End it. Returns the answer."""
    reply_to = reply_to or f"stop/{transaction_id}"
    assert running.bus.receive(Topics("pm1").stop, request(transaction_id, reply_to))
    await running.pass_time(10.0)
    answer = running.bus.on(reply_to)[0].value
    assert answer["status"] == "OK"
    return answer


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


# --- what is told ---


@virtual
async def test_sessions(tmp_path: Path) -> None:
    async with watched(tmp_path, "pm1", "pm2") as running:
        idle = await scrape(running)
        assert (idle.of("power_watts"), idle.of("transaction_active")) == (0, 0)
        assert idle.of("import_watthours_total") == 20480
        assert idle.of("request_duration_seconds_count", request="read") == 4, "/gw, /publickey, /transaction twice"
        assert idle.of("request_duration_seconds_count", request="write") == 1, "POST /gw"
        await started(running, charge_s=2.3)
        charging = await scrape(running)
        assert charging.of("transaction_active") == 1
        current_a, voltage_v = charging.of("current_amperes"), charging.of("voltage_volts")
        assert current_a
        assert voltage_v
        assert charging.of("power_watts") == pytest.approx(voltage_v * current_a, rel=0.01)
        assert (charging.of("transactions_begun_total"), charging.of("transactions_ended_total")) == (1, 0)
        assert await stopped(running) == await stopped(running, reply_to="again")
        await started(running, "T-2")
        await stopped(running, "T-2")
        after = await scrape(running)
        assert (after.of("transactions_begun_total"), after.of("transactions_ended_total")) == (2, 2)
        assert after.of("commands_total", command="start", result="ok") == 2
        assert after.of("commands_total", command="stop", result="ok") == 3, "a stop that came twice was answered"
        assert after.of("commands_total", command="stop", result="failed") == 0
        assert after.of("receipts_total", verdict="valid") == 2, "and its receipt is counted once"
        assert (after.of("import_watthours_total") or 0) > 20480
        assert abs(after.of("clock_difference_seconds") or 1e9) < 1e9
        assert after.of("transactions_begun_total", "pm2") == 0
        assert list(after.samples("iem_dcr_broker_connected")) == [({}, 1.0)]
        for scraped in (idle, charging, after):
            for module_id in ("pm1", "pm2"):
                assert scraped.of("meter_up", module_id) == 1
                assert 0 <= (scraped.of("value_age_seconds", module_id) or 0.0) <= 1.0
        accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
        _, content_type, text = await get(running, "/metrics", Accept=accept)
        assert content_type.startswith("application/openmetrics-text; version=1.0.0")
        assert Scraped(text, openmetrics).of("receipts_total", verdict="valid") == 2


@virtual
async def test_requests_and_commands_that_fail(tmp_path: Path) -> None:
    async with watched(tmp_path) as running:
        running.meters["pm1"].faults.add(
            Fault("garbage", node="/metervalue"),
            Fault("stall", node="/metervalue"),
            Fault("lose-answer", node="/metervalue"),
            Fault("refuse", node="/metervalue", status=500),
        )
        await running.pass_time(8.0)
        scraped = await scrape(running)
        assert scraped.by("reason", "requests_failed_total") == {
            "unreachable": 0, "timeout": 1, "answer_lost": 1, "refused": 1, "not_understood": 1, "other": 0,
        }  # fmt: skip
        counts = [number for labels, number in scraped.samples("iem_dcr_request_duration_seconds_bucket")
                  if labels["request"] == "live_value"]  # fmt: skip
        assert counts == sorted(counts)
        assert counts[-1] == scraped.of("request_duration_seconds_count", request="live_value")
        running.meters["pm1"].set_load(10.0, 400.0)  # no transaction begins while a current flows
        await started(running, charge_s=35.0)
        scraped = await scrape(running)
        assert scraped.of("commands_total", command="start", result="failed") == 1
        assert scraped.of("transactions_begun_total") == 0
    durations = Durations()
    for duration_s in (0.0, 0.005, 0.0051, 1.9, 5.0, 5.1, 1e9):
        durations.add(duration_s)
    assert durations.counts == [2, 1, 0, 0, 0, 0, 0, 0, 1, 1, 2]


@virtual
async def test_meters_that_do_not_answer(tmp_path: Path) -> None:
    async with watched(tmp_path, "pm1", "pm2", dead=1) as running:
        running.meters["pm1"].power_cycle(off_s=14.0, boot_s=1.0)
        await running.pass_time(12.0)
        dark = await scrape(running)
        await running.pass_time(10.0)
        back = await scrape(running)
    assert [dark.of("meter_up", module_id) for module_id in ("pm1", "pm2", "dead0")] == [0, 1, 0]
    assert (dark.of("value_age_seconds") or 0) > 10
    assert dark.of("value_age_seconds", "dead0") is None
    assert dark.of("transactions_begun_total", "dead0") == 0
    for name in ("power_watts", "import_watthours_total", "transaction_active", "clock_difference_seconds"):
        assert dark.of(name) is None, "what is old is no reading"
        assert None not in (dark.of(name, "pm2"), back.of(name))
    assert (dark.of("requests_failed_total", reason="unreachable") or 0) > 5
    assert dark.of("faults_total", fault="communication") == 1
    assert [each.of("fault_active", fault="communication") for each in (dark, back)] == [1, 0]


@virtual
async def test_faults(tmp_path: Path) -> None:
    none = dict.fromkeys(("communication", "error_state", "wrong_meter", "transaction_interrupted"), 0)
    async with watched(tmp_path) as running:
        meter = running.meters["pm1"]
        meter.configure(XC="0x0001, 0x00000000, 0x00, 0x00")
        await running.pass_time(10.0)
        assert (await scrape(running)).by("fault", "fault_active") == none | {"error_state": 1}
        meter.configure(XC="0x0000, 0x00000000, 0x00, 0x00")
        await running.pass_time(10.0)
        await started(running)
        meter.power_cycle(off_s=0.5, boot_s=0.5)
        await running.pass_time(30.0)
        assert (await scrape(running)).by("fault", "fault_active") == none | {"transaction_interrupted": 1}
        await stopped(running)
        assert (await scrape(running)).by("fault", "fault_active") == none


@virtual
async def test_a_register_that_fell(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with watched(tmp_path) as running:
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
        assert 8 <= (fell.of("held_registers_total") or 0) <= 11
        assert fell.of("import_watthours_total") == 20000, "the meter's own"
        assert (await scrape(running)).of("held_registers_total") == risen.of("held_registers_total")
    (error,) = errors(caplog)
    assert all(word in error for word in ("import register", "20480", "20000"))


@virtual
async def test_values_that_stand_still(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with watched(tmp_path) as running:
        running.meters["pm1"].configure(frozen=True)
        await running.pass_time(8.0)
        assert (await scrape(running)).of("frozen_values_total") == 0
        await running.pass_time(12.0)
        published = len(running.values("pm1"))
        frozen = await scrape(running)
        await running.pass_time(5.0)
        assert len(running.values("pm1")) == published
        assert 8 <= (frozen.of("frozen_values_total") or 0) <= 12
        assert (frozen.of("meter_up"), frozen.of("fault_active", fault="communication")) == (1, 1)
        running.meters["pm1"].configure(frozen=False)
        await running.pass_time(2.0)
        assert len(running.values("pm1")) > published
        moving = await scrape(running)
        await running.pass_time(10.0)
        later = await scrape(running)
        assert later.of("frozen_values_total") == moving.of("frozen_values_total")
        assert later.of("fault_active", fault="communication") == 0
    assert caplog.text.count("the live values stand still") == 1


@virtual
async def test_a_serial_at_two_addresses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with watched(tmp_path, "pm1", "pm2", "pm3") as running:
        serial, moved, found = running.meters["pm2"].options.MS, running.meters["pm3"].options.MS, []
        running.meters["pm3"].power_cycle(off_s=1000.0, boot_s=0.0)  # the last value of its old address is no evidence
        for shown, wait_s in ((moved, 15.0), (serial, 15.0), (SERIAL, 8.0), (SERIAL, 10.0), (serial, 6.0)):
            running.meters["pm2"].configure(MS=shown)
            await running.pass_time(wait_s)
            found.append([*(await scrape(running)).by("module_id", "duplicate_serial_active").values()])
        assert found == [[0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]]
        assert len(running.values("pm1")) > 35, "no driver is held up"
    (error,) = [line for line in errors(caplog) if "exchanged" not in line]
    assert SERIAL in error
    assert len(re.findall(r"127\.0\.0\.1:\d+", error)) == 2
    assert f"the meter with serial {SERIAL} answers at only one address again" in caplog.text


@pytest.mark.parametrize(
    ("verdict", "change"), [("invalid", {"private_key": SECRET + 1}), ("not_accepted", {"import_wh": 100})]
)
def test_a_receipt_that_is_not_good(tmp_path: Path, verdict: str, change: dict[str, Any]) -> None:
    """The driver already has the meter's other key; a register that falls is refused by the transparency software."""

    async def story() -> None:
        async with watched(tmp_path) as running:
            await started(running)
            running.meters["pm1"].configure(**change)
            answer = await stopped(running)
            assert answer["signed_meter_value"]["signed_meter_data"].startswith("OCMF|")
            verdicts = dict.fromkeys(("valid", "not_accepted", "invalid", "not_checked"), 0) | {verdict: 1}
            assert (await scrape(running)).by("verdict", "receipts_total") == verdicts

    run_virtual(story())


# --- the format, and its bounds ---


@virtual
async def test_series_are_bounded(tmp_path: Path) -> None:
    def series(scraped: Scraped) -> set[str]:
        return {line.rpartition(" ")[0] for line in scraped.text.splitlines() if "module_id=" in line}

    async with watched(tmp_path) as running:
        first, meter = await scrape(running), running.meters["pm1"]
        for number in range(3):
            meter.configure(MS=f"1SIM{number:010}", XC=f"0x000{number}, 0x00000000, 0x00, 0x00", XS=f"0x{number:016}")
            meter.faults.add(Fault("refuse", status=418 + number, body="x" * 50), Fault("garbage", count=1 + number))
            await running.pass_time(5.0)
        meter.configure(MS="1SIM0000000000", XC="0x0000, 0x00000000, 0x00, 0x00")
        await running.pass_time(5.0)
        for transaction_id in ("T-0", "T-1"):
            await started(running, transaction_id)
            await stopped(running, transaction_id)
        after = await scrape(running)
    assert series(first) == series(after), "no number brings a new series"
    assert len(series(first)) <= MOST_SERIES
    for secret in ("T-0", "T-1", "04AB", "1SIM"):
        assert secret not in after.text


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
    assert not [name for name in REGISTRY._names_to_collectors if name.startswith("iem_dcr")], "nothing is global"


# --- who may see it, and health ---


@virtual
async def test_the_token(tmp_path: Path) -> None:
    right = {"Authorization": f"Bearer {TOKEN}"}
    async with watched(tmp_path, token=TOKEN) as running:
        for path, method, headers, status in (
            ("/metrics", "GET", {}, 401),
            ("/metrics", "GET", {"Authorization": "Bearer wrong"}, 401),
            ("/metrics", "HEAD", right, 200),
            ("/metrics", "POST", right, 405),
            ("/health/ready", "HEAD", {}, 200),
            ("/health/live", "DELETE", {}, 405),
            ("/health", "GET", {}, 401),
            ("/health/live", "GET", {"Host": "evil.example"}, 421),
        ):
            assert (await get(running, path, method, **headers))[0] == status, (path, method, headers)


async def health(running: Site) -> tuple[int, int]:
    live, _, alive = await get(running, "/health/live")
    ready, _, text = await get(running, "/health/ready")
    assert alive == "live\n"
    assert text == ("ready\n" if ready == 200 else "not ready\n")
    return live, ready


@virtual
async def test_a_lost_broker_is_not_ready_and_a_dead_meter_changes_nothing(tmp_path: Path) -> None:
    async with watched(tmp_path, "pm1", dead=2) as running:
        running.meters["pm1"].power_cycle(off_s=600.0, boot_s=1.0)
        await running.pass_time(30.0)
        assert await health(running) == (200, 200)
        running.bus.disconnect()
        assert await health(running) == (200, 503)
        assert list((await scrape(running)).samples("iem_dcr_broker_connected")) == [({}, 0.0)]
        running.bus.connect()
        assert await health(running) == (200, 200)


@virtual
async def test_ready_once_the_module_id_is_known(tmp_path: Path) -> None:
    async with watched(tmp_path, None) as running:
        assert await health(running) == (200, 503)
        (name,) = (await scrape(running)).by("module_id", "meter_up")
        assert name.startswith("127.0.0.1:")
        assert running.statuses == ["no powermeter API found yet, broker connected"]
        running.bus.offered.append("pm9")
        await running.pass_time(15.0)
        assert (await scrape(running)).of("meter_up", "pm9") == 1
        assert running.statuses[-1] == "1 of 1 meter answers, broker connected"
        assert await health(running) == (200, 200)


# --- the documentation ---


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Scraped:
    async def story() -> Scraped:
        async with watched(tmp_path_factory.mktemp("scraped")) as running:
            return await scrape(running)

    return run_virtual(story())


def test_every_metric_is_documented_and_follows_the_conventions(scraped: Scraped) -> None:
    units = ("_seconds", "_watts", "_volts", "_amperes", "_watthours_total", "_total", "_info")
    states = ("_up", "_active", "_connected")
    found, labels = set(), set()
    for family in scraped.families.values():
        if not family.name.startswith("process_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            assert name.endswith(units + states)
            assert family.documentation
            found.add(name)
            labels |= {item for sample in family.samples for item in sample.labels.items()}
    assert found == set(re.findall(r"`(iem_dcr_\w+)`", PAGE.partition("## Logs")[0]))
    values = {value for label, value in labels if label not in ("module_id", "address", "le", "version", "python")}
    assert len(values) == 21
    assert all(f"`{value}`" in PAGE for value in values)


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
