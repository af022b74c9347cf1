"""Finds OCMF tuples in a text and decodes their sections.

``OCMF|<payload>|<signature>`` (OCMF 1.4.1, Sections). The sections are JSON objects, and a JSON decoder finds their
ends. A text field may therefore contain a ``|``, although the specification forbids it, and a tuple may span lines. The
signed data is everything between the first ``|`` and the one after the payload, including white space. Other readers
hash exactly that.

Of repeated keys the last one counts, as in the S.A.F.E. transparency software.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import IO, TYPE_CHECKING, NamedTuple, NoReturn

from iem_dcr.errors import ReceiptError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = "OCMF|"

AROUND = " \t\r\n\0\ufeff"
"""Characters that may surround a tuple or a document."""
AROUND_BYTES = b" \t\r\n\0\xef\xbb\xbf"
"""The bytes of these characters in UTF-8."""

LONGEST_RECORD = 16_000_000
"""Maximum size in bytes of a tuple with everything up to the next one in its file."""

MOST_DAMAGED = 100
"""Maximum number of separate damaged tuples in a line. For each, the decoder scans all text before it for lines."""

_WITH_SECTION = re.compile(r"OCMF\|(?=[ \t\r\n]*\{)")
_LINE_START = re.compile(r"^(?=OCMF\|)", re.MULTILINE)
_START = re.compile(r"^OCMF\||OCMF\|(?=[ \t\r\n]*\{)", re.MULTILINE)
_SPACES = (" ", "\t", "\r", "\n")


class RepeatedKeys(dict[str, object]):
    """A JSON object that has a key more than once. The last value counts.

    Attributes:
        key: one such key.
    """

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.key = Counter(key for key, _ in pairs).most_common(1)[0][0]


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    return value if len(value) == len(pairs) else RepeatedKeys(pairs)


def _no_such_number(name: str) -> NoReturn:
    raise ReceiptError(f"not JSON: {name} is not a JSON number")


# Control characters inside strings are accepted: the signature covers the bytes as written, escaped or not.
_JSON = json.JSONDecoder(strict=False, parse_float=Decimal, parse_constant=_no_such_number, object_pairs_hook=_object)


class Sections(NamedTuple):
    """The two JSON sections of a tuple.

    Attributes:
        payload: the decoded payload section. Fractions are Decimal.
        signature: the decoded signature section.
        signed: the payload section as written, between its two ``|``.
        end: index after the tuple's last character.
    """

    payload: dict[str, object]
    signature: dict[str, object]
    signed: str
    end: int


@dataclass(frozen=True, slots=True)
class Record:
    """A piece of a file of tuples. It has one tuple, or more if they share a line.

    Attributes:
        first_line: number of its first line in the file.
        data: its bytes.
    """

    first_line: int
    data: bytes

    def tuples(self) -> Iterator[tuple[str, int]]:
        """Yield its tuples with their line numbers. Bytes that are not UTF-8 are kept for the parser to refuse."""
        return tuples_in(self.data.decode("utf-8", "surrogateescape"), self.first_line)


def find_tuple(text: str) -> str | None:
    """Extract the OCMF tuple from an answer without changing a byte inside it.

    The text may be the tuple itself, the tuple between white space, quotes or braces, a JSON string of it (which is
    unescaped), or JSON with the tuple in a string at any depth. Of several tuples the first is returned.

    Returns:
        The tuple, or None if there is no ``OCMF|``. For a damaged or truncated tuple, everything from ``OCMF|`` on
        without trailing white space.
    """
    found = _search(text)
    return None if found is None else found[0]


def read_tuple(text: str) -> tuple[str, Sections]:
    """Extract the tuple from a text as `find_tuple` does, and decode its sections.

    Raises:
        ReceiptError: there is no tuple, or it is damaged.
    """
    found = _search(text)
    if found is None:
        raise ReceiptError(f"no OCMF tuple: no 'OCMF|' in {printable(text[:200], limit=40)!r}")
    tuple_text, sections = found
    return tuple_text, sections or read_sections(tuple_text)


def read_sections(text: str, start: int = 0) -> Sections:
    """Decode the sections of the tuple that begins at an index of a text. The text after the tuple is ignored.

    Raises:
        ReceiptError: there is no tuple of two JSON objects.
    """
    begin = start + len(HEADER)
    payload, end = _section(text, begin, "payload")
    separator = _skip_space(text, end)
    if not text.startswith("|", separator):
        raise ReceiptError("no OCMF tuple: no '|' and no signature section behind the payload; is the text complete?")
    signature, end = _section(text, separator + 1, "signature")
    return Sections(payload, signature, text[begin:separator], end)


def tuples_in(text: str, first_line: int = 1) -> Iterator[tuple[str, int]]:
    """Yield each tuple of a text, including damaged ones, with its line number, in time linear in the text's length.

    Args:
        text: the text, with anything between the tuples. A tuple at the beginning of a line ends the previous one.
        first_line: number of its first line.
    """
    for piece in _LINE_START.split(text):
        yield from _tuples_in_piece(piece, first_line)
        first_line += piece.count("\n")


def stream_records(stream: IO[bytes]) -> Iterator[Record]:
    """Split a file of tuples before each line that begins with one, without loading the whole file.

    Raises:
        ReceiptError: no further tuple begins within `LONGEST_RECORD` bytes.
        OSError: the file cannot be read.
    """
    lines: list[bytes] = []
    size, number, first = 0, 0, 1
    header = HEADER.encode()
    while line := stream.readline(LONGEST_RECORD):
        number += 1
        if lines and line.startswith(header):
            yield Record(first, b"".join(lines))
            lines, size, first = [], 0, number
        lines.append(line if lines else line.lstrip(AROUND_BYTES) or b"\n")
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
            at = read_sections(text, start).end
        except ReceiptError:
            damaged += 1
            following = _START.search(text, match.end()) if damaged < MOST_DAMAGED else None
            at = following.start() if following else len(text)
        yield text[start:at].rstrip(), line


def _section(text: str, at: int, name: str) -> tuple[dict[str, object], int]:
    try:
        value, end = _JSON.raw_decode(text, _skip_space(text, at))
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
    while text.startswith(_SPACES, at):
        at += 1
    return at


def _search(text: str) -> tuple[str, Sections | None] | None:
    """Return the first whole tuple with its sections, else the first damaged one without them, else None."""
    damaged: tuple[str, None] | None = None
    for candidate in _candidates(text):
        match = _WITH_SECTION.search(candidate)
        start = match.start() if match else candidate.find(HEADER)
        if start < 0:
            continue
        try:
            sections = read_sections(candidate, start)
        except ReceiptError:
            damaged = damaged or (candidate[start:].rstrip(), None)
        else:
            return candidate[start : sections.end], sections
    return damaged


def _candidates(text: str) -> Iterator[str]:
    """Yield the strings that may contain the tuple: those of a JSON text in order, else the text itself."""
    if text.startswith(HEADER):  # the usual case
        yield text
        return
    try:
        wrapper = json.loads(text.strip(AROUND), strict=False)
    except (ValueError, RecursionError):
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
