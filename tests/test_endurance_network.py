"""The network in memory against sockets and the simulator's server: what the client sees, what the meter acts on."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from endurance.clock import JumpingLoop
from endurance.meter import Meter
from endurance.network import Network, Sender
from iem_dcr.device.client import MeterClient
from iem_dcr.device.messages import User
from iem_dcr.errors import MeterError
from iem_dcr.simulator import Fault, SimulatedMeter, SimulatorOptions, SimulatorServer
from tests.support.bench import SECRET
from tests.support.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

USER = User(IS=True, IL="NONE", IF=(), IT="ISO14443", ID="04AB", US=False, TT=None)
FAULTS = (
    Fault("refuse"),
    Fault("server-error"),
    Fault("server-error", acts=True),
    Fault("lose-request"),
    Fault("lose-answer"),
    Fault("act-late", delay_s=0.3),
    Fault("reset"),
    Fault("stall", delay_s=30.0),
    Fault("stall", delay_s=30.0, acts=True),
    Fault("stall", delay_s=0.3),
    Fault("garbage"),
    Fault("garbage-http"),
    Fault("wrong-length"),
)
Story = list[tuple[str, bool | None]]
Outcome = tuple[Story, list[tuple[str, str, int | None]]]


async def ask(client: MeterClient, what: str) -> tuple[str, bool | None]:
    """Make a request. Returns "OK", or the kind of error and whether the meter may have acted for all it says."""
    asks: dict[str, Callable[[], Awaitable[object]]] = {
        "look": client.metervalue,
        "assign": lambda: client.set_user(USER),
        "begin": client.begin,
        "end": client.end,
        "fetch": client.receipt,
    }
    try:
        await asks[what]()
    except MeterError as error:
        return type(error).__name__, error.may_have_acted
    return "OK", None


async def story(client: MeterClient, meter: SimulatedMeter, requests: tuple[str, ...], fault: Fault | None) -> Story:
    """Make requests, the last one with a fault on its way, and one more that has none."""
    told: Story = [await ask(client, what) for what in requests[:-1]]
    if fault is not None:
        meter.faults.add(fault)
    told.append(await ask(client, requests[-1]))
    told.append(await ask(client, "look"))
    return told


def acted(meter: SimulatedMeter) -> list[tuple[str, str, int | None]]:
    """Return what the meter has acted on; the network in memory does not tell it of what never came."""
    return [(each.method, each.node, each.status) for each in meter.requests if each.acted]


def options(connections: str) -> SimulatorOptions:
    return SimulatorOptions(private_key=SECRET, MS="1SIM0000000042", connections=connections)


def over_sockets(requests: tuple[str, ...], fault: Fault | None, *, off: bool, connections: str) -> Outcome:
    async def run() -> Outcome:
        meter = SimulatedMeter(options(connections), monotonic=asyncio.get_running_loop().time)
        async with SimulatorServer(meter) as server:
            host, port = server.address.split(":")
            if off:
                meter.power_cycle(60.0, 0.0)
                await asyncio.sleep(0.01)
            client = MeterClient(host, int(port), timeout_s=2.0)
            return await story(client, meter, requests, fault), acted(meter)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(run())


def in_memory(requests: tuple[str, ...], fault: Fault | None, *, off: bool, connections: str) -> Outcome:
    async def run() -> Outcome:
        meter = Meter(options(connections), asyncio.get_running_loop().time)
        network = Network(meter, lambda: 0.5, Counter())
        if off:
            meter.power_cycle(60.0, 0.0)
        client = MeterClient("meter", timeout_s=2.0, connect=lambda *_: network.connect(Sender()))
        return await story(client, meter, requests, fault), acted(meter)

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(run())


def fault_id(fault: Fault | None) -> str:
    if fault is None:
        return "none"
    return f"{fault.kind}{'-acts' if fault.acts else ''}{f'-{fault.delay_s:g}s' if fault.delay_s else ''}"


def alike(
    requests: tuple[str, ...], fault: Fault | None = None, *, off: bool = False, connections: str = "any"
) -> Outcome:
    """Return what both networks make of it."""
    real = over_sockets(requests, fault, off=off, connections=connections)
    assert in_memory(requests, fault, off=off, connections=connections) == real
    return real


@pytest.mark.parametrize("requests", [("look",), ("assign",), ("assign", "begin"), ("begin", "fetch")], ids="-".join)
@pytest.mark.parametrize("fault", [None, *FAULTS], ids=fault_id)
def test_both_networks_are_alike(requests: tuple[str, ...], fault: Fault | None) -> None:
    alike(requests, fault)


FREED = [fault for fault in FAULTS if fault.wait_s < 2.0 and fault.kind != "garbage-http"]
"""The simulator's server is done with the connection before the client is. In memory, a connection that the client gave
up is free at once."""


@pytest.mark.parametrize("fault", [None, *FREED], ids=fault_id)
@pytest.mark.parametrize("connections", ["one-waits", "one-refused"])
def test_so_are_meters_that_serve_one_connection(fault: Fault | None, connections: str) -> None:
    for requests in (("assign", "begin"), ("begin", "fetch")):
        alike(requests, fault, connections=connections)


@pytest.mark.parametrize("request_", ["look", "assign"])
def test_without_power_both_refuse(request_: str) -> None:
    assert alike((request_,), off=True)[0][0] == ("MeterUnreachableError", False)
