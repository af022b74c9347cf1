"""The network in memory behaves like sockets and the simulator's server, for the client and for the meter."""

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
Answers = list[tuple[str, bool | None]]
Outcome = tuple[Answers, list[tuple[str, str, int | None]]]


async def send(client: MeterClient, name: str) -> tuple[str, bool | None]:
    """Make a request. Return "OK", or the kind of error and whether the meter may have acted according to it."""
    requests: dict[str, Callable[[], Awaitable[object]]] = {
        "value": client.metervalue,
        "user": lambda: client.set_user(USER),
        "begin": client.begin,
        "end": client.end,
        "receipt": client.receipt,
    }
    try:
        await requests[name]()
    except MeterError as error:
        return type(error).__name__, error.may_have_acted
    return "OK", None


async def outcome(
    client: MeterClient, meter: SimulatedMeter, requests: tuple[str, ...], fault: Fault | None
) -> Outcome:
    """Make requests, the last one with a fault, and one more without. Return the answers and what the meter did."""
    answers: Answers = [await send(client, name) for name in requests[:-1]]
    if fault is not None:
        meter.faults.add(fault)
    answers.append(await send(client, requests[-1]))
    answers.append(await send(client, "value"))
    return answers, [(each.method, each.node, each.status) for each in meter.requests if each.acted]


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
            return await outcome(client, meter, requests, fault)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(run())


def in_memory(requests: tuple[str, ...], fault: Fault | None, *, off: bool, connections: str) -> Outcome:
    async def run() -> Outcome:
        meter = Meter(options(connections), asyncio.get_running_loop().time)
        network = Network(meter, lambda: 0.5, Counter())
        if off:
            meter.power_cycle(60.0, 0.0)
        client = MeterClient("meter", timeout_s=2.0, connect=lambda *_: network.connect(Sender()))
        return await outcome(client, meter, requests, fault)

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(run())


def fault_id(fault: Fault | None) -> str:
    if fault is None:
        return "none"
    return f"{fault.kind}{'-acts' if fault.acts else ''}{f'-{fault.delay_s:g}s' if fault.delay_s else ''}"


def check_alike(
    requests: tuple[str, ...], fault: Fault | None = None, *, off: bool = False, connections: str = "any"
) -> Outcome:
    """Check that both networks have the same outcome, and return it."""
    real = over_sockets(requests, fault, off=off, connections=connections)
    assert in_memory(requests, fault, off=off, connections=connections) == real
    return real


@pytest.mark.parametrize("requests", [("value",), ("user",), ("user", "begin"), ("begin", "receipt")], ids="-".join)
@pytest.mark.parametrize("fault", [None, *FAULTS], ids=fault_id)
def test_both_networks_are_alike(requests: tuple[str, ...], fault: Fault | None) -> None:
    check_alike(requests, fault)


FREED_ALIKE = [fault for fault in FAULTS if fault.wait_s < 2.0 and fault.kind != "garbage-http"]
"""Faults after which the simulator's server closes before the client. In memory, a connection that the client gave up
is free at once."""


@pytest.mark.parametrize("fault", [None, *FREED_ALIKE], ids=fault_id)
@pytest.mark.parametrize("connections", ["one-waits", "one-refused"])
def test_meters_that_serve_one_connection_are_alike(fault: Fault | None, connections: str) -> None:
    for requests in (("user", "begin"), ("begin", "receipt")):
        check_alike(requests, fault, connections=connections)


@pytest.mark.parametrize("request_", ["value", "user"])
def test_both_refuse_without_power(request_: str) -> None:
    assert check_alike((request_,), off=True)[0][0] == ("MeterUnreachableError", False)
