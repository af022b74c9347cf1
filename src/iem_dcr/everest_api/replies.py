"""Which requests were answered with what: a request that comes twice is carried out once. Pure.

A broker hands a request over again when the acknowledgement was lost with the connection, and a client may send one
again. The topic for the reply tells requests apart: EVerest makes a new one for each.
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
"""How long the sender of a request may wait for its reply: cfg_request_reply_to_s as it is recommended."""
UNANSWERED_STARTS_S: Final = 60.0
UNANSWERED_STARTS: Final = 64


@dataclass(slots=True)
class Reply:
    """The reply to one request, given or to be given.

    Attributes:
        reply_to: topic it goes to.
        digest: of command and payload.
        asked_s: when it was last asked for, on the clock given to `Replies`.
        body: the reply; None while the command is at work.
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
    """The memory of one meter's replies: ten minutes by ``replyTo``, at most 256; none at work is ever forgotten.

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
        """Remember a new request. Of too many replies the oldest that was delivered goes first."""
        answered = self._forget_old()
        if answered and len(self._replies) >= REMEMBERED:
            del self._replies[min(answered, key=lambda reply: (not reply.is_delivered, reply.asked_s)).reply_to]
        reply = Reply(reply_to, digest, self._now_s())
        self._replies[reply_to] = reply
        return reply

    def find(self, reply_to: str) -> Reply | None:
        """Return the reply that is remembered for a topic; it is asked for once more."""
        self._forget_old()
        reply = self._replies.get(reply_to)
        if reply is not None:
            reply.asked_s = self._now_s()
        return reply

    def undelivered(self) -> list[Reply]:
        """Return the replies that were not delivered, are not under way, and may still be waited for."""
        left = [each for each in self._replies.values() if each.body is not None and not each.is_delivered]
        return [reply for reply in left if not reply.is_delivering and self.waits_s(reply) > 0]

    def waits_s(self, reply: Reply) -> float:
        """Return how much longer the sender of a request may wait, seconds; 0.0 when no longer."""
        return max(0.0, reply.asked_s + WAITED_FOR_S - self._now_s())

    # --- starts that want no reply ---

    def is_new_start(self, digest: bytes) -> bool:
        """Remember a start without ``replyTo`` for a minute; False when it is there already."""
        now_s = self._now_s()
        if now_s - self._starts.get(digest, float("-inf")) < UNANSWERED_STARTS_S:
            return False
        self._starts[digest] = now_s
        self._starts.move_to_end(digest)
        while len(self._starts) > UNANSWERED_STARTS:
            self._starts.popitem(last=False)
        return True

    def forget_start(self, digest: bytes) -> None:
        """Forget a start that was not carried out: it is new when it comes again."""
        self._starts.pop(digest, None)

    def forget_starts(self) -> None:
        """Forget all starts: after a stop the same start is another one."""
        self._starts.clear()

    def _forget_old(self) -> list[Reply]:
        """Forget replies of long ago; returns those that are left and not at work."""
        oldest_s = self._now_s() - REMEMBERED_S
        answered = [reply for reply in self._replies.values() if reply.body is not None]
        for reply in answered:
            if reply.asked_s <= oldest_s:
                del self._replies[reply.reply_to]
        return [reply for reply in answered if reply.asked_s > oldest_s]


def digest(command: str, payload: bytes) -> bytes:
    """Return what tells one request from another."""
    return hashlib.sha256(command.encode() + b"\0" + payload).digest()
