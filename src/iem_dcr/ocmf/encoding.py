"""Encodings of bytes: hex, base64, base32, and the part of DER that receipts need (X.690).

Base64 may lack its padding, as in the output of many backends. DER lengths may have the short or the long form, as in
the transparency software. Indefinite lengths are not supported.
"""

from __future__ import annotations

import base64
import binascii
import re

SEQUENCE = 0x30
INTEGER = 0x02
BIT_STRING = 0x03
_LONG_FORM = 0x80
_LONGEST_LENGTH = 4
_HEX = re.compile(r"[0-9A-Fa-f]+")


def from_hex(text: str) -> bytes | None:
    """Decode hex, or return None."""
    return bytes.fromhex(text) if len(text) % 2 == 0 and _HEX.fullmatch(text) else None


def from_base64(text: str) -> bytes | None:
    """Decode base64 with or without padding, or return None."""
    bare = text.rstrip("=")
    try:
        return binascii.a2b_base64(bare + "=" * (-len(bare) % 4), strict_mode=True)
    except ValueError:
        return None


def from_base32(text: str) -> bytes | None:
    """Decode base32, or return None."""
    try:
        return base64.b32decode(text)
    except ValueError:
        return None


def elements(raw: bytes) -> tuple[list[tuple[int, bytes]], int] | None:
    """Return tag and content of each element of a SEQUENCE, and the index after the SEQUENCE.

    Returns:
        None if the bytes do not begin with a SEQUENCE of whole elements.
    """
    outer = _element(raw, 0)
    if outer is None or outer[0] != SEQUENCE:
        return None
    _, content, end = outer
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(content):
        inner = _element(content, at)
        if inner is None:
            return None
        tag, value, at = inner
        found.append((tag, value))
    return found, end


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
