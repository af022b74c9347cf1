"""The parts of the bus: which topics are asked for, what waits for a handler, and how long a reply waits."""

from __future__ import annotations

import asyncio

import pytest

from iem_dcr.everest_api.receivers import ANY_MESSAGE_TIMEOUT_S, HEARTBEATS_TIMEOUT_S, SETTLES_S, Receivers
from iem_dcr.everest_api.subscriptions import HELD_S, MAX_HELD, Subscriptions
from iem_dcr.everest_api.topics import Topics
from tests.support.virtual_time import virtual

START, STOP = Topics("pm1").start, Topics("pm1").stop
BEATS = [Topics(module_id).heartbeat for module_id in ("pm1", "pm2")]
GONE_S = HEARTBEATS_TIMEOUT_S


class Inbox:
    """A handler that remembers."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def __call__(self, payload: bytes, retained: bool) -> None:  # noqa: FBT001  as the bus calls it
        assert not retained
        self.payloads.append(payload)


@pytest.mark.parametrize(("topic", "payload", "retained", "after_s", "is_handed"), [
    (START, b"1", False, HELD_S - 0.1, True), (START, b"1", False, HELD_S + 0.1, False),
    (START, b"of yesterday", True, 0.0, False), (BEATS[0], b"1", False, 0.0, False),
    (START, b"x" * 65_537, False, 0.0, False),
])  # fmt: skip
@virtual
async def test_only_a_request_waits_for_its_handler(
    topic: str,
    payload: bytes,
    retained: bool,  # noqa: FBT001  as pytest hands it over
    after_s: float,
    is_handed: bool,  # noqa: FBT001  as above
) -> None:
    held, inbox, other = Subscriptions(), Inbox(), Inbox()
    for _ in range(MAX_HELD + 44):
        held.dispatch(topic, payload, retained)
    await asyncio.sleep(after_s)
    held.add(STOP, other)
    for _ in range(2):  # it is handed over once
        held.add(topic, inbox)
        await asyncio.sleep(0)
        held.remove(topic, inbox)
    assert inbox.payloads == [payload] * (MAX_HELD if is_handed else 0)
    assert other.payloads == []


@virtual
async def test_which_topics_are_asked_for() -> None:
    asked, inbox, other = Subscriptions(), Inbox(), Inbox()
    for topic in (START, STOP, BEATS[0]):
        asked.add(topic, inbox)
    asked.new.clear()
    asked.add(START, other)
    assert not asked.new
    asked.remove(STOP, inbox)
    asked.begin_anew()
    assert list(asked.new) == [START, BEATS[0]]
    asked.add(STOP, inbox)
    assert list(asked.new) == [START, BEATS[0], STOP]


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
        receivers.begin_anew()
        began_s = loop.time()
        if heard is not None:
            for after_s, topic in heard.items():
                loop.call_later(after_s, receivers.hear, topic)
            await receivers.wait()
            assert loop.time() - began_s - SETTLES_S == pytest.approx(expected_s)
