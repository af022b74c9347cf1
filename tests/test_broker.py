"""The bus over real brokers: what arrives, and what a lost connection changes. No connection: `test_broker_errors`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from iem_dcr.driver.rate_limited_log import LINES
from iem_dcr.everest_api import bus as buses
from iem_dcr.everest_api.mqtt import MAX_UNACKNOWLEDGED, MqttConnection
from tests.support.brokers import (
    BROKERS,
    PATIENCE_S,
    Mosquitto,
    Network,
    Recorder,
    TestBroker,
    real_time,
    until,
)
from tests.support.certificates import make_certificates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from iem_dcr.everest_api.mqtt_settings import MqttSettings

START = "everest_api/1/powermeter/pm/e2m/start_transaction"
HEARTBEAT = "everest_api/1/powermeter/pm/e2m/heartbeat"
IDENTITY = "iem-dcr-0123456789ab"


@contextlib.asynccontextmanager
async def running(
    settings: MqttSettings, *, identity: str = IDENTITY, connected: bool = True
) -> AsyncIterator[MqttConnection]:
    """A bus that runs, and ends by being cancelled."""
    bus = MqttConnection(settings, identity=identity)
    task = asyncio.create_task(bus.run())
    try:
        if connected:
            await until(lambda: bus.connected)
        yield bus
    finally:
        assert not task.done() or task.exception() is None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not bus.connected


class Inbox:
    """A handler that remembers."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.retained: list[bytes] = []

    def __call__(self, payload: bytes, retained: bool) -> None:  # noqa: FBT001  as the bus calls it
        (self.retained if retained else self.payloads).append(payload)


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


# --- Back and forth ---


@BROKERS
@real_time
async def test_what_is_published_arrives_on_both_sides(kind: type[TestBroker]) -> None:
    with kind() as broker, Recorder(broker, "values", "reply") as everest:
        async with running(broker.settings(), connected=False) as bus:
            start, second, heartbeat = Inbox(), Inbox(), Inbox()
            connections: list[bool] = []
            for topic, inbox in ((START, start), (START, second), (HEARTBEAT, heartbeat)):
                bus.subscribe(topic, inbox)
            bus.on_connected(lambda: connections.append(bus.connected))
            await until(lambda: connections == [True])
            everest.publish(START, b"1")
            everest.publish(HEARTBEAT, b"2", qos=0)
            await until(lambda: start.payloads and second.payloads and heartbeat.payloads)
            bus.unsubscribe(START, second)
            bus.offer("values", b"v", good_for_s=2.0)
            assert await bus.deliver("reply", b"r", within_s=10.0)
            everest.publish(START, b"3")
            await until(lambda: len(start.payloads) == 2 and len(everest.messages) == 2)
            assert (everest.payloads("values"), everest.payloads("reply")) == ([b"v"], [b"r"])
            assert {message.retained for message in everest.messages} == {False}
            # What comes without a handler is there for who listens next: a meter's part that starts again.
            bus.unsubscribe(START, start)
            everest.publish(START, b"4")
            await asyncio.sleep(0.1)
            bus.subscribe(START, start)
            await until(lambda: len(start.payloads) == 3)
            assert (start.payloads, second.payloads, heartbeat.payloads) == ([b"1", b"3", b"4"], [b"1"], [b"2"])
            everest.publish("retained", b"old", retain=True)
            late = Inbox()
            bus.subscribe("retained", late)
            await until(lambda: late.retained or late.payloads)
            assert kind is not Mosquitto or late.retained == [b"old"]


