"""Texts that get signed: made fit for every reader of receipts, or refused.

The transparency software hashes in the platform's own charset and other readers split at every ``|`` (OCMF 1.4.1
forbids it as well). So what is signed is kept to printable ASCII without ``|``: a tariff text is put into that form,
for a text must never keep a charger from charging; an id that is not in it is refused, for an altered id is another's.
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
    """Put a tariff text into a form that every reader of receipts reads alike.

    ``€`` becomes ``EUR``, letters with marks their plain form (``ä`` ``ae``, ``é`` ``e``), ``|`` becomes ``/``, control
    characters a space, all else that is not ASCII ``?``; what is over 250 characters is cut off.
    """
    spelled = unicodedata.normalize("NFC", text).translate(_SPELLED)
    return "".join(_plain(character) for character in spelled)[:MAX_TARIFF_TEXT]


def check_identification(text: str) -> None:
    """Refuse an id that cannot be signed as it is.

    Raises:
        RequestError: it is empty, not printable ASCII, or has a ``|``.
    """
    if not is_signable(text):
        shown = printable(ascii(text[:2]), limit=16)
        raise RequestError(
            f"the id ({len(text)} characters, beginning {shown}) cannot be signed: it has to be ASCII, not empty, "
            "without | and control characters"
        )


def _plain(character: str) -> str:
    if unicodedata.combining(character):
        return ""
    if character.isalpha():
        # Letters alone: taken apart, "≠" would become "=".
        character = unicodedata.normalize("NFD", character)[0]
    if not character.isascii():
        return "?"
    return character if character.isprintable() else " "
