"""However many come, however slow, and whatever goes wrong: the page is bounded, and the meters go on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from typing import TYPE_CHECKING

from iem_dcr.config import Settings
from iem_dcr.everest_api.mqtt_settings import MqttSettings
from iem_dcr.everest_api.topics import Topics
from iem_dcr.service.config import MeterConfig, ServiceConfig
from iem_dcr.service.service import Service
from iem_dcr.service.web import connections, guard, meter_view, streams
from iem_dcr.service.web.server import TRIED_AGAIN_AFTER_S, WebServer
from iem_dcr.service.web_settings import WebSettings
from iem_dcr.simulator import SimulatorOptions, SimulatorServer
from tests.support.bench import CI, SECRET, SERIAL
from tests.support.served_page import STATUS, observed, read_answer, read_event, served, value, wall
from tests.support.service_site import FailingBus
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

    from iem_dcr.service.observation import ObservedMeter
    from iem_dcr.service.web.view import Row
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


# --- connections ---


@virtual
async def test_connections_are_bounded_and_silent_ones_give_way() -> None:
    async with served([observed()]) as page:
        silent = [await page.connect() for _ in range(connections.AT_ONCE)]
        await asyncio.sleep(1)
        began_s = now_s()
        # The one too many is answered when the first of the silent ones was closed.
        assert (await page.ask("/")).status == 200
        assert 5 < now_s() - began_s <= connections.LIVES_S
        assert await silent[0][0].read() == b""
        let_go(silent)


@virtual
async def test_one_who_trickles_does_not_stay() -> None:
    async with served([observed()]) as page:
        reader, writer = await page.connect()
        began_s = now_s()
        with contextlib.suppress(ConnectionError):
            for byte in page.request("/") * 3:
                writer.write(bytes([byte]))
                await asyncio.sleep(2)
                if reader.at_eof() or writer.is_closing():
                    break
        assert now_s() - began_s < connections.LIVES_S + connections.ENDS_WITHIN_S + 5
        let_go([(reader, writer)])


@virtual
async def test_a_connection_is_used_again_but_not_for_ever() -> None:
    async with served([observed()]) as page:
        reader, writer = await page.connect()
        for _ in range(3):
            writer.write(page.request("/"))
            assert (await read_answer(reader)).status == 200
            await asyncio.sleep(5)
        await asyncio.sleep(connections.LIVES_S)
        assert await reader.read() == b""
        let_go([(reader, writer)])


@virtual
async def test_requests_a_second_are_bounded() -> None:
    async with served([observed()]) as page:
        began_s = now_s()
        asked = 0

        async def hammer() -> None:
            nonlocal asked
            reader, writer = await page.connect()
            while now_s() - began_s < 10:
                writer.write(page.request("/static/icon.svg"))
                await read_answer(reader)
                asked += 1
            writer.transport.abort()

        await asyncio.gather(*(hammer() for _ in range(20)))
    assert 300 < asked <= 10 * guard.REQUESTS_PER_S + guard.BURST + 20


@virtual
async def test_what_is_refused_is_bounded_too() -> None:
    async with served([observed()]) as page:
        reader, writer = await page.connect()
        began_s = now_s()
        count = 300
        for number in range(count):
            writer.write(page.request("/", "PUT") if number % 2 else page.request("/", Host="elsewhere.example"))
        for number in range(count):
            assert (await read_answer(reader)).status == (405 if number % 2 else 421)
        assert now_s() - began_s >= (count - guard.BURST) / guard.REQUESTS_PER_S - 0.1
        let_go([(reader, writer)])


@virtual
async def test_who_leaves_has_nobody_wait() -> None:
    async with served([observed()]) as page:
        for _ in range(600):
            reader, writer = await page.connect()
            writer.write(page.request("/static/icon.svg"))
            await writer.drain()
            await asyncio.sleep(0.006)
            let_go([(reader, writer)])
        began_s = now_s()
        assert (await page.ask("/")).status == 200
        assert now_s() - began_s < 2


@virtual
async def test_who_is_slow_with_the_form_keeps_nobody_out() -> None:
    async with served([observed()]) as page:
        slow = [await page.connect() for _ in range(2 * guard.AT_ONCE)]
        for _, writer in slow:
            writer.write(page.request("/login", "POST", Content_Length="100"))
        await asyncio.sleep(0.5)
        began_s = now_s()
        assert (await page.ask("/")).status == 200
        assert now_s() - began_s < 1
        assert [(await read_answer(reader)).status for reader, _ in slow] == [503] * len(slow)
        assert now_s() - began_s < guard.ANSWERED_WITHIN_S + 1
        assert (await page.ask("/login", "POST", b"token=" + b"x" * guard.LARGEST_BODY)).status == 413
        let_go(slow)


@virtual
async def test_a_connection_brings_so_much_and_no_more() -> None:
    async with served([observed()]) as page:
        reader, writer = await page.connect()
        answered = 0
        one = page.request("/static/icon.svg", X_Padding="a" * 3000)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                writer.write(one)
                assert (await read_answer(reader)).status == 200
                answered += 1
        # The last one is answered before the connection is closed.
        assert answered == connections.ENOUGH_BYTES // len(one) + 1
        let_go([(reader, writer)])

        reader, writer = await page.connect()
        writer.write(page.request("/", Content_Length="10000000"))
        with contextlib.suppress(ConnectionError):
            for _ in range(4000):
                writer.write(b"x" * 1000)
                await writer.drain()
        assert writer.is_closing()
        let_go([(reader, writer)])


@virtual
async def test_requests_are_small() -> None:
    async with served([observed()]) as page:
        assert (await page.ask("/" + "a" * 5000)).status == 400
        assert (await page.ask("/", X_Long="a" * 9000)).status == 400
        assert (await page.ask("/", "POST", b"x" * 100_000)).status == 405


# --- streams ---


@virtual
async def test_streams_are_bounded() -> None:
    async with served([observed()]) as page:
        opened = [await stream(page) for _ in range(streams.MOST)]
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
    monkeypatch.setattr(streams, "LIVES_S", 300.0)
    async with served([observed()]) as page:
        reader, writer = await stream(page)
        began_s = now_s()
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                await read_event(reader)
        assert abs(now_s() - began_s - streams.LIVES_S) < 5
        let_go([(reader, writer)])


@virtual
async def test_a_reader_who_does_not_keep_up_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SEND_BUFFER", 8192)
    monkeypatch.setattr(streams, "TAKEN_WITHIN_S", 2.0)
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
                if not page.server.looking_on:
                    break
            assert not page.server.looking_on
        assert (await page.ask("/")).status == 200


@virtual
async def test_many_meters_come_with_the_stream() -> None:
    async with served([observed(f"charger_{number:03}") for number in range(250)]) as page:
        first = (await page.ask("/")).text
        assert first.count("data-key=") == 200
        assert "50 more meters are shown with JavaScript." in first
        reader, writer = await stream(page)
        name, view = await read_event(reader)
        rows = view["tables"]["meters"]["rows"]
        assert (name, len(rows), view["tables"]["meters"]["whole"]) == ("view", 250, True)
        assert view["fields"]["summary"] == "250 meters, 250 not asked yet"
        began_s = now_s()
        assert (await read_event(reader))[1] == {}
        assert round(now_s() - began_s, 3) == 1.0
        let_go([(reader, writer)])


@virtual
async def test_a_view_is_made_once_for_all_who_come_and_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def row(meter: ObservedMeter) -> Row:
        nonlocal made
        made += 1
        return real(meter)

    real = meter_view.row
    monkeypatch.setattr(meter_view, "row", row)
    count = 500
    async with served([observed(f"charger_{number:03}") for number in range(count)]) as page:
        for _ in range(20):
            reader, writer = await page.connect()
            writer.write(page.request("/events"))
            await reader.readline()
            let_go([(reader, writer)])
        assert made <= 2 * count
        assert (await page.ask("/")).text.count("data-key=") == 200


# --- what goes wrong ---


@virtual
async def test_a_port_that_is_taken_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        server = WebServer(WebSettings(f"127.0.0.1:{port}"), [observed()], lambda: STATUS)
        task = asyncio.create_task(server.run())
        await asyncio.sleep(3 * TRIED_AGAIN_AFTER_S)
        (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert told == (
            f"no bring-up page at 127.0.0.1:{port} (listen in [web]): Address already in use; it is tried again "
            "every 10 s, and the meters do without"
        )
    await asyncio.sleep(TRIED_AGAIN_AFTER_S)
    assert server.listening.is_set()
    task.cancel()
    await asyncio.wait([task])


@virtual
async def test_a_mistake_in_the_page_is_the_pages_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no view")

    meter = observed()
    async with served([meter]) as page:
        monkeypatch.setattr("iem_dcr.service.web.meter_view.detail", fail)
        for _ in range(10):
            broken = await page.ask("/meters/pm1")
            assert (broken.status, broken.text) == (500, "The page made a mistake; the log says which.\n")
        assert (await page.ask("/")).status == 200
    assert sum("could not answer /meters/pm1: RuntimeError('no view')" in line for line in caplog.text.split("\n")) == 5


@virtual
async def test_a_mistake_in_a_stream_ends_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no view")

    async with served([observed()]) as page:
        reader, writer = await stream(page, "/meters/pm1/events")
        assert [(await read_event(reader))[0] for _ in range(2)] == ["history", "view"]
        monkeypatch.setattr("iem_dcr.service.web.meter_view.detail", fail)
        assert b"HTTP/1.1" not in await reader.read()
        assert not page.server.looking_on
        let_go([(reader, writer)])
    assert "could not answer /meters/pm1/events: RuntimeError('no view')" in caplog.text


@virtual
async def test_the_service_goes_on_without_its_page() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        async with SimulatorServer(SimulatorOptions(MS=SERIAL, private_key=SECRET)) as meter:
            settings = Settings.of({"ip_address": meter.host, "port_http": meter.port, "CI": CI})
            web = WebSettings(f"127.0.0.1:{holder.getsockname()[1]}")
            bus = FailingBus()
            service = Service(ServiceConfig(MqttSettings(), (MeterConfig("pm1", settings),), web), broker=bus)
            task = asyncio.create_task(service.run())
            await asyncio.sleep(20)
            times = [each.at_s for each in bus.on(Topics("pm1").values)]
            assert len(times) >= 19
            assert all(0.9 < later - earlier < 1.1 for earlier, later in itertools.pairwise(times[1:]))
            holder.close()
            await asyncio.sleep(TRIED_AGAIN_AFTER_S + 1.0)
            assert service.page is not None
            assert service.page.listening.is_set()
            before_s = now_s()
            service.stop()
            await task
            assert now_s() - before_s < 2
