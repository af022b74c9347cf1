"""A bus in memory, with a broker's state: a connection that comes and goes, subscriptions, what was published when."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iem_dcr.everest_api.bus import Bus

if TYPE_CHECKING:
    from collections.abc import Callable

    from iem_dcr.everest_api.bus import Handler


@dataclass(frozen=True, slots=True)
class Published:
    """A message the broker has got.

    Attributes:
        at_s: when, on the loop's clock.
        topic: on which topic.
        payload: as it came.
        qos: 0 for what was offered, 1 for what was delivered.
    """

    at_s: float
    topic: str
    payload: bytes
    qos: int

    @property
    def value(self) -> Any:
        return json.loads(self.payload)


class FakeBus(Bus):
    """The bus over a broker in memory.

    Attributes:
        published: what the broker got, in order.
        events: ``subscribe``, ``unsubscribe``, ``publish`` with their topics, in order.
        failures: what handlers raised.
        news: set whenever something was published.
        acknowledge_s: how long the broker takes to acknowledge; None: it does not.
    """

    def __init__(self, *, connected: bool = True) -> None:
        super().__init__()
        self.published: list[Published] = []
        self.events: list[tuple[str, str]] = []
        self.failures: list[Exception] = []
        self.news = asyncio.Event()
        self.acknowledge_s: float | None = 0.005
        self._up = asyncio.Event()
        self._connections = 0
        self._settled = connected
        if connected:
            self._up.set()

    # --- the bus ---

    @property
    def connected(self) -> bool:
        return self._up.is_set()

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def close(self, within_s: float) -> None:
        assert within_s > 0

    def subscribe(self, topic: str, handler: Handler) -> None:
        check_topic(topic)
        super().subscribe(topic, handler)
        self.events.append(("subscribe", topic))

    def unsubscribe(self, topic: str, handler: Handler) -> None:
        super().unsubscribe(topic, handler)
        self.events.append(("unsubscribe", topic))

    def offer(self, topic: str, payload: bytes, *, good_for_s: float) -> None:
        check_topic(topic)
        assert isinstance(payload, bytes)
        super().offer(topic, payload, good_for_s=good_for_s)
        if self._settled:
            self._send_offers()

    async def deliver(self, topic: str, payload: bytes, *, within_s: float) -> bool:
        check_topic(topic)
        assert isinstance(payload, bytes)
        try:
            async with asyncio.timeout(within_s):
                while not await self._is_acknowledged():
                    pass
        except TimeoutError:
            return False
        self._publish(topic, payload, qos=1)
        return True

    # --- the broker and EVerest behind it ---

    def connect(self) -> None:
        """Let the connection come up again."""
        self._up.set()
        self._connections += 1
        self._begin_connection()
        self._settled = True
        self._send_offers()

    def disconnect(self) -> None:
        """Let the connection break; what was not acknowledged is sent again."""
        self._up.clear()
        self._settled = False

    def receive(self, topic: str, payload: bytes, *, retained: bool = False) -> bool:
        """Hand a message over as the broker does. Returns whether anybody took it."""
        is_taken = self.connected and topic in self._handlers
        if is_taken:
            self._dispatch(topic, payload, retained)
        return is_taken

    def subscribed(self) -> list[str]:
        return sorted(topic for topic, handlers in self._handlers.items() for _ in handlers)

    def on(self, topic: str) -> list[Published]:
        """What was published on a topic."""
        return [message for message in self.published if message.topic == topic]

    async def _is_acknowledged(self) -> bool:
        await self._up.wait()
        connection = self._connections
        while self.acknowledge_s is None:
            await asyncio.sleep(0.05)
            if not self.connected or connection != self._connections:
                return False
        await asyncio.sleep(self.acknowledge_s)
        return self.connected and connection == self._connections

    def _call(self, name: str, handler: Callable[..., None], *args: object) -> None:
        try:
            handler(*args)
        except Exception as error:  # noqa: BLE001  tests look at what was raised
            self.failures.append(error)

    def _send_offers(self) -> None:
        for topic, (payload, _) in self._good_offers().items():
            self._publish(topic, payload, qos=0)
        self._offers.clear()

    def _publish(self, topic: str, payload: bytes, *, qos: int) -> None:
        self.published.append(Published(_now_s(), topic, payload, qos))
        self.events.append(("publish", topic))
        self.news.set()


def check_topic(topic: str) -> None:
    """Refuse what no broker takes as the topic of a message (MQTT 5.0, 4.7)."""
    encoded = topic.encode()
    assert 0 < len(encoded) <= 65535
    assert not set(topic) & {"+", "#", "\0"}
    assert not topic.startswith("$")


def _now_s() -> float:
    return asyncio.get_running_loop().time()
