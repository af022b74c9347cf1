"""Where an OCMF tuple begins and ends in a text.

``OCMF|<payload>|<signature>`` (OCMF 1.4.1, Sections). The sections are JSON objects, so a JSON decoder finds their
ends: a text field may hold a ``|`` although the specification forbids it. What is signed is everything between the
first ``|`` and the one behind the payload, white space included: other readers hash exactly that.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from iem_dcr.errors import ReceiptError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = "OCMF|"

_PLAIN = "OCMF|{"
_START = re.compile(r"OCMF\|(?=[ \t\r\n]*\{)")
_SPACES = (" ", "\t", "\r", "\n")
_JSON_SPACE = re.compile(r"[ \t\r\n]+")
_AROUND_A_BODY = " \t\r\n\0\ufeff"


class Sections(NamedTuple):
    """The two JSON sections of a tuple that starts at the text's first character.

    Attributes:
        payload: the decoded payload section.
        signature: the decoded signature section.
        signed: the payload section as written, between its two ``|``.
        end: index behind the tuple's last character.
    """

    payload: dict[str, object]
    signature: dict[str, object]
    signed: str
    end: int


def find_tuple(text: str) -> str | None:
    """Cut the OCMF tuple out of an answer, altering no byte inside it.

    The text may be the tuple itself, the tuple between white space, quotes or braces, a JSON string that holds it
    (its escapes are undone) or JSON with the tuple in one of its strings, however deeply nested. Of several tuples
    the first is taken.

    Returns:
        The tuple, or None where no ``OCMF|`` is found. Where ``OCMF|`` is found but the tuple's end is not (it is
        damaged or cut short), everything from there on, without white space at the end.
    """
    damaged: str | None = None
    for candidate in _candidates(text):
        start = _start(candidate)
        if start is None:
            continue
        found = candidate[start:]
        try:
            return found[: read_sections(found, _ANY_JSON).end]
        except ReceiptError:
            damaged = damaged or found.rstrip()
    return damaged


def read_tuple(text: str) -> tuple[str, Sections] | None:
    """Cut the tuple out of a text as `find_tuple` does, and decode its sections as `read_sections` does.

    Returns:
        The tuple and its sections, or None where no ``OCMF|`` is found.

    Raises:
        ReceiptError: as `read_sections`.
    """
    plain = text.strip(_AROUND_A_BODY)
    # It cannot be JSON, and it cannot begin anywhere else: no need to look for it.
    if plain.startswith(_PLAIN) or _START.match(plain):
        try:
            sections = read_sections(plain)
        except ReceiptError:
            pass  # it is looked for in every way, and what is wrong with it is told then
        else:
            return plain[: sections.end], sections
    found = find_tuple(text)
    return None if found is None else (found, read_sections(found))


def read_sections(text: str, decoder: json.JSONDecoder | None = None) -> Sections:
    """Decode the sections of the tuple at the beginning of a text; what follows the tuple is not looked at.

    Args:
        text: begins with ``OCMF|``.
        decoder: what reads the sections; by default one that refuses what two readers may read differently (a key
            given twice, NaN, Infinity) and reads fractions as Decimal.

    Raises:
        ReceiptError: there is no tuple of two JSON objects.
    """
    decoder = decoder or _STRICT_JSON
    payload, end = _section(text, len(HEADER), "payload", decoder)
    separator = _skip_space(text, end)
    if not text.startswith("|", separator):
        raise ReceiptError("no OCMF tuple: no '|' and no signature section behind the payload; is the text complete?")
    signature, end = _section(text, separator + 1, "signature", decoder)
    return Sections(payload, signature, text[len(HEADER) : separator], end)


def _section(text: str, at: int, name: str, decoder: json.JSONDecoder) -> tuple[dict[str, object], int]:
    try:
        value, end = decoder.raw_decode(text, _skip_space(text, at))
    except json.JSONDecodeError as error:
        raise ReceiptError(f"the {name} section is not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise ReceiptError(f"the {name} section is nested too deeply to be read") from error
    except (ValueError, ArithmeticError) as error:
        raise ReceiptError(f"the {name} section holds a number too large to be read") from error
    if not isinstance(value, dict):
        raise ReceiptError(f"the {name} section is not a JSON object")
    return value, end


def _skip_space(text: str, at: int) -> int:
    if not text.startswith(_SPACES, at):
        return at
    match = _JSON_SPACE.match(text, at)
    return match.end() if match else at


def _start(text: str) -> int | None:
    match = _START.search(text)
    at = match.start() if match else text.find(HEADER)
    return at if at >= 0 else None


def _candidates(text: str) -> Iterator[str]:
    """Yield the strings that may hold the tuple: those of a JSON text in their order, else the text itself."""
    try:
        wrapper = _ANY_JSON.decode(text.strip(_AROUND_A_BODY))
    except (ValueError, RecursionError, ArithmeticError):
        yield text
        return
    waiting: list[object] = [wrapper]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting.extend(reversed(value.values()))
        elif isinstance(value, list):
            waiting.extend(reversed(value))


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
    raise ReceiptError(f"ambiguous: the key {printable(twice, limit=20)!r} is given twice in one object")


def _no_such_number(name: str) -> NoReturn:
    raise ReceiptError(f"not JSON: {name} is no number of JSON's")


# Control characters inside strings are let through: whether a meter escapes them is its affair, the signature is over
# the bytes as they are.
_ANY_JSON = json.JSONDecoder(strict=False, parse_float=Decimal)
_STRICT_JSON = json.JSONDecoder(
    strict=False, parse_float=Decimal, parse_constant=_no_such_number, object_pairs_hook=_unique_keys
)
