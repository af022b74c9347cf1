"""Texts that the meter signs: converted so that all receipt readers can read them, or refused.

The transparency software hashes in the platform's own charset, and other readers split at every ``|``, which OCMF 1.4.1
forbids too. So a signed text must be printable ASCII without ``|``. A tariff text is converted, because it must never
prevent charging. An id in any other form is refused, because a changed id may be somebody else's.
"""

from __future__ import annotations

import unicodedata

from iem_dcr.config import is_signable
from iem_dcr.errors import RequestError, printable

MAX_TARIFF_TEXT = 250
"""Longest TT, characters (OCMF 1.4.1, TT)."""

_SPELLED = str.maketrans(
    {
        "€": "EUR",
        "ä": "ae",
        "ö": "oe",
        "ü": "ue",
        "Ä": "Ae",
        "Ö": "Oe",
        "Ü": "Ue",
        "ß": "ss",
        "ẞ": "SS",
        "æ": "ae",
        "Æ": "Ae",
        "ø": "o",
        "Ø": "O",
        "ł": "l",
        "Ł": "L",
        "œ": "oe",
        "Œ": "Oe",
        "|": "/",
    }
)


def signable_tariff(text: str) -> str:
    """Convert a tariff text to a form that all receipt readers show alike.

    ``€`` becomes ``EUR``. Letters with marks get their plain form (``ä`` ``ae``, ``é`` ``e``). ``|`` becomes ``/``. A
    control character becomes a space, any other non-ASCII character ``?``. The text is cut to 250 characters.
    """
    spelled = unicodedata.normalize("NFC", text).translate(_SPELLED)
    return "".join(_plain(character) for character in spelled)[:MAX_TARIFF_TEXT]


def check_identification(text: str) -> None:
    """Refuse an id that cannot be signed unchanged.

    Raises:
        RequestError: the id is empty, is not printable ASCII, or contains ``|``.
    """
    if not is_signable(text):
        shown = printable(ascii(text[:2]), limit=16)
        raise RequestError(
            f"the id ({len(text)} characters, beginning {shown}) cannot be signed: it must be ASCII, not empty, and "
            "without | or control characters"
        )


def _plain(character: str) -> str:
    if unicodedata.combining(character):
        return ""
    if character.isalpha():
        # Only letters: decomposed, "≠" would become "=".
        character = unicodedata.normalize("NFD", character)[0]
    if not character.isascii():
        return "?"
    return character if character.isprintable() else " "
