"""Replacing values in JSON as a meter wrote it: spaces, order, escapes and the spelling of numbers stay as they are."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_TOKEN: Final = re.compile(
    r'(?P<string>"(?:[^"\\]|\\.)*")|(?P<number>-?[0-9][0-9.eE+-]*)|(?P<mark>[{}\[\]:,])', re.DOTALL
)


def replaced(
    text: str, string: Callable[[str, str], str], number: Callable[[str, str], str], key: Callable[[str], str]
) -> str:
    """Return JSON with other strings, numbers and keys in it.

    Args:
        text: JSON that a decoder has taken.
        string: called with the key a string stands under ("" without one; in a list that of the list) and the string;
            gives the one to stand there.
        number: the same of a number as it is written.
        key: called with a key; gives the one to stand there.
    """
    parts: list[str] = []
    around: list[str] = []
    at, current, expects_key = 0, "", False
    containers: list[str] = []
    for token in _TOKEN.finditer(text):
        parts.append(text[at : token.start()])
        at = token.end()
        written = token[0]
        if token["mark"]:
            if written in "{[":
                containers.append(written)
                around.append(current)
                expects_key = written == "{"
            elif written in "}]" and containers:
                containers.pop()
                current = around.pop()
            elif written == ",":
                current = around[-1] if around else ""
                expects_key = bool(containers) and containers[-1] == "{"
            elif written == ":":
                expects_key = False
        elif token["string"]:
            decoded = json.loads(written, strict=False)
            if expects_key:
                current = decoded
                written = _written(key(decoded), decoded, written)
            else:
                written = _written(string(current, decoded), decoded, written)
        else:
            written = number(current, written)
        parts.append(written)
    return "".join([*parts, text[at:]])


def _written(new: str, old: str, written: str) -> str:
    """Write a string as the one before was: as it stood where it is the same, with escapes where that had some."""
    if new == old:
        return written
    as_plain = not written.isascii()
    text = json.dumps(new, ensure_ascii=not as_plain)
    if not json.loads(f"[{text}]")[0].isprintable() and "\\" not in written:
        return '"' + new + '"'  # control characters stood there without an escape, and do so again
    return text.replace("/", "\\/") if "\\/" in written else text
