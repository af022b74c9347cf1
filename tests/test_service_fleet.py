"""Many meters in one service with a real broker: what is wrong with some of them is not felt by the others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter

from iem_dcr.everest_api.topics import Topics
from iem_dcr.simulator import Fault
from tests.support.brokers import Mosquitto, Recorder, real_time, until
from tests.support.serving import FROM_METERS, REPLIES, serving, session, simulated

HEALTHY, FLAPPING, DEAD = 40, 5, 5
WINDOW_S = 10.0
STALLS_S = 30.0


@real_time
async def test_dead_and_flapping_meters_harm_no_other() -> None:
    well = [f"well{number}" for number in range(HEALTHY)]
    flapping = [f"flapping{number}" for number in range(FLAPPING)]
    dead = [f"dead{number}" for number in range(DEAD)]
    async with contextlib.AsyncExitStack() as stack:
        broker = stack.enter_context(Mosquitto())
        everest = stack.enter_context(Recorder(broker, FROM_METERS, REPLIES))
        meters = {name: await stack.enter_async_context(simulated()) for name in well + flapping}
        nobody = stack.enter_context(socket.socket())
        nobody.bind(("127.0.0.1", 0))
        ports = {name: port for name, (_, port) in meters.items()} | dict.fromkeys(dead, nobody.getsockname()[1])
        await stack.enter_async_context(serving(broker.settings(), ports))

        def count() -> Counter[str]:
            return Counter(message.topic for message in tuple(everest.messages))

        await until(lambda: {Topics(name).values for name in meters} <= count().keys())
        loop = asyncio.get_running_loop()
        before, since_s = count(), loop.time()
        for name in flapping[:3]:
            meters[name][0].power_cycle(off_s=WINDOW_S, boot_s=0.5)  # nobody listens meanwhile
        for name in flapping[3:]:
            meters[name][0].faults.add(Fault("stall", count=1000, delay_s=STALLS_S))
        receipt = await session(everest, well[0], "T-1")
        assert loop.time() < since_s + WINDOW_S
        await asyncio.sleep(since_s + WINDOW_S - loop.time())
        after = count()
        came = after - before
        values = {name: came[Topics(name).values] for name in well}
        assert receipt
        assert all(WINDOW_S - 2 <= number <= WINDOW_S + 2 for number in values.values()), values
        checks = {name: came[Topics(name).check] for name in well}
        assert min(checks.values()) >= 4, checks  # one each 3 s is needed
        flapped = {name: came[Topics(name).check] for name in flapping}
        assert max(flapped.values()) < min(checks.values()), flapped  # they were withheld
        for name in flapping:
            meters[name][0].faults.clear()
        for name in flapping:
            for topic in (Topics(name).values, Topics(name).check):
                await until(lambda topic=topic: count()[topic] > after[topic] + 1)  # type: ignore[misc]
        assert await session(everest, flapping[0], "T-2") != receipt
        assert not {Topics(name).check for name in dead} & count().keys()
        assert not {Topics(name).values for name in dead} & count().keys()
        assert {message.payload for message in everest.messages if message.topic.endswith("_check")} == {b"true"}
