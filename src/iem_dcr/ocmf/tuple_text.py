"""Where OCMF tuples begin and end in a text, and what their sections hold.

``OCMF|<payload>|<signature>`` (OCMF 1.4.1, Sections). The sections are JSON objects, so a JSON decoder finds their
ends: a text field may hold a ``|`` although the specification forbids it, and a tuple may span lines. What is signed
is everything between the first ``|`` and the one behind the payload, white space included: other readers hash exactly
that.

The S.A.F.E. transparency software reads more than JSON. Of that, numbers are read here as they are there (``.5``,
``5.``, ``007``, ``+1``; they become text, digit by digit), and of a key that is given twice the last one counts. NaN
and everything else that is no JSON is refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import IO, TYPE_CHECKING, NamedTuple, NoReturn

from iem_dcr.errors import ReceiptError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HEADER = "OCMF|"

LONGEST_RECORD = 16_000_000
"""Bytes of a tuple, with all that stands before the next one in its file."""

MOST_DAMAGED = 100
"""Damaged tuples told apart in a line; each costs a look at all that is before it, for the decoder counts lines."""

LONGEST_WITH_ODD_NUMBERS = 50_000
"""Characters of a section whose numbers are looked at one by one."""

_PLAIN = "OCMF|{"
_WITH_SECTION = re.compile(r"OCMF\|(?=[ \t\r\n]*\{)")
_LINE_START = re.compile(r"^(?=OCMF\|)", re.MULTILINE)
_START = re.compile(r"^OCMF\||OCMF\|(?=[ \t\r\n]*\{)", re.MULTILINE)
_SPACES = (" ", "\t", "\r", "\n")
_JSON_SPACE = re.compile(r"[ \t\r\n]+")
_AROUND_A_BODY = " \t\r\n\0\ufeff"
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s{}\[\],:"]+|\s+', re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_OF_NUMBERS = frozenset("+-.0123456789")


class Sections(NamedTuple):
    """The two JSON sections of a tuple.

    Attributes:
        payload: the decoded payload section; fractions are Decimal.
        signature: the decoded signature section.
        signed: the payload section as written, between its two ``|``.
        end: index behind the tuple's last character.
        has_odd_numbers: a number in it is none of JSON's, and was read as text.
    """

    payload: dict[str, object]
    signature: dict[str, object]
    signed: str
    end: int
    has_odd_numbers: bool


@dataclass(frozen=True, slots=True)
class Record:
    """A piece of a file of tuples: one as a rule, more where they share a line.

    Attributes:
        first_line: number of its first line in the file.
        data: its bytes.
    """

    first_line: int
    data: bytes

    def tuples(self) -> Iterator[tuple[str, int]]:
        """Yield the tuples in it. What is no UTF-8 is handed on so that it is refused when it is read, not altered."""
        return tuples_in(self.data.decode("utf-8", "surrogateescape"), self.first_line)


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
        try:
            return candidate[start : read_sections(candidate, start, _ANY_JSON).end]
        except ReceiptError:
            damaged = damaged or candidate[start:].rstrip()
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
    if plain.startswith(_PLAIN) or _WITH_SECTION.match(plain):
        try:
            sections = read_sections(plain)
        except ReceiptError:
            pass  # it is looked for in every way, and what is wrong with it is told then
        else:
            return plain[: sections.end], sections
    found = find_tuple(text)
    return None if found is None else (found, read_sections(found))


def read_sections(text: str, start: int = 0, decoder: json.JSONDecoder | None = None) -> Sections:
    """Decode the sections of the tuple at an index of a text; what follows the tuple is not looked at.

    Args:
        text: has ``OCMF|`` at ``start``.
        start: where the tuple begins.
        decoder: what reads the sections; by default one that refuses NaN and Infinity.

    Raises:
        ReceiptError: there is no tuple of two JSON objects.
    """
    decoder = decoder or _JSON
    begin = start + len(HEADER)
    payload, end, is_odd = _section(text, begin, "payload", decoder)
    separator = _skip_space(text, end)
    if not text.startswith("|", separator):
        raise ReceiptError("no OCMF tuple: no '|' and no signature section behind the payload; is the text complete?")
    signature, end, is_too = _section(text, separator + 1, "signature", decoder)
    return Sections(payload, signature, text[begin:separator], end, is_odd or is_too)


def repeated_keys(section: str, decoded: Mapping[str, object]) -> tuple[str, str]:
    """Return a key that the outermost object of a section gives more than once, and one that an object within gives.

    Args:
        section: as written.
        decoded: the same, decoded.

    Returns:
        Each "" where there is none.
    """
    try:
        if section.count('"') == 2 * _count_texts(decoded):
            return "", ""
        repeated: list[str] = []

        def look(pairs: list[tuple[str, object]]) -> dict[str, object]:
            value = dict(pairs)
            is_repeated = len(value) != len(pairs)
            repeated.append(Counter(key for key, _ in pairs).most_common(1)[0][0] if is_repeated else "")
            return value

        decoder = json.JSONDecoder(strict=False, parse_int=str, parse_float=str, object_pairs_hook=look)
        _section(section, 0, "same", decoder)
    except (ReceiptError, RecursionError):
        return "", ""
    return repeated[-1], next((key for key in repeated[:-1] if key), "")


def tuples_in(text: str, first_line: int = 1) -> Iterator[tuple[str, int]]:
    """Yield each tuple of a text, damaged ones too, with the number of its first line; in time linear to its length.

    Args:
        text: may hold anything between the tuples. One that begins a line ends what is before.
        first_line: number of its first line.
    """
    for piece in _LINE_START.split(text):
        yield from _tuples_in_piece(piece, first_line)
        first_line += piece.count("\n")


def stream_records(stream: IO[bytes]) -> Iterator[Record]:
    """Cut a file of tuples before each line that begins with one, without holding the file.

    Raises:
        ReceiptError: `LONGEST_RECORD` bytes hold no beginning of a next tuple.
        OSError: the file cannot be read.
    """
    lines: list[bytes] = []
    size, number, first = 0, 0, 1
    header, around = HEADER.encode(), b" \t\r\n\0\xef\xbb\xbf"
    while line := stream.readline(LONGEST_RECORD):
        number += 1
        if lines and line.startswith(header):
            yield Record(first, b"".join(lines))
            lines, size, first = [], 0, number
        lines.append(line if lines else line.lstrip(around) or b"\n")
        size += len(line)
        if size >= LONGEST_RECORD:
            raise ReceiptError(
                f"line {first}: no other tuple begins within {LONGEST_RECORD} bytes; is it a file of them?"
            )
    if lines:
        yield Record(first, b"".join(lines))


def _tuples_in_piece(text: str, line: int) -> Iterator[tuple[str, int]]:
    at = counted = damaged = 0
    while match := _START.search(text, at):
        start = match.start()
        line, counted = line + text.count("\n", counted, start), start
        try:
            at = read_sections(text, start, _ANY_JSON).end
        except ReceiptError:
            damaged += 1
            following = _START.search(text, match.end()) if damaged < MOST_DAMAGED else None
            at = following.start() if following else len(text)
        yield text[start:at].rstrip(), line


def _section(text: str, at: int, name: str, decoder: json.JSONDecoder) -> tuple[dict[str, object], int, bool]:
    at, is_odd = _skip_space(text, at), False
    try:
        value, end = decoder.raw_decode(text, at)
    except json.JSONDecodeError as error:
        odd = _with_odd_numbers(text, at, decoder) if text[error.pos : error.pos + 1] in _OF_NUMBERS else None
        if odd is None:
            raise ReceiptError(f"the {name} section is not JSON: {error.msg} at character {error.pos}") from error
        (value, end), is_odd = odd, True
    except RecursionError as error:
        raise ReceiptError(f"the {name} section is nested too deeply to be read") from error
    except (ValueError, ArithmeticError) as error:
        raise ReceiptError(f"the {name} section holds a number too large to be read") from error
    if not isinstance(value, dict):
        raise ReceiptError(f"the {name} section is not a JSON object")
    return value, end, is_odd


def _with_odd_numbers(text: str, at: int, decoder: json.JSONDecoder) -> tuple[object, int] | None:
    """Decode JSON with numbers that JSON does not have: they become texts. None where that is not all that is odd."""
    pieces: list[str] = []
    depth, end = 0, at
    for token in _TOKEN.finditer(text, at, at + LONGEST_WITH_ODD_NUMBERS):
        if token.start() != end:
            return None
        word, end = token[0], token.end()
        depth += (word in ("{", "[")) - (word in ("}", "]"))
        is_odd = _NUMBER.fullmatch(word) and not _JSON_NUMBER.fullmatch(word)
        pieces.append(f'"{word}"' if is_odd else word)
        if not depth:
            break
    try:
        return decoder.decode("".join(pieces)), end
    except (ValueError, ArithmeticError, RecursionError):
        return None


def _skip_space(text: str, at: int) -> int:
    if not text.startswith(_SPACES, at):
        return at
    match = _JSON_SPACE.match(text, at)
    return match.end() if match else at


def _start(text: str) -> int | None:
    match = _WITH_SECTION.search(text)
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


def _count_texts(value: Mapping[str, object] | list[object]) -> int:
    """Count the keys and texts in decoded JSON; each has two quotes, and more if it holds one."""
    count, inner = (0, value) if isinstance(value, list) else (len(value), value.values())
    for one in inner:
        if isinstance(one, str):
            count += 1
        elif isinstance(one, (dict, list)):
            count += _count_texts(one)
    return count


def _no_such_number(name: str) -> NoReturn:
    raise ReceiptError(f"not JSON: {name} is no number of JSON's")


# Control characters inside strings are let through: whether a meter escapes them is its affair, the signature is over
# the bytes as they are.
_ANY_JSON = json.JSONDecoder(strict=False, parse_float=Decimal)
_JSON = json.JSONDecoder(strict=False, parse_float=Decimal, parse_constant=_no_such_number)
