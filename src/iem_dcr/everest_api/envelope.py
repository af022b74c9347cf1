"""Requests as EVerest's API wraps them: ``{"headers": {"replyTo": <topic>}, "payload": …}``. Pure.

Whoever can write to the broker can write anything. What is not a request is refused with a reason, and the topic to
send it to where that can still be read.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final

from iem_dcr.errors import RequestError, printable
from iem_dcr.everest_api.topics import is_reply_topic
from iem_dcr.powermeter import TransactionReq

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES: Final = 64 * 1024
"""The largest request that is read; one with a tariff text of 250 characters has less than 2 KiB."""
MAX_DEPTH: Final = 16
_MAX_DIGITS: Final = 19
"""Digits of a number of 64 bits; no number stands in a request as it is defined."""

_START_FIELDS: Final = frozenset(each.name for each in fields(TransactionReq))


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came.

    Attributes:
        reply_to: topic its sender waits on for the answer; None where no answer is wanted.
        payload: JSON value; what it has to be is the command's to say.
    """

    reply_to: str | None
    payload: object


class EnvelopeError(RequestError):
    """What came is no request.

    Attributes:
        reply_to: topic on which its sender may be told; None where none could be read.
        payload: what could be read of the payload, or None.
    """

    def __init__(self, reason: str, reply_to: str | None = None, payload: object = None) -> None:
        super().__init__(reason)
        self.reply_to = reply_to
        self.payload = payload


@dataclass(slots=True)
class _Oddities:
    """What is wrong with a text that is JSON all the same; found while it is read.

    Attributes:
        reasons: what was found, the first first.
        repeated: keys that an object has more than once.
    """

    reasons: list[str] = field(default_factory=list)
    repeated: set[str] = field(default_factory=set)

    def constant(self, name: str) -> None:
        self.reasons.append(f"{name} is no JSON")

    def integer(self, digits: str) -> int:
        count = len(digits.lstrip("-"))
        if count <= _MAX_DIGITS:
            return int(digits)
        self.reasons.append(f"a number of {count} digits")
        return 0

    def real(self, text: str) -> float:
        value = float(text)
        if math.isinf(value):
            self.reasons.append("a number that is too large")
        return value

    def pairs(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        value = dict(pairs)
        if len(value) < len(pairs):
            seen: set[str] = set()
            again = {key for key, _ in pairs if key in seen or seen.add(key)}  # type: ignore[func-returns-value]
            self.repeated |= again
            self.reasons.append(f"the key {printable(repr(min(again)), limit=40)} is there more than once")
        return value


def read_request(message: bytes) -> Request:
    """Read a request.

    Keys beside ``headers``, ``replyTo`` and ``payload`` are left alone: EVerest's document allows them.

    Raises:
        EnvelopeError: it is none.
    """
    oddities = _Oddities()
    value = _parsed(message, oddities)
    if not isinstance(value, dict):
        raise EnvelopeError(f"a request is an object, not {_kind(value)}")
    payload = value.get("payload")
    reply_to, reason = _reply_to(value, oddities.repeated)
    reason = reason or next(iter(oddities.reasons), "") or next(_unreadable(value), "")
    if not reason and "payload" not in value:
        reason = "payload is missing"
    if reason:
        raise EnvelopeError(reason, reply_to, payload)
    return Request(reply_to, payload)


def start_fields(payload: object) -> object:
    """Leave the fields of a start that this version knows; EVerest's document allows others beside them.

    Raises:
        RequestError: the payload is no object.
    """
    if not isinstance(payload, dict):
        raise RequestError(f"the payload of start_transaction is an object, not {_kind(payload)}")
    return {key: value for key, value in payload.items() if key in _START_FIELDS}


def stop_id(payload: object) -> str:
    """Return the transaction id of a stop: a text as EVerest sends it, or in an object as its document has it.

    Raises:
        RequestError: it is neither.
    """
    if isinstance(payload, str):
        return payload
    if not isinstance(payload, dict):
        raise RequestError(
            f"the payload of stop_transaction is a transaction id or an object that has one, not {_kind(payload)}"
        )
    transaction_id = payload.get("transaction_id")
    if not isinstance(transaction_id, str):
        raise RequestError(
            f"transaction_id has to be a text, not {_kind(transaction_id)}"
            if "transaction_id" in payload
            else "transaction_id is missing"
        )
    return transaction_id


def _parsed(message: bytes, oddities: _Oddities) -> object:
    if len(message) > MAX_BYTES:
        raise EnvelopeError(f"a request of {len(message)} bytes: at most {MAX_BYTES} are read")
    try:
        value: object = json.loads(
            message.decode(),
            parse_constant=oddities.constant,
            parse_int=oddities.integer,
            parse_float=oddities.real,
            object_pairs_hook=oddities.pairs,
        )
    except UnicodeDecodeError:
        raise EnvelopeError("a request that is not UTF-8") from None
    except RecursionError:
        raise EnvelopeError("a request that is nested too deeply") from None
    except ValueError as error:
        raise EnvelopeError(f"a request that is no JSON: {printable(error)}") from None
    return value


def _reply_to(value: dict[str, object], repeated: set[str]) -> tuple[str | None, str]:
    """Return the topic for the answer, None where there is none to be used, and what is wrong with it, or ""."""
    headers = value.get("headers", {})
    if not isinstance(headers, dict):
        return None, f"headers is an object, not {_kind(headers)}"
    if "replyTo" not in headers:
        return None, ""
    reply_to = headers["replyTo"]
    if not isinstance(reply_to, str):
        return None, f"replyTo is a topic, not {_kind(reply_to)}"
    if repeated & {"headers", "replyTo"}:
        return None, "replyTo is there more than once"
    if not is_reply_topic(reply_to):
        return None, "replyTo is no topic an answer can be published on"
    return reply_to, ""


def _unreadable(value: object) -> Iterator[str]:
    """Yield what no text may hold or no value be; does not call itself, for the value may be deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        if any(isinstance(each, str) and not _is_unicode(each) for each in level):
            yield "a text with half a surrogate pair"
        level = [part for each in level for part in _parts(each)]
    if level:
        yield f"a request that is nested more than {MAX_DEPTH} deep"


def _parts(value: object) -> list[object]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, list) else []


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _kind(value: object) -> str:
    """Name a JSON value's type, and never show the value: it may be a user's token."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
