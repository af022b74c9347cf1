"""The service in this process, with simulated meters and a real broker, and EVerest's side of a session."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

from iem_dcr import ocmf
from iem_dcr.config import Settings
from iem_dcr.everest_api.topics import Topics
from iem_dcr.service.config import MeterConfig, ServiceConfig
from iem_dcr.service.service import Service
from iem_dcr.simulator import SimulatedMeter, SimulatorServer
from tests.support.api_bench import request, start_payload
from tests.support.bench import CI, meter_options
from tests.support.brokers import Recorder, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from iem_dcr.everest_api.mqtt_settings import MqttSettings

OK = {"status": "OK"}
FROM_METERS = "everest_api/1/powermeter/+/m2e/#"
REPLIES = "reply/#"


@contextlib.asynccontextmanager
async def simulated(**options: Any) -> AsyncIterator[tuple[SimulatedMeter, int]]:
    """A simulated meter and its port."""
    quick = {"load_delay_s": 0.0, "charge_s": 0.1, "signing_delay_s": 0.02}
    async with SimulatorServer(meter_options(**(quick | options))) as server:
        yield server.meter, server.port


@contextlib.asynccontextmanager
async def serving(mqtt: MqttSettings, ports: dict[str, int]) -> AsyncIterator[Service]:
    """Run the service for meters at ports of this host; it ends in good order."""
    addresses = {name: {"ip_address": "127.0.0.1", "port_http": port, "CI": CI} for name, port in ports.items()}
    meters = tuple(MeterConfig(name, Settings.of(address)) for name, address in addresses.items())
    service = Service(ServiceConfig(mqtt, meters))
    task = asyncio.create_task(service.run())
    try:
        yield service
        assert not task.done()
    finally:
        service.stop()
        await task


async def ask(everest: Recorder, topic: str, payload: bytes) -> None:
    """Publish while the loop turns."""
    await asyncio.to_thread(everest.publish, topic, payload)


async def answer(everest: Recorder, reply_to: str) -> Any:
    """Wait for the first answer on a topic."""
    await until(lambda: everest.payloads(reply_to))
    return json.loads(everest.payloads(reply_to)[0])


async def session(everest: Recorder, module_id: str, transaction_id: str) -> str:
    """Have a session at a meter, and return its receipt."""
    topics, reply_to = Topics(module_id), f"reply/{module_id}/{transaction_id}"
    await ask(everest, topics.start, request(start_payload(transaction_id), f"{reply_to}/start"))
    assert await answer(everest, f"{reply_to}/start") == OK
    await ask(everest, topics.stop, request(transaction_id, f"{reply_to}/stop"))
    return receipt_of(await answer(everest, f"{reply_to}/stop"), transaction_id)


def receipt_of(told: Any, transaction_id: str) -> str:
    """Return the receipt of an answer, which has to be that transaction's."""
    assert told["status"] == "OK"
    text = told["signed_meter_value"]["signed_meter_data"]
    assert ocmf.parse(text).identification == start_payload(transaction_id)["identification_data"]
    return str(text)
