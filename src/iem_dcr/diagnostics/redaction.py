"""Replaces everything in a meter's answers that identifies a meter, a charger or a user.

A value stays only if its field is in `_FORMS` and the value has the form given there. Every other text or number gets
a pseudonym, so a field of an unknown firmware reveals nothing. A pseudonym has a letter for each letter and a digit for
each digit, so lengths, white space and number formats stay as the meter wrote them. The same value has the same
pseudonym in all answers, whatever the case of its letters. It is also replaced within other texts.

All answers are read twice: first to find the values, then to replace them. An answer is not decoded but split at its
strings, so it need not be valid JSON. A receipt needs no special treatment: its fields are replaced like any others. It
is not signed again, so it does not verify. Key and signature keep their form, so that recordings still test parsers.
"""

from __future__ import annotations

import base64
import enum
import json
import re
import secrets
import string
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from iem_dcr import ocmf
from iem_dcr.errors import ReceiptError, RecordingError
from iem_dcr.ocmf.tuple_text import HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    from iem_dcr.device.transport import Answer
    from iem_dcr.diagnostics.nodes import Recorded

MAX_VALUES: Final = 1000
"""Each value is searched for in every text. A meter's answers contain some dozens."""

_MEASURED: Final = r"-?\d{1,12}(\.\d{1,17})?([eE][+-]?\d{1,2})?"
_FORMS: Final = {
    "TM": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[,.]?\d{0,6} ?[+-]\d\d:?\d\d( [UISR])?",
    **dict.fromkeys(("RV", "WV", "U1", "U2", "U3", "U4", "I", "P", "EI", "CL", "LR"), _MEASURED),
    **dict.fromkeys(("RI", "WI"), r"(transaction_)?\d-[0-9a-z]{1,2}:\d{1,2}\.\d{1,2}\.[0-9a-z]{1,2}"),
    **dict.fromkeys(("RU", "WU"), r"[kM]?(Wh|varh|VAh|W|A|V)|m?Ohm"),
    **dict.fromkeys(("RT", "WT"), "AC|DC"),
    **dict.fromkeys(("XS", "XC"), r"(0[xX][0-9A-Fa-f]{1,16})(,\s?0[xX][0-9A-Fa-f]{1,16})*"),
    **dict.fromkeys(("TX", "ST"), "[A-Za-z]?"),
    "EF": "[Et]*",
    "IL": "NONE|HEARSAY|TRUSTED|VERIFIED|CERTIFIED|SECURE|MISMATCH|INVALID|OUTDATED|UNKNOWN",
    "IF": r"(RFID|OCPP|ISO15118|PLMN)_[A-Z][A-Z0-9_]*",
    "IT": (
        "NONE|DENIED|UNDEFINED|ISO14443|ISO15693|EMAID|EVCCID|EVCOID|ISO7812|CARD_TXN_NR|CENTRAL|CENTRAL_[12]|LOCAL|"
        "LOCAL_[12]|PHONE_NUMBER|KEY_CODE"
    ),
    "PG": r"[TF]\d{1,10}",
    "CT": "EVSEID|CBIDC",
    "FV": r"\d{1,2}(\.\d{1,2}){0,2}",
    "SA": r"ECDSA-[0-9A-Za-z]{1,20}-SHA\d{1,3}",
    "SE": "hex|base64",
    "SM": "application/x-der",
    "content-length:": r"\d{1,9}",
    "date:": r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT",
}
"""Forms of the meter's, OCMF's and HTTP's fields that identify no one. Names of headers end with a colon."""
_DESCRIPTIONS: Final = (
    *("GI", "GV", "MV", "MM", "MF"),
    *("allow:", "cache-control:", "connection:", "content-encoding:", "content-type:", "expires:", "keep-alive:"),
    *("pragma:", "server:", "transfer-encoding:", "vary:"),
)
"""Fields such as make and model. In these, only other fields' values and possible serial numbers are replaced."""
_COMMON: Final = ("true", "false", "null", "OCMF")
"""Words of JSON and of receipts that are not replaced."""
_WORD_IN_DESCRIPTION: Final = re.compile(r"[0-9A-Za-z]{6,}")
_WORD_IN_TEXT: Final = re.compile(r"[0-9]{4,}(?=[eE][+-]?[0-9])|[0-9A-Za-z]{6,}|[0-9]{4,}")
"""Words that may be serial numbers. Numbers in a list have no key, so they are included."""
_JSON_NUMBER: Final = re.compile(r"-?[0-9][0-9.eE+-]*")
_SHORTEST: Final = 4
"""Least length of a value that is searched for in other texts, and of a number that may identify something."""
_FEWEST_DIGITS: Final = 2
"""Least number of digits in a word that may be a serial number."""
_TOKEN: Final = re.compile(
    r"""
    "(?!OCMF\|\s*\{\s*")                                # a quote before a tuple that is not escaped begins no string
    (?P<inner>(?:[^"\\]|\\.)*)(?P<close>"|\Z|\\)
    (?:(?P<colon>\s*:\s*)(?P<bare>[0-9A-Za-z.+-]+)?)?
    """,
    re.VERBOSE | re.DOTALL,
)
_HEX: Final = re.compile(r"[0-9a-f]{4,}")
_DIGITS: Final = "123456789"
"""Without 0, because JSON allows a leading 0 only before a decimal point."""
_BEYOND_ASCII: Final = {2: "ßà", 3: "一丁", 4: "\U00020000\U00020001"}
"""Letters by their number of bytes in UTF-8."""
_FOLD: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_TRIES: Final = 100
_BASE_POINT: Final = (
    "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
"""X‖Y of a public key that belongs to no meter: the base point of secp256r1 (SEC 2, 2.4.2)."""


class _Part(enum.Enum):
    STRING = enum.auto()
    NUMBER = enum.auto()
    TEXT = enum.auto()
    """Keys of JSON, and everything outside strings."""


if TYPE_CHECKING:
    Visit: TypeAlias = Callable[[_Part, str, str], str]
    """Called with a part, its key and its text; returns the text to write."""


def redact(recorded: Sequence[Recorded], secrets: Iterable[str] = ()) -> tuple[Recorded, ...]:
    """Return a recording in which pseudonyms replace everything that identifies a meter, charger or user.

    Args:
        recorded: the original answers of one meter.
        secrets: further texts to replace, such as the meter's address.

    Raises:
        RecordingError: there are more than `MAX_VALUES` values to replace.
    """
    redaction = _Redaction(secrets)
    for one in recorded:
        if one.answer is not None:
            _rewritten(one.answer, redaction.find)
    redaction.choose_pseudonyms()
    return tuple(
        one if one.answer is None else replace(one, answer=_rewritten(one.answer, redaction.replace))
        for one in recorded
    )


class _Redaction:
    def __init__(self, secrets: Iterable[str]) -> None:
        self._pseudonyms: dict[str, str] = {}
        self._known = re.compile("")
        for text in secrets:
            self._add(text)

    def find(self, part: _Part, key: str, text: str) -> str:
        """Collect the values to replace; return the text unchanged."""
        if part is _Part.TEXT or key in _DESCRIPTIONS:
            for match in (_WORD_IN_TEXT if part is _Part.TEXT else _WORD_IN_DESCRIPTION).finditer(text):
                if len(_digits(match[0])) >= _FEWEST_DIGITS:
                    self._add(match[0])
        elif not _is_harmless(part, key, text):
            self._add(_digits(text) if part is _Part.NUMBER else text)
        return text

    def choose_pseudonyms(self) -> None:
        """Choose a pseudonym for each value. A pseudonym contains no value."""
        longest_first = sorted((value for value in self._pseudonyms if len(value) >= _SHORTEST), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)", re.IGNORECASE | re.ASCII)
        for value in self._pseudonyms:
            made = _random_like(value)
            for _ in range(_TRIES):
                made, found = self._known.subn(lambda match: _random_like(match[0]), made)
                if not found:
                    break
            self._pseudonyms[value] = made

    def replace(self, part: _Part, key: str, text: str) -> str:
        """Return a text with pseudonyms."""
        if part is _Part.TEXT or key in _DESCRIPTIONS:
            return self._known.sub(lambda match: match[0] if match[0] in _COMMON else self._of(match[0]), text)
        if _is_harmless(part, key, text):
            return text
        if part is _Part.NUMBER:
            digits = iter(self._of(_digits(text)))
            return "".join(next(digits) if character.isdigit() else character for character in text)
        if key == "PK":
            return _other_key(text) or self._of(text)
        return _in_form_of(text, self._of(text)) if key == "SD" else self._of(text)

    def _add(self, value: str) -> None:
        self._pseudonyms[value.translate(_FOLD)] = ""
        if len(self._pseudonyms) > MAX_VALUES:
            raise RecordingError(
                f"was not written: the answers contain more than {MAX_VALUES} texts and numbers that need a pseudonym. "
                "An IEM-DCR's answers never do; --raw saves the answers unchanged"
            )

    def _of(self, value: str) -> str:
        made = self._pseudonyms.get(value.translate(_FOLD), value)
        return "".join(
            new.upper() if old in string.ascii_uppercase else new for new, old in zip(made, value, strict=True)
        )


def _rewritten(answer: Answer, visit: Visit) -> Answer:
    headers = tuple((name, visit(_Part.STRING, f"{name.lower()}:", value)) for name, value in answer.headers)
    encoding: str = json.detect_encoding(answer.body)
    errors = "surrogatepass"
    try:
        text = answer.body.decode(encoding, errors)
    except UnicodeError:
        encoding, errors = "latin-1", "backslashreplace"  # it lacks characters that the meter may have escaped
        text = answer.body.decode(encoding)
    return replace(answer, headers=headers, body=_walk(text, visit).encode(encoding, errors))


def _walk(text: str, visit: Visit) -> str:
    """Return a text with each part replaced by what ``visit`` returns for it."""
    written: list[str] = []
    at, key = 0, ""
    for token in _TOKEN.finditer(text):
        between = text[at : token.start()]
        at = token.end()
        if "}" in between:
            key = ""
        value = _decoded(token["inner"])
        if token["colon"]:
            key = value
            new = visit(_Part.TEXT, "", value)
        else:
            new = _walk(value, visit) if HEADER in value else visit(_Part.STRING, key, value)
        inner = token["inner"]
        if new != value:
            inner = new if value == inner else json.dumps(new, ensure_ascii=inner.isascii())[1:-1]
        written += [visit(_Part.TEXT, "", between), '"', inner, token["close"], token["colon"] or ""]
        if bare := token["bare"]:
            written.append(visit(_Part.NUMBER if _JSON_NUMBER.fullmatch(bare) else _Part.STRING, key, bare))
    return "".join([*written, visit(_Part.TEXT, "", text[at:])])


def _decoded(inner: str) -> str:
    try:
        return str(json.loads(f'"{inner}"', strict=False))
    except ValueError:
        return inner


def _is_harmless(part: _Part, key: str, text: str) -> bool:
    if part is _Part.NUMBER and len(_digits(text)) < _SHORTEST:
        return True
    form = _FORMS.get(key)
    return text in ("", *_COMMON) or (form is not None and re.fullmatch(form, text, re.ASCII) is not None)


def _digits(number: str) -> str:
    return "".join(character for character in number if character.isdigit())


def _random_like(value: str) -> str:
    """Return a random value with characters of the same kinds. Each character differs from the original."""
    letters = "abcdef" if _HEX.fullmatch(value) else string.ascii_lowercase
    return "".join(_random_character(character, letters) for character in value)


def _random_character(character: str, letters: str) -> str:
    if not character.isalnum():
        return character
    choices = _DIGITS if character in string.digits else letters
    if not character.isascii():
        choices = _BEYOND_ASCII[len(character.encode())]
    return secrets.choice(choices.replace(character, ""))


def _other_key(PK: str) -> str | None:
    """Return a key that belongs to no meter, in the form of this one; None if the form is unknown."""
    try:
        der_hex = ocmf.public_key_der_hex(PK)
    except ReceiptError:
        return None
    point = PK[-len(_BASE_POINT) :]
    if point.lower() == der_hex[-len(_BASE_POINT) :].lower():
        return PK[: -len(_BASE_POINT)] + (_BASE_POINT.upper() if point.isupper() else _BASE_POINT)
    written = base64.b64encode(bytes.fromhex(der_hex[: -len(_BASE_POINT)] + _BASE_POINT)).decode()
    return written if len(written) == len(PK) else None


def _in_form_of(SD: str, pseudonym: str) -> str:
    """Return a signature's pseudonym that keeps the DER's tags, lengths and the first bytes of its integers."""
    if not re.fullmatch("30([0-9A-Fa-f]{2}){7,}", SD):
        return pseudonym
    second = 4 + int(SD[6:8], 16)
    kept = {*range(6), *range(second, second + 4)}
    return "".join(old if at // 2 in kept else new for at, (old, new) in enumerate(zip(SD, pseudonym, strict=True)))
