"""A service with simulated meters, behind a bus in memory that can be made to fail, and what systemd hears of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

from iem_dcr.config import Settings
from iem_dcr.everest_api.mqtt_settings import MqttSettings
from iem_dcr.everest_api.topics import QUERY_MODULES, Topics
from iem_dcr.service.config import MeterConfig, ServiceConfig
from iem_dcr.service.service import Service
from iem_dcr.service.systemd import Notifier
from iem_dcr.simulator import SimulatedMeter, SimulatorOptions, SimulatorServer
from tests.support.bench import CI, SECRET, SERIAL
from tests.support.fake_bus import FakeBus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from iem_dcr.service.web_settings import WebSettings


def now_s() -> float:
    return asyncio.get_running_loop().time()


class FailingBus(FakeBus):
    """A bus whose methods raise for certain topics, and whose task can be made to fail or to end; EVerest behind it.

    Attributes:
        offered: module_ids of EVerest's powermeter APIs; each answers the question which there are.
        asked: when that was asked, on the loop's clock.
        failing: topics that can be neither subscribed nor published on, each with how often that fails.
        runs: when `run` began, on the loop's clock.
    """

    def __init__(self, *offered: str) -> None:
        super().__init__()
        self.offered = list(offered)
        self.asked: list[float] = []
        self.failing: dict[str, int] = {}
        self.runs: list[float] = []
        self.closed = asyncio.Event()
        self.trouble: asyncio.Future[None] | None = None

    def subscribe(self, topic: str, handler: Any) -> None:
        self._fail(topic)
        super().subscribe(topic, handler)

    def offer(self, topic: str, payload: bytes, *, good_for_s: float) -> None:
        self._fail(topic)
        super().offer(topic, payload, good_for_s=good_for_s)

    async def run(self) -> None:
        self.runs.append(now_s())
        self.trouble = asyncio.get_running_loop().create_future()
        closed = asyncio.ensure_future(self.closed.wait())
        try:
            either: set[asyncio.Future[Any]] = {closed, self.trouble}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self.trouble.done():
                self.trouble.result()
        finally:
            closed.cancel()

    async def close(self, within_s: float) -> None:
        assert within_s > 0
        self.events.append(("close", ""))
        self.closed.set()

    def _publish(self, topic: str, payload: bytes, *, qos: int) -> None:
        super()._publish(topic, payload, qos=qos)
        if topic == QUERY_MODULES:
            self.asked.append(now_s())
            reply_to = json.loads(payload)["headers"]["replyTo"]
            for module_id in self.offered:
                api = {"type": "powermeter", "module_id": module_id, "version": 1, "communication_monitoring": {}}
                answer = json.dumps({"apis": [api]}).encode()
                asyncio.get_running_loop().call_soon(self.receive, reply_to, answer)

    def _fail(self, topic: str) -> None:
        left = self.failing.get(topic, 0)
        if left:
            self.failing[topic] = left - 1
            raise RuntimeError(f"no {topic}")


class Site:
    """A service with simulated meters behind a bus in memory.

    Attributes:
        meters: the simulated meters by module_id.
        told: what systemd was told, in order.
    """

    def __init__(self, service: Service, bus: FailingBus, meters: dict[str, SimulatedMeter], path: str) -> None:
        self.service = service
        self.bus = bus
        self.meters = meters
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._listening.bind(path)
        self._listening.settimeout(0.0)
        self.told: list[tuple[float, str]] = []
        self.task = asyncio.create_task(service.run())

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and take down when systemd was told what."""
        end_s = now_s() + seconds
        while now_s() < end_s:
            await asyncio.sleep(min(0.05, end_s - now_s()))
            self.listen()

    def listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.told.append((now_s(), self._listening.recv(4096).decode()))

    async def end(self) -> None:
        self.service.stop()
        await self.task
        self.listen()

    def close(self) -> None:
        self._listening.close()

    def values(self, module_id: str, since_s: float = 0.0) -> list[float]:
        """Return when values of a meter were published."""
        return [each.at_s for each in self.bus.on(Topics(module_id).values) if each.at_s >= since_s]

    def subscribed(self, module_id: str) -> int:
        """Return how often a meter has subscribed."""
        return self.bus.events.count(("subscribe", Topics(module_id).heartbeat))

    @property
    def statuses(self) -> list[str]:
        return [text.removeprefix("STATUS=") for _, text in self.told if text.startswith("STATUS=")]


@contextlib.asynccontextmanager
async def site(
    tmp_path: Path,
    *module_ids: str | None,
    dead: int = 0,
    watchdog_us: int = 0,
    web: WebSettings | None = None,
    **settings: Any,
) -> AsyncIterator[Site]:
    """Run a service; the addresses of the last meters lead to nothing where some are dead.

    The first meter has the serial of all tests, each further one another.
    """
    loop = asyncio.get_running_loop()
    bus = FailingBus()
    meters: dict[str, SimulatedMeter] = {}
    configs = []
    path = str(tmp_path / "notify")
    async with contextlib.AsyncExitStack() as stack:
        for number, module_id in enumerate(module_ids):
            serial = f"{SERIAL}-{number}" if number else SERIAL
            meter = SimulatedMeter(SimulatorOptions(MS=serial, private_key=SECRET, charge_s=2.0), monotonic=loop.time)
            server = await stack.enter_async_context(SimulatorServer(meter))
            host, port = server.address.split(":")
            meters[module_id or ""] = meter
            address = {"ip_address": host, "port_http": int(port), "CI": CI}
            configs.append(MeterConfig(module_id, Settings.of(address | settings)))
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            for number in range(dead):
                address = {"ip_address": "127.0.0.1", "port_http": nobody.getsockname()[1]}
                configs.append(MeterConfig(f"dead{number}", Settings.of(address)))
            config = ServiceConfig(MqttSettings(), tuple(configs), web)
            environment = {"NOTIFY_SOCKET": path} | ({"WATCHDOG_USEC": str(watchdog_us)} if watchdog_us else {})
            running = Site(Service(config, notifier=Notifier(environment), broker=bus), bus, meters, path)
            try:
                yield running
            finally:
                if not running.task.done():
                    await running.end()
                running.close()
    assert bus.failures == []
