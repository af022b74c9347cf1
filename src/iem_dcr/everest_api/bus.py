"""What one meter's API needs of a broker. It names no MQTT library: tests put a bus in memory in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Handler = Callable[[bytes, bool], None]
"""Takes a payload and its retained flag. Called on the loop; must not block. The bus logs what it raises."""


class Bus(Protocol):
    """The way to a broker and back, across lost connections. Its methods are called on the loop."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection and all subscriptions are acknowledged."""

    def subscribe(self, topic: str, handler: Handler) -> None:
        """Have a handler called with each message on a topic, across reconnections. A topic may have several."""

    def unsubscribe(self, topic: str, handler: Handler) -> None:
        """Have a handler called no more."""

    def on_connected(self, handler: Callable[[], None]) -> Callable[[], None]:
        """Have a handler called after every connection, once all is subscribed. Returns what takes it back."""

    def offer(self, topic: str, payload: bytes, *, good_for_s: float) -> None:
        """Publish as soon as possible: QoS 0, not retained, the latest per topic wins; dropped when older than that.

        Never blocks, never raises; bounded by the number of topics.
        """

    async def deliver(self, topic: str, payload: bytes, *, within_s: float) -> bool:
        """Publish at QoS 1 and await the broker's acknowledgement, across reconnections. May be cancelled.

        Returns:
            False when the time passed first.
        """
