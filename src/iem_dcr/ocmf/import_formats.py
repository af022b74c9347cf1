"""Reads tuples and their keys from documents of many formats: see `read_document`.

Tuples are recognised by their beginning. Every text in a document is searched, and decoded if it is JSON, XML, hex or
base64 (OCPP's signedMeterData, and the formats that CSMSs make of it). The key of a tuple is the nearest one in the
objects that contain it. If they have none, it is the only key in neighbouring objects (OICP's
CalibrationLawVerificationInfo).
"""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from iem_dcr.errors import ReceiptError, printable
from iem_dcr.ocmf.import_xml import MOST, Found, collect, read_xml, unwrapped
from iem_dcr.ocmf.receipt import parse
from iem_dcr.ocmf.rules import Finding, finding
from iem_dcr.ocmf.tuple_text import AROUND, AROUND_BYTES, HEADER, Record, read_sections, stream_records, tuples_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["LARGEST", "Found", "Record", "begins_with_tuple", "found_around", "read_document", "stream_records"]

LARGEST = 64_000_000
"""Maximum size of a document in bytes. A file of tuples only may be larger: see `stream_records`."""
DEEPEST = 5
"""Maximum depth of nested encodings. Base64 twice, in a JSON message, in a JSON log, in a message, has five."""
TUPLE, KEY = "tuple", "public_key"
"""Columns of the CSV of ``iem-dcr receipts export``."""

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_KEYS = frozenset({"publickey", "pk", "meterpublickey"})
_BEGINS_JSON = ("{", "[", '"')
_LINE_START = re.compile(r'[{\[]|^(?=")|OCMF\|(?=[ \t]*\{)')
_MOST_STARTS = 20


def begins_with_tuple(head: bytes) -> bool:
    """Return whether a file with this beginning holds tuples only, so that `stream_records` can read it."""
    return head.lstrip(AROUND_BYTES).startswith(HEADER.encode())


def read_document(data: bytes, notes: list[str] | None = None) -> tuple[Found, ...]:
    """Read the tuples of a document in order, in time linear in its length.

    A document is one of these:

    * a tuple, or a file of tuples, one per line or in succession, also encoded as hex or base64
    * the transparency software's XML
    * one or more JSON texts, or lines some of which contain JSON, with tuples anywhere inside (EVerest's
      SignedMeterValue, messages of OCPP 1.6 and 2.x and their logs, OCPI, OICP)
    * CSV of ``iem-dcr receipts export``

    A tuple without a key gets the only key in the document, if that belongs to the same meter.

    Args:
        data: the document.
        notes: gets a sentence for each part that could not be read.

    Returns:
        At least one tuple. Damaged tuples are included, and `iem_dcr.ocmf.parse` refuses them.

    Raises:
        ReceiptError: the document has no tuple, is unreadable, is longer than `LARGEST`, or has more than `MOST`
            tuples.
    """
    if len(data) > LARGEST:
        raise ReceiptError(f"the document has {len(data)} bytes; at most {LARGEST} are read. Split it")
    if data.lstrip(AROUND_BYTES).startswith(b"<") or (data[:2] in _UTF_16 and b"<" in data[2:4]):
        found = read_xml(data.strip(AROUND_BYTES) if data[:2] not in _UTF_16 else data)
        if not found:
            raise ReceiptError("no receipt in it: XML without any <value> with <signedData>")
    else:
        found = _of_text(_decoded(data), [] if notes is None else notes)
    return _with_the_only_key(found)


def found_around(found: Sequence[Found]) -> list[Finding]:
    """Return the findings about the document for the tuples of one transaction, begin before end."""
    around = [replace(one, receipt=number) for number, each in enumerate(found) for one in each.findings]
    if len(found) > 1 and (found[0].context == "end" or found[-1].context == "begin"):
        around.append(finding("context-swapped", "the context attributes of begin and end are swapped"))
    return around


def _decoded(data: bytes) -> str:
    encoding = "utf-16" if data[:2] in _UTF_16 else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ReceiptError(f"not a text in UTF-8: invalid byte {error.start}") from error


def _of_text(text: str, notes: list[str]) -> list[Found]:
    written = text.strip(AROUND)
    found: list[Found] = []
    if written.startswith(_BEGINS_JSON):
        found = _of_json(written)
    elif _is_csv(written):
        found = _of_csv(written)
    if not found:
        found = collect(Found(one, source=f"line {line}") for one, line in tuples_in(text)) if HEADER in text else []
        if not written.startswith(HEADER):
            unread: list[str] = []
            by_line = _of_lines(text, unread)
            if sum(_meter(one) is not None for one in by_line) > sum(_meter(one) is not None for one in found):
                found = by_line
                notes += unread
    found = found or collect(_within(written, "", DEEPEST))
    if not found:
        raise ReceiptError(
            f"no receipt in it: it begins with {printable(written[:200], limit=40)!r}; expected an OCMF tuple, a file "
            "of them, transparency XML, or JSON or CSV with signed meter values"
        )
    return found


def _with_the_only_key(found: list[Found]) -> tuple[Found, ...]:
    keys = {one.key for one in found if one.key}
    if len(keys) != 1 or all(one.key for one in found):
        return tuple(found)
    (key,) = keys
    meters = {_meter(one) for one in found if one.key}
    return tuple(one if one.key or _meter(one) not in meters else replace(one, key=key) for one in found)


