"""Discovery: the question, what is made of the answers, and of what is none."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.everest_api.discovery import MAX_APIS, FoundApi, discover, read_answer
from iem_dcr.everest_api.topics import QUERY_MODULES, is_module_id
from tests.support.fake_bus import FakeBus
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from collections.abc import Iterable

TIMES = {"heartbeat_period_ms": 1000, "communication_check_period_s": 5, "request_reply_timeout_s": 550}


def api(module_id: str = "pm1", **others: Any) -> dict[str, Any]:
    """An API as EVerest's modules describe themselves."""
    return {"type": "powermeter", "module_id": module_id, "version": 1, "communication_monitoring": TIMES} | others


def answer(*apis: object) -> bytes:
    return json.dumps({"apis": apis}).encode()


def module_ids(found: Iterable[FoundApi]) -> list[str]:
    return [each.module_id for each in found]


async def asked(bus: FakeBus, *answers: bytes) -> tuple[FoundApi, ...]:
    """Discover, with these answers given to the question."""
    asking = asyncio.create_task(discover(bus))
    await asyncio.sleep(0.1)
    (question,) = bus.on(QUERY_MODULES)
    reply_to = question.value["headers"]["replyTo"]
    assert bus.events == [("subscribe", reply_to), ("publish", QUERY_MODULES)]
    for each in answers:
        assert bus.receive(reply_to, each)
    found = await asking
    assert bus.subscribed() == []
    assert bus.failures == []
    return found


@virtual
async def test_what_is_found_in_time_each_once_and_not_without_end() -> None:
    bus = FakeBus()
    found = await asked(bus, answer(api("pm2")), answer(api("pm1"), api("pm3")), answer(api("pm2")))
    assert module_ids(found) == ["pm1", "pm2", "pm3"]
    assert found[0] == FoundApi("powermeter", "pm1", "1", TIMES)
    assert found[0].to_json() == api("pm1", version="1")
    assert not bus.receive(bus.on(QUERY_MODULES)[0].value["headers"]["replyTo"], answer(api("late")))
    assert await asked(FakeBus()) == ()
    flood = [answer(*(api(f"pm{number}-{part}") for number in range(200))) for part in range(10)]
    assert len(await asked(FakeBus(), *flood)) == MAX_APIS


BAD = [
    b"", b"null", b"[1]", b'{"apis": 1}', b"\xff", b"[" * 100_000, b'{"apis": [' + b" " * 70_000 + b"]}",
    answer(None, 1, [], {}), answer(api("")), answer(api("a/b")), answer(api("#")), answer(api("a\x00")),
    answer({"type": "powermeter"}), answer(api(type="display_message")), answer(api(type=None)),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
@virtual
async def test_an_answer_that_is_none_harms_no_other(bad: bytes) -> None:
    assert module_ids(await asked(FakeBus(), bad, answer(api()))) == ["pm1"]


@pytest.mark.parametrize(
    "times", [None, 5, [], {"a": "5"}, {"a": True}, {"a": None}, {"a": float("nan")}, {"a": 1e400}]
)
def test_times_and_versions_that_are_none(times: object) -> None:
    (found,) = read_answer(answer(api(communication_monitoring=times, version=times)))
    assert (found.communication_monitoring, found.version) == ({}, "5" if times == 5 else "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
APIS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.just("powermeter") | JSON,
        "module_id": st.just("pm1") | JSON,
        "version": JSON,
        "communication_monitoring": st.dictionaries(st.text(), JSON, max_size=20) | JSON,
    },
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()), st.lists(APIS | JSON, max_size=4))
def test_any_answer(payload: bytes, apis: list[object]) -> None:
    for found in (*read_answer(payload), *read_answer(answer(*apis))):
        assert is_module_id(found.module_id)
        assert found.version.isprintable()
        assert len(found.communication_monitoring) <= 16
        json.dumps(found.to_json(), allow_nan=False)
