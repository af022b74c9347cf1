"""The S.A.F.E. transparency software's XML: one ``<value>`` with ``<signedData>`` and ``<publicKey>`` per tuple.

This reader accepts more than that software, and reports the difference. That software takes a value's text literally
whatever its attributes say, supports no namespace, and accepts only keys that are DER in hex or base64.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NoReturn
from xml.parsers import expat

from iem_dcr.errors import ReceiptError, printable
from iem_dcr.ocmf.encoding import SEQUENCE, from_base64, from_hex
from iem_dcr.ocmf.registers import BLANKS
from iem_dcr.ocmf.rules import Finding, finding
from iem_dcr.ocmf.tuple_text import HEADER, tuples_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST = 500_000
"""Maximum number of tuples in one document."""
DEEPEST = 50
"""Maximum depth of nested elements. The format has three."""

_BASE64 = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")
_CONTEXTS = {"Transaction.Begin": "begin", "Transaction.End": "end"}


@dataclass(frozen=True, slots=True)
class Found:
    """A tuple in a document.

    Attributes:
        text: the tuple as written. For a damaged one, its recognisable part.
        key: its public key, in a form that `iem_dcr.ocmf.public_key_der_hex` may read, or "".
        source: its place in the document, for people: ``line 3``.
        findings: what the transparency software cannot read in the document.
        context: the document's name for it: "begin", "end", or "".
    """

    text: str
    key: str = ""
    source: str = ""
    findings: tuple[Finding, ...] = ()
    context: str = ""


def unwrapped(text: str) -> str | None:
    """Decode a text from hex or base64. Return None if it is neither, or holds neither ASCII nor a tuple."""
    together = "".join(text.split())
    raw = from_hex(together)
    if raw is None and _BASE64.fullmatch(together):
        raw = from_base64(together)
    if raw is None or not (raw.isascii() or HEADER.encode() in raw):
        return None
    return raw.decode("utf-8", "surrogateescape")


def collect(more: Iterable[Found], found: list[Found] | None = None) -> list[Found]:
    """Append tuples of a document to those found before, or to a new list.

    Raises:
        ReceiptError: there are more than `MOST`. The rest is not read.
    """
    found = [] if found is None else found
    found += islice(more, MOST + 1 - len(found))
    if len(found) > MOST:
        raise ReceiptError(f"the document holds more than {MOST} receipts. Split it")
    return found


def read_xml(data: bytes) -> list[Found]:
    """Read the tuples of a transparency file. An element of another format than OCMF is returned unchanged.

    Raises:
        ReceiptError: the data is not XML, has a document type declaration, or holds too many tuples.
    """
    return _Reader().read(data)


class _Reader:
    """Collects tuples while expat parses.

    A document type declaration is refused at its beginning. Only there can entities be declared, so nothing can be
    expanded or fetched.
    """

    def __init__(self) -> None:
        self._found: list[Found] = []
        self._path: list[str] = []
        self._text: list[str] | None = None
        self._signed: list[tuple[str, str]] = []
        self._key = ""
        self._transaction = self._context = ""
        self._values = 0
        self._has_namespace = False

    def read(self, data: bytes) -> list[Found]:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = _refuse_declaration
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        try:
            parser.Parse(data, True)  # noqa: FBT003  positional only; in one piece, because expat rescans a long one
        except expat.ExpatError as error:
            raise ReceiptError(f"not XML: {printable(error)}") from error
        except (ValueError, LookupError) as error:  # the declaration names an unknown encoding
            raise ReceiptError(f"XML that cannot be read: {printable(error)}") from error
        return self._found

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._path) >= DEEPEST:
            raise ReceiptError(f"XML with more than {DEEPEST} nested elements is not a transparency file")
        local = name.rpartition(":")[2]
        self._path.append(local)
        self._has_namespace |= ":" in name or bool(attributes.get("xmlns"))
        if local == "value":
            self._signed, self._key = [], ""
            self._transaction = attributes.get("transactionId", "")
            self._context = _CONTEXTS.get(attributes.get("context", "").strip(), "")
            self._values += 1
        elif local in ("signedData", "publicKey"):
            self._text = []

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, name: str) -> None:
        local = name.rpartition(":")[2]
        self._path.pop()
        if self._text is not None and local in ("signedData", "publicKey"):
            text, self._text = "".join(self._text).strip(BLANKS), None
            if local == "publicKey":
                self._key = text
            else:
                inner = text if HEADER in text else unwrapped(text) or ""
                self._signed += [(one, text) for one, _ in tuples_in(inner)] or [(text, text)]
        if local == "value":
            of = f", transactionId {printable(self._transaction, limit=40)}" if self._transaction else ""
            place = f"value {self._values}{of}"
            is_placed = tuple(self._path) == ("values",) and not self._has_namespace
            more = (
                Found(one, self._key, place, tuple(_findings(one, text, self._key, is_placed=is_placed)), self._context)
                for one, text in self._signed
            )
            collect(more, self._found)
            self._signed = []


def _findings(one: str, text: str, key: str, *, is_placed: bool) -> Iterator[Finding]:
    """Yield what the transparency software cannot read of a tuple, the text of its value, and its key."""
    why = [] if is_placed else ["a namespace, or other elements around"]
    if HEADER not in text:
        why.append("data in hex or base64")
    elif not text.startswith(one) or text[len(one) :].lstrip()[:1] not in ("", "|"):
        yield finding("text-around-tuple", "there is text before or after the tuple in its value")
    bare = "".join(key.split())
    raw = from_hex(bare) or from_base64(bare) or b""
    if key and raw[:1] != bytes([SEQUENCE]):
        why.append("a key that is not DER in hex or base64")
    if why:
        what = f"the transparency software cannot open it ({', '.join(why)}); verify --export writes a readable file"
        yield finding("container-not-readable", what)


def _refuse_declaration(*_: object) -> NoReturn:
    raise ReceiptError("XML with a document type declaration or entities is refused; a transparency file has none")
