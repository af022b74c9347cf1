"""Remembers requests and their replies, so that a request that comes twice is carried out once. Pure.

A broker sends a request again when the acknowledgement was lost with the connection, and a client may repeat one. The
topic for the reply identifies a request: EVerest makes a new topic for each.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

REMEMBERED_S: Final = 600.0
REMEMBERED: Final = 256
WAITED_FOR_S: Final = 120.0
"""How long the sender of a request may wait for its reply: the recommended value of cfg_request_reply_to_s."""
UNANSWERED_STARTS_S: Final = 60.0
UNANSWERED_STARTS: Final = 64


@dataclass(slots=True)
class Reply:
    """The reply to one request, ready or not.

    Attributes:
        reply_to: topic of the reply.
        digest: digest of command and payload.
        asked_s: when the request last came, on the clock given to `Replies`.
        body: the reply, or None while the command is running.
        is_delivering: whether it waits for the broker.
        is_delivered: whether the broker has acknowledged it.
    """

    reply_to: str
    digest: bytes
    asked_s: float
    body: bytes | None = None
    is_delivering: bool = False
    is_delivered: bool = False


class Replies:
    """One meter's replies of the last ten minutes by ``replyTo``, at most 256. A running request is never forgotten.

    Args:
        now_s: a monotonic clock, seconds.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._replies: dict[str, Reply] = {}
        self._starts: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._replies)

    def begin(self, reply_to: str, digest: bytes) -> Reply:
        """Remember a new request. If there are too many, the oldest delivered reply is forgotten first."""
        answered = self._forget_old()
        if answered and len(self._replies) >= REMEMBERED:
            del self._replies[min(answered, key=lambda reply: (not reply.is_delivered, reply.asked_s)).reply_to]
        reply = Reply(reply_to, digest, self._now_s())
        self._replies[reply_to] = reply
        return reply

    def find(self, reply_to: str) -> Reply | None:
        """Return the remembered reply for a topic, and note that its request has come again."""
        self._forget_old()
        reply = self._replies.get(reply_to)
        if reply is not None:
            reply.asked_s = self._now_s()
        return reply

    def undelivered(self) -> list[Reply]:
        """Return the replies that are neither delivered nor being delivered and whose sender may still wait."""
        left = [each for each in self._replies.values() if each.body is not None and not each.is_delivered]
        return [reply for reply in left if not reply.is_delivering and self.waits_s(reply) > 0]

    def waits_s(self, reply: Reply) -> float:
        """Return how much longer the sender of a request may wait, in seconds, or 0.0."""
        return max(0.0, reply.asked_s + WAITED_FOR_S - self._now_s())

    # --- starts without replyTo ---

    def is_new_start(self, digest: bytes) -> bool:
        """Remember a start without ``replyTo`` for a minute. Return False if it is already remembered."""
        now_s = self._now_s()
        if now_s - self._starts.get(digest, float("-inf")) < UNANSWERED_STARTS_S:
            return False
        self._starts[digest] = now_s
        self._starts.move_to_end(digest)
        while len(self._starts) > UNANSWERED_STARTS:
            self._starts.popitem(last=False)
        return True

    def forget_start(self, digest: bytes) -> None:
        """Forget a start that was not carried out, so that it counts as new when it comes again."""
        self._starts.pop(digest, None)

    def forget_starts(self) -> None:
        """Forget all starts, because after a stop the same start is a new one."""
        self._starts.clear()

    def _forget_old(self) -> list[Reply]:
        """Forget old replies, and return the remaining ones that are ready."""
        oldest_s = self._now_s() - REMEMBERED_S
        answered = [reply for reply in self._replies.values() if reply.body is not None]
        for reply in answered:
            if reply.asked_s <= oldest_s:
                del self._replies[reply.reply_to]
        return [reply for reply in answered if reply.asked_s > oldest_s]


def digest(command: str, payload: bytes) -> bytes:
    """Return a digest that identifies a request."""
    return hashlib.sha256(command.encode() + b"\0" + payload).digest()
