"""Who handles which topic, and what the broker has to be told of it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iem_dcr.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from iem_dcr.everest_api.bus import Handler

_log = logging.getLogger(__name__)

HELD_S: Final = 30.0
"""How long a request waits for a meter that does not listen, and a topic that nobody handles stays subscribed."""
_MOST_HELD = 256
_LARGEST_HELD_BYTES = 64 * 1024
_NO_REQUESTS = ("/heartbeat", "/ready_beacon")
"""Subscribed at QoS 0: in a session that is away they would fill the broker's queue and drive the requests out."""


@dataclass(frozen=True, slots=True)
class _Held:
    topic: str
    payload: bytes
    until_s: float


class Subscriptions:
    """The handlers of a bus.

    Args:
        changed: is called when the broker has something to be told.

    Attributes:
        to_subscribe: topics the broker has to be asked for, in order.
        to_leave: topics it has to be told that they are not wanted any more.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.to_subscribe: dict[str, None] = {}
        self.to_leave: dict[str, None] = {}
        self._changed = changed
        self._handlers: dict[str, tuple[Handler, ...]] = {}
        self._leaving: dict[str, asyncio.TimerHandle] = {}
        self._held: deque[_Held] = deque(maxlen=_MOST_HELD)
        self._complained: set[str] = set()

    def add(self, topic: str, handler: Handler) -> None:
        """Have a handler called, with what was held for the topic first."""
        handlers = self._handlers.get(topic, ())
        self._handlers[topic] = (*handlers, handler)
        if handlers:
            return
        if topic in self._leaving:
            self._leaving.pop(topic).cancel()
        self.to_leave.pop(topic, None)
        self.to_subscribe[topic] = None
        self._changed()
        if self._held:
            self._hand_over(topic)

    def remove(self, topic: str, handler: Handler) -> None:
        """Have a handler called no more; the broker learns of it 30 s later, unless somebody wants the topic again."""
        left = list(self._handlers.get(topic, ()))
        if handler not in left:
            return
        left.remove(handler)
        if left:
            self._handlers[topic] = tuple(left)
            return
        del self._handlers[topic]
        self._complained.discard(topic)
        self._leave_later(topic)

    def begin_anew(self) -> None:
        """Have every topic subscribed on a new connection."""
        self.to_subscribe = dict.fromkeys(self._handlers)

    def stop_timers(self) -> None:
        """Forget what was to be left later."""
        for timer in self._leaving.values():
            timer.cancel()
        self._leaving.clear()

    def dispatch(self, topic: str, payload: bytes, retained: bool) -> None:  # noqa: FBT001  as a handler takes it
        """Hand a message to its handlers; what one of them raises is logged once for each topic."""
        handlers = self._handlers.get(topic)
        if handlers is None:
            self._hold(topic, payload, retained=retained)
            return
        for handler in handlers:
            try:
                handler(payload, retained)
            except Exception:  # noqa: BLE001  one meter's mistake is not the others'
                if topic not in self._complained:
                    self._complained.add(topic)
                    _log.exception("a message on %s failed, which is a mistake in the program", printable(topic))

    def _hold(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """Keep a request for a meter that is about to listen, and leave topics that none listens to any more."""
        if topic not in self._leaving and topic not in self.to_leave:
            self._leave_later(topic)
        if not retained and qos_of(topic) and len(payload) <= _LARGEST_HELD_BYTES:
            self._held.append(_Held(topic, payload, asyncio.get_running_loop().time() + HELD_S))

    def _hand_over(self, topic: str) -> None:
        loop = asyncio.get_running_loop()
        for held in tuple(self._held):
            if held.topic == topic:
                self._held.remove(held)
                if held.until_s >= loop.time():
                    loop.call_soon(self.dispatch, topic, held.payload, False)  # noqa: FBT003  not retained

    def _leave_later(self, topic: str) -> None:
        self._leaving[topic] = asyncio.get_running_loop().call_later(HELD_S, self._leave, topic)

    def _leave(self, topic: str) -> None:
        self._leaving.pop(topic, None)
        if topic not in self._handlers:
            self.to_leave[topic] = None
            self._changed()


def qos_of(topic: str) -> int:
    """Return at which quality of service a topic is subscribed."""
    return 0 if topic.endswith(_NO_REQUESTS) else 1
