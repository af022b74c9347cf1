"""Reading tuples and their keys out of whatever they are handed on in: see `read_document`."""

from __future__ import annotations

from dataclasses import replace

from iem_dcr.errors import ReceiptError
from iem_dcr.ocmf.document_csv import is_csv, read_csv
from iem_dcr.ocmf.document_json import read_json
from iem_dcr.ocmf.document_text import (
    Found,
    Record,
    at_most,
    decoded_tuple,
    nothing_found,
    stream_records,
    tuples_in,
)
from iem_dcr.ocmf.document_xml import read_xml
from iem_dcr.ocmf.receipt import parse
from iem_dcr.ocmf.transaction import meter_of

__all__ = ["LARGEST", "Found", "Record", "begins_with_tuple", "read_document", "stream_records"]

LARGEST = 64_000_000
"""Bytes of the largest document; a file of tuples alone may be longer, see `stream_records`."""
_SPACE = b" \t\r\n\0\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def begins_with_tuple(head: bytes) -> bool:
    """Whether a file that begins so is one of tuples, which `stream_records` reads without holding it."""
    return head.lstrip(_SPACE).startswith(b"OCMF|")


def read_document(data: bytes) -> tuple[Found, ...]:
    """Read the tuples of a document, in their order, in time linear to its length.

    It may be a tuple; a file of tuples, one per line or one after the other; one of these as hex or base64; the
    transparency software's XML; JSON, or several JSON texts one after the other, with a tuple anywhere within
    (EVerest's SignedMeterValue, messages of OCPP 1.6 and 2.x); CSV of ``iem-dcr receipts export``. A tuple without a
    key beside it gets the document's where the document has only one, and that of the same meter.

    Returns:
        At least one; damaged ones too, which `iem_dcr.ocmf.parse` refuses.

    Raises:
        ReceiptError: there is no tuple in it, it cannot be read, or it is longer than `LARGEST` or holds more than
            `iem_dcr.ocmf.document_text.MOST`.
    """
    if len(data) > LARGEST:
        raise ReceiptError(f"the document has {len(data)} bytes; at most {LARGEST} are read. Split it")
    if data.lstrip(_SPACE).startswith(b"<") or (data[:2] in _UTF_16 and b"<" in data[2:4]):
        found = read_xml(data.strip(_SPACE) if data[:2] not in _UTF_16 else data)
        if not found:
            raise ReceiptError("no receipt in it: XML without any <value> with <signedData>")
    else:
        found = _of_text(_text(data))
    return _with_the_only_key(found)


def _text(data: bytes) -> str:
    encoding = "utf-16" if data[:2] in _UTF_16 else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ReceiptError(f"not a text in UTF-8: byte {error.start} belongs to no character") from error


def _of_text(text: str) -> list[Found]:
    written = text.strip(" \t\r\n\0\ufeff")
    found: list[Found] | None = None
    if written.startswith(("{", "[", '"')):
        found = read_json(written)
    elif is_csv(written):
        found = read_csv(written)
    if not found:
        held = text if "OCMF|" in text else decoded_tuple(written)
        found = at_most(tuples_in(held or ""))
    if not found:
        raise nothing_found(written)
    return found


def _with_the_only_key(found: list[Found]) -> tuple[Found, ...]:
    keys = {one.key for one in found if one.key}
    if len(keys) != 1 or all(one.key for one in found):
        return tuple(found)
    (key,) = keys
    meters = {_meter(one) for one in found if one.key}
    return tuple(one if one.key or _meter(one) not in meters else replace(one, key=key) for one in found)


def _meter(found: Found) -> str:
    try:
        return meter_of(parse(found.text))
    except ReceiptError:
        return ""
