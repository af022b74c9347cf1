"""What embedded servers send: odd answers that are read, and some that are refused.

`docs/device-api.md` names this file as the list of them.
"""

from __future__ import annotations

from iem_dcr.device.transport import MAX_ANSWER_BYTES
from iem_dcr.errors import AnswerLostError, MeterError, MeterTimeoutError, NotUnderstoodError
from tests.support.meter_client import CLOCK_BODY
from tests.support.raw_server import Do, Then

_OK = b"HTTP/1.1 200 OK"
_LENGTH = b"Content-Length: %d" % len(CLOCK_BODY)
_CHUNKED = b"Transfer-Encoding: chunked"
_CHUNKS = b"7;a=b\r\n%b\r\n%08x\r\n%b\r\n0\r\nX: y\r\n\r\n" % (CLOCK_BODY[:7], len(CLOCK_BODY) - 7, CLOCK_BODY[7:])
_STRAY = b'{"TM":"2001-01-01T00:00:00,000+0000 S"}'
_INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


def _said(*headers: bytes, status: bytes = _OK, body: bytes = CLOCK_BODY, end: bytes = b"\r\n") -> bytes:
    return end.join((status, *headers, b"", b"")) + body


READ: dict[str, Do] = {
    "lines that end with LF only": Do(_said(_LENGTH, end=b"\n")),
    "header names in small letters": Do(_said(_LENGTH.lower())),
    "blanks before the colon of a header": Do(_said(_LENGTH.replace(b":", b" \t:"))),
    "a header folded over two lines": Do(_said(b"X: a\r\n b", _LENGTH)),
    "bytes beyond ASCII in a header": Do(_said(b"X: \xe4\xff", _LENGTH, status=_OK + b" \xe4")),
    "empty lines before the status line": Do(b"\r\n\n\r\n" + _said(_LENGTH)),
    "no reason phrase": Do(_said(_LENGTH, status=b"HTTP/1.1 200")),
    "HTTP/1.0 with a length": Do(_said(_LENGTH, status=b"HTTP/1.0 200 OK")),
    "HTTP/1.0 without a length; the connection is closed": Do(_said(status=b"HTTP/1.0 200 OK"), Then.CLOSE),
    "HTTP/1.1 without a length; the connection is closed": Do(_said(), Then.CLOSE),
    "no length, and the connection stays open": Do(_said(), Then.STALL),
    "the same Content-Length twice": Do(_said(_LENGTH, _LENGTH)),
    "one Content-Length, written as a list": Do(_said(b"%b, %d" % (_LENGTH, len(CLOCK_BODY)))),
    "chunks with extensions and trailers": Do(_said(_CHUNKED.swapcase(), body=_CHUNKS)),
    "Content-Length and chunks": Do(_said(_LENGTH, _CHUNKED, body=_CHUNKS)),
    "a byte order mark": Do(_said(b"Content-Length: %d" % (len(CLOCK_BODY) + 3), body=b"\xef\xbb\xbf" + CLOCK_BODY)),
    "interim answers before the answer": Do(_INTERIM * 100 + _said(_LENGTH)),
    "a second answer after the first": Do(
        _said(_LENGTH) + _said(b"Content-Length: %d" % len(_STRAY), body=_STRAY), Then.STALL
    ),
}

REFUSED: dict[str, tuple[type[MeterError], Do]] = {
    "interim answers without end": (NotUnderstoodError, Do(_INTERIM * (MAX_ANSWER_BYTES // len(_INTERIM) + 1))),
    "a head without end": (NotUnderstoodError, Do(_OK + b"\r\nX: y" * 2**16)),
    "a header line without end": (NotUnderstoodError, Do(_OK + b"\r\nX: " + b"y" * 2**20)),
    "empty lines without end": (NotUnderstoodError, Do(b"\r\n" * 2**18)),
    "more than 256 KiB": (NotUnderstoodError, Do(_said(b"Content-Length: 99999999", body=b""), flood=b" ")),
    "a header line without a colon": (NotUnderstoodError, Do(_said(b"nonsense", _LENGTH))),
    "a status line that is none": (NotUnderstoodError, Do(_said(_LENGTH, status=b"ICY 200 OK"))),
    "no head at all": (NotUnderstoodError, Do(CLOCK_BODY, Then.CLOSE)),
    "101 Switching Protocols": (NotUnderstoodError, Do(_said(_LENGTH, status=b"HTTP/1.1 101 Switching Protocols"))),
    "two lengths that differ": (NotUnderstoodError, Do(_said(_LENGTH, b"Content-Length: 5"))),
    "a length that is no number": (NotUnderstoodError, Do(_said(_LENGTH.replace(b": ", b": +")))),
    "a transfer coding that is not `chunked`": (NotUnderstoodError, Do(_said(b"Transfer-Encoding: identity", _LENGTH))),
    "a length that is too short": (NotUnderstoodError, Do(_said(b"Content-Length: 8"))),
    "a 204 with a body": (NotUnderstoodError, Do(_said(_LENGTH, status=b"HTTP/1.1 204 No Content"))),
    "a length that is too long; the connection is closed": (
        AnswerLostError,
        Do(_said(b"Content-Length: 99"), Then.CLOSE),
    ),
    "a length that is too long, and the connection stays open": (MeterTimeoutError, Do(_said(b"Content-Length: 99"))),
    "chunks without an end; the connection is closed": (
        AnswerLostError,
        Do(_said(_CHUNKED, body=_CHUNKS[:-11]), Then.CLOSE),
    ),
    "half a JSON value without a length, and the connection stays open": (
        MeterTimeoutError,
        Do(_said(body=CLOCK_BODY[:9])),
    ),
}

DONE_FOR_A_POST = {"a length that is too short", "a 204 with a body"}
"""Refused as the answer to a GET; a POST succeeds with them, for what its answer says does not matter."""
