"""Remembers requests and their replies, so that a request that comes twice is carried out once. Pure.

A broker sends a request again when the acknowledgement was lost with the connection, and a client may repeat one. The
topic for the reply identifies a request: EVerest makes a new topic for each. Its digest identifies a start that wants
no reply. A stop that wants none is not remembered, and is carried out each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

REMEMBERED_S: Final = 600.0
REMEMBERED: Final = 256
WAITED_FOR_S: Final = 120.0
"""How long the sender of a request may wait for its reply: the recommended value of cfg_request_reply_to_s."""
UNANSWERED_STARTS_S: Final = 60.0
"""How long a start that wants no reply is remembered. The next session of the same user looks the same."""


@dataclass(slots=True, eq=False)
class Reply:
    """The reply to one request, ready or not.

    Attributes:
        reply_to: topic of the reply, or None if none is wanted.
        digest: digest of command and payload.
        asked_s: when the request last came, on the clock given to `Replies`.
        body: the reply, or None while the command is running.
    """

    reply_to: str | None
    digest: bytes
    asked_s: float
    body: bytes | None = None

    @property
    def key(self) -> str | bytes:
        """What identifies the request."""
        return self.digest if self.reply_to is None else self.reply_to


class Replies:
    """One meter's replies of the last ten minutes, at most 256. A running request is never forgotten.

    Args:
        now_s: a monotonic clock, seconds.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._replies: dict[str | bytes, Reply] = {}

    def __len__(self) -> int:
        return len(self._replies)

    def remember(self, reply: Reply) -> None:
        """Remember a new request, in place of the oldest one that is answered if there are too many."""
        self._forget_old()
        answered = [each for each in self._replies.values() if each.body is not None]
        if answered and len(self._replies) >= REMEMBERED:
            del self._replies[min(answered, key=lambda each: each.asked_s).key]
        self._replies[reply.key] = reply

    def find(self, request: Reply) -> Reply | None:
        """Return the reply to a request that has come before, and note that it has come again."""
        self._forget_old()
        reply = self._replies.get(request.key)
        if reply is not None and reply.reply_to is not None:
            reply.asked_s = self._now_s()
        return reply

    def forget_unanswered_starts(self) -> None:
        """Forget the starts that want no reply, because after a stop that wants none the same start is a new one.

        If a broker sends both again, both are carried out again. After a stop that is remembered, only the start would
        be, and nothing would end its transaction.
        """
        self._replies = {key: reply for key, reply in self._replies.items() if reply.reply_to is not None}

    def waits_s(self, reply: Reply) -> float:
        """Return how much longer the sender of a request may wait, in seconds, or 0.0."""
        return max(0.0, reply.asked_s + WAITED_FOR_S - self._now_s())

    def _forget_old(self) -> None:
        now_s = self._now_s()
        for reply in [*self._replies.values()]:
            lasts_s = UNANSWERED_STARTS_S if reply.reply_to is None else REMEMBERED_S
            if reply.body is not None and now_s - reply.asked_s >= lasts_s:
                del self._replies[reply.key]
