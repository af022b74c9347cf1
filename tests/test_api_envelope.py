"""Requests as they come from a broker anybody can write to: read, or refused with a reason and a topic to say it on."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.errors import RequestError
from iem_dcr.everest_api.envelope import MAX_BYTES, Request, read_request, start_fields, stop_id
from iem_dcr.everest_api.topics import MAX_TOPIC_BYTES, MAX_TOPIC_LEVELS, is_module_id, is_reply_topic
from tests.support.api_bench import request, start_payload
from tests.support.fake_bus import check_topic

REPLY_TO = "everest_api/1/reply/7"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)


def read(message: bytes) -> Request:
    """Read a message, and see that its problem can be logged and its topic be published on."""
    got = read_request(message)
    assert got.problem.isprintable()
    assert len(got.problem) < 400
    assert bool(got.digest("stop_transaction")) == (not got.problem)
    if got.reply_to is not None:
        check_topic(got.reply_to)
    return got


def raw(payload: str) -> bytes:
    return f'{{"headers":{{"replyTo":"{REPLY_TO}"}},"payload":{payload}}}'.encode()


@given(payload=values, more=st.dictionaries(texts, values, max_size=3))
def test_any_payload_is_read_and_keys_of_a_later_version_are_left_alone(payload: Any, more: dict[str, Any]) -> None:
    assert read(request(payload)) == Request(None, payload)
    envelope = more | {"headers": {"replyTo": REPLY_TO, "traceparent": "x"}, "payload": payload}
    for ensure_ascii in (True, False):
        message = json.dumps(envelope, ensure_ascii=ensure_ascii).encode()
        assert read(message) == Request(REPLY_TO, payload)


@given(st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()), values, st.data())
def test_anything_is_read_or_refused(message: bytes, headers: Any, data: st.DataObject) -> None:
    read(message)
    got = read(json.dumps({"headers": headers, "payload": 1}).encode())
    assert bool(got.problem) == (not isinstance(headers, dict) or ("replyTo" in headers and got.reply_to is None))
    damaged = bytearray(request(start_payload(), REPLY_TO))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    read(bytes(damaged))


BAD_TOPICS: list[object] = [
    "", "a/#", "a/+/b", "#", "+", "a\0b", "$SYS/broker", "$share/g/t", "a\ud800b", "\udfff", "a\ue000\nb", "\ufeffa",
    "a\x7f", "\ufffe", "x" * (MAX_TOPIC_BYTES + 1), "ä" * (MAX_TOPIC_BYTES // 2 + 1), "/" * MAX_TOPIC_LEVELS,
    None, 7, {},
]  # fmt: skip


def test_topics_nothing_can_be_published_on_are_refused() -> None:
    for topic in BAD_TOPICS:
        got = read(json.dumps({"headers": {"replyTo": topic}, "payload": "T-1"}).encode())
        assert got.reply_to is None
        assert "replyTo" in got.problem
    for good in (REPLY_TO, "a", "/", "a//b", "ümlaut/ß", "with space", "a$b", "x" * MAX_TOPIC_BYTES):
        assert is_reply_topic(good)


@given(st.text(max_size=80) | st.text("abc/+#$\0é", max_size=20))
def test_a_topic_that_passes_can_be_published_on(topic: str) -> None:
    if is_reply_topic(topic):
        check_topic(topic)
        assert topic.count("/") < 128


@pytest.mark.parametrize("payload", [
    "NaN", '{"a":[-Infinity]}', "1e999", '"\\ud800"', '{"a":["\\udc00x"]}', '{"\\udfff":1}',
])  # fmt: skip
def test_a_payload_that_is_odd_is_refused_and_the_sender_told(payload: str) -> None:
    got = read(raw(payload))
    assert "no JSON" in got.problem
    assert got.reply_to == REPLY_TO


@pytest.mark.parametrize("message", [
    b"", b" ", b"null", b"42", b'"T-1"', b"[]", b"{", b'{"payload":}', b"\xff\xfe{}", b"\xef\xbb\xbf{}",
    b'{"payload":"\xed\xa0\x80"}', b'{"payload":1}x', b"{'payload':1}", b"[" * 60_000, b'{"headers":{}}',
    b'{"payload":' * 5_000, b'{"payload":' + b"9" * 5_000 + b"}", b'{"payload":"' + b"x" * MAX_BYTES + b'"}',
], ids=range(18))  # fmt: skip
def test_what_is_no_request(message: bytes) -> None:
    assert read(message).problem
    assert read(message).reply_to is None


def test_the_limits_of_a_request() -> None:
    for depth in (10, 400, 900, 2000):
        read(raw("[" * depth + "]" * depth))
    frame = len(request("", REPLY_TO))
    assert read(request("x" * (MAX_BYTES - frame), REPLY_TO)).reply_to == REPLY_TO
    assert "bytes" in read(request("x" * (MAX_BYTES - frame + 1), REPLY_TO)).problem
    assert read(raw('{"transaction_id":"T-9","x":1e999}')).payload == {"transaction_id": "T-9", "x": math.inf}


def test_a_digest_is_of_command_and_payload_however_they_are_written() -> None:
    payload = start_payload()
    again = json.dumps({"payload": dict(reversed(payload.items())), "headers": {"replyTo": "other"}}, indent=2).encode()
    digest = read(request(payload, REPLY_TO)).digest("start_transaction")
    assert read(again).digest("start_transaction") == digest
    assert read(again).digest("stop_transaction") != digest
    assert read(request(payload | {"evse_id": "other"})).digest("start_transaction") != digest


NO_STOPS: list[object] = [
    None, 1, 1.5, True, [], ["T-1"], {}, {"transaction_id": None}, {"transaction_id": 7}, {"id": "T-1"},
]  # fmt: skip


def test_the_payloads_of_a_start_and_of_a_stop() -> None:
    assert stop_id("T-1") == stop_id({"transaction_id": "T-1", "later": [1]}) == "T-1"
    for payload in NO_STOPS:
        with pytest.raises(RequestError, match="transaction"):
            stop_id(payload)
    start = start_payload(identification_level="TRUSTED")
    assert start_fields(start | {"reservation_id": 7}) == start
    for payload in (None, "04ABCDEF12", 7, ["04ABCDEF12"], False):
        with pytest.raises(RequestError, match="object") as caught:
            start_fields(payload)
        assert "04AB" not in str(caught.value)


def test_a_module_id_is_one_level_of_a_topic() -> None:
    assert is_module_id("powermeter_api 1é")
    for text in ("", "a/b", "/", "a+", "#", "a\0", "a\n", " a", "a ", "\ud800", "x" * 257):
        assert not is_module_id(text)
