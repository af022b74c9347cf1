"""Which topics a broker is asked for, and what becomes of a request that has no handler yet."""

from __future__ import annotations

import asyncio

import pytest

from iem_dcr.everest_api.subscriptions import HELD_S, MAX_HELD, Subscriptions
from tests.support.virtual_time import virtual

START = "everest_api/1/powermeter/pm/e2m/start_transaction"
STOP = "everest_api/1/powermeter/pm/e2m/stop_transaction"
HEARTBEAT = "everest_api/1/powermeter/pm/e2m/heartbeat"


class Inbox:
    """A handler that remembers."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def __call__(self, payload: bytes, retained: bool) -> None:  # noqa: FBT001  as the bus calls it
        assert not retained
        self.payloads.append(payload)


def subscriptions() -> Subscriptions:
    return Subscriptions()


@pytest.mark.parametrize(("after_s", "handed"), [(HELD_S - 0.1, [b"1", b"2"]), (HELD_S + 0.1, [])])
@virtual
async def test_a_request_waits_thirty_seconds_for_its_meter(after_s: float, handed: list[bytes]) -> None:
    held, inbox, other = subscriptions(), Inbox(), Inbox()
    for payload in (b"1", b"2"):
        held.dispatch(START, payload, False)  # noqa: FBT003  not retained
    await asyncio.sleep(after_s)
    held.add(STOP, other)
    held.add(START, inbox)
    await asyncio.sleep(0)
    assert inbox.payloads == handed
    assert other.payloads == []
    held.remove(START, inbox)
    held.add(START, inbox)
    await asyncio.sleep(0)
    assert inbox.payloads == handed


@pytest.mark.parametrize(
    ("topic", "payload", "retained"),
    [(START, b"of yesterday", True), (HEARTBEAT, b"1", False), (START, b"x" * 65_537, False)],
)
@virtual
async def test_what_is_no_request_of_now_does_not_wait(topic: str, payload: bytes, retained: bool) -> None:  # noqa: FBT001  as pytest hands it over
    held, inbox = subscriptions(), Inbox()
    held.dispatch(topic, payload, retained)
    held.add(topic, inbox)
    await asyncio.sleep(0)
    assert inbox.payloads == []


@virtual
async def test_no_more_than_so_many_requests_wait() -> None:
    held, inbox = subscriptions(), Inbox()
    for number in range(MAX_HELD + 44):
        held.dispatch(START, b"%d" % number, False)  # noqa: FBT003  not retained
    held.add(START, inbox)
    await asyncio.sleep(0)
    assert inbox.payloads == [b"%d" % number for number in range(44, MAX_HELD + 44)]


@virtual
async def test_a_new_connection_is_asked_for_what_has_a_handler() -> None:
    asked, inbox = subscriptions(), Inbox()
    for topic in (START, STOP, HEARTBEAT):
        asked.add(topic, inbox)
    asked.new.clear()
    asked.remove(STOP, inbox)
    asked.begin_anew()
    assert list(asked.new) == [START, HEARTBEAT]


@virtual
async def test_a_topic_is_asked_for_when_its_first_handler_comes() -> None:
    asked, inbox, other = subscriptions(), Inbox(), Inbox()
    asked.add(START, inbox)
    asked.new.clear()
    asked.add(START, other)
    assert not asked.new
    for each in (inbox, other):
        asked.remove(START, each)
    asked.add(START, inbox)
    assert list(asked.new) == [START]
