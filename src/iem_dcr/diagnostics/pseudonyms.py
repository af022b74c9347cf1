"""Other values in the place of those that tell whose meter, charger or card it is: of the same shape, and consistent.

A value keeps its length, and each character its class: a digit stays a digit, a letter a letter of its case, and in a
value of hex digits a hex digit; anything else stays as it is. The same value always becomes the same one, whatever the
case of its letters, within a recording; a salt that nobody keeps makes it another one in the next.
"""

from __future__ import annotations

import hmac
import re
from typing import TYPE_CHECKING, Final

from iem_dcr.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORTEST: Final = 4
"""A shorter value tells nothing, and would be found everywhere."""
MOST: Final = 1000
"""How many values may get a pseudonym: each is looked for in every text. A meter's answers have some dozen."""
_TRIES: Final = 100
_HEX: Final = re.compile(r"[0-9A-Fa-f]{4,}")
_TOKEN: Final = re.compile(r"[0-9A-Za-z]{6,}")
_ASCII: Final = {"digit": "0123456789", "hex": "abcdef", "letter": "abcdefghijklmnopqrstuvwxyz"}
_OTHERS: Final = {2: "\u00df\u00e0\u00e1\u00e2", 3: "\u4e00\u4e01\u4e03\u4e07", 4: "\U00020000\U00020001\U00020002"}
"""Letters in the place of letters beyond ASCII, by the bytes they take in UTF-8."""
_FOLD: Final = str.maketrans({letter.upper(): letter for letter in _ASCII["letter"]})


class Pseudonyms:
    """The pseudonyms of one recording.

    Args:
        salt: what they are made with; whoever has it can try values.
    """

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._of: dict[str, str] = {}
        self._chosen: dict[str, str] = {}
        self._known: re.Pattern[str] | None = None

    def add(self, value: str, pseudonym: str | None = None) -> None:
        """Take note of a value that must not be told, and of what is to stand in its place if that is chosen.

        Raises:
            RecordingError: there are too many.
        """
        if _tells(value) and _folded(value) not in self._of:
            self._put(_folded(value), "")
        if pseudonym is not None:
            self._chosen[value] = pseudonym
            self._of[_folded(value)] = _folded(pseudonym)

    def of(self, value: str) -> str:
        """Return the pseudonym of a whole value.

        Raises:
            RecordingError: there are too many.
        """
        if value in self._chosen:
            return self._chosen[value]
        made = self._of.get(_folded(value))
        if not made:
            made = self._made(value)
            if _tells(value):
                self._put(_folded(value), made)
        return _cased(made, value)

    def within(self, text: str) -> str:
        """Return a text in which every known value, wherever it stands, is replaced."""
        if self._known is None:
            longest_first = sorted((value for value in self._of if len(value) >= SHORTEST), key=len, reverse=True)
            self._known = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)", re.IGNORECASE | re.ASCII)
        return self._known.sub(lambda match: self.of(match[0]), text)

    def learn_numbers(self, text: str) -> None:
        """Take note of everything in a text of an unknown kind that looks like the number of a thing."""
        for match in _TOKEN.finditer(text):
            if _looks_like_number(match[0]):
                self.add(match[0])

    def _put(self, folded: str, made: str) -> None:
        if folded not in self._of:
            self._known = None
            if len(self._of) >= MOST:
                raise RecordingError(
                    f"was not written: there are more than {MOST} texts and numbers in the answers that need a "
                    "pseudonym, as no IEM-DCR has them; --raw keeps the answers as they are"
                )
        self._of[folded] = made

    def _made(self, value: str) -> str:
        """Make one that is not the value itself, holds no other value that must not be told, and is nobody else's."""
        taken = set(self._of.values())
        made = value
        for attempt in range(_TRIES):
            made = self._attempt(_folded(value), attempt)
            if made != _folded(value) and made not in taken and not self._tells_another(made):
                break
        return made

    def _tells_another(self, made: str) -> bool:
        return any(len(value) >= SHORTEST and value in made for value in self._of)

    def _attempt(self, value: str, attempt: int) -> str:
        is_hex = _HEX.fullmatch(value) is not None
        stream = self._stream(f"{attempt} {value}")
        return "".join(_replaced(character, stream, is_hex=is_hex) for character in value)

    def _stream(self, name: str) -> Iterator[int]:
        block = 0
        while True:
            yield from hmac.digest(self._salt, f"{block} {name}".encode(errors="surrogatepass"), "sha256")
            block += 1


def _folded(value: str) -> str:
    """Write ASCII letters small, and nothing else, so that the length stays."""
    return value.translate(_FOLD)


def _tells(value: str) -> bool:
    """Whether there is anything in a value that can be another."""
    return any(character.isalnum() for character in value)


def _replaced(character: str, stream: Iterator[int], *, is_hex: bool) -> str:
    if character.isascii():
        if character.isdigit():
            choice = _ASCII["digit"]
        elif character.isalpha():
            choice = _ASCII["hex" if is_hex else "letter"]
        else:
            return character
    elif character.isalnum():
        choice = _OTHERS[len(character.encode(errors="surrogatepass"))]
    else:
        return character
    return choice[next(stream) % len(choice)]


def _cased(made: str, value: str) -> str:
    """Give each letter of a pseudonym the case of the value's."""
    if len(made) != len(value):
        return made
    return "".join(
        new.upper() if old.isascii() and old.isupper() else new for new, old in zip(made, value, strict=True)
    )


def _looks_like_number(token: str) -> bool:
    return sum(character.isdigit() for character in token) >= 2