def _meter(found: Found) -> str | None:
    """Return the meter of a tuple, or None if the tuple is damaged."""
    try:
        return parse(found.text).meter
    except ReceiptError:
        return None


# --- JSON ---


class _Object(tuple[tuple[str, object], ...]):
    """The pairs of a JSON object, including those with a repeated key."""

    __slots__ = ()


_JSON = json.JSONDecoder(strict=False, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_Object)


def _of_json(text: str) -> list[Found]:
    """Read one or more JSON texts. Return nothing if the text is not entirely JSON."""
    values = list[object]()
    at, size = 0, len(text)
    while at < size:
        if text[at] in AROUND:
            at += 1
            continue
        try:
            value, at = _JSON.raw_decode(text, at)
        except ValueError:
            return []
        except RecursionError as error:
            raise ReceiptError("JSON that is nested too deeply") from error
        values.append(value)
    found = (one for value in values for one in _search(value, "", DEEPEST))
    return collect(replace(one, source=f"receipt {number}") for number, one in enumerate(found, 1))


def _of_lines(text: str, notes: list[str]) -> list[Found]:
    """Read lines with JSON or a tuple after any other text. The other lines are listed in a note."""
    found: list[Found] = []
    unread: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        written = line.strip(AROUND)
        in_line, is_read = _of_line(written)
        collect((replace(one, source=f"line {number}") for one in in_line), found)
        if written and not is_read:
            unread.append(str(number))
    if unread:
        more = f" and {len(unread) - 10:,} more" if len(unread) > 10 else ""
        lines = ", ".join(unread[:10])
        notes.append(f"line{'' if len(unread) == 1 else 's'} {lines}{more}: neither JSON nor a receipt; skipped")
    return found


def _of_line(line: str) -> tuple[list[Found], bool]:
    """Return the tuples of a line, and whether the line could be read."""
    found: list[Found] = []
    at, is_read = 0, False
    for match in islice(_LINE_START.finditer(line), _MOST_STARTS):
        if match.start() < at:
            continue
        try:
            if match[0] == HEADER:
                end = read_sections(line, match.start()).end
                found.append(Found(line[match.start() : end]))
            else:
                value, end = _JSON.raw_decode(line, match.start())
                found += islice(_search(value, "", DEEPEST), MOST)
        except (ValueError, RecursionError, ReceiptError):
            continue
        at, is_read = end, True
    return found, is_read


def _search(value: object, key: str, depth: int) -> Iterator[Found]:
    """Yield the tuples within a value in order. It does not recurse, because JSON may be deeply nested."""
    waiting = [(value, key)]
    while waiting:
        value, key = waiting.pop()
        if isinstance(value, str):
            yield from _within(value, key, depth)
        elif isinstance(value, _Object):
            key = _key_in(value) or _key_beside(value) or key
            waiting.extend((inner, key) for _, inner in reversed(value))
        elif isinstance(value, list):
            waiting.extend((inner, key) for inner in reversed(value))


def _within(text: str, key: str, depth: int) -> Iterator[Found]:
    """Yield the tuples within a text, directly or decoded from JSON, XML, hex or base64."""
    written = text.strip(AROUND)
    if depth and written.startswith(_BEGINS_JSON):
        try:
            inner, end = _JSON.raw_decode(written)
        except (ValueError, RecursionError):
            pass
        else:
            if not written[end:].strip(AROUND):
                yield from _search(inner, key, depth - 1)
                return
    if depth and written.startswith("<"):
        try:
            yield from (replace(one, key=one.key or key) for one in read_xml(written.encode()))
        except (ReceiptError, UnicodeEncodeError):
            pass
        else:
            return
    if HEADER in written:
        yield from (Found(one, key) for one, _ in tuples_in(written))
    elif depth and (inner_text := unwrapped(written)) is not None:
        yield from _within(inner_text, key, depth - 1)


def _key_in(value: _Object) -> str:
    for name, inner in value:
        if isinstance(inner, str) and inner and name.replace("_", "").replace("-", "").lower() in _KEYS:
            return inner
    return ""


def _key_beside(value: _Object, depth: int = 3) -> str:
    """Return the key in the objects within this one, up to a depth, if there is exactly one."""
    keys = {
        key
        for _, inner in value
        if isinstance(inner, _Object) and depth and (key := _key_in(inner) or _key_beside(inner, depth - 1))
    }
    return keys.pop() if len(keys) == 1 else ""


# --- CSV ---


def _is_csv(text: str) -> bool:
    """Return whether the first line is the header of a CSV with tuples."""
    line = text[:2000].partition("\n")[0]
    return TUPLE in [name.strip().strip('"') for name in line.split(",")]


def _of_csv(text: str) -> list[Found]:
    """Read the tuples of the rows. Rows without a tuple (erased receipts) are skipped."""
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        return collect(
            Found(row[TUPLE], row.get(KEY) or "", f"row {number}")
            for number, row in enumerate(rows, 1)
            if row.get(TUPLE)
        )
    except csv.Error as error:
        raise ReceiptError(f"CSV that cannot be read: line {rows.line_num}: {printable(error)}") from error
