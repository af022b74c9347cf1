"""Reads requests in the envelope of EVerest's API: ``{"headers": {"replyTo": <topic>}, "payload": …}``. Pure.

A client of the broker can publish anything. A message that is not a request is refused with a reason. The error has the
topic for the reply if the message has a readable one.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, fields
from typing import Final

from iem_dcr.errors import RequestError, printable
from iem_dcr.everest_api.topics import is_reply_topic
from iem_dcr.powermeter import TransactionReq

MAX_BYTES: Final = 64 * 1024
"""The largest request that is read. A request with a tariff text of 250 characters has less than 2 KiB."""
MAX_DEPTH: Final = 16
_START_FIELDS: Final = frozenset(each.name for each in fields(TransactionReq))


@dataclass(frozen=True, slots=True)
class Request:
    """A request as received.

    Attributes:
        reply_to: topic for the reply, or None if the sender wants no reply.
        payload: JSON value. Each command checks its own.
    """

    reply_to: str | None
    payload: object

    @property
    def canonical(self) -> bytes:
        """The payload in one spelling: the same for every order of keys and every white space."""
        return _canonical(self.payload)


class EnvelopeError(RequestError):
    """A message is not a request.

    Attributes:
        reply_to: topic for the refusal, or None if none could be read.
        payload: the payload if it could be read, or None.
    """

    def __init__(self, reason: str, reply_to: str | None = None, payload: object = None) -> None:
        super().__init__(reason)
        self.reply_to = reply_to
        self.payload = payload


def read_request(message: bytes) -> Request:
    """Read a request. Keys that EVerest's document does not name are ignored, because it allows them.

    Raises:
        EnvelopeError: the message is not a request.
    """
    value, repeated = _parsed(message)
    if not isinstance(value, dict):
        raise EnvelopeError(f"a request is an object, not {_kind(value)}")
    payload = value.get("payload")
    reply_to, reason = _reply_to(value.get("headers", {}), repeated)
    if not reason and repeated:
        reason = f"the key {printable(repr(repeated[0]), limit=40)} is there more than once"
    if not reason:
        reason = _unreadable(payload) if "payload" in value else "payload is missing"
    if reason:
        raise EnvelopeError(reason, reply_to, payload)
    return Request(reply_to, payload)


def start_fields(payload: object) -> object:
    """Return the fields of a start that this version knows. EVerest's document allows further fields.

    Raises:
        RequestError: the payload is not an object.
    """
    if not isinstance(payload, dict):
        raise RequestError(f"the payload of start_transaction is an object, not {_kind(payload)}")
    return {key: value for key, value in payload.items() if key in _START_FIELDS}


def stop_id(payload: object) -> str:
    """Return the transaction id of a stop. EVerest sends a text; its document describes an object with the id.

    Raises:
        RequestError: the payload is neither.
    """
    if isinstance(payload, str):
        return payload
    if not isinstance(payload, dict):
        expected = "a transaction id or an object that has one"
        raise RequestError(f"the payload of stop_transaction is {expected}, not {_kind(payload)}")
    if "transaction_id" not in payload:
        raise RequestError("transaction_id is missing")
    transaction_id = payload["transaction_id"]
    if not isinstance(transaction_id, str):
        raise RequestError(f"transaction_id has to be a text, not {_kind(transaction_id)}")
    return transaction_id


def _parsed(message: bytes) -> tuple[object, list[str]]:
    """Return the JSON value of a message, and the keys that occur more than once in one of its objects."""
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        value = dict(pairs)
        if len(value) < len(pairs):
            repeated.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return value

    if len(message) > MAX_BYTES:
        raise EnvelopeError(f"a request of {len(message)} bytes: at most {MAX_BYTES} are read")
    try:
        return json.loads(message.decode(), object_pairs_hook=unique), repeated
    except UnicodeDecodeError:
        raise EnvelopeError("a request that is not UTF-8") from None
    except RecursionError:
        raise EnvelopeError("a request that is nested too deeply") from None
    except ValueError as error:
        raise EnvelopeError(f"a request that is no JSON: {printable(error)}") from None


def _reply_to(headers: object, repeated: list[str]) -> tuple[str | None, str]:
    """Return the topic for the reply, or None if there is no usable one, and what is wrong with it, or ""."""
    if not isinstance(headers, dict):
        return None, f"headers is an object, not {_kind(headers)}"
    if {"headers", "replyTo"} & {*repeated}:
        return None, "replyTo is there more than once"
    if "replyTo" not in headers:
        return None, ""
    reply_to = headers["replyTo"]
    if not isinstance(reply_to, str):
        return None, f"replyTo is a topic, not {_kind(reply_to)}"
    return (reply_to, "") if is_reply_topic(reply_to) else (None, "replyTo is no topic a reply can be published on")


def _unreadable(payload: object) -> str:
    """Return why a payload cannot be written as JSON again, or ""."""
    level = [payload]
    for _ in range(MAX_DEPTH):
        level = [part for each in level for part in _parts(each)]
    if level:
        return f"a payload that is nested more than {MAX_DEPTH} deep"
    try:
        _canonical(payload)
    except UnicodeEncodeError:
        return "a text with half a surrogate pair"
    except ValueError:
        return "NaN and numbers that are too large are no JSON"
    return ""


def _parts(value: object) -> list[object]:
    return [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []


def _canonical(payload: object) -> bytes:
    return json.dumps(payload, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def _kind(value: object) -> str:
    """Return the name of a JSON value's type. The value itself may be a user's token and is not shown."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
