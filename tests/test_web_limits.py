"""However many come, however slow, and whatever goes wrong: the page is bounded, and the meters go on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import socket
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from iem_dcr.config import Settings
from iem_dcr.driver.rate_limited_log import LINES
from iem_dcr.everest_api.mqtt_settings import MqttSettings
from iem_dcr.everest_api.topics import Topics
from iem_dcr.service.config import MeterConfig, ServiceConfig
from iem_dcr.service.service import Service
from iem_dcr.service.web_settings import WebSettings
from iem_dcr.simulator import SimulatorOptions, SimulatorServer
from iem_dcr.web import live, views
from iem_dcr.web.server import IDLE_TIMEOUT_S, RETRY_AFTER_S
from tests.support.bench import CI, SECRET, SERIAL
from tests.support.served_page import observed, read_answer, read_event, served, value, wall
from tests.support.service_site import FailingBus
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

    from iem_dcr.service.observation import ObservedMeter
    from tests.support.served_page import Served


def now_s() -> float:
    return asyncio.get_running_loop().time()


def let_go(pairs: Iterable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    for _, writer in pairs:
        writer.transport.abort()


async def stream(page: Served, path: str = "/events") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a stream, and read its head."""
    reader, writer = await page.connect()
    writer.write(page.request(path))
    assert b" 200 " in await reader.readline()
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


# --- requests ---


@virtual
async def test_a_connection_is_used_again_until_it_is_idle() -> None:
    async with served([observed()]) as page:
        reader, writer = await page.connect()
        for _ in range(3):
            writer.write(page.request("/"))
            assert (await read_answer(reader)).status == 200
            await asyncio.sleep(IDLE_TIMEOUT_S / 2)
        began_s = now_s()
        assert await reader.read() == b""
        assert now_s() - began_s < IDLE_TIMEOUT_S
        let_go([(reader, writer)])


@virtual
async def test_who_is_slow_with_the_form_keeps_nobody_out() -> None:
    async with served([observed()]) as page:
        slow = [await page.connect() for _ in range(20)]
        for _, writer in slow:
            writer.write(page.request("/login", "POST", Content_Length="100"))
        await asyncio.sleep(0.5)
        began_s = now_s()
        assert (await page.ask("/")).status == 200
        assert now_s() - began_s < 1
        assert [(await read_answer(reader)).status for reader, _ in slow] == [400] * len(slow)
        let_go(slow)


# --- streams ---


@virtual
async def test_streams_are_bounded() -> None:
    async with served([observed()]) as page:
        opened = [await stream(page) for _ in range(live.MAX_STREAMS)]
        for reader, _ in opened:
            assert (await read_event(reader))[0] == "view"
        refused = await page.ask("/events")
        assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
        assert (await page.ask("/")).status == 200
        let_go(opened[:1])
        await asyncio.sleep(5)
        let_go([await stream(page), *opened])


@virtual
async def test_a_stream_outlives_other_connections_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LIFETIME_S", 300.0)
    async with served([observed()]) as page:
        reader, writer = await stream(page)
        began_s = now_s()
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                await read_event(reader)
        assert abs(now_s() - began_s - live.LIFETIME_S) < 5
        let_go([(reader, writer)])


@virtual
async def test_a_reader_who_does_not_keep_up_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BUFFER_BYTES", 8192)
    monkeypatch.setattr(live, "READ_TIMEOUT_S", 2.0)
    meter = observed()
    async with served([meter]) as page:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", page.port))
            slow.sendall(page.request("/meters/pm1/events"))
            for second in range(400):
                # Long texts fill what lies between faster.
                meter.value_read(value(XC=f"0x{second} " + "x" * 250, MS=f"{second}" + "z" * 200), wall())
                await asyncio.sleep(1)
                if not page.server.open_streams:
                    break
            assert not page.server.open_streams
        assert (await page.ask("/")).status == 200


@virtual
async def test_many_meters_come_with_the_stream_rendered_once_for_all_who_look(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ObservedMeter] = []
    real = views.MeterView.of

    def of(meter: ObservedMeter) -> views.MeterView:
        made.append(meter)
        return real(meter)

    async with served([observed(f"charger_{number:03}") for number in range(250)]) as page:
        first = (await page.ask("/")).text
        assert first.count('<li id="m') == 200
        assert "50 more meters are shown with JavaScript." in first
        await asyncio.sleep(2)
        monkeypatch.setattr(views.MeterView, "of", of)
        opened = [await stream(page) for _ in range(10)]
        for reader, _ in opened:
            name, view = await read_event(reader)
            summary, meters = view["parts"]
            assert (name, meters.count('<li id="m')) == ("view", 250)
            assert "250 meters, 250 not asked yet" in summary
        assert len(made) == 250
        began_s = now_s()
        assert (await read_event(opened[0][0]))[1] == {"parts": []}
        assert round(now_s() - began_s, 3) == 1.0
        let_go(opened)


