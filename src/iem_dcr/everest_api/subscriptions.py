"""Dispatches messages to handlers. A request for a meter whose task is restarting waits for its handler."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from iem_dcr.driver.rate_limited_log import RateLimitedLog
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import printable

if TYPE_CHECKING:
    from iem_dcr.everest_api.bus import Handler

HELD_S: Final = 30.0
"""How long a request waits for a handler. With MQTT 5 the broker keeps requests for a disconnected service as long."""
MAX_HELD: Final = 256
_MAX_HELD_BYTES: Final = 64 * 1024
HEARTBEAT: Final = "/heartbeat"
"""The end of a heartbeat's topic."""
_AT_QOS_0: Final = (HEARTBEAT, "/ready_beacon", "/apis")
"""Topics without requests. At QoS 1 they would displace requests in the broker's queue for a disconnected session."""


class Subscriptions:
    """The handlers of a bus. A topic stays subscribed after its last handler is removed, and its requests are held.

    Attributes:
        new: topics that are not yet subscribed at the broker, in order.
    """

    def __init__(self) -> None:
        self.new: dict[str, None] = {}
        self._handlers: dict[str, tuple[Handler, ...]] = {}
        self._held: deque[tuple[str, bytes, float]] = deque(maxlen=MAX_HELD)
        self._failed_log = RateLimitedLog(logging.getLogger(__name__), now_s)

    def add(self, topic: str, handler: Handler) -> None:
        """Add a handler. It first gets the messages that were held for the topic."""
        handlers = self._handlers.get(topic, ())
        self._handlers[topic] = (*handlers, handler)
        if not handlers:
            self.new[topic] = None
            for held in [each for each in self._held if each[0] == topic]:
                self._held.remove(held)
                _, payload, until_s = held
                if until_s >= now_s():
                    asyncio.get_running_loop().call_soon(self.dispatch, topic, payload, False)  # noqa: FBT003  as above

    def remove(self, topic: str, handler: Handler) -> None:
        """Remove a handler."""
        left = tuple(each for each in self._handlers.pop(topic, ()) if each != handler)
        if left:
            self._handlers[topic] = left

    def begin_anew(self) -> None:
        """Subscribe every topic again on a new connection."""
        self.new = dict.fromkeys(self._handlers)

    def dispatch(self, topic: str, payload: bytes, retained: bool) -> None:  # noqa: FBT001  as a handler takes it
        """Pass a message to its handlers. What a handler raises is logged and disturbs no other one."""
        if topic not in self._handlers and not retained and qos_of(topic) and len(payload) <= _MAX_HELD_BYTES:
            self._held.append((topic, payload, now_s() + HELD_S))
        for handler in self._handlers.get(topic, ()):
            try:
                handler(payload, retained)
            except Exception:  # noqa: BLE001  one meter's handler must not disturb the others
                what = "a handler of %s failed, which is a bug in the program"
                self._failed_log.log(logging.ERROR, what, printable(topic), exc_info=True)


def qos_of(topic: str) -> int:
    """Return the quality of service of a topic's subscription."""
    return 0 if topic.endswith(_AT_QOS_0) else 1
