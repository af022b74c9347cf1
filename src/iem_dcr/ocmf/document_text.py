"""Every tuple in a text: a file with one per line, or one after the other, whatever stands between them.

A tuple may span lines (as those of the transparency software's examples do), so it is the JSON of its sections that
says where it ends. Only that: a tuple is handed on as it is written, and read later.
"""

from __future__ import annotations

import binascii
import json
import re
from dataclasses import dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING

from iem_dcr.errors import ReceiptError, printable
from iem_dcr.ocmf.tuple_text import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONGEST_RECORD = 16_000_000
"""Bytes of a tuple, with all that stands before the next one in its file."""

MOST = 500_000
"""Tuples in one document."""

MOST_DAMAGED = 100
"""Damaged tuples told apart before the next one that begins a line."""

_LINE_START = re.compile(r"^(?=OCMF\|)", re.MULTILINE)
_START = re.compile(r"^OCMF\||OCMF\|(?=[ \t\r\n]*\{)", re.MULTILINE)
_SPACE = re.compile(r"[ \t\r\n]*")
_SECTION = json.JSONDecoder(strict=False, parse_int=str, parse_float=str)
"""Numbers stay text: only the section's end is asked for."""
_HEX_START = re.compile(r"4F434D467C", re.IGNORECASE)
_BASE64_START = "T0NNRn"
_AROUND = b" \t\r\n\0\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Found:
    """A tuple in a document.

    Attributes:
        text: the tuple as written; where it is damaged, all of it that can be made out.
        key: the public key that stands beside it, in a form `iem_dcr.ocmf.public_key_der_hex` may read; "" for none.
        source: where in the document it stands, for people: ``line 3``.
    """

    text: str
    key: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A piece of a file of tuples: one as a rule, more where they share a line.

    Attributes:
        first_line: number of its first line in the file.
        data: its bytes.
    """

    first_line: int
    data: bytes

    def tuples(self) -> Iterator[Found]:
        """Yield the tuples in it. What is no UTF-8 is handed on so that it is refused when it is read, not altered."""
        return tuples_in(self.data.decode("utf-8", "surrogateescape"), self.first_line)


def tuples_in(text: str, first_line: int = 1) -> Iterator[Found]:
    """Yield the tuples of a text, damaged ones too; in time linear to its length.

    Args:
        text: may hold anything between the tuples. One that begins a line ends what is before.
        first_line: number of its first line, for `Found.source`.
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
    header = HEADER.encode()
    while line := stream.readline(LONGEST_RECORD):
        number += 1
        if lines and line.startswith(header):
            yield Record(first, b"".join(lines))
            lines, size, first = [], 0, number
        lines.append(line if lines else line.lstrip(_AROUND) or b"\n")
        size += len(line)
        if size >= LONGEST_RECORD:
            raise ReceiptError(
                f"line {first}: no other tuple begins within {LONGEST_RECORD} bytes; is it a file of them?"
            )
    if lines:
        yield Record(first, b"".join(lines))


def decoded_tuple(text: str) -> str | None:
    """Return a text that holds a tuple: as it is, or out of hex or base64; None where it is none of these."""
    written = text.strip()
    if HEADER in written:
        return written
    raw: bytes | None = None
    if _HEX_START.match(written):
        raw = _raw("".join(written.split()), "hex")
    elif written.startswith(_BASE64_START):
        raw = _raw("".join(written.split()), "base64")
    if raw is None:
        return None
    return raw.decode("utf-8", "surrogateescape")


def decoded_key(text: str, encoding: str = "") -> str:
    """Return a key as `iem_dcr.ocmf.public_key_der_hex` reads it.

    Args:
        text: as written.
        encoding: what the document says of it: "base64" of a bare point is known by nothing else.
    """
    written = text.strip()
    raw = _raw("".join(written.split()), "base64") if encoding == "base64" else None
    if raw is None:
        return written
    try:
        inner = raw.decode("ascii")
    except UnicodeDecodeError:
        return raw.hex()
    return inner if inner.isprintable() else raw.hex()


def _tuples_in_piece(text: str, line: int) -> Iterator[Found]:
    at = counted = damaged = 0
    while match := _START.search(text, at):
        start = match.start()
        line, counted = line + text.count("\n", counted, start), start
        end = _end(text, start)
        if end is None:
            damaged += 1  # each costs a look at all that is before it: the json module counts lines for its message
            following = _START.search(text, match.end()) if damaged < MOST_DAMAGED else None
            end = following.start() if following else len(text)
        yield Found(text[start:end].rstrip(), source=f"line {line}")
        at = end


def _end(text: str, start: int) -> int | None:
    """Return the index behind the tuple at ``start``; None where it is damaged."""
    try:
        _, end = _SECTION.raw_decode(text, _behind_space(text, start + len(HEADER)))
        end = _behind_space(text, end)
        if not text.startswith("|", end):
            return None
        return _SECTION.raw_decode(text, _behind_space(text, end + 1))[1]
    except (ValueError, RecursionError):
        return None


def _behind_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _raw(written: str, encoding: str) -> bytes | None:
    try:
        return bytes.fromhex(written) if encoding == "hex" else binascii.a2b_base64(written, strict_mode=True)
    except ValueError:
        return None


def at_most(found: Iterable[Found]) -> list[Found]:
    """Collect what is found in a document, and look no further than is allowed.

    Raises:
        ReceiptError: there are more than `MOST`.
    """
    collected = list(islice(found, MOST + 1))
    if len(collected) > MOST:
        raise too_many()
    return collected


def too_many() -> ReceiptError:
    """Make the error for a document that holds more than `MOST` tuples."""
    return ReceiptError(f"the document holds more than {MOST} receipts. Split it")


def nothing_found(text: str) -> ReceiptError:
    """Make the error for a document without any tuple."""
    return ReceiptError(
        f"no receipt in it: it begins with {printable(text[:200], limit=40)!r}; expected is an OCMF tuple, a file of "
        "them, transparency XML, or JSON or CSV with signed meter values"
    )
