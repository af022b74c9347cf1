"""An answer taken apart: JSON, receipts wherever they stand, and any other text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iem_dcr import ocmf
from iem_dcr.device import messages
from iem_dcr.diagnostics import json_text
from iem_dcr.ocmf.tuple_text import HEADER

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Parts:
    """What is to stand in the place of each part of an answer.

    Attributes:
        string: of a string of JSON, with the key it stands under.
        number: of a number of JSON, as it is written, with the key it stands under.
        key: of a key of JSON.
        free: of a text that is none of these.
        receipt: of an OCMF tuple.
    """

    string: Callable[[str, str], str]
    number: Callable[[str, str], str]
    key: Callable[[str], str]
    free: Callable[[str], str]
    receipt: Callable[[str], str]


def walked(body: bytes, parts: Parts) -> bytes:
    """Return an answer with others in the place of its parts; whatever is between them stays as it is."""
    encoding = json.detect_encoding(body)
    try:
        messages.decode(body)
        text = body.decode(encoding, "surrogatepass")
    except (messages.ShapeError, UnicodeError):
        try:
            text = body.decode()
        except UnicodeError:
            return _text(body.decode("latin-1"), parts).encode("latin-1", "replace")
        return _text(text, parts).encode()

    def string(key: str, value: str) -> str:
        return _text(value, parts) if HEADER in value else parts.string(key, value)

    return json_text.replaced(text, string, parts.number, parts.key).encode(encoding, "surrogatepass")


def _text(text: str, parts: Parts) -> str:
    """Take a text apart at the receipts in it."""
    written: list[str] = []
    while HEADER in text:
        found = ocmf.find_tuple(text)
        at = -1 if found is None else text.find(found)
        if found is None or at < 0:
            break
        written += [parts.free(text[:at]), parts.receipt(found)]
        text = text[at + len(found) :]
    return "".join([*written, parts.free(text)])
