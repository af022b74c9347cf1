"""Requests as they come from a broker anybody can write to: read, or refused with a reason and a topic to say it on."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.errors import RequestError
from iem_dcr.everest_api.envelope import (
    MAX_BYTES,
    MAX_DEPTH,
    EnvelopeError,
    Request,
    read_request,
    start_fields,
    stop_id,
)
from iem_dcr.everest_api.topics import MAX_TOPIC_BYTES, MAX_TOPIC_LEVELS, Topics, is_module_id, is_reply_topic
from iem_dcr.powermeter import TransactionReq
from tests.support.api_bench import request, start_payload
from tests.support.fake_bus import check_topic

REPLY_TO = "everest_api/1/reply/7"
BAD_TOPICS = [
    "", "a/#", "a/+/b", "#", "+", "a\0b", "$SYS/broker", "$share/g/t", "a\ud800b", "\udfff", "a\ue000\nb", "\ufeffa",
    "a\x7f", "\ufffe", "x" * (MAX_TOPIC_BYTES + 1), "ä" * (MAX_TOPIC_BYTES // 2 + 1), "/" * MAX_TOPIC_LEVELS,
]  # fmt: skip

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    scalars | texts, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=8
)


def refused(message: bytes) -> EnvelopeError:
    with pytest.raises(EnvelopeError) as caught:
        read_request(message)
    assert str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    return caught.value


def raw(payload: str, headers: str = json.dumps({"replyTo": REPLY_TO})) -> bytes:
    return f'{{"headers":{headers},"payload":{payload}}}'.encode()


def test_a_request_as_everest_sends_it() -> None:
    assert read_request(request("T-1", REPLY_TO)) == Request(REPLY_TO, "T-1")
    assert read_request(request("T-1")) == Request(None, "T-1")
    assert read_request(b'{"headers":{},"payload":""}') == Request(None, "")


@given(payload=values, more=st.dictionaries(texts, values, max_size=3))
def test_any_payload_is_read_and_keys_of_a_later_version_are_left_alone(payload: Any, more: dict[str, Any]) -> None:
    envelope = more | {"headers": {"replyTo": REPLY_TO, "traceparent": "x"}, "payload": payload}
    for ensure_ascii in (True, False):
        message = json.dumps(envelope, ensure_ascii=ensure_ascii).encode()
        assert read_request(message) == Request(REPLY_TO, payload)


@given(st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
def test_anything_is_read_or_refused(message: bytes) -> None:
    try:
        read_request(message)
    except EnvelopeError:
        refused(message)


@given(headers=values, payload=values)
def test_headers_of_any_shape(headers: Any, payload: Any) -> None:
    message = json.dumps({"headers": headers, "payload": payload}).encode()
    if isinstance(headers, dict) and "replyTo" not in headers:
        assert read_request(message).reply_to is None
    elif not isinstance(headers, dict):
        assert refused(message).reply_to is None


@given(st.data())
def test_damage_within_a_request(data: st.DataObject) -> None:
    message = bytearray(request(start_payload(), REPLY_TO))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(message) - 1))
        message[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        reply_to = read_request(bytes(message)).reply_to
    except EnvelopeError as error:
        reply_to = error.reply_to
    if reply_to is not None:
        check_topic(reply_to)


@pytest.mark.parametrize("topic", [*BAD_TOPICS, None, 7, {}], ids=range(len(BAD_TOPICS) + 3))
def test_topics_nothing_can_be_published_on_are_refused(topic: object) -> None:
    error = refused(json.dumps({"headers": {"replyTo": topic}, "payload": "T-1"}).encode())
    assert error.reply_to is None
    if isinstance(topic, str):
        assert not is_reply_topic(topic)
        assert "replyTo" in str(error)


@given(st.text(max_size=80) | st.text("abc/#+$\0é", max_size=20))
def test_a_topic_that_passes_can_be_published_on(topic: str) -> None:
    if is_reply_topic(topic):
        check_topic(topic)
        assert topic.count("/") < 128


def test_topics_of_others_that_are_fine_are_taken() -> None:
    for topic in (REPLY_TO, "a", "/", "a//b", "ümlaut/ß", "with space", "a$b", "x" * MAX_TOPIC_BYTES):
        assert is_reply_topic(topic)


@pytest.mark.parametrize(("payload", "reason"), [
    ("NaN", "NaN"), ('{"a":[-Infinity]}', "NaN and numbers that are too large are no JSON"), ("1e999", "too large"),
    ('{"transaction_id":"T-1","transaction_id":"T-2"}', "'transaction_id' is there more than once"),
    *((payload, "half a surrogate") for payload in ('"\\ud800"', '{"a":["\\udc00x"]}', '{"\\udfff":1}')),
    ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested"),
], ids=range(8))  # fmt: skip
def test_what_is_odd_is_refused_and_the_sender_told(payload: str, reason: str) -> None:
    error = refused(raw(payload))
    assert reason in str(error)
    assert error.reply_to == REPLY_TO


def test_a_payload_that_is_missing() -> None:
    error = refused(json.dumps({"headers": {"replyTo": REPLY_TO}}).encode())
    assert (error.reply_to, str(error)) == (REPLY_TO, "payload is missing")


@pytest.mark.parametrize(
    "message",
    [
        b"", b" ", b"null", b"42", b'"T-1"', b"[]", b"{", b'{"payload":}', b"\xff\xfe{}", b"\xef\xbb\xbf{}",
        b'{"payload":"\xed\xa0\x80"}', b'{"payload":1}x', b"{'payload':1}", b"[" * 60_000,
        b'{"payload":' * 5_000, b'{"payload":' + b"9" * 5_000 + b"}", b'{"payload":"' + b"x" * MAX_BYTES + b'"}',
    ],
    ids=range(17),
)  # fmt: skip
def test_what_is_no_request_at_all(message: bytes) -> None:
    assert refused(message).reply_to is None


def test_a_reply_topic_given_twice_is_none() -> None:
    twice = f'{{"replyTo":"{REPLY_TO}","replyTo":"another"}}'
    assert refused(raw('"T-1"', twice)).reply_to is None
    both = f'{{"headers":{{"replyTo":"a"}},"headers":{{"replyTo":"{REPLY_TO}"}},"payload":1}}'
    assert refused(both.encode()).reply_to is None


def test_what_could_be_read_of_a_refused_payload_comes_along() -> None:
    assert refused(raw('{"transaction_id":"T-9","x":1e999}')).payload == {"transaction_id": "T-9", "x": math.inf}


def test_the_largest_request_is_read() -> None:
    frame = len(request("", REPLY_TO))
    assert read_request(request("x" * (MAX_BYTES - frame), REPLY_TO)).reply_to == REPLY_TO
    assert "bytes" in str(refused(request("x" * (MAX_BYTES - frame + 1), REPLY_TO)))


@given(texts)
def test_any_text_is_an_id_to_stop_in_both_forms(text: str) -> None:
    assert stop_id(text) == stop_id({"transaction_id": text}) == stop_id({"transaction_id": text, "later": [1]}) == text


def test_what_is_no_stop_is_refused() -> None:
    for payload in (
        None,
        1,
        1.5,
        True,
        [],
        ["T-1"],
        {},
        {"transaction_id": None},
        {"transaction_id": 7},
        {"id": "T-1"},
    ):
        with pytest.raises(RequestError, match="transaction"):
            stop_id(payload)


def test_fields_of_a_later_version_are_left_out_of_a_start() -> None:
    payload = start_payload(identification_level="TRUSTED")
    assert start_fields(payload | {"reservation_id": 7}) == payload
    assert TransactionReq.from_json(start_fields(payload)).transaction_id == "T-1"


def test_a_start_that_is_no_object_is_refused_without_being_shown() -> None:
    for payload in (None, "04ABCDEF12", 7, ["04ABCDEF12"], False):
        with pytest.raises(RequestError, match="object") as caught:
            start_fields(payload)
        assert "04AB" not in str(caught.value)


def test_a_module_id_stands_in_every_topic() -> None:
    assert is_module_id("powermeter_api 1é")
    for text in ("", "a/b", "/", "a+", "#", "a\0", "a\n", " a", "a ", "\ud800", "x" * 257):
        assert not is_module_id(text)
    topics = Topics("m1")
    for topic in (topics.start, topics.stop, topics.heartbeat, topics.values, topics.key, topics.check):
        assert topic.startswith("everest_api/1/powermeter/m1/")
        check_topic(topic)
