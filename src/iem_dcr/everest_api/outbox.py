"""What is to go out to the broker, and stays while there is none. Knows no MQTT library and no connection.

* Offered (QoS 0): one slot for each topic, in which a newer message replaces an older one, so that a broker that is
  slow or away makes nothing grow.
* Delivered (QoS 1): a message stays until the broker has acknowledged it or its time is over.
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
        topic: where to.
        payload: what.
        until_s: when its time is over, on the loop's clock.
        since: number of the connection on which it began; None where there was none.
        done: whether the broker has it; False once it is given up.
        tried: number of the connection that last took it up.
    """

    topic: str
    payload: bytes
    until_s: float
    since: int | None
    done: asyncio.Future[bool]
    tried: int | None = None

    def settle(self, *, acknowledged: bool) -> None:
        """End it."""
        if not self.done.done():
            self.done.set_result(acknowledged)


class Outbox:
    """What is to go out.

    Args:
        changed: is called when there is something new.

    Attributes:
        deliveries: those that are not acknowledged, in their order.
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
        """Yield topic and payload of each offer that is still good. A topic waits until its last one is written."""
        for topic in [topic for topic in self._offers if topic not in self._sending]:
            payload, until_s = self._offers.pop(topic)
            if until_s >= _now_s():
                self._sending.add(topic)
                yield topic, payload

    def sent(self, topic: str) -> None:
        """Count the offer that was taken for a topic as written, or as lost with its connection."""
        self._sending.discard(topic)
        self._progress.set()
        if topic in self._offers:
            self._changed()

    async def deliver(self, topic: str, payload: bytes, within_s: float, *, since: int | None) -> bool:
        """Keep a message until a connection has had it acknowledged; False when the time passed first."""
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
        """Wait until all is out, for that long at most; what is left then is given up.

        Args:
            within_s: seconds.
            offers: whether there is a connection on which offers can go out.
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
