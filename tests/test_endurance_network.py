"""The way to the meter in memory against aiohttp and the simulator: what the client sees, and what the meter gets."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from endurance.clock import JumpingLoop
from endurance.meter import Unit
from endurance.network import Network, Session
from iem_dcr.device import connections
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
    await client.close()
    return told


def got(meter: SimulatedMeter) -> list[tuple[str, str, int | None]]:
    """Return what the meter has acted on; the in-memory way does not tell it of what never came."""
    return [(each.method, each.node, each.status) for each in meter.requests if each.acted]


def options() -> SimulatorOptions:
    return SimulatorOptions(private_key=SECRET, MS="1SIM0000000042")


def over_sockets(requests: tuple[str, ...], fault: Fault | None, off: bool) -> tuple[Story, Any]:  # noqa: FBT001
    async def run() -> tuple[Story, Any]:
        meter = SimulatedMeter(options(), monotonic=asyncio.get_running_loop().time)
        async with SimulatorServer(meter) as server:
            host, port = server.address.split(":")
            client = MeterClient(host, int(port), timeout_s=2.0)
            if off:
                meter.power_cycle(60.0, 0.0)
                await asyncio.sleep(0.01)
            return await story(client, meter, requests, fault), got(meter)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(run())


def in_memory(
    monkeypatch: pytest.MonkeyPatch, requests: tuple[str, ...], fault: Fault | None, *, off: bool
) -> tuple[Story, Any]:
    async def run() -> tuple[Story, Any]:
        unit = Unit(options(), Counter())
        network = Network(unit, lambda: 0.5)
        monkeypatch.setattr(connections, "_new_session", lambda _: Session(network))
        if off:
            unit.cut_power(60.0, 0.0)
        return await story(MeterClient("meter", timeout_s=2.0), unit.meter, requests, fault), got(unit.meter)

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(run())


@pytest.mark.parametrize(
    "requests",
    [("look",), ("look", "look"), ("assign",), ("look", "assign"), ("assign", "begin"), ("assign", "look", "begin")],
    ids="-".join,
)
@pytest.mark.parametrize("fault", [None, *FAULTS], ids=lambda fault: "none" if fault is None else fault_id(fault))
def test_both_ways_are_alike(requests: tuple[str, ...], fault: Fault | None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = over_sockets(requests, fault, off=False)
    assert in_memory(monkeypatch, requests, fault, off=False) == real


@pytest.mark.parametrize("requests", [("look",), ("assign",)], ids="-".join)
def test_without_power_both_refuse(requests: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    real = over_sockets(requests, None, off=True)
    assert in_memory(monkeypatch, requests, None, off=True) == real
    assert real[0][0] == ("MeterUnreachableError", False)


def fault_id(fault: Fault) -> str:
    return f"{fault.kind}{'-acts' if fault.acts else ''}{f'-{fault.delay_s:g}s' if fault.delay_s else ''}"
