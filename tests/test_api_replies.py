"""The memory of replies: what comes twice is carried out once, and nothing grows."""

from __future__ import annotations

import pytest

from iem_dcr.everest_api.replies import REMEMBERED, REMEMBERED_S, UNANSWERED_STARTS_S, WAITED_FOR_S, Replies, Reply


class Memory:
    """The memory with a clock that is set."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.replies = Replies(lambda: self.now_s)

    def find(self, reply_to: str | None) -> Reply | None:
        return self.replies.find(Reply(reply_to, b"d", self.now_s))

    def begin(self, reply_to: str | None, body: bytes | None = None) -> Reply:
        reply = Reply(reply_to, b"d", self.now_s, body)
        self.replies.remember(reply)
        return reply


@pytest.mark.parametrize(
    ("reply_to", "lasts_s", "is_prolonged"), [("r", REMEMBERED_S, True), (None, UNANSWERED_STARTS_S, False)]
)
def test_how_long_a_request_is_remembered(reply_to: str | None, lasts_s: float, *, is_prolonged: bool) -> None:
    memory = Memory()
    reply = memory.begin(reply_to, b"{}")
    memory.now_s += lasts_s - 1
    assert memory.find(reply_to) is reply
    memory.now_s += lasts_s - 1
    assert memory.find(reply_to) is (reply if is_prolonged else None)
    memory.now_s += lasts_s
    assert memory.find(reply_to) is None
    assert len(memory.replies) == 0


def test_how_long_the_sender_of_a_request_waits() -> None:
    memory = Memory()
    waiting = memory.begin("waiting", b"{}")
    memory.now_s += WAITED_FOR_S - 1
    assert memory.replies.waits_s(waiting) == 1.0
    memory.now_s += 2
    assert memory.replies.waits_s(waiting) == 0.0


def test_nothing_grows_the_oldest_go_first_and_what_is_at_work_stays() -> None:
    memory = Memory()
    working = [memory.begin(f"working/{number}") for number in range(10)]
    for number in range(2 * REMEMBERED):
        memory.now_s += 0.001
        memory.begin(f"r/{number}", b"{}")
        assert len(memory.replies) <= REMEMBERED
    assert [memory.find(reply.reply_to) for reply in working] == working
    assert memory.find(f"r/{REMEMBERED}") is None
    assert memory.find(f"r/{2 * REMEMBERED - 1}")
    memory.now_s += 2 * REMEMBERED_S
    assert [memory.find(reply.reply_to) for reply in working] == working
