"""Whether those whom a reply is for are at the broker again. After an outage they may come back later than this client.

The broker keeps nothing for them, and aiomqtt does not pass on that nobody has subscribed. So a reply that is older
than the connection waits: for every heartbeat that was heard before the outage, 30 s at most; for any message, 5 s at
most, where none was. EVerest sends the heartbeats over the connection on which it awaits the replies.
"""

from __future__ import annotations

import asyncio
from typing import Final

from iem_dcr.everest_api.subscriptions import HEARTBEAT

HEARTBEATS_TIMEOUT_S: Final = 30.0
ANY_MESSAGE_TIMEOUT_S: Final = 5.0
SETTLES_S: Final = 0.5
"""EVerest subscribes to its topics one after the other."""


class Receivers:
    """Who was heard, on this connection and before."""

    def __init__(self) -> None:
        self._beating: set[str] = set()
        self._awaited: set[str] = set()
        self._are_back = asyncio.Event()

    def begin_anew(self) -> None:
        """Expect them on a new connection."""
        self._awaited |= self._beating
        self._beating.clear()
        self._are_back.clear()

    def hear(self, topic: str) -> None:
        """Take a message that is not retained."""
        if topic.endswith(HEARTBEAT):
            self._beating.add(topic)
            self._awaited.discard(topic)
        if not self._awaited:
            self._are_back.set()

    async def wait(self) -> None:
        """Wait until they are back, or need not be expected any more."""
        try:
            async with asyncio.timeout(HEARTBEATS_TIMEOUT_S if self._awaited else ANY_MESSAGE_TIMEOUT_S):
                await self._are_back.wait()
        except TimeoutError:
            self._awaited.clear()
        await asyncio.sleep(SETTLES_S)
