"""Encodings of bytes: hex, base64, and the part of DER that receipts need (X.690).

Base64 may lack its padding, as in the output of many backends. DER lengths may have the short or the long form, as in
the transparency software. Indefinite lengths are not supported.
"""

from __future__ import annotations

import binascii
import re

SEQUENCE = 0x30
INTEGER = 0x02
BIT_STRING = 0x03
_LONG_FORM = 0x80
_LONGEST_LENGTH = 4
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")


def from_hex(text: str) -> bytes | None:
    """Decode hex. Return None if the text is not hex."""
    return bytes.fromhex(text) if _HEX.fullmatch(text) else None


def from_base64(text: str) -> bytes | None:
    """Decode base64 with or without padding. Return None if the text is not base64."""
    bare = text.rstrip("=")
    try:
        return binascii.a2b_base64(bare + "=" * (-len(bare) % 4), strict_mode=True)
    except ValueError:
        return None


def unwrapped(text: str, marker: str) -> str | None:
    """Decode a text from hex or base64. Return None if it is neither, or holds neither ASCII nor the marker."""
    together = "".join(text.split())
    raw = from_hex(together)
    if raw is None and _BASE64.fullmatch(together):
        raw = from_base64(together)
    if raw is None or not (raw.isascii() or marker.encode() in raw):
        return None
    return raw.decode("utf-8", "surrogateescape")


def elements(raw: bytes, *, may_go_on: bool = False) -> list[tuple[int, bytes]] | None:
    """Return tag and content of each element of a SEQUENCE, or None if the bytes are not a SEQUENCE.

    Args:
        raw: the SEQUENCE.
        may_go_on: whether further bytes may follow it. They are ignored.
    """
    outer = _element(raw, 0)
    if outer is None or outer[0] != SEQUENCE or (outer[2] != len(raw) and not may_go_on):
        return None
    content, at = outer[1], 0
    found: list[tuple[int, bytes]] = []
    while at < len(content):
        inner = _element(content, at)
        if inner is None:
            return None
        found.append(inner[:2])
        at = inner[2]
    return found


def integer(value: int) -> bytes:
    """Encode a non-negative number as an INTEGER."""
    return _written(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def sequence(content: bytes) -> bytes:
    """Encode elements as a SEQUENCE of at most 255 bytes."""
    return _written(SEQUENCE, content)


def _element(raw: bytes, at: int) -> tuple[int, bytes, int] | None:
    """Return tag, content and end index of the element at ``at``, or None."""
    if at + 2 > len(raw):
        return None
    tag, size = raw[at], raw[at + 1]
    at += 2
    if size >= _LONG_FORM:
        count = size - _LONG_FORM
        if not 1 <= count <= _LONGEST_LENGTH:
            return None
        size = int.from_bytes(raw[at : at + count], "big")
        at += count
    end = at + size
    return (tag, raw[at:end], end) if end <= len(raw) else None


def _written(tag: int, content: bytes) -> bytes:
    size = len(content)
    return bytes([tag, size] if size < _LONG_FORM else [tag, _LONG_FORM + 1, size]) + content
