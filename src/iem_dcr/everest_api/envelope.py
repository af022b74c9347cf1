"""Reads requests in the envelope of EVerest's API: ``{"headers": {"replyTo": <topic>}, "payload": …}``. Pure.

A client of the broker can publish anything. A message that is not a request has a `Request.problem`, and the topic for
the refusal if it can be read. No message shows a value, because it may be a user's token.
"""

from __future__ import annotations

import hashlib
import json
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
    try:
        value = json.loads(message.decode())
    except (ValueError, RecursionError) as error:
        return Request(problem=f"a request that is no JSON: {printable(error)}")
    headers = value.get("headers", {}) if isinstance(value, dict) else None
    if not isinstance(headers, dict):
        return Request(problem="a request and its headers are objects")
    payload, reply_to = value.get("payload"), headers.get("replyTo")
    if "replyTo" in headers and not (isinstance(reply_to, str) and is_reply_topic(reply_to)):
        return Request(None, payload, "replyTo is no topic a reply can be published on")
    return Request(reply_to, payload, _problem_of(payload) if "payload" in value else "payload is missing")


def start_fields(payload: object) -> object:
    """Return the fields of a start that this version knows. EVerest's document allows further fields.

    Raises:
        RequestError: the payload is not an object.
    """
    if not isinstance(payload, dict):
        raise RequestError("the payload of start_transaction must be an object")
    return {key: value for key, value in payload.items() if key in _START_FIELDS}


def stop_id(payload: object) -> str:
    """Return the transaction id of a stop. EVerest sends a text; its document describes an object with the id.

    Raises:
        RequestError: the payload is neither.
    """
    transaction_id = payload.get("transaction_id") if isinstance(payload, dict) else payload
    if not isinstance(transaction_id, str):
        raise RequestError("the payload of stop_transaction must be a transaction_id or an object that has one")
    return transaction_id


def _problem_of(payload: object) -> str:
    """Return why a payload cannot be written as JSON again, or ""."""
    try:
        _canonical(payload)
    except (ValueError, RecursionError) as error:  # NaN, half a surrogate pair, deep nesting
        return f"a payload that is no JSON: {printable(error)}"
    return ""


def _canonical(payload: object) -> bytes:
    return json.dumps(payload, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
