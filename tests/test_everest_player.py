"""EVerest's part of the API as the demo plays it: what it tells its station, and what it makes of no or odd replies."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.cli.everest_player import CHECK_WITHIN_S, REPLY_WITHIN_S, EverestPlayer
from iem_dcr.driver.meter_state import COMMUNICATION_FAULT
from iem_dcr.everest_api.discovery import read_answer
from iem_dcr.everest_api.topics import QUERY_MODULES, READY_BEACON
from iem_dcr.powermeter import TransactionReq, TransactionRequestStatus
from tests.support.bench import RememberingStation
from tests.support.fake_bus import FakeBus
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

VALUE: dict[str, Any] = {
    "timestamp": "2026-03-01T11:00:00.000Z",
    "meter_id": "1SIM0000000042",
    "energy_Wh_import": {"total": 20480.5},
    "power_W": {"total": 50000.0},
    "voltage_V": {"DC": 400.0},
    "current_A": {"DC": 125.0},
}
REQUEST = TransactionReq("DE*PNX*E1", "T-1", "ASSIGNED", "ISO14443", identification_data="04AB")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*VALUE, "total", "DC", "status"]), inner),
    max_leaves=8,
)


@contextlib.asynccontextmanager
async def playing(bus: FakeBus) -> AsyncIterator[tuple[EverestPlayer, RememberingStation]]:
    station = RememberingStation()
    player = EverestPlayer("pm", bus, station)
    task = asyncio.create_task(player.run())
    await asyncio.sleep(0.01)
    try:
        yield player, station
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert bus.failures == []
        assert bus.subscribed() == []


@virtual
async def test_it_is_there_once_connected_and_its_heart_beats() -> None:
    bus = FakeBus(connected=False)
    async with playing(bus) as (player, _):
        await asyncio.sleep(5)
        assert bus.published == []
        bus.connect()
        await asyncio.sleep(3.5)
        assert [message.topic for message in bus.published][:2] == [READY_BEACON, player.topics.heartbeat]
        assert [message.value for message in bus.on(player.topics.heartbeat)] == [0, 1, 2, 3]
        assert len(bus.on(READY_BEACON)) == 1


@virtual
async def test_what_the_power_meter_publishes_reaches_the_station() -> None:
    bus = FakeBus()
    async with playing(bus) as (player, station):
        export = VALUE | {"energy_Wh_export": {"total": 1}}
        for value in (VALUE, export):
            assert bus.receive(player.topics.values, json.dumps(value).encode())
        bus.receive(player.topics.key, b'"3059"')
        one, other = (value for _, value in station.values)
        assert str(one.energy_wh_import) == "20480.5"
        assert one.energy_wh_export is None
        assert one.to_json() == VALUE
        assert other.to_json() == export
        assert (station.keys, player.public_key) == (["3059"], "3059")


@virtual
async def test_a_silent_meter_is_an_error_until_it_is_heard_again_unless_the_check_was_switched_off() -> None:
    bus = FakeBus()
    async with playing(bus) as (player, station):
        for _ in range(5):
            bus.receive(player.topics.check, b"true")
            await asyncio.sleep(CHECK_WITHIN_S - 1)
        assert station.raised == []
        await asyncio.sleep(10 * CHECK_WITHIN_S)
        assert station.raised == [COMMUNICATION_FAULT]
        bus.receive(player.topics.check, b"1")
        assert station.cleared == []
        bus.receive(player.topics.check, b"true")
        assert station.cleared == [COMMUNICATION_FAULT]
        bus.receive(player.topics.check, b"false")
        bus.receive(player.topics.check, b"true")
        await asyncio.sleep(10 * CHECK_WITHIN_S)
        assert station.active == {}


@virtual
async def test_a_question_for_modules_is_answered_and_a_flood_of_them_bounded() -> None:
    bus = FakeBus()
    async with playing(bus):
        bus.receive(QUERY_MODULES, b'{"headers":{"replyTo":"answers"}}')
        for odd in (b"", b"{}", b'{"headers":{"replyTo":"#"}}', b"[]", b"\xff"):
            bus.receive(QUERY_MODULES, odd)
        bus.receive(QUERY_MODULES, b'{"headers":{"replyTo":"answers"}}', retained=True)
        await asyncio.sleep(0.5)
        (answer,) = bus.on("answers")
        (module,) = read_answer(answer.payload)
        assert module.module_id == "pm"
        assert module.communication_monitoring["communication_check_period_s"] == CHECK_WITHIN_S
        for _ in range(1000):
            bus.receive(QUERY_MODULES, b'{"headers":{"replyTo":"flood"}}')
        await asyncio.sleep(0.5)
        assert 0 < len(bus.on("flood")) < 100


@virtual
async def test_requests_carry_what_everest_sends_and_each_has_a_reply_of_its_own() -> None:
    bus = FakeBus()
    async with playing(bus) as (player, _):
        topics = (player.topics.start, player.topics.stop)
        replies = (b'{"status":"OK"}', b'{"status":"OK","signed_meter_value":{"signed_meter_data":"OCMF|..."}}')
        for times in (1, 2):
            starting = asyncio.ensure_future(player.start_transaction(REQUEST))
            stopping = asyncio.ensure_future(player.stop_transaction("T-1"))
            await asyncio.sleep(0.1)
            for topic, reply in zip(topics, replies, strict=True):
                reply_to = bus.on(topic)[-1].value["headers"]["replyTo"]
                # It is listened on before the request is out.
                assert bus.events.index(("subscribe", reply_to)) < bus.events.index(("publish", topic))
                assert bus.receive(reply_to, reply)
            assert (await starting).to_json() == json.loads(replies[0])
            signed = (await stopping).signed_meter_value
            assert signed is not None
            assert signed.signed_meter_data == "OCMF|..."
            assert all(len(bus.on(topic)) == times for topic in topics)
        start, stop = (bus.on(topic)[0].value["payload"] for topic in topics)
        assert TransactionReq.from_json(start) == REQUEST
        assert stop == "T-1"
        to = [message.value["headers"]["replyTo"] for topic in topics for message in bus.on(topic)]
        assert len(set(to)) == 4


@virtual
async def test_no_reply_is_an_error_in_time() -> None:
    bus = FakeBus()
    loop = asyncio.get_running_loop()
    async with playing(bus) as (player, _):
        before_s = loop.time()
        started, stopped = await asyncio.gather(player.start_transaction(REQUEST), player.stop_transaction("T-1"))
        assert loop.time() - before_s == pytest.approx(REPLY_WITHIN_S, abs=0.1)
        assert started.status is stopped.status is TransactionRequestStatus.UNEXPECTED_ERROR
        assert "no reply to everest_api/1/powermeter/pm/e2m/stop_transaction within 120 s" in stopped.error


@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary())
@virtual
async def test_whatever_comes_is_survived(message: bytes) -> None:
    bus = FakeBus()
    async with playing(bus) as (player, _):
        for topic in (player.topics.values, player.topics.key, player.topics.check, QUERY_MODULES):
            bus.receive(topic, message)
        stopping = asyncio.ensure_future(player.stop_transaction("T-1"))
        await asyncio.sleep(0.1)
        bus.receive(bus.on(player.topics.stop)[0].value["headers"]["replyTo"], message)
        response = await stopping
        assert response.status is TransactionRequestStatus.UNEXPECTED_ERROR
        assert "was not understood" in response.error
