"""What one meter's API needs from a broker. It imports no MQTT library, so tests can use a bus in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Handler = Callable[[bytes, bool], None]
"""Takes a payload and its retained flag. It is called on the loop and must not block. The bus logs what it raises."""


class Bus(Protocol):
    """Sends and receives messages through a broker, across lost connections. Call its methods on the loop."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection and all subscriptions are acknowledged."""

    def subscribe(self, topic: str, handler: Handler) -> None:
        """Call a handler with each message on a topic, across reconnections. A topic may have several handlers."""

    def unsubscribe(self, topic: str, handler: Handler) -> None:
        """Stop calling a handler."""

    def on_connected(self, handler: Callable[[], None]) -> Callable[[], None]:
        """Call a handler on every connection, once all is subscribed. Return a function that removes the handler."""

    def offer(self, topic: str, payload: bytes, *, good_for_s: float) -> None:
        """Publish as soon as possible, at QoS 0 and not retained.

        A newer message replaces an older one on the same topic. A message older than ``good_for_s`` is dropped. It
        never blocks and never raises. Its memory is bounded by the number of topics.
        """

    async def deliver(self, topic: str, payload: bytes, *, within_s: float) -> bool:
        """Publish at QoS 1 and wait for the broker's acknowledgement, across reconnections. It may be cancelled.

        Returns:
            False if the time has passed without an acknowledgement.
        """
