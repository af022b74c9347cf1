"""The memory of replies: what comes twice is carried out once, and nothing grows."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from iem_dcr.everest_api.replies import (
    REMEMBERED,
    REMEMBERED_S,
    UNANSWERED_STARTS,
    UNANSWERED_STARTS_S,
    WAITED_FOR_S,
    Replies,
    Reply,
    digest,
)


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_reply_is_there_for_ten_minutes_after_it_was_last_asked_for() -> None:
    clock = Clock()
    replies = Replies(clock)
    reply = replies.begin("r", b"d")
    reply.body = b"{}"
    clock.now_s += REMEMBERED_S - 1
    assert replies.find("r") is reply
    clock.now_s += REMEMBERED_S - 1
    assert replies.find("r") is reply
    clock.now_s += REMEMBERED_S
    assert replies.find("r") is None
    assert len(replies) == 0


def test_one_at_work_is_never_forgotten() -> None:
    clock = Clock()
    replies = Replies(clock)
    reply = replies.begin("r", b"d")
    clock.now_s += REMEMBERED_S * 2
    for number in range(REMEMBERED * 2):
        replies.begin(f"other/{number}", b"d").body = b"{}"
    assert replies.find("r") is reply
    assert len(replies) <= REMEMBERED + 1


def test_of_too_many_those_go_first_that_were_delivered() -> None:
    clock = Clock()
    replies = Replies(clock)
    for number in range(REMEMBERED):
        clock.now_s += 0.001
        reply = replies.begin(f"r/{number}", b"d")
        reply.body = b"{}"
        reply.is_delivered = number >= 10
    replies.begin("new", b"d")
    assert len(replies) == REMEMBERED
    assert replies.find("r/0") is not None
    assert replies.find("r/10") is None
    assert replies.find("r/11") is not None


def test_what_is_to_be_delivered_still() -> None:
    clock = Clock()
    replies = Replies(clock)
    working, waiting, going, gone = (replies.begin(name, b"") for name in ("working", "waiting", "going", "gone"))
    waiting.body = going.body = gone.body = b"{}"
    going.is_delivering = True
    gone.is_delivered = True
    assert replies.undelivered() == [waiting]
    assert replies.waits_s(working) == WAITED_FOR_S
    clock.now_s += WAITED_FOR_S - 1
    assert replies.undelivered() == [waiting]
    assert replies.waits_s(waiting) == 1.0
    clock.now_s += 1
    assert replies.undelivered() == []
    assert replies.waits_s(waiting) == 0.0


def test_a_start_without_a_reply_is_new_once_a_minute_and_after_every_stop() -> None:
    clock = Clock()
    replies = Replies(clock)
    one, other = digest("start", b"1"), digest("start", b"2")
    assert replies.is_new_start(one)
    assert not replies.is_new_start(one)
    assert replies.is_new_start(other)
    clock.now_s += UNANSWERED_STARTS_S
    assert replies.is_new_start(one)
    assert not replies.is_new_start(one)
    replies.forget_starts()
    assert replies.is_new_start(one)


def test_starts_without_a_reply_are_bounded() -> None:
    replies = Replies(Clock())
    for number in range(UNANSWERED_STARTS * 3):
        assert replies.is_new_start(digest("start", str(number).encode()))
    assert replies.is_new_start(digest("start", b"0"))
    assert not replies.is_new_start(digest("start", str(UNANSWERED_STARTS * 3 - 1).encode()))


def test_command_and_payload_tell_requests_apart() -> None:
    assert digest("start", b"x") == digest("start", b"x")
    assert len({digest("start", b"x"), digest("stop", b"x"), digest("start", b"y")}) == 3


class Memory(RuleBasedStateMachine):
    """Against the plainest memory there is: all requests, with the time they were last asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.replies = Replies(self.clock)
        self.known: dict[str, Reply] = {}

    topics = st.integers(0, 400).map(str)

    @rule(topic=topics)
    def ask(self, topic: str) -> None:
        reply = self.replies.find(topic)
        before = self.known.get(topic)
        if reply is None:
            assert before is None or before.body is not None, "one at work was forgotten"
            reply = self.replies.begin(topic, b"")
        else:
            assert reply is before
        self.known[topic] = reply

    @rule(first=st.integers(0, 400), count=st.integers(1, 300))
    def ask_many(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            self.ask(str(number))
            self.answer(str(number))

    @rule(topic=topics)
    def answer(self, topic: str) -> None:
        if topic in self.known:
            self.known[topic].body = b"{}"

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        self.known[data.draw(st.sampled_from(sorted(self.known)))].is_delivered = True

    @rule(by_s=st.floats(0, 700))
    def wait(self, by_s: float) -> None:
        self.clock.now_s += by_s

    @invariant()
    def nothing_grows(self) -> None:
        working = sum(reply.body is None for reply in self.known.values())
        assert working <= len(self.replies) <= max(REMEMBERED, working + 1)


TestMemory = Memory.TestCase
TestMemory.settings = settings(stateful_step_count=20)
