"""Which requests were answered with what: a request that comes twice is carried out once. Pure.

A broker hands a request over again when the acknowledgement was lost with the connection, and a client may send one
again. The topic for the answer tells requests apart: EVerest makes a new one for each.
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
"""How long the sender of a request may wait for its answer: cfg_request_reply_to_s as it is recommended."""
UNANSWERED_STARTS_S: Final = 60.0
UNANSWERED_STARTS: Final = 64


@dataclass(slots=True)
class Reply:
    """The answer to one request, given or to be given.

    Attributes:
        reply_to: topic it goes to.
        digest: of command and payload.
        asked_s: when it was last asked for, on the clock given to `Replies`.
        body: what is answered; None while the command is at work.
        delivering: somebody is about to deliver it.
        delivered: the broker has acknowledged it.
    """

    reply_to: str
    digest: bytes
    asked_s: float
    body: bytes | None = None
    delivering: bool = False
    delivered: bool = False


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
        """Remember a request that was not there before."""
        self._forget_old()
        self._make_room()
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
        """Return the answers that nobody has had, nobody is about to deliver, and somebody may still wait for."""
        return [
            reply
            for reply in self._replies.values()
            if reply.body is not None and not reply.delivered and not reply.delivering and self.waits_s(reply) > 0
        ]

    def waits_s(self, reply: Reply) -> float:
        """Return how much longer whoever asked may wait, seconds; 0.0 when no longer."""
        return max(0.0, reply.asked_s + WAITED_FOR_S - self._now_s())

    # --- starts that want no answer ---

    def is_new_start(self, digest: bytes) -> bool:
        """Remember a start without ``replyTo`` for a minute; False when it is there already."""
        now_s = self._now_s()
        known_s = self._starts.get(digest)
        if known_s is not None and now_s - known_s < UNANSWERED_STARTS_S:
            return False
        self._starts[digest] = now_s
        self._starts.move_to_end(digest)
        while len(self._starts) > UNANSWERED_STARTS:
            self._starts.popitem(last=False)
        return True

    def forget_start(self, digest: bytes) -> None:
        """Take note that a start was not carried out after all: it is new when it comes again."""
        self._starts.pop(digest, None)

    def forget_starts(self) -> None:
        """Take note of a stop: the same start after it is another one."""
        self._starts.clear()

    def _forget_old(self) -> None:
        oldest_s = self._now_s() - REMEMBERED_S
        for reply in self._answered():
            if reply.asked_s <= oldest_s:
                del self._replies[reply.reply_to]

    def _make_room(self) -> None:
        """Forget one of too many: of those that were delivered before the others, the oldest."""
        answered = self._answered()
        if answered and len(self._replies) >= REMEMBERED:
            del self._replies[min(answered, key=lambda reply: (not reply.delivered, reply.asked_s)).reply_to]

    def _answered(self) -> list[Reply]:
        return [reply for reply in self._replies.values() if reply.body is not None]


def digest(command: str, payload: bytes) -> bytes:
    """Return what tells one request from another."""
    return hashlib.sha256(command.encode() + b"\0" + payload).digest()
