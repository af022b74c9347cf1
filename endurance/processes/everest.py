"""EVerest at a real broker: the requests of its power meter API, their answers, and its heartbeats."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from iem_dcr.everest_api.topics import READY_BEACON, Topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    Heard = Callable[[str, bytes], None]

REPLIES: Final = "everest/reply"
HEARTBEAT_EVERY_S: Final = 1.0


class Everest:
    """EVerest's connection to the broker, made again whenever it is lost.

    What is asked for while it is lost is sent when it is back.

    Args:
        port: of the broker.
        module_ids: whose heartbeats it sends.
        heard: gets topic and payload of everything that the power meters publish, on the loop.

    Attributes:
        connects: how often the connection was made.
    """

    def __init__(self, port: int, module_ids: Iterable[str], heard: Heard, host: str = "127.0.0.1") -> None:
        self.connects = 0
        self._address = host, port
        self._module_ids = tuple(module_ids)
        self._heard = heard
        self._replies: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._number = 0
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._connected
        self._client.on_message = self._came

    async def __aenter__(self) -> Self:
        """Connect and subscribe."""
        self._loop = asyncio.get_running_loop()
        self._subscribed = asyncio.Event()
        self._client.on_subscribe = self._has_subscribed
        self._client.connect_async(*self._address)
        self._client.loop_start()
        async with asyncio.timeout(30):
            await self._subscribed.wait()
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self._beating.cancel()
        await asyncio.wait({self._beating})
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def ask(self, topic: str, payload: object, answered: Callable[[dict[str, Any]], None]) -> bytes:
        """Send a request, and have every answer to it handed on; returns what was sent, for `repeat`."""
        self._number += 1
        reply_to = f"{REPLIES}/{self._number}"
        self._replies[reply_to] = answered
        message = json.dumps({"headers": {"replyTo": reply_to}, "payload": payload}).encode()
        self.repeat(topic, message)
        return message

    def repeat(self, topic: str, message: bytes) -> None:
        """Send a request again as it was."""
        self._client.publish(topic, message, qos=1)

    def be_ready(self) -> None:
        """Say that EVerest has just started."""
        self._client.publish(READY_BEACON, b"true", qos=0)

    async def _beat(self) -> None:
        beats = 0
        while True:
            beats += 1
            for module_id in self._module_ids:
                if self._client.is_connected():
                    self._client.publish(Topics(module_id).heartbeat, str(beats).encode(), qos=0)
            await asyncio.sleep(HEARTBEAT_EVERY_S)

    # --- paho's thread ---

    def _connected(self, *_: object) -> None:
        self.connects += 1
        self._client.subscribe([("everest_api/1/powermeter/+/m2e/#", 0), (f"{REPLIES}/#", 1)])

    def _has_subscribed(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._subscribed.set)

    def _came(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self._loop.call_soon_threadsafe(self._take, message.topic, bytes(message.payload))

    # --- the loop's ---

    def _take(self, topic: str, payload: bytes) -> None:
        answered = self._replies.get(topic)
        if answered is not None:
            answered(json.loads(payload))
        elif not topic.startswith(REPLIES):
            self._heard(topic, payload)


def start_payload(evse_id: str, transaction_id: str, card: str) -> dict[str, Any]:
    """Write EVerest's TransactionReq."""
    return {
        "evse_id": evse_id,
        "transaction_id": transaction_id,
        "identification_status": "ASSIGNED",
        "identification_flags": [],
        "identification_type": "ISO14443",
        "identification_data": card,
    }
