"""The service: every meter a task of its own, started again when it fails; what systemd is told; how it ends."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from typing import TYPE_CHECKING

import pytest

from iem_dcr.config import Settings
from iem_dcr.everest_api.meter_api import METER
from iem_dcr.everest_api.mqtt_settings import MqttSettings
from iem_dcr.everest_api.topics import Topics
from iem_dcr.service.config import MeterConfig, ServiceConfig
from iem_dcr.service.service import Service, find_module_id, identity
from iem_dcr.service.systemd import Notifier
from iem_dcr.simulator import Fault
from tests.support.api_bench import request, start_payload
from tests.support.journals import entries
from tests.support.service_site import FailingBus, now_s, site
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged, each record with the meter at work."""

    def name(record: logging.LogRecord) -> bool:
        record.meter = METER.get()
        return True

    caplog.set_level(logging.INFO, "iem_dcr")
    caplog.handler.addFilter(name)
    return caplog


def failures(heard: pytest.LogCaptureFixture) -> list[tuple[str, str, bool]]:
    """Return of every task that failed the meter, what was said, and whether there was a traceback."""
    return [
        (vars(record)["meter"], record.getMessage(), bool(record.exc_info and record.exc_info[1]))
        for record in heard.records
        if "is restarted" in record.getMessage()
    ]


# --- what is wrong with one meter is not felt by another ---


@virtual
async def test_dead_and_silent_meters_harm_no_other(tmp_path: Path) -> None:
    async with site(tmp_path, "well1", "well2", "off", "stalling", dead=2) as running:
        await running.pass_time(3.0)
        began_s = now_s()
        running.meters["off"].power_cycle(off_s=20.0, boot_s=0.5)
        running.meters["stalling"].faults.add(Fault("stall", count=1000, delay_s=30.0))
        topics = Topics("well1")
        assert running.bus.receive(topics.start, request(start_payload("T-1"), "reply/1"))
        await running.pass_time(10.0)
        assert running.bus.receive(topics.stop, request("T-1", "reply/2"))
        await running.pass_time(10.0)
        assert [running.bus.on(f"reply/{number}")[0].value["status"] for number in (1, 2)] == ["OK", "OK"]
        for module_id in ("well1", "well2"):
            assert 18 <= len(running.values(module_id, began_s)) <= 21
            checks = running.bus.on(Topics(module_id).check)
            assert len([each for each in checks if each.at_s >= began_s]) >= 9
            assert {each.value for each in checks} == {True}
        for module_id in ("off", "stalling"):
            assert len(running.values(module_id, began_s)) <= 2
            assert len([each for each in running.bus.on(Topics(module_id).check) if each.at_s >= began_s + 5.0]) == 0
        running.meters["stalling"].faults.clear()
        await running.pass_time(20.0)
        for module_id in ("off", "stalling"):
            assert len(running.values(module_id, now_s() - 5.0)) >= 4, "and they come back"
        assert not running.bus.on(Topics("dead0").check)
        assert not running.values("dead1")


@virtual
async def run_with_one_that_fails(tmp_path: Path) -> None:
    async with site(tmp_path, "pm1", "pm2", "pm3") as running:
        await running.pass_time(5.0)
        running.bus.failing[Topics("pm2").check] = 6
        began_s = now_s()
        await running.pass_time(100.0)
        for module_id in ("pm1", "pm3"):
            values = running.values(module_id, began_s)
            assert len(values) == 100
            assert all(abs(later - earlier - 1.0) < 0.01 for earlier, later in itertools.pairwise(values))
            assert running.subscribed(module_id) == 1
        assert running.subscribed("pm2") == 7
        assert len(running.values("pm2", now_s() - 20.0)) == 20


def test_one_that_fails_is_started_again_alone_and_ever_more_seldom(
    tmp_path: Path, heard: pytest.LogCaptureFixture
) -> None:
    run_with_one_that_fails(tmp_path)
    why = "RuntimeError: no everest_api/1/powermeter/pm2/m2e/communication_check"
    assert failures(heard) == [
        ("pm2", f"the meter's task failed and is restarted in {pause_s} s: {why}", pause_s == 1)
        for pause_s in (1, 2, 4, 8, 16, 30)
    ], "the traceback of what fails in the same way is written once"


