"""The memory of replies: what comes twice is carried out once, and nothing grows."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from iem_dcr.everest_api.replies import (
    REMEMBERED,
    REMEMBERED_S,
    UNANSWERED_STARTS_S,
    WAITED_FOR_S,
    Replies,
    Reply,
)


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Site:
    """A memory and its clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.replies = Replies(self.clock)

    def begin(self, reply_to: str | None, digest: bytes = b"d", **fields: object) -> Reply:
        reply = Reply(reply_to, digest, self.clock(), **fields)  # type: ignore[arg-type]
        self.replies.remember(reply)
        return reply


@pytest.mark.parametrize(
    ("reply_to", "lasts_s", "is_prolonged"), [("r", REMEMBERED_S, True), (None, UNANSWERED_STARTS_S, False)]
)
def test_how_long_a_request_is_remembered(reply_to: str | None, lasts_s: float, *, is_prolonged: bool) -> None:
    site = Site()
    reply = site.begin(reply_to, body=b"{}")
    site.clock.now_s += lasts_s - 1
    assert site.replies.find(reply_to, b"d") is reply
    site.clock.now_s += lasts_s - 1
    assert site.replies.find(reply_to, b"d") is (reply if is_prolonged else None)
    site.clock.now_s += lasts_s
    assert site.replies.find(reply_to, b"d") is None
    assert len(site.replies) == 0


def test_of_too_many_those_go_first_that_were_delivered() -> None:
    site = Site()
    for number in range(REMEMBERED):
        site.clock.now_s += 0.001
        site.begin(f"r/{number}", body=b"{}", is_delivered=number >= 10)
    site.begin("new")
    assert len(site.replies) == REMEMBERED
    assert [name for name in ("r/0", "r/10", "r/11") if site.replies.find(name, b"")] == ["r/0", "r/11"]


def test_what_is_to_be_delivered_still() -> None:
    site = Site()
    site.begin("working")
    site.begin("gone", body=b"{}", is_delivered=True)
    waiting = site.begin("waiting", body=b"{}")
    site.clock.now_s += WAITED_FOR_S - 1
    assert site.replies.undelivered() == [waiting]
    assert site.replies.waits_s(waiting) == 1.0
    site.clock.now_s += 1
    assert site.replies.undelivered() == []
    assert site.replies.waits_s(waiting) == 0.0


class Memory(RuleBasedStateMachine):
    """Against the plainest memory there is: all requests, with the time they were last asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.site = Site()
        self.known: dict[str, Reply] = {}

    topics = st.integers(0, 400).map(str)

    @rule(topic=topics)
    def ask(self, topic: str) -> None:
        reply, before = self.site.replies.find(topic, b""), self.known.get(topic)
        if reply is None:
            assert before is None or before.body is not None, "one at work was forgotten"
            reply = self.site.begin(topic)
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
        self.site.clock.now_s += by_s

    @invariant()
    def nothing_grows(self) -> None:
        working = sum(reply.body is None for reply in self.known.values())
        assert working <= len(self.site.replies) <= max(REMEMBERED, working + 1)


TestMemory = Memory.TestCase
TestMemory.settings = settings(stateful_step_count=15)
