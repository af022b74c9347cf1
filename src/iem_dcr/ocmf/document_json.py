"""Tuples in JSON: EVerest's SignedMeterValue, OCPP 1.6 and 2.x signed meter values, and whatever else holds a tuple.

OCPP 1.6 has the signed value as a JSON text in ``SampledValue.value`` with format SignedData, OCPP 2.x as the object
``signedMeterValue``; in both ``signedMeterData`` is base64 of the tuple and ``publicKey`` base64 of
``oca:base16:asn1:<hex>`` (OCA, Signed Meter Values in OCPP). A tuple is known by how it begins, so every text in the
JSON is looked at, and the key is the nearest one around it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from iem_dcr.errors import ReceiptError
from iem_dcr.ocmf.document_text import Found, at_most, decoded_tuple, tuples_in

if TYPE_CHECKING:
    from collections.abc import Iterator

DEEPEST = 4
"""JSON texts within JSON texts: a message in a log in a message has two."""
_KEYS = frozenset({"publickey", "pk"})
_BEGINS_JSON = ("{", "[", '"')
_MOST_SPACE = " \t\r\n\0\ufeff"


class _Object(tuple[tuple[str, object], ...]):
    """An object's pairs: one whose key is there again is looked at too."""

    __slots__ = ()


_JSON = json.JSONDecoder(strict=False, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_Object)


def read_json(text: str) -> list[Found] | None:
    """Read the tuples of one JSON text or of several one after the other; None where it is no JSON.

    Raises:
        ReceiptError: it is nested too deeply, or holds too many tuples.
    """
    values = list[object]()
    at, size = 0, len(text)
    while True:
        while at < size and text[at] in _MOST_SPACE:
            at += 1
        if at >= size:
            break
        try:
            value, at = _JSON.raw_decode(text, at)
        except ValueError:
            return None
        except RecursionError as error:
            raise ReceiptError("JSON that is nested too deeply to be read") from error
        values.append(value)
    found = (one for value in values for one in _search(value, "", DEEPEST))
    return at_most(Found(one.text, one.key, f"receipt {number}") for number, one in enumerate(found, 1))


def _search(value: object, key: str, depth: int) -> Iterator[Found]:
    """Yield the tuples within a value in their order; without recursion, for JSON may be deep."""
    waiting = [(value, key)]
    while waiting:
        value, key = waiting.pop()
        if isinstance(value, str):
            yield from _in_text(value, key, depth)
        elif isinstance(value, _Object):
            key = _key_in(value) or key
            waiting.extend((inner, key) for _, inner in reversed(value))
        elif isinstance(value, list):
            waiting.extend((inner, key) for inner in reversed(value))


def _in_text(text: str, key: str, depth: int) -> Iterator[Found]:
    written = text.strip()
    if depth and written.startswith(_BEGINS_JSON):
        try:
            inner, end = _JSON.raw_decode(written)
        except (ValueError, RecursionError):
            pass
        else:
            if not written[end:].strip():
                yield from _search(inner, key, depth - 1)
                return
    held = decoded_tuple(written)
    if held is not None:
        yield from (Found(one.text, key) for one in tuples_in(held))


def _key_in(value: _Object) -> str:
    for name, inner in value:
        if isinstance(inner, str) and inner and name.replace("_", "").lower() in _KEYS:
            return inner
    return ""