@virtual
async def test_a_minute_of_health_makes_the_pauses_start_anew(tmp_path: Path) -> None:
    async with site(tmp_path, "pm1") as running:
        for failures, wait_s in ((3, 75.0), (1, 5.0)):  # pauses of 1, 2 and 4 s, and of 1 s
            running.bus.failing[Topics("pm1").check] = failures
            await running.pass_time(wait_s)
        assert running.subscribed("pm1") == 5
        assert running.values("pm1", now_s() - 1.5), "not back after a pause of 1 s"


@virtual
async def cancel_from_within(tmp_path: Path) -> None:
    async with site(tmp_path, "pm1") as running:
        await running.pass_time(3.0)
        assert running.bus.trouble is not None
        running.bus.trouble.cancel()
        await running.pass_time(3.0)
        running.bus.trouble.set_exception(OSError("no socket\nleft"))
        await running.pass_time(3.0)
        running.bus.trouble.set_result(None)
        await running.pass_time(6.0)
        assert len(running.bus.runs) == 4
        assert len(running.values("pm1", 1.0)) == 14
        assert running.subscribed("pm1") == 1


def test_the_brokers_task_is_started_again_whatever_ends_it(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    cancel_from_within(tmp_path)
    assert failures(heard) == [
        ("", "the broker's task failed and is restarted in 1 s: CancelledError: ", True),
        ("", "the broker's task failed and is restarted in 2 s: OSError: no socket left", True),
        ("", "the broker's task failed and is restarted in 4 s: it ended", False),
    ]


# --- systemd ---


@virtual
async def test_what_systemd_is_told(tmp_path: Path) -> None:
    async with site(tmp_path, "pm1", "pm2", dead=1) as running:
        running.bus.disconnect()
        await running.pass_time(5.0)
        # Ready at once: neither the broker nor the dead meter is waited for.
        assert running.told[0][1] == "READY=1"
        assert running.told[0][0] < 0.1
        assert running.statuses[-1] == "2 of 3 meters answer, no connection to the broker"
        running.bus.connect()
        await running.pass_time(2.0)
        running.meters["pm2"].power_cycle(off_s=20.0, boot_s=2.0)
        await running.pass_time(40.0)
        assert running.statuses[-3:] == [
            "2 of 3 meters answer, broker connected",
            "1 of 3 meters answers, broker connected",
            "2 of 3 meters answer, broker connected",
        ]
        # Told when it changes and only then.
        assert all(one != other for one, other in zip(running.statuses, running.statuses[1:], strict=False))
        assert len(running.statuses) < 8
        await running.end()
        assert running.told[-1][1] == "STOPPING=1"
        assert [text for _, text in running.told].count("READY=1") == 1


@virtual
async def test_the_watchdog_hears_twice_within_its_time(tmp_path: Path) -> None:
    async with site(tmp_path, "pm1", watchdog_us=3_000_000) as running:
        await running.pass_time(30.0)
        alive = [at_s for at_s, text in running.told if text == "WATCHDOG=1"]
        assert 20 <= len(alive) <= 21
        assert all(later - earlier < 1.6 for earlier, later in itertools.pairwise(alive))


@virtual
async def test_systemd_that_comes_later_is_told_that_the_service_is_ready(tmp_path: Path) -> None:
    path = tmp_path / "late"
    bus = FailingBus()
    config = ServiceConfig(MqttSettings(), (MeterConfig("pm1", Settings.of({"ip_address": "127.0.0.1"})),))
    service = Service(config, notifier=Notifier({"NOTIFY_SOCKET": str(path)}), broker=bus)
    task = asyncio.create_task(service.run())
    await asyncio.sleep(5.0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        await asyncio.sleep(2.0)
        assert listening.recv(4096) == b"READY=1"
        assert listening.recv(4096).startswith(b"STATUS=0 of 1 meter answer")
    service.stop()
    await task


# --- the end ---


@virtual
async def test_at_the_end_what_waits_is_answered_first(tmp_path: Path) -> None:
    async with site(tmp_path, "pm1", "pm2") as running:
        await running.pass_time(3.0)
        running.meters["pm1"].power_cycle(off_s=100.0, boot_s=2.0)
        assert running.bus.receive(Topics("pm1").start, request(start_payload(), "reply/1"))
        assert running.bus.receive(Topics("pm2").start, request(start_payload("T-2"), "reply/2"))
        await running.pass_time(1.0)
        began_s = now_s()
        await running.end()
        assert now_s() - began_s < 3.0
        assert running.bus.on("reply/1")[0].value["status"] == "UNEXPECTED_ERROR"
        assert running.bus.on("reply/2")[0].value == {"status": "OK"}
        # The transaction goes on in the meter; nothing is published behind the end.
        assert running.meters["pm2"].running
        assert running.bus.events[-1] == ("close", "")


@virtual
async def test_neither_a_broker_that_takes_nothing_nor_a_task_that_pauses_holds_up_the_end(tmp_path: Path) -> None:
    async with site(tmp_path, "pm1", "pm2") as running:
        running.bus.failing[Topics("pm2").start] = 100
        await running.pass_time(20.0)
        assert not running.values("pm2")
        assert len(running.values("pm1", 1.0)) == 19
        assert running.statuses[-1] == "1 of 2 meters answers, broker connected"
        running.bus.acknowledge_s = None
        assert running.bus.receive(Topics("pm1").start, request(start_payload(), "reply/1"))
        await running.pass_time(1.0)
        began_s = now_s()
        await running.end()
        assert now_s() - began_s < 4.0


# --- a module_id not known yet ---


@virtual
async def find_among_several() -> None:
    bus = FailingBus()
    bus.disconnect()
    task = asyncio.create_task(find_module_id(bus))
    await asyncio.sleep(20.0)
    assert bus.asked == [], "there is no connection to ask over"
    bus.connect()
    await asyncio.sleep(5.0)
    bus.offered.append("pm2")
    await asyncio.sleep(1.5)
    bus.offered.append("pm1")  # the second comes up a moment later
    await asyncio.sleep(60.0)
    assert not task.done()
    assert 2 <= len([at_s for at_s in bus.asked if at_s > now_s() - 30.0]) <= 3
    bus.offered.remove("pm2")
    bus.asked.clear()
    assert await task == "pm1"
    assert len(bus.asked) == 2, "the only one twice"
    assert 2.0 <= bus.asked[1] - bus.asked[0] <= 3.0


def test_of_several_none_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "iem_dcr")
    find_among_several()
    told = [record.getMessage() for record in caplog.records if record.name == "iem_dcr.service.service"]
    assert told == [
        "EVerest offers no powermeter API yet",
        "EVerest offers several powermeter APIs, pm1, pm2: give one of them as module_id",
    ]


# --- the journal ---


@virtual
async def one_session_each(tmp_path: Path, path: Path) -> None:
    async with site(tmp_path, "pm1", "pm2", journal_path=str(path)) as running:
        await running.pass_time(3.0)
        for module_id in ("pm1", "pm2"):
            topics, payload = Topics(module_id), start_payload(transaction_id=f"of-{module_id}")
            assert running.bus.receive(topics.start, request(payload, f"started/{module_id}"))
            await running.pass_time(6.0)
            assert running.bus.receive(topics.stop, request(f"of-{module_id}", f"stopped/{module_id}"))
            await running.pass_time(6.0)
            (reply,) = running.bus.on(f"stopped/{module_id}")
            assert reply.value["status"] == "OK"


def test_the_receipts_of_all_meters_are_kept_if_there_can_be_a_journal(tmp_path: Path) -> None:
    path, other = tmp_path / "folder" / "receipts.db", tmp_path / "other"
    other.mkdir()
    one_session_each(other, path)
    path.parent.mkdir()
    one_session_each(tmp_path, path)
    assert sorted(entry.transaction_id for entry in entries(path)) == ["of-pm1", "of-pm2"]


def test_the_name_at_the_broker() -> None:
    def named(*meters: tuple[str | None, str]) -> str:
        configs = [MeterConfig(module_id, Settings.of({"ip_address": host})) for module_id, host in meters]
        return identity(ServiceConfig(MqttSettings(), tuple(configs)))

    one = named(("pm1", "10.0.0.1"), ("pm2", "10.0.0.2"))
    assert one == named(("pm2", "10.0.0.9"), ("pm1", "10.0.0.1"))
    assert len({one, named(("pm1", "10.0.0.1")), named((None, "10.0.0.1")), named((None, "10.0.0.2"))}) == 4
    assert len(one) == len("iem-dcr-") + 12
