"""A driver and a simulated meter joined by real HTTP, and a station that remembers what it was told."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from iem_dcr.config import Settings
from iem_dcr.driver import MeterDriver
from iem_dcr.powermeter import Powermeter, StationError, TransactionReq
from iem_dcr.simulator import Answer, Fault, SimulatedMeter, SimulatorOptions, SimulatorServer
from tests.support.virtual_time import VirtualWall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from iem_dcr.driver import Journal, Observer, ReceiptSink

CI = "DE*TST*E0001*1"
SECRET = 0x1234567
"""The simulated meter's private key in tests: a number as good as any."""
SERIAL = "1SIM0000000042"
"""Its serial number in tests."""


def meter_options(**options: Any) -> SimulatorOptions:
    """Return a meter's options with the serial and the key of all tests, unless they are given."""
    chosen: dict[str, Any] = {"MS": SERIAL, "private_key": SECRET}
    return SimulatorOptions(**(chosen | options))


@dataclass
class RememberingStation:
    """Remembers, with the loop's time, everything that is published."""

    values: list[tuple[float, Powermeter]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    raised: list[StationError] = field(default_factory=list)
    cleared: list[StationError] = field(default_factory=list)
    active: dict[tuple[str, str], StationError] = field(default_factory=dict)

    def publish_powermeter(self, value: Powermeter) -> None:
        self.values.append((asyncio.get_running_loop().time(), value))

    def publish_public_key(self, key: str) -> None:
        assert key
        self.keys.append(key)

    def raise_error(self, error: StationError) -> None:
        assert (error.type, error.sub_type) not in self.active, "raised twice"
        self.active[error.type, error.sub_type] = error
        self.raised.append(error)

    def clear_error(self, error: StationError) -> None:
        assert (error.type, error.sub_type) in self.active, "cleared and not raised"
        del self.active[error.type, error.sub_type]
        self.cleared.append(error)


@dataclass
class Bench:
    """A driver that runs against a simulated meter."""

    driver: MeterDriver
    meter: SimulatedMeter
    server: SimulatorServer
    station: RememberingStation
    wall: VirtualWall
    task: asyncio.Task[None]

    async def until_live(self) -> None:
        """Wait until a live value was published."""
        while not self.station.values:
            await asyncio.sleep(0.01)

    def once_done(self, verb: str, node: str, *faults: Fault) -> None:
        """Have faults set in with the next request to a node that the meter has done: they meet what comes after it."""
        handle = self.meter.handle

        def looked_at(method: str, path: str, body: bytes = b"") -> Answer:
            answer = handle(method, path, body)
            if method == verb and path.endswith(node):
                self.meter.handle = handle  # type: ignore[method-assign]
                self.meter.faults.add(*faults)
            return answer

        self.meter.handle = looked_at  # type: ignore[method-assign]

    def requests(self, method: str, node: str) -> int:
        """Count the requests the meter has got for a node."""
        return sum(1 for request in self.meter.requests if (request.method, request.node) == (method, node))

    def posts(self) -> list[str]:
        """Return the nodes of all POSTs the meter has got, in order."""
        return [request.node for request in self.meter.requests if request.method == "POST"]


@contextlib.asynccontextmanager
async def bench(
    options: SimulatorOptions | None = None,
    *,
    wall: VirtualWall | None = None,
    sink: ReceiptSink | None = None,
    journal: Journal | None = None,
    station: RememberingStation | None = None,
    observer: Observer | None = None,
    powered: bool = True,
    **settings: Any,
) -> AsyncIterator[Bench]:
    """Run a driver against a simulated meter, both on this loop."""
    loop = asyncio.get_running_loop()
    options = options or SimulatorOptions(MS=SERIAL, private_key=SECRET, charge_s=2.0)
    meter = SimulatedMeter(options, monotonic=loop.time)
    wall = wall or VirtualWall()
    async with SimulatorServer(meter) as server:
        if not powered:
            meter.power_cycle(off_s=20.0, boot_s=5.0)
        host, port = server.address.split(":")
        station = station or RememberingStation()
        driver = MeterDriver(
            Settings.of({"ip_address": host, "port_http": int(port), "CI": CI} | settings),
            station,
            sink=sink,
            journal=journal,
            observer=observer,
            wall=wall,
        )
        joined = Bench(driver, meter, server, station, wall, asyncio.create_task(driver.run()))
        try:
            yield joined
        finally:
            joined.task.cancel()
            await asyncio.gather(joined.task, return_exceptions=True)


def request(transaction_id: str = "T-1", **fields: Any) -> TransactionReq:
    """Make a request as EVerest makes it."""
    return TransactionReq.from_json(
        {
            "evse_id": CI,
            "transaction_id": transaction_id,
            "identification_status": "ASSIGNED",
            "identification_flags": [],
            "identification_type": "ISO14443",
            "identification_data": f"04AB{transaction_id}",
        }
        | fields
    )
