"""What outlives a connection of the bus: requests that wait for a handler, and how long a reply waits."""

from __future__ import annotations

import asyncio

import pytest

from iem_dcr.everest_api.bus import ANY_MESSAGE_TIMEOUT_S, HEARTBEATS_TIMEOUT_S, HELD_S, MAX_HELD, SETTLES_S, Receivers
from iem_dcr.everest_api.topics import Topics
from tests.support.fake_bus import FakeBus
from tests.support.virtual_time import virtual

START, STOP = Topics("pm1").start, Topics("pm1").stop
BEATS = [Topics(module_id).heartbeat for module_id in ("pm1", "pm2")]
GONE_S = HEARTBEATS_TIMEOUT_S


class Holding(FakeBus):
    """A bus that also takes messages without a handler."""

    def take(self, topic: str, payload: bytes, *, retained: bool) -> None:
        self._dispatch(topic, payload, retained)


@pytest.mark.parametrize(("topic", "payload", "retained", "after_s", "is_handed"), [
    (START, b"1", False, HELD_S - 0.1, True), (START, b"1", False, HELD_S + 0.1, False),
    (START, b"of yesterday", True, 0.0, False), (BEATS[0], b"1", False, 0.0, False),
    (START, b"x" * 65_537, False, 0.0, False),
])  # fmt: skip
@virtual
async def test_only_a_request_waits_for_its_handler(
    topic: str, payload: bytes, *, retained: bool, after_s: float, is_handed: bool
) -> None:
    bus, got, other = Holding(), list[bytes](), list[bytes]()

    def take(payload: bytes, _retained: bool) -> None:  # noqa: FBT001  as the bus calls it
        got.append(payload)

    for _ in range(MAX_HELD + 44):
        bus.take(topic, payload, retained=retained)
    await asyncio.sleep(after_s)
    bus.subscribe(STOP, lambda payload, _: other.append(payload))
    for _ in range(2):  # it is handed over once
        bus.subscribe(topic, take)
        await asyncio.sleep(0)
        bus.unsubscribe(topic, take)
    assert got == [payload] * (MAX_HELD if is_handed else 0)
    assert other == []


@pytest.mark.parametrize(("before", "outages"), [
    ([], [({2.0: START}, 2.0), ({}, ANY_MESSAGE_TIMEOUT_S)]),
    (BEATS, [({1.0: START, 2.0: BEATS[0], 9.0: BEATS[1]}, 9.0), ({2.0: BEATS[1], 3.0: BEATS[0]}, 3.0)]),
    (BEATS, [({1.0: BEATS[0]}, GONE_S), ({1.0: BEATS[0]}, 1.0)]),  # the second is gone for good: waited for once
    (BEATS[:1], [(None, 0.0), ({1.0: START, 8.0: BEATS[0]}, 8.0)]),  # the connection ends before any message
], ids=range(4))  # fmt: skip
@virtual
async def test_how_long_a_reply_waits_for_those_who_were_heard_before_an_outage(
    before: list[str], outages: list[tuple[dict[float, str] | None, float]]
) -> None:
    loop, receivers = asyncio.get_running_loop(), Receivers()
    for topic in before:
        receivers.hear(topic)
    for heard, expected_s in outages:
        receivers.begin_connection()
        began_s = loop.time()
        if heard is not None:
            for after_s, topic in heard.items():
                loop.call_later(after_s, receivers.hear, topic)
            await receivers.wait()
            assert loop.time() - began_s - SETTLES_S == pytest.approx(expected_s)