@real_time
async def test_many_topics_are_subscribed_before_anything_is_published_the_oldest_first() -> None:
    with Mosquitto() as broker, Recorder(broker, "v/#") as everest:
        async with running(broker.settings(), connected=False) as bus:
            inboxes = [Inbox() for _ in range(300)]
            for number, inbox in enumerate(inboxes):
                bus.subscribe(f"in/{number}", inbox)
                bus.offer(f"v/{number}", b"%d" % number, good_for_s=20.0)
            await until(lambda: bus.connected)
            for number in range(300):
                everest.publish(f"in/{number}", b"%d" % number, qos=0)
            await until(lambda: len(everest.messages) == 300 and all(inbox.payloads for inbox in inboxes))
            assert [inbox.payloads for inbox in inboxes] == [[b"%d" % number] for number in range(300)]
            assert [message.topic for message in everest.messages] == [f"v/{number}" for number in range(300)]
        assert broker.log.rindex(f"Sending SUBACK to {IDENTITY}") < broker.log.index(f"PUBLISH from {IDENTITY}")


@real_time
async def test_a_handler_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    with Mosquitto() as broker, Recorder(broker) as everest:
        async with running(broker.settings(), connected=False) as bus:
            inbox = Inbox()
            bus.subscribe(START, fails)
            bus.subscribe(START, inbox)
            bus.on_connected(fails)
            await until(lambda: bus.connected)
            for _ in range(20):
                everest.publish(START, b"1")
            await until(lambda: len(inbox.payloads) == 20)
    assert 0 < len([line for line in lines(caplog) if START in line]) <= len(lines(caplog)) <= LINES


@real_time
async def test_a_delivery_is_of_no_use_later_than_somebody_waits_for_it() -> None:
    # the broker passes on how many seconds are left (MQTT 5, 3.3.2.3.3), and drops what is older
    left_s, expiry = list[int](), "MessageExpiryInterval"
    subscribed = threading.Event()
    everest = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    everest.on_message = lambda _client, _data, message: left_s.append(vars(message.properties)[expiry])
    everest.on_connect = lambda client, *_: client.subscribe("reply", 1)
    everest.on_subscribe = lambda *_: subscribed.set()
    with Mosquitto() as broker:
        everest.connect("127.0.0.1", broker.port)
        everest.loop_start()
        try:
            async with running(broker.settings()) as bus:
                await until(subscribed.is_set)
                assert await bus.deliver("reply", b"r", within_s=30.0)
                await until(lambda: left_s)
        finally:
            everest.disconnect()
            everest.loop_stop()
    assert left_s[0] in range(20, 31)


# --- Outages ---


@BROKERS
@real_time
async def test_a_broker_that_is_killed_and_comes_back(kind: type[TestBroker], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "iem_dcr")
    with kind() as broker:
        async with running(broker.settings(), connected=False) as bus:
            inbox = Inbox()
            connections: list[int] = []
            bus.subscribe(START, inbox)
            bus.on_connected(lambda: connections.append(1))
            for number in range(1, 4):
                await until(lambda number=number: len(connections) == number)  # type: ignore[misc]
                with Recorder(broker) as everest:
                    everest.publish(START, b"%d" % number)
                    await until(lambda number=number: len(inbox.payloads) == number)  # type: ignore[misc]
                broker.kill()
                await until(lambda: not bus.connected)
                assert broker.start()
            await until(lambda: len(connections) == 4)
        assert inbox.payloads == [b"1", b"2", b"3"]
    assert len([line for line in lines(caplog, logging.INFO) if "connected" in line]) == 4
    assert len(lines(caplog)) == 3, lines(caplog)


