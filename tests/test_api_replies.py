"""The memory of replies: what comes twice is carried out once, and nothing grows."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from iem_dcr.everest_api.replies import REMEMBERED, REMEMBERED_S, UNANSWERED_STARTS_S, WAITED_FOR_S, Replies, Reply


class Memory:
    """The memory with a clock that is set."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.replies = Replies(lambda: self.now_s)

    def find(self, reply_to: str | None) -> Reply | None:
        return self.replies.find(Reply(reply_to, b"d", self.now_s))

    def begin(self, reply_to: str | None, body: bytes | None = None, *, is_delivered: bool = False) -> Reply:
        reply = Reply(reply_to, b"d", self.now_s, body, is_delivered=is_delivered)
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


def test_what_is_to_be_delivered_still() -> None:
    memory = Memory()
    memory.begin("working")
    memory.begin("gone", b"{}", is_delivered=True)
    waiting = memory.begin("waiting", b"{}")
    memory.now_s += WAITED_FOR_S - 1
    assert memory.replies.undelivered() == [waiting]
    assert memory.replies.waits_s(waiting) == 1.0
    memory.now_s += 1
    assert memory.replies.undelivered() == []
    assert memory.replies.waits_s(waiting) == 0.0


class Remembering(RuleBasedStateMachine):
    """Against the plainest memory there is: all requests."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()
        self.known: dict[str, Reply] = {}

    topics = st.integers(0, 400).map(str)

    @rule(topic=topics)
    def ask(self, topic: str) -> None:
        reply, before = self.memory.find(topic), self.known.get(topic)
        if reply is None:
            assert before is None or before.body is not None, "one at work was forgotten"
            reply = self.memory.begin(topic)
        else:
            assert reply is before
        self.known[topic] = reply

    @rule(first=st.integers(0, 400), count=st.integers(1, 300))
    def ask_many(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            self.ask(str(number))
            self.answer(str(number))
        assert self.memory.find(str(first + count - 1)), "the oldest go first"

    @rule(topic=topics)
    def answer(self, topic: str) -> None:
        if topic in self.known:
            self.known[topic].body = b"{}"

    @rule(by_s=st.floats(0, 700))
    def wait(self, by_s: float) -> None:
        self.memory.now_s += by_s

    @invariant()
    def nothing_grows(self) -> None:
        working = sum(reply.body is None for reply in self.known.values())
        assert working <= len(self.memory.replies) <= max(REMEMBERED, working + 1)


TestRemembering = Remembering.TestCase
TestRemembering.settings = settings(stateful_step_count=15)
