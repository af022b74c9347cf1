"""How long a reply waits after a reconnection for those whom it is for."""

from __future__ import annotations

import asyncio

from iem_dcr.everest_api.receivers import ANY_MESSAGE_TIMEOUT_S, HEARTBEATS_TIMEOUT_S, SETTLES_S, Receivers
from tests.support.virtual_time import virtual

HEARTBEATS = [f"everest_api/1/powermeter/pm{number}/e2m/heartbeat" for number in (1, 2)]
START = "everest_api/1/powermeter/pm1/e2m/start_transaction"


async def waited_s(receivers: Receivers, *heard: tuple[float, str]) -> float:
    """Return how long a reply waits while topics are heard so many seconds after a reconnection."""
    loop = asyncio.get_running_loop()
    receivers.begin_anew()
    began_s = loop.time()
    for after_s, topic in heard:
        loop.call_later(after_s, receivers.hear, topic)
    await receivers.wait()
    return round(loop.time() - began_s - SETTLES_S, 3)


@virtual
async def test_any_message_will_do_where_no_heartbeat_was_heard() -> None:
    receivers = Receivers()
    assert await waited_s(receivers, (2.0, START)) == 2.0
    assert await waited_s(receivers) == ANY_MESSAGE_TIMEOUT_S


@virtual
async def test_every_heartbeat_that_was_heard_before_is_waited_for() -> None:
    receivers = Receivers()
    for topic in HEARTBEATS:
        receivers.hear(topic)
    assert await waited_s(receivers, (1.0, START), (2.0, HEARTBEATS[0]), (9.0, HEARTBEATS[1])) == 9.0
    assert await waited_s(receivers, (2.0, HEARTBEATS[1]), (3.0, HEARTBEATS[0])) == 3.0


@virtual
async def test_a_station_that_is_gone_for_good_is_waited_for_once() -> None:
    receivers = Receivers()
    for topic in HEARTBEATS:
        receivers.hear(topic)
    assert await waited_s(receivers, (1.0, HEARTBEATS[0])) == HEARTBEATS_TIMEOUT_S
    assert await waited_s(receivers, (1.0, HEARTBEATS[0])) == 1.0


@virtual
async def test_a_connection_that_ends_before_a_heartbeat_makes_none_forgotten() -> None:
    receivers = Receivers()
    receivers.hear(HEARTBEATS[0])
    receivers.begin_anew()
    assert await waited_s(receivers, (1.0, START), (8.0, HEARTBEATS[0])) == 8.0
