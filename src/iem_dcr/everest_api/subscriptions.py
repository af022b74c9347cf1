"""Which handler gets which message. A request for a meter whose task is about to start again waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iem_dcr.errors import printable

if TYPE_CHECKING:
    from iem_dcr.everest_api.bus import Handler

_log = logging.getLogger(__name__)

HELD_S: Final = 30.0
"""How long a request waits for a handler; the broker keeps one as long for a service that is away (MQTT 5)."""
MAX_HELD: Final = 256
_MAX_HELD_BYTES: Final = 64 * 1024
HEARTBEAT: Final = "/heartbeat"
"""How the topic of a heartbeat ends."""
_AT_QOS_0: Final = (HEARTBEAT, "/ready_beacon", "/apis")
"""No requests: in a session that is away they would fill the broker's queue and drive the requests out."""


@dataclass(frozen=True, slots=True)
class _Held:
    topic: str
    payload: bytes
    until_s: float


class Subscriptions:
    """The handlers of a bus. A topic that nothing handles any more stays subscribed: its requests are held.

    Attributes:
        new: topics for which the broker has yet to be asked, in order.
    """

    def __init__(self) -> None:
        self.new: dict[str, None] = {}
        self._handlers: dict[str, tuple[Handler, ...]] = {}
        self._held: deque[_Held] = deque(maxlen=MAX_HELD)
        self._failed: set[str] = set()

    def add(self, topic: str, handler: Handler) -> None:
        """Have a handler called, first with what was held for the topic."""
        handlers = self._handlers.get(topic, ())
        self._handlers[topic] = (*handlers, handler)
        if not handlers:
            self.new[topic] = None
            self._release(topic)

    def remove(self, topic: str, handler: Handler) -> None:
        """Have a handler called no more."""
        left = tuple(each for each in self._handlers.get(topic, ()) if each != handler)
        if left:
            self._handlers[topic] = left
        else:
            self._handlers.pop(topic, None)
            self._failed.discard(topic)

    def begin_anew(self) -> None:
        """Have every topic subscribed on a new connection."""
        self.new = dict.fromkeys(self._handlers)

    def dispatch(self, topic: str, payload: bytes, retained: bool) -> None:  # noqa: FBT001  as a handler takes it
        """Hand a message to its handlers; a handler that raises is logged once for each topic."""
        if topic not in self._handlers:
            if not retained and qos_of(topic) and len(payload) <= _MAX_HELD_BYTES:
                self._held.append(_Held(topic, payload, asyncio.get_running_loop().time() + HELD_S))
            return
        for handler in self._handlers[topic]:
            try:
                handler(payload, retained)
            except Exception:  # noqa: BLE001  a mistake in one meter's handler must not reach the others
                if topic not in self._failed:
                    self._failed.add(topic)
                    _log.exception("a message on %s failed, which is a mistake in the program", printable(topic))

    def _release(self, topic: str) -> None:
        loop = asyncio.get_running_loop() if self._held else None
        for held in [each for each in self._held if each.topic == topic]:
            self._held.remove(held)
            if loop is not None and held.until_s >= loop.time():
                loop.call_soon(self.dispatch, topic, held.payload, False)  # noqa: FBT003  not retained


def qos_of(topic: str) -> int:
    """Return the quality of service at which a topic is subscribed."""
    return 0 if topic.endswith(_AT_QOS_0) else 1