@BROKERS
@real_time
async def test_after_an_outage_replies_wait_for_the_heartbeat_that_was_there_before_and_arrive_once(
    kind: type[TestBroker],
) -> None:
    """EVerest can be slower to come back than this client, and the broker keeps nothing for it."""
    with kind() as broker, Recorder(broker, "#") as everest:
        async with Network(broker) as network, running(broker.settings(port=network.port), connected=False) as bus:
            beats = Inbox()
            bus.subscribe(HEARTBEAT, beats)
            await until(lambda: bus.connected)
            everest.publish(HEARTBEAT, b"1", qos=0)
            await until(lambda: beats.payloads)
            network.cut()
            await until(lambda: not bus.connected)
            topics = [f"reply/{number}" for number in range(3 * MAX_UNACKNOWLEDGED)]
            replies = [asyncio.create_task(bus.deliver(topic, b"r", within_s=60.0)) for topic in topics]
            too_late = asyncio.create_task(bus.deliver("too-late", b"r", within_s=0.1))
            given_up = asyncio.create_task(bus.deliver("given-up", b"r", within_s=60.0))
            bus.offer("too-old", b"v", good_for_s=0.1)
            bus.offer("value", b"first", good_for_s=60.0)
            bus.offer("value", b"second", good_for_s=60.0)
            assert await too_late is False
            given_up.cancel()
            network.mend()
            await until(lambda: everest.payloads("value"))
            await asyncio.sleep(2 * buses.SETTLES_S)
            assert not any(reply.done() for reply in replies)
            everest.publish(HEARTBEAT, b"2", qos=0)
            assert await asyncio.gather(*replies) == [True] * len(replies)
            bus.offer("end", b"", good_for_s=60.0)
            await until(lambda: everest.payloads("end"))
        got = [message.topic for message in everest.messages if message.topic != HEARTBEAT]
        assert sorted(got) == sorted([*topics, "value", "end"])
        assert everest.payloads("value") == [b"second"]


@real_time
async def test_replies_under_way_when_the_connection_breaks_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buses, "ANY_MESSAGE_TIMEOUT_S", 0.1)
    with Mosquitto() as broker, Recorder(broker, "#") as everest:
        async with Network(broker) as network, running(broker.settings(port=network.port)) as bus:
            topics = [f"reply/{number}" for number in range(200)]
            replies = [asyncio.create_task(bus.deliver(topic, b"r", within_s=60.0)) for topic in topics]
            await until(lambda: any(reply.done() for reply in replies))
            network.cut()
            network.mend()
            assert await asyncio.gather(*replies) == [True] * len(replies)
            await until(lambda: {message.topic for message in everest.messages} == set(topics))
            assert network.connections == 2
            # Only what was under way may have come twice.
            assert len(everest.messages) <= len(topics) + MAX_UNACKNOWLEDGED


@real_time
async def test_a_stalled_broker_makes_nothing_grow() -> None:
    with Mosquitto() as broker, Recorder(broker, "v/#") as everest:
        async with running(broker.settings()) as bus:
            broker.stall()
            payload = b"x" * 50_000
            for number in range(400):
                for topic in range(5):
                    bus.offer(f"v/{topic}", payload + b"%d" % number, good_for_s=60.0)
                await asyncio.sleep(0.001)
            before = len(everest.messages)
            broker.go_on()
            last = {f"v/{topic}": payload + b"399" for topic in range(5)}
            await until(lambda: {message.topic: message.payload for message in tuple(everest.messages)} == last)
            # What the sockets and five slots hold, of 2,000 values.
            assert before == 0
            assert len(everest.messages) < 400


# --- Sessions ---


@pytest.mark.parametrize("away", ["connection", "process", "process, MQTT 3"])
@real_time
async def test_a_request_sent_meanwhile_is_carried_out_with_mqtt_5(away: str) -> None:
    sent = [b"meanwhile", b"now"]
    with Mosquitto() as broker, Recorder(broker) as everest:
        async with Network(broker) as network:
            settings = broker.settings(port=network.port, protocol="3.1.1" if "3" in away else "5")
            inbox, beats = Inbox(), Inbox()
            async with running(settings, connected=False) as bus:
                bus.subscribe(START, inbox)
                bus.subscribe(HEARTBEAT, beats)
                await until(lambda: bus.connected)
                if away == "connection":
                    network.cut()
                    await until(lambda: not bus.connected)
                    everest.publish(START, sent[0])
                    network.mend()
                    await until(lambda: inbox.payloads)
                    everest.publish(START, sent[1])
                    await until(lambda: len(inbox.payloads) == 2)
                bus.unsubscribe(START, inbox)  # as a meter's part does at its end
                await bus.close(1.0)
            if away != "connection":
                everest.publish(START, sent[0])
                everest.publish(HEARTBEAT, b"old", qos=1)
                async with running(settings) as bus:
                    bus.subscribe(START, inbox)  # late, and even so
                    bus.subscribe(HEARTBEAT, beats)
                    await until(lambda: inbox.payloads or "3" in away)
                    while not beats.payloads:  # then both are subscribed
                        everest.publish(HEARTBEAT, b"new", qos=0)
                        await asyncio.sleep(0.02)
                    everest.publish(START, sent[1])
                    await until(lambda: sent[1] in inbox.payloads)
                assert b"old" not in beats.payloads
    assert inbox.payloads == (sent[1:] if "3" in away else sent)


