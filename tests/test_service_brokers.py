"""The whole service with real brokers, which are killed at each step of a session."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from typing import TYPE_CHECKING, Any, NoReturn

from iem_dcr import ocmf
from iem_dcr.config import Settings
from iem_dcr.everest_api import mqtt
from iem_dcr.everest_api.topics import READY_BEACON, Topics
from iem_dcr.service.config import MeterConfig, ServiceConfig
from iem_dcr.service.service import Service
from iem_dcr.simulator import Fault, SimulatorServer
from tests.support.api_bench import request, start_payload
from tests.support.bench import CI, meter_options
from tests.support.brokers import BROKERS, Network, Recorder, real_time, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from tests.support.brokers import TestBroker

PM = Topics("pm1")
START, STOP = request(start_payload("T-1"), "reply/start"), request("T-1", "reply/stop")


class Site:
    """EVerest, a broker that can be killed, and the service with one meter.

    Attributes:
        everest: EVerest as it is connected now; it remembers nothing of the time before an outage.
        network: between the service and the broker.
    """

    def __init__(self, broker: TestBroker, network: Network, server: SimulatorServer) -> None:
        self._broker = broker
        self._stack = contextlib.ExitStack()
        self.network = network
        self.meter = server.meter
        settings = Settings.of({"ip_address": server.host, "port_http": server.port, "CI": CI})
        mqtt = broker.settings(port=network.port)
        self.service = Service(ServiceConfig(mqtt, (MeterConfig("pm1", settings),)))
        self._is_there = False
        self.connect()

    def connect(self) -> None:
        """Connect EVerest and subscribe."""
        self.everest = self._stack.enter_context(Recorder(self._broker, "everest_api/1/powermeter/+/m2e/#", "reply/#"))
        self._is_there = True

    def disconnect(self) -> None:
        """Disconnect EVerest."""
        self._is_there = False
        self._stack.close()

    async def beat(self) -> NoReturn:
        """Let EVerest's heart beat while it is connected."""
        for number in itertools.count():
            if self._is_there:
                self.everest.publish(PM.heartbeat, str(number).encode(), qos=0)
            await asyncio.sleep(0.2)
        raise AssertionError

    async def ask(self, topic: str, message: bytes) -> None:
        """Publish while the loop turns."""
        await asyncio.to_thread(self.everest.publish, topic, message)

    async def answer(self, reply_to: str) -> Any:
        """Wait for the one answer on a topic."""
        await until(lambda: self.everest.payloads(reply_to))
        (payload,) = self.everest.payloads(reply_to)
        return json.loads(payload)

    async def receipt(self, reply_to: str = "reply/stop") -> str:
        """Wait for the receipt of T-1."""
        told = await self.answer(reply_to)
        assert told["status"] == "OK"
        text = told["signed_meter_value"]["signed_meter_data"]
        assert ocmf.parse(text).identification == start_payload("T-1")["identification_data"]
        return str(text)

    async def break_down(self) -> None:
        """Kill the broker, let the meter be read, and start the broker again. EVerest is back before the service."""
        self.network.cut()
        self._broker.kill()
        self.disconnect()
        counts, metervalue = self.meter.request_counts, ("GET", "/metervalue")
        read = counts[metervalue]
        await until(lambda: counts[metervalue] > read)
        assert await asyncio.to_thread(self._broker.start)
        await asyncio.to_thread(self.connect)

    async def be_back(self) -> None:
        """Let the service reach the broker, and wait until it says what EVerest has to be told."""
        self.network.mend()
        for topic in (PM.check, PM.key, PM.values):
            await until(lambda topic=topic: self.everest.payloads(topic))  # type: ignore[misc]
        assert {*self.everest.payloads(PM.check)} == {b"true"}


@contextlib.asynccontextmanager
async def running(kind: type[TestBroker], **options: Any) -> AsyncIterator[Site]:
    with kind() as broker:
        async with Network(broker) as network, SimulatorServer(meter_options(**options)) as server:
            site = Site(broker, network, server)
            task, beating = asyncio.create_task(site.service.run()), asyncio.create_task(site.beat())
            try:
                await until(lambda: site.everest.payloads(PM.values) and site.everest.payloads(PM.key))
                yield site
                assert not task.done()
            finally:
                beating.cancel()
                await asyncio.wait((beating,))
                site.service.stop()
                await task
                site.disconnect()


@BROKERS
@real_time
async def test_a_session_while_the_broker_is_killed_at_each_step(
    kind: type[TestBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "CONNACK_TIMEOUT_S", 1.0)  # for attempts while the network is cut
    async with running(kind, load_delay_s=3600.0, signing_delay_s=1.5) as site:
        meter = site.meter
        meter.faults.add(Fault("drip", "/receipt", "POST", count=2, delay_s=0.01))
        await site.ask(PM.start, START)
        await until(lambda: meter.state.begun)
        assert not site.everest.payloads("reply/start")
        await site.break_down()
        await site.be_back()
        assert await site.answer("reply/start") == {"status": "OK"}

        await site.ask(PM.stop, STOP)
        await until(lambda: meter.state.ended)
        assert not site.everest.payloads("reply/stop")
        await site.break_down()
        site.disconnect()  # this time EVerest is back at the broker later than the service
        site.network.mend()
        await until(lambda: site.service.status.endswith("broker connected"))
        await asyncio.to_thread(site.connect)
        receipt = await site.receipt()

        await site.break_down()
        await site.be_back()
        assert not site.everest.payloads("reply/stop")
        for reply_to in ("reply/stop", "reply/another"):
            await site.ask(PM.stop, request("T-1", reply_to))
            assert await site.receipt(reply_to) == receipt
        keys = len(site.everest.payloads(PM.key))
        await site.ask(READY_BEACON, b"true")
        await until(lambda: len(site.everest.payloads(PM.key)) > keys)
        assert (meter.state.begun, meter.state.ended) == (1, 1)
        assert meter.request_counts["POST", "/receipt"] == 3, "E before B, B, and E at the end"
