"""Messages to and from EVerest's broker: all that outlives a connection. It imports no MQTT library.

* **Requests** come to handlers. A topic stays subscribed after its last handler is removed. A request without a handler
  waits for one, because the task of its meter may be restarting.
* **Offered messages** (QoS 0): each topic has one slot, in which a newer message replaces an older one. So the memory
  stays bounded while the broker is slow or away.
* **Delivered messages** (QoS 1) stay until the broker has acknowledged them or their time has passed. One that is older
  than the connection first waits for its receiver, which may reconnect later than this client: the broker stores
  nothing for it, and does not report that a topic has no subscribers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from iem_dcr.driver.rate_limited_log import RateLimitedLog
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import printable

Handler = Callable[[bytes, bool], None]
"""Takes a payload and its retained flag. It is called on the loop and must not block. The bus logs what it raises."""
Offer = tuple[bytes, float]
"""A payload, and when it is too old to be published, on the loop's clock."""

HELD_S: Final = 30.0
"""How long a request waits for a handler. With MQTT 5 the broker keeps requests for a disconnected service as long."""
MAX_HELD: Final = 256
_MAX_HELD_BYTES: Final = 64 * 1024
HEARTBEATS_TIMEOUT_S: Final = 30.0
ANY_MESSAGE_TIMEOUT_S: Final = 5.0
SETTLES_S: Final = 0.5
"""EVerest subscribes to its topics one after the other, so its first message does not mean that all are subscribed."""

_HEARTBEAT: Final = "/heartbeat"
_AT_QOS_0: Final = (_HEARTBEAT, "/ready_beacon", "/apis")
"""Topics without requests. At QoS 1 they would displace requests in the broker's queue for a disconnected session."""


def qos_of(topic: str) -> int:
    """Return the quality of service of a topic's subscription."""
    return 0 if topic.endswith(_AT_QOS_0) else 1


@dataclass(slots=True, eq=False)
class Delivery:
    """A message that the broker has not acknowledged yet.

    Attributes:
        topic: topic to publish on.
        payload: the message.
        until_s: when its time has passed, on the loop's clock.
        done: True when the broker has acknowledged it, False when it is given up.
    """

    topic: str
    payload: bytes
    until_s: float
    done: asyncio.Future[bool]

    def settle(self, *, acknowledged: bool) -> None:
        """Set the result, unless there is one."""
        if not self.done.done():
            self.done.set_result(acknowledged)


class Receivers:
    """Tells when the receivers of replies are back after an outage.

    EVerest sends heartbeats on the connection on which it receives replies. So all heartbeats of before the outage are
    awaited, 30 s at most. If there were none, any message is, 5 s at most.
    """

    def __init__(self) -> None:
        self._beating: set[str] = set()
        self._awaited: set[str] = set()
        self._are_back = asyncio.Event()

    def begin_connection(self) -> None:
        """Expect all receivers on a new connection."""
        self._awaited |= self._beating
        self._beating.clear()
        self._are_back.clear()

    def hear(self, topic: str) -> None:
        """Note a message that is not retained."""
        if topic.endswith(_HEARTBEAT):
            self._beating.add(topic)
            self._awaited.discard(topic)
        if not self._awaited:
            self._are_back.set()

    async def wait(self) -> None:
        """Wait until the receivers are back, or their time has passed."""
        try:
            async with asyncio.timeout(HEARTBEATS_TIMEOUT_S if self._awaited else ANY_MESSAGE_TIMEOUT_S):
                await self._are_back.wait()
        except TimeoutError:
            self._awaited.clear()
        await asyncio.sleep(SETTLES_S)