# --- The end ---


@real_time
async def test_close_lets_out_what_waits() -> None:
    # Not with amqtt: version 0.12 loses messages that it has acknowledged when their sender disconnects.
    with Mosquitto() as broker, Recorder(broker, "#") as everest:
        async with running(broker.settings()) as bus:
            replies = [asyncio.create_task(bus.deliver(f"reply/{n}", b"r", within_s=60.0)) for n in range(30)]
            for number in range(100):
                bus.offer(f"v/{number}", b"v", good_for_s=60.0)
            await asyncio.sleep(0)
            await bus.close(10.0)
            assert await asyncio.gather(*replies) == [True] * 30
            assert not await bus.deliver("reply", b"too late", within_s=60.0)
            await until(lambda: len(everest.messages) == 130)


@real_time
async def test_where_nothing_listens_that_is_said_once_and_close_takes_its_time_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "iem_dcr")
    with Mosquitto() as broker:
        broker.kill()
        async with running(broker.settings(), connected=False) as bus:
            await until(lambda: len(lines(caplog, logging.DEBUG)) >= 3)
            reply = asyncio.create_task(bus.deliver("reply", b"r", within_s=60.0))
            await asyncio.sleep(0.05)
            await bus.close(0.1)
            assert await reply is False
    (line,) = lines(caplog)
    assert line == f"broker 127.0.0.1:{broker.port}: nothing listens there; trying again"
    await MqttConnection(broker.settings(), identity=IDENTITY).close(0.1)


@pytest.mark.parametrize("delay_ms", [0, 2, 4, 8, 20])
@real_time
async def test_cancelled_at_any_moment(tmp_path: Path, delay_ms: int) -> None:
    made = make_certificates(tmp_path)
    with Mosquitto(tls=made) as broker:
        bus = MqttConnection(broker.settings(tls=True, ca_file=made.ca), identity=IDENTITY)
        for number in range(200):
            bus.subscribe(f"in/{number}", Inbox())
            bus.offer(f"v/{number}", b"v", good_for_s=5.0)
        bus.subscribe("reply", Inbox())
        task = asyncio.create_task(bus.run())
        reply = asyncio.create_task(bus.deliver("reply", b"r", within_s=60.0))
        await asyncio.sleep(delay_ms / 1000)
        reply.cancel()
        task.cancel()
        await asyncio.gather(task, reply, return_exceptions=True)
        assert not bus.connected
        # The same one may run again.
        async with asyncio.TaskGroup() as group:
            again = group.create_task(bus.run())
            await until(lambda: bus.connected)
            assert await bus.deliver("reply", b"r", within_s=10.0)
            await bus.close(1.0)
            await again


@real_time
async def test_cancelled_in_the_moment_in_which_the_connection_breaks() -> None:
    with Mosquitto() as broker:
        async with Network(broker) as network:
            bus = MqttConnection(broker.settings(port=network.port), identity=IDENTITY)
            for turns in range(12):
                network.mend()
                task = asyncio.create_task(bus.run())
                await until(lambda: bus.connected)
                network.cut()
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                done, _ = await asyncio.wait((task,), timeout=PATIENCE_S)
                assert done
