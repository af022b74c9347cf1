"""Messages to the broker, which wait here while there is no connection. It knows no MQTT library and no connection.

* Offered (QoS 0): each topic has one slot, in which a newer message replaces an older one. So the memory stays bounded
  while the broker is slow or away.
* Delivered (QoS 1): a message stays until the broker has acknowledged it or its time has passed.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(slots=True, eq=False)
class Delivery:
    """A message that the broker has not acknowledged yet.

    Attributes:
        topic: topic to publish on.
        payload: the message.
        until_s: when its time has passed, on the loop's clock.
        since: number of the connection on which it was queued, or None if there was no connection.
        done: True when the broker has acknowledged it, False when it is given up.
        tried: number of the last connection on which it was published.
    """

    topic: str
    payload: bytes
    until_s: float
    since: int | None
    done: asyncio.Future[bool]
    tried: int | None = None

    def settle(self, *, acknowledged: bool) -> None:
        """Set the result, unless there is one."""
        if not self.done.done():
            self.done.set_result(acknowledged)


class Outbox:
    """The outgoing messages of a bus.

    Args:
        changed: is called when there is a new message.

    Attributes:
        deliveries: deliveries that are not acknowledged, in order.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.deliveries: dict[Delivery, None] = {}
        self._changed = changed
        self._offers: dict[str, tuple[bytes, float]] = {}
        self._sending: set[str] = set()
        self._progress = asyncio.Event()
        self._is_closed = False

    def offer(self, topic: str, payload: bytes, good_for_s: float) -> None:
        """Put a message into its topic's slot."""
        self._offers[topic] = payload, _now_s() + good_for_s
        self._changed()

    def take_offers(self) -> Iterator[tuple[str, bytes]]:
        """Yield topic and payload of each offer that is still good. A topic waits for its previous offer."""
        for topic in [topic for topic in self._offers if topic not in self._sending]:
            payload, until_s = self._offers.pop(topic)
            if until_s >= _now_s():
                self._sending.add(topic)
                yield topic, payload

    def sent(self, topic: str) -> None:
        """Mark the offer taken for a topic as written, or as lost with its connection."""
        self._sending.discard(topic)
        self._progress.set()
        if topic in self._offers:
            self._changed()

    async def deliver(self, topic: str, payload: bytes, within_s: float, *, since: int | None) -> bool:
        """Keep a message until the broker acknowledges it. Return False if the time has passed first."""
        if self._is_closed:
            return False
        loop = asyncio.get_running_loop()
        delivery = Delivery(topic, payload, loop.time() + within_s, since, loop.create_future())
        self.deliveries[delivery] = None
        self._changed()
        try:
            async with asyncio.timeout_at(delivery.until_s):
                return await delivery.done
        except TimeoutError:
            return False
        finally:
            del self.deliveries[delivery]
            self._progress.set()

    async def close(self, within_s: float, *, offers: bool) -> None:
        """Wait until all messages are sent, then give up those that are left.

        Args:
            within_s: how long to wait at most, seconds.
            offers: whether to wait for offers too, because there is a connection.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.deliveries or (offers and (self._offers or self._sending)):
                    self._progress.clear()
                    await self._progress.wait()
        self._is_closed = True
        for delivery in self.deliveries:
            delivery.settle(acknowledged=False)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
