"""How bytes are written: hex and base64, and the little of DER that receipts need (X.690).

Base64 may lack its padding, as it does in many a backend. In DER, lengths are read in short and in long form, as the
transparency software's reader does; indefinite lengths are not read.
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
    """Decode hex; None where it is none."""
    return bytes.fromhex(text) if _HEX.fullmatch(text) else None


def from_base64(text: str) -> bytes | None:
    """Decode base64, padded or not; None where it is none."""
    bare = text.rstrip("=")
    try:
        return binascii.a2b_base64(bare + "=" * (-len(bare) % 4), strict_mode=True)
    except ValueError:
        return None


def unwrapped(text: str, marker: str) -> str | None:
    """Return a text out of hex or base64; None where it is neither, or does not hold text, nor the marker."""
    together = "".join(text.split())
    raw = from_hex(together)
    if raw is None and _BASE64.fullmatch(together):
        raw = from_base64(together)
    if raw is None or not (raw.isascii() or marker.encode() in raw):
        return None
    return raw.decode("utf-8", "surrogateescape")


def elements(raw: bytes, *, may_go_on: bool = False) -> list[tuple[int, bytes]] | None:
    """Return tag and content of each element of a SEQUENCE; None where the bytes are none.

    Args:
        raw: the SEQUENCE.
        may_go_on: something may stand behind it, which is not looked at.
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
    """Write a number that is not negative."""
    return _written(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def sequence(content: bytes) -> bytes:
    """Write elements as a SEQUENCE of at most 255 bytes."""
    return _written(SEQUENCE, content)


def _element(raw: bytes, at: int) -> tuple[int, bytes, int] | None:
    """Read tag, content and the index behind the element at ``at``."""
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