class Bus(ABC):
    """What all meters of a process share. Call its methods on the loop. A subclass makes the connections."""

    def __init__(self) -> None:
        self._is_connected = self._is_closed = False
        self._handlers: dict[str, tuple[Handler, ...]] = {}
        self._held: deque[tuple[str, bytes, float]] = deque(maxlen=MAX_HELD)
        self._connected_handlers: dict[Callable[[], None], None] = {}
        self._offers: dict[str, Offer] = {}
        self._deliveries: dict[Delivery, None] = {}
        self._receivers = Receivers()
        self._new_topics: dict[str, None] = {}
        self._new_deliveries: dict[Delivery, None] = {}
        self._news = asyncio.Event()
        self._progress = asyncio.Event()
        self._failed_log = RateLimitedLog(logging.getLogger(__name__), now_s)

    @property
    def connected(self) -> bool:
        """Whether there is a connection and all subscriptions are acknowledged."""
        return self._is_connected

    @abstractmethod
    async def run(self) -> None:
        """Stay connected until cancelled or until `close` is called. A lost connection is made again."""

    @abstractmethod
    async def close(self, within_s: float) -> None:
        """Send what waits, for ``within_s`` seconds at most, then disconnect and end `run`."""

    def subscribe(self, topic: str, handler: Handler) -> None:
        """Call a handler with each message on a topic, across connections. A topic may have several handlers.

        The first handler also gets the requests of the last 30 s for which there was none.
        """
        handlers = self._handlers.get(topic, ())
        self._handlers[topic] = (*handlers, handler)
        if handlers:
            return
        self._new_topics[topic] = None
        self._news.set()
        for held in [each for each in self._held if each[0] == topic]:
            self._held.remove(held)
            _, payload, until_s = held
            if until_s >= now_s():
                asyncio.get_running_loop().call_soon(self._dispatch, topic, payload, False)  # noqa: FBT003  as a handler

    def unsubscribe(self, topic: str, handler: Handler) -> None:
        """Stop calling a handler."""
        left = tuple(each for each in self._handlers.pop(topic, ()) if each != handler)
        if left:
            self._handlers[topic] = left

    def on_connected(self, handler: Callable[[], None]) -> Callable[[], None]:
        """Call a handler on every connection, once all is subscribed. Return a function that removes the handler."""
        self._connected_handlers[handler] = None
        return lambda: self._connected_handlers.pop(handler, None)

    def offer(self, topic: str, payload: bytes, *, good_for_s: float) -> None:
        """Publish as soon as possible, at QoS 0 and not retained. It never blocks and never raises.

        A newer message replaces an older one on the same topic. A message older than ``good_for_s`` is dropped.
        """
        self._offers[topic] = payload, now_s() + good_for_s
        self._news.set()

    async def deliver(self, topic: str, payload: bytes, *, within_s: float) -> bool:
        """Publish at QoS 1 and wait for the broker's acknowledgement, across connections. It may be cancelled.

        The message may arrive twice if a connection is lost before the acknowledgement.

        Returns:
            False if the time has passed without an acknowledgement, or if the bus is closed.
        """
        if self._is_closed:
            return False
        delivery = Delivery(topic, payload, now_s() + within_s, asyncio.get_running_loop().create_future())
        self._deliveries[delivery] = self._new_deliveries[delivery] = None
        self._news.set()
        try:
            async with asyncio.timeout_at(delivery.until_s):
                return await delivery.done
        except TimeoutError:
            return False
        finally:
            del self._deliveries[delivery]
            self._new_deliveries.pop(delivery, None)
            self._progress.set()

    # --- for the connection ---

    def _dispatch(self, topic: str, payload: bytes, retained: bool) -> None:  # noqa: FBT001  as a handler takes it
        if not retained:
            self._receivers.hear(topic)
        handlers = self._handlers.get(topic, ())
        if not handlers and not retained and qos_of(topic) and len(payload) <= _MAX_HELD_BYTES:
            self._held.append((topic, payload, now_s() + HELD_S))
        for handler in handlers:
            self._call(f"a handler of {printable(topic)}", handler, payload, retained)

    def _call(self, name: str, handler: Callable[..., None], *args: object) -> None:
        """Call a handler. One meter's handler must not disturb the others."""
        try:
            handler(*args)
        except Exception:  # noqa: BLE001  as above
            self._failed_log.log(logging.ERROR, "%s failed, which is a bug in the program", name, exc_info=True)

    def _begin_connection(self) -> None:
        """Announce a connection on which everything is subscribed."""
        self._is_connected = True
        self._receivers.begin_connection()
        for handler in tuple(self._connected_handlers):
            self._call("a handler of new connections", handler)

    def _good_offers(self) -> dict[str, Offer]:
        """Return the offers that are not too old, by topic. They keep their slots until `_sent`."""
        self._offers = {topic: offer for topic, offer in self._offers.items() if offer[1] >= now_s()}
        return dict(self._offers)

    def _sent(self, offers: dict[str, Offer]) -> None:
        """Empty the slots of offers that were written, except where a newer one is."""
        for topic, offer in offers.items():
            if self._offers.get(topic) is offer:
                del self._offers[topic]
        self._progress.set()

    async def _flush(self, within_s: float) -> None:
        """Wait until all messages are sent, then give up those that are left. Offers are only for a connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._deliveries or (self._is_connected and self._offers):
                    self._progress.clear()
                    await self._progress.wait()
        self._is_closed = True
        for delivery in self._deliveries:
            delivery.settle(acknowledged=False)