@virtual
async def test_what_changes_is_sent_and_nothing_else() -> None:
    meters = [observed(f"pm{number}") for number in range(3)]
    async with served(meters) as page:
        reader, writer = await stream(page)
        await read_event(reader)
        meters[1].value_read(value(), wall())
        summary, card = (await read_event(reader))[1]["parts"]
        assert "3 meters, 2 not asked yet" in summary
        assert card.startswith('<li id="m1"')
        let_go([(reader, writer)])
        reader, writer = await stream(page, "/meters/pm1/events")
        parts = (await read_event(reader))[1]["parts"]
        shown = (await page.ask("/meters/pm1")).text
        for part in parts:
            ((whole, _),) = re.findall(r'^<\w+ (id="(\w+)")', part)
            assert shown.count(whole) == 1, whole
        meters[1].value_read(value(ST="M"), wall())
        changed = " ".join((await read_event(reader))[1]["parts"])
        assert "ST is M, not G" in changed
        assert 'id="receipts"' not in changed
        let_go([(reader, writer)])


# --- the charts ---


@virtual
async def test_what_a_chart_shows_is_there_as_csv() -> None:
    meter = observed()
    async with served([meter]) as page:
        assert (await page.ask("/meters/pm1/history.csv")).text == "time,power_w,voltage_v,current_a,import_wh\r\n"
        for second in range(240):
            meter.value_read(value(P=Decimal(2 * second), U2=None), wall())
            await asyncio.sleep(1)
        file = await page.ask("/meters/pm1/history.csv?range=10min")
        assert file.headers["Content-Disposition"] == 'attachment; filename="pm1-10min.csv"'
        rows = [line.split(",") for line in file.text.splitlines()[1:]]
        assert [row[1:] for row in rows[:2]] == [["1.0", "", "0.0", "20480.0"], ["5.0", "", "0.0", "20480.0"]]
        times = [datetime.fromisoformat(row[0]) for row in rows]
        assert {later - earlier for earlier, later in itertools.pairwise(times)} == {timedelta(seconds=2)}
        day = [line.split(",") for line in (await page.ask("/meters/pm1/history.csv?range=24h")).text.splitlines()[1:]]
        assert [row[1] for row in day] == ["119.0", "359.0"]
        reader, writer = await stream(page, "/meters/pm1/events?range=24h")
        for power in ([119.0, 359.0], [359.0]):  # all of it, and then what is new
            series = (await read_event(reader))[1]["series"]
            assert (series["power"], series["voltage"], series["step_ms"]) == (power, [None] * len(power), 120_000)
        let_go([(reader, writer)])


# --- what goes wrong ---


@virtual
async def test_a_mistake_in_the_page_is_the_pages_alone_and_ends_a_stream(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no view")

    async with served([observed()]) as page:
        reader, writer = await stream(page, "/meters/pm1/events")
        assert (await read_event(reader))[0] == "view"
        monkeypatch.setattr("iem_dcr.web.views.MeterView.of", fail)
        assert b"HTTP/1.1" not in await reader.read()
        assert not page.server.open_streams
        let_go([(reader, writer)])
        for _ in range(10):
            broken = await page.ask("/meters/pm1")
            assert (broken.status, broken.text) == (500, "The page failed to answer; the log says why.\n")
        assert (await page.ask("/static/page.js")).status == 200
    assert "could not answer /meters/pm1/events: RuntimeError('no view')" in caplog.text
    assert caplog.text.count("could not answer /meters/pm1: RuntimeError('no view')") == LINES


@virtual
async def test_the_service_goes_on_without_its_page_and_the_port_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        async with SimulatorServer(SimulatorOptions(MS=SERIAL, private_key=SECRET)) as meter:
            settings = Settings.of({"ip_address": meter.host, "port_http": meter.port, "CI": CI})
            web = WebSettings(address)
            bus = FailingBus()
            service = Service(ServiceConfig(MqttSettings(), (MeterConfig("pm1", settings),), web), broker=bus)
            task = asyncio.create_task(service.run())
            await asyncio.sleep(20)
            times = [each.at_s for each in bus.on(Topics("pm1").values)]
            assert len(times) >= 19
            assert all(0.9 < later - earlier < 1.1 for earlier, later in itertools.pairwise(times[1:]))
            (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
            assert told == (
                f"no bring-up page at {address} (listen in [web]): Address already in use; it is tried again "
                "every 10 s, and the meters are not affected"
            )
            holder.close()
            await asyncio.sleep(RETRY_AFTER_S + 1.0)
            assert service.page is not None
            assert service.page.listening.is_set()
            before_s = now_s()
            service.stop()
            await task
            assert now_s() - before_s < 2
