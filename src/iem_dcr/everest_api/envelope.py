"""Reads requests in the envelope of EVerest's API: ``{"headers": {"replyTo": <topic>}, "payload": …}``. Pure.

A client of the broker can publish anything. A message that is not a request has a `Request.problem`, and the topic for
the refusal if it can be read.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, fields
from typing import Final

from iem_dcr.errors import RequestError, printable
from iem_dcr.everest_api.topics import is_reply_topic
from iem_dcr.powermeter import TransactionReq

MAX_BYTES: Final = 64 * 1024
"""The largest request that is read. A request with a tariff text of 250 characters has less than 2 KiB."""
_START_FIELDS: Final = frozenset(each.name for each in fields(TransactionReq))


@dataclass(frozen=True, slots=True)
class Request:
    """A message on a topic for requests.

    Attributes:
        reply_to: topic for the reply, or None if the sender wants none or names none that can be used.
        payload: JSON value, or None if it cannot be read. Each command checks its own.
        problem: why the message is not a request, or "".
    """

    reply_to: str | None = None
    payload: object = None
    problem: str = ""

    def digest(self, command: str) -> bytes:
        """Return a digest of command and payload, or b"" for a message that is not a request.

        It is the same for every order of keys and every white space.
        """
        return b"" if self.problem else hashlib.sha256(command.encode() + b"\0" + _canonical(self.payload)).digest()


def read_request(message: bytes) -> Request:
    """Read a message. Keys that EVerest's document does not name are ignored, because it allows them."""
    if len(message) > MAX_BYTES:
        return Request(problem=f"a request of {len(message)} bytes: at most {MAX_BYTES} are read")
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        repeated.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        value = json.loads(message.decode(), object_pairs_hook=unique)
    except UnicodeDecodeError:
        return Request(problem="a request that is not UTF-8")
    except RecursionError:
        return Request(problem="a request that is nested too deeply")
    except ValueError as error:
        return Request(problem=f"a request that is no JSON: {printable(error)}")
    if not isinstance(value, dict):
        return Request(problem=f"a request is an object, not {_kind(value)}")
    reply_to, problem = _reply_to(value.get("headers", {}), repeated)
    if not problem and repeated:
        problem = f"the key {printable(repr(repeated[0]), limit=40)} is there more than once"
    if not problem:
        problem = _unreadable(value["payload"]) if "payload" in value else "payload is missing"
    return Request(reply_to, value.get("payload"), problem)


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
    if isinstance(payload, dict):
        if "transaction_id" not in payload:
            raise RequestError("transaction_id is missing")
        payload = payload["transaction_id"]
    if not isinstance(payload, str):
        expected = "a transaction id or an object that has one"
        raise RequestError(f"the payload of stop_transaction is {expected}, not {_kind(payload)}")
    return payload


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
    try:
        _canonical(payload)
    except UnicodeEncodeError:
        return "a text with half a surrogate pair"
    except ValueError:
        return "NaN and numbers that are too large are no JSON"
    except RecursionError:
        return "a payload that is nested too deeply"
    return ""


def _canonical(payload: object) -> bytes:
    return json.dumps(payload, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def _kind(value: object) -> str:
    """Return the name of a JSON value's type. The value itself may be a user's token and is not shown."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
