"""Waits for the receivers of replies. After an outage they may reconnect later than this client.

The broker stores no replies for them, and aiomqtt does not report that a topic has no subscribers. So a reply that is
older than the connection waits. If heartbeats were received before the outage, it waits for each of them, 30 s at most.
Otherwise it waits for any message, 5 s at most. EVerest sends heartbeats on the same connection on which it receives
replies.
"""

from __future__ import annotations

import asyncio
from typing import Final

from iem_dcr.everest_api.subscriptions import HEARTBEAT

HEARTBEATS_TIMEOUT_S: Final = 30.0
ANY_MESSAGE_TIMEOUT_S: Final = 5.0
SETTLES_S: Final = 0.5
"""EVerest subscribes to its topics one after the other, so its first message does not mean that all are subscribed."""


class Receivers:
    """Tracks which receivers were heard on this connection and before."""

    def __init__(self) -> None:
        self._beating: set[str] = set()
        self._awaited: set[str] = set()
        self._are_back = asyncio.Event()

    def begin_anew(self) -> None:
        """Expect all receivers on a new connection."""
        self._awaited |= self._beating
        self._beating.clear()
        self._are_back.clear()

    def hear(self, topic: str) -> None:
        """Note a message that is not retained."""
        if topic.endswith(HEARTBEAT):
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
