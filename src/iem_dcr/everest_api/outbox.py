"""Messages to the broker, which wait here while there is no connection. It knows no MQTT library and no connection.

* Offered (QoS 0): each topic has one slot, in which a newer message replaces an older one. So the memory stays bounded
  while the broker is slow or away.
* Delivered (QoS 1): a message stays until the broker has acknowledged it or its time has passed.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

Offer = tuple[bytes, float]
"""A payload, and when it is too old to be published, on the loop's clock."""


@dataclass(slots=True, eq=False)
class Delivery:
    """A message that the broker has not acknowledged yet.

    Attributes:
        topic: topic to publish on.
        payload: the message.
        until_s: when its time has passed, on the loop's clock.
        done: True when the broker has acknowledged it, False when it is given up.
        is_taken: whether it was taken for the current connection.
        is_older: whether it is older than the current connection.
    """

    topic: str
    payload: bytes
    until_s: float
    done: asyncio.Future[bool]
    is_taken: bool = False
    is_older: bool = False

    def settle(self, *, acknowledged: bool) -> None:
        """Set the result, unless there is one."""
        if not self.done.done():
            self.done.set_result(acknowledged)


class Outbox:
    """The outgoing messages of a bus.

    Attributes:
        changed: is set when there is a new message.
    """

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self._offers: dict[str, Offer] = {}
        self._deliveries: dict[Delivery, None] = {}
        self._progress = asyncio.Event()
        self._is_closed = False

    def offer(self, topic: str, payload: bytes, good_for_s: float) -> None:
        """Put a message into its topic's slot."""
        self._offers[topic] = payload, _now_s() + good_for_s
        self.changed.set()

    async def deliver(self, topic: str, payload: bytes, within_s: float) -> bool:
        """Keep a message until the broker acknowledges it. Return False if the time has passed first."""
        if self._is_closed:
            return False
        delivery = Delivery(topic, payload, _now_s() + within_s, asyncio.get_running_loop().create_future())
        self._deliveries[delivery] = None
        self.changed.set()
        try:
            async with asyncio.timeout_at(delivery.until_s):
                return await delivery.done
        except TimeoutError:
            return False
        finally:
            del self._deliveries[delivery]
            self._progress.set()

    def begin_anew(self) -> None:
        """Let all deliveries be taken again, for a new connection."""
        for delivery in self._deliveries:
            delivery.is_taken, delivery.is_older = False, True

    def take_deliveries(self) -> list[Delivery]:
        """Take the deliveries that were not taken for this connection, in order."""
        taken = [delivery for delivery in self._deliveries if not delivery.is_taken]
        for delivery in taken:
            delivery.is_taken = True
        return taken

    def good_offers(self) -> dict[str, Offer]:
        """Return the offers that are not too old, by topic. They keep their slots until `sent`."""
        self._offers = {topic: offer for topic, offer in self._offers.items() if offer[1] >= _now_s()}
        return dict(self._offers)

    def sent(self, offers: dict[str, Offer]) -> None:
        """Empty the slots of offers that were written, except where a newer one is."""
        for topic, offer in offers.items():
            if self._offers.get(topic) is offer:
                del self._offers[topic]
        self._progress.set()

    async def close(self, within_s: float, *, offers: bool) -> None:
        """Wait until all messages are sent, then give up those that are left.

        Args:
            within_s: how long to wait at most, seconds.
            offers: whether to wait for offers too, because there is a connection.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._deliveries or (offers and self._offers):
                    self._progress.clear()
                    await self._progress.wait()
        self._is_closed = True
        for delivery in self._deliveries:
            delivery.settle(acknowledged=False)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
