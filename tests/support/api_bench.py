"""A meter on EVerest's API: simulated meter, real HTTP, real driver, a bus in memory, and EVerest's side of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from iem_dcr.config import Settings
from iem_dcr.everest_api.meter_api import MeterApi
from iem_dcr.simulator import SimulatedMeter, SimulatorOptions, SimulatorServer
from tests.support.bench import CI, SECRET, SERIAL
from tests.support.fake_bus import FakeBus, Published
from tests.support.virtual_time import VirtualWall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from iem_dcr.everest_api.topics import Topics

MODULE_ID = "powermeter_api_1"
PATIENCE_S = 120.0


def start_payload(transaction_id: object = "T-1", **fields: object) -> dict[str, object]:
    """The payload of a start as EVerest makes it."""
    return {
        "evse_id": CI,
        "transaction_id": transaction_id,
        "identification_status": "ASSIGNED",
        "identification_flags": [],
        "identification_type": "ISO14443",
        "identification_data": f"04AB{transaction_id}",
        "tariff_text": "0.59 EUR/kWh",
    } | fields


def request(payload: object, reply_to: str | None = None) -> bytes:
    """A request as EVerest wraps it."""
    headers = {} if reply_to is None else {"headers": {"replyTo": reply_to}}
    return json.dumps(headers | {"payload": payload}).encode()


@dataclass
class ApiBench:
    """A meter on the API, and EVerest at the other end of the bus."""

    api: MeterApi
    bus: FakeBus
    meter: SimulatedMeter
    task: asyncio.Task[None]
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def topics(self) -> Topics:
        return self.api.topics

    def start(self, transaction_id: str = "T-1", *, reply_to: str | None = None, **fields: object) -> str:
        """Ask for a transaction; returns the topic of the answer."""
        reply_to = reply_to or f"everest_api/1/reply/{next(self._numbers)}"
        assert self.bus.receive(self.topics.start, request(start_payload(transaction_id, **fields), reply_to))
        return reply_to

    def stop(self, payload: object = "T-1", *, reply_to: str | None = None) -> str:
        """Ask for its end; returns the topic of the answer."""
        reply_to = reply_to or f"everest_api/1/reply/{next(self._numbers)}"
        assert self.bus.receive(self.topics.stop, request(payload, reply_to))
        return reply_to

    async def answer(self, reply_to: str) -> Any:
        """Wait for the first answer on a topic."""
        return (await self.until(reply_to)).value

    async def until_live(self) -> None:
        """Wait for a live value."""
        await self.until(self.topics.values)

    async def until(self, topic: str, *, after_s: float = -1.0) -> Published:
        """Wait for the first message on a topic after a moment."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for message in self.bus.on(topic):
                    if message.at_s > after_s:
                        return message
                self.bus.news.clear()
                await self.bus.news.wait()

    def posts(self) -> list[str]:
        """The nodes of all POSTs the meter has got, in order."""
        return [each.node for each in self.meter.requests if each.method == "POST"]

    def begun(self) -> int:
        """How many transactions the meter has begun."""
        return self.meter.state.begun

    def running(self) -> bool:
        """Whether a transaction runs in the meter."""
        return self.meter.running

    def run_again(self) -> None:
        """Run the meter's API once more, as its supervisor does after it failed."""
        assert self.task.done()
        self.task = asyncio.create_task(self.api.run())


@contextlib.asynccontextmanager
async def api_bench(
    options: SimulatorOptions | None = None,
    *,
    bus: FakeBus | None = None,
    powered: bool = True,
    module_id: str = MODULE_ID,
    **settings: Any,
) -> AsyncIterator[ApiBench]:
    """Run a meter on the API, all on this loop. What a handler raises is an error."""
    loop = asyncio.get_running_loop()
    options = options or SimulatorOptions(MS=SERIAL, private_key=SECRET, charge_s=2.0)
    meter = SimulatedMeter(options, monotonic=loop.time)
    async with SimulatorServer(meter) as server:
        if not powered:
            meter.power_cycle(off_s=20.0, boot_s=5.0)
        host, port = server.address.split(":")
        bus = bus or FakeBus()
        given = Settings.of({"ip_address": host, "port_http": int(port), "CI": CI} | settings)
        api = MeterApi(module_id, given, bus, wall=VirtualWall())
        joined = ApiBench(api, bus, meter, asyncio.create_task(api.run()))
        try:
            yield joined
        finally:
            joined.task.cancel()
            await asyncio.gather(joined.task, return_exceptions=True)
    assert bus.failures == []
