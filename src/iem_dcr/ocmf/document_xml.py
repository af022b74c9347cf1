"""The S.A.F.E. transparency software's XML: one ``<value>`` with ``<signedData>`` and ``<publicKey>`` per tuple.

A document type declaration is refused as soon as it begins. Entities are declared nowhere else, so nothing can be
expanded and nothing outside be fetched.
"""

from __future__ import annotations

from typing import NoReturn
from xml.parsers import expat

from iem_dcr.errors import ReceiptError, printable
from iem_dcr.ocmf.document_text import MOST, Found, decoded_key, decoded_tuple, too_many, tuples_in

DEEPEST = 50
"""Elements within each other; the format has three."""


def read_xml(data: bytes) -> list[Found]:
    """Read the tuples of a transparency file; an element of another format than OCMF is handed on as it is.

    Raises:
        ReceiptError: it is no XML, has a document type declaration, or holds too many tuples.
    """
    return _Reader().read(data)


class _Reader:
    """Collects while expat reads."""

    def __init__(self) -> None:
        self._found: list[Found] = []
        self._path: list[str] = []
        self._text: list[str] | None = None
        self._encoding = ""
        self._signed: list[str] = []
        self._key = ""
        self._transaction = ""
        self._values = 0

    def read(self, data: bytes) -> list[Found]:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = _refuse_declaration
        parser.EntityDeclHandler = _refuse_declaration
        parser.ExternalEntityRefHandler = _refuse_declaration
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        try:
            parser.Parse(data, True)  # noqa: FBT003  positional only; at once, or a long piece is looked at again and again
        except expat.ExpatError as error:
            raise ReceiptError(f"not XML: {printable(error)}") from error
        except (ValueError, LookupError) as error:  # an encoding that the declaration names and nobody knows
            raise ReceiptError(f"XML that cannot be read: {printable(error)}") from error
        return self._found

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._path) >= DEEPEST:
            raise ReceiptError(f"XML with elements nested more than {DEEPEST} deep is no transparency file")
        local = name.rpartition(":")[2]
        self._path.append(local)
        if local == "value":
            self._signed, self._key = [], ""
            self._transaction = attributes.get("transactionId", "")
            self._values += 1
        elif local in ("signedData", "publicKey"):
            self._text, self._encoding = [], attributes.get("encoding", "")

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, name: str) -> None:
        local = name.rpartition(":")[2]
        self._path.pop()
        if self._text is not None and local in ("signedData", "publicKey"):
            text, self._text = "".join(self._text), None
            if local == "publicKey":
                self._key = decoded_key(text, self._encoding)
            else:
                held = [one.text for one in tuples_in(decoded_tuple(text) or "")]
                self._signed += held or [text.strip()]
        if local == "value":
            of = f", transactionId {printable(self._transaction, limit=40)}" if self._transaction else ""
            self._found += [Found(text, self._key, f"value {self._values}{of}") for text in self._signed]
            self._signed = []
            if len(self._found) > MOST:
                raise too_many()


def _refuse_declaration(*_: object) -> NoReturn:
    raise ReceiptError("XML with a document type declaration or entities is not read; a transparency file has none")
