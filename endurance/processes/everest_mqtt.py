"""EVerest at a real broker: the requests of its power meter API, their answers, and its heartbeats."""

from __future__ import annotations

import asyncio
import functools
import json
from typing import TYPE_CHECKING, Final, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from iem_dcr.everest_api.topics import Topics

if TYPE_CHECKING:
    from collections.abc import Callable

    from endurance.processes.station import OnAnswer, Station

REPLIES: Final = "everest/reply"
HEARTBEAT_PERIOD_S: Final = 1.0


class EverestMqtt:
    """EVerest's connection to a broker. It reconnects by itself, and then sends what was asked meanwhile.

    Attributes:
        stations: by module_id.
        address: host and port of the broker.
    """

    def __init__(self, port: int) -> None:
        self.stations: dict[str, Station] = {}
        self.address = "127.0.0.1", port
        self._on_answer: dict[str, OnAnswer] = {}
        self._client = paho.Client(CallbackAPIVersion.VERSION2)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        subscribed = asyncio.Event()

        # paho calls these in its own thread.
        def on_connect(*_: object) -> None:
            self._client.subscribe([("everest_api/1/powermeter/+/m2e/#", 0), (f"{REPLIES}/#", 1)])

        def on_message(_client: object, _data: object, message: paho.MQTTMessage) -> None:
            loop.call_soon_threadsafe(self._take, message.topic, bytes(message.payload))

        def on_subscribe(*_: object) -> None:
            loop.call_soon_threadsafe(subscribed.set)

        self._client.on_connect = on_connect
        self._client.on_message = on_message
        self._client.on_subscribe = on_subscribe
        self._client.reconnect_delay_set(1, 1)
        self._client.connect_async(*self.address)
        self._client.loop_start()
        async with asyncio.timeout(30):
            await subscribed.wait()
        self._heartbeat = asyncio.create_task(self._send_heartbeats())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._heartbeat.cancel()
        await asyncio.wait({self._heartbeat})
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def add(self, station: Station) -> None:
        """Have the station's commands sent, and what its power meter publishes recorded."""
        self.stations[station.name] = station
        station.send = functools.partial(self.send, station.name)

    def send(self, module_id: str, command: str, payload: object, on_answer: OnAnswer) -> Callable[[], None]:
        """Send "start" or "stop" to a power meter. Returns what publishes the same request again."""
        topic = Topics(module_id).start if command == "start" else Topics(module_id).stop
        reply_to = f"{REPLIES}/{len(self._on_answer)}"
        self._on_answer[reply_to] = on_answer
        message = json.dumps({"headers": {"replyTo": reply_to}, "payload": payload}).encode()

        def publish() -> None:
            self._client.publish(topic, message, qos=1)

        publish()
        return publish

    def _take(self, topic: str, payload: bytes) -> None:
        if topic in self._on_answer:
            self._on_answer[topic](json.loads(payload))
            return
        for module_id, station in self.stations.items():
            if topic == Topics(module_id).values:
                station.on_value(json.loads(payload))
            elif topic == Topics(module_id).check:
                station.on_check(payload)

    async def _send_heartbeats(self) -> None:
        number = 0
        while True:
            number += 1
            for module_id in self.stations:
                if self._client.is_connected():
                    self._client.publish(Topics(module_id).heartbeat, str(number).encode(), qos=0)
            await asyncio.sleep(HEARTBEAT_PERIOD_S)
