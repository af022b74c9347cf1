"""Answers of a meter without anything in them that tells whose meter, charger or card it is.

What is known to tell nothing stays, and only where it has the form that is known of it: everything else that is a text
or a number becomes a pseudonym, so that a field of a firmware nobody has seen gives nothing away. A receipt that
verified is signed again with a key that is thrown away, in the form of its signature; one that did not gets numbers
that sign nothing.

Two passes: all answers are learnt first, then each is written, so that a value is also found where it is mentioned.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final

from iem_dcr import ocmf
from iem_dcr.diagnostics import json_text
from iem_dcr.diagnostics.body_parts import Parts, walked
from iem_dcr.diagnostics.pseudonyms import Pseudonyms
from iem_dcr.diagnostics.throwaway import ThrowAwayKey, noise
from iem_dcr.errors import ReceiptError
from iem_dcr.ocmf.tuple_text import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iem_dcr.ocmf import Receipt

SIGNED_AGAIN: Final = "signed again with a key that was thrown away; it verifies with the one in this folder"
_ALGORITHM: Final = "ECDSA-secp256r1-SHA256"
NOISE: Final = "it did not verify, or could not be checked; its numbers are others, and sign nothing"

_WORD: Final = r"[A-Z][A-Z0-9_]*"
_TYPES: Final = (
    "NONE|DENIED|UNDEFINED|ISO14443|ISO15693|EMAID|EVCCID|EVCOID|ISO7812|CARD_TXN_NR|CENTRAL|CENTRAL_[12]|LOCAL|"
    "LOCAL_[12]|PHONE_NUMBER|KEY_CODE"
)
_LEVELS: Final = "NONE|HEARSAY|TRUSTED|VERIFIED|CERTIFIED|SECURE|MISMATCH|INVALID|OUTDATED|UNKNOWN"
_FORMS: Final = {
    "TM": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[,.]?\d{0,6} ?[+-]\d\d:?\d\d( [UISR])?",
    **dict.fromkeys(("RV", "WV"), r"-?\d{1,12}(\.\d{1,6})?"),
    **dict.fromkeys(("RI", "WI"), r"(transaction_)?\d-[0-9a-z]{1,2}:\d{1,2}\.\d{1,2}\.[0-9a-z]{1,2}"),
    **dict.fromkeys(("RU", "WU"), r"[kM]?(Wh|varh|VAh|W|A|V)|m?Ohm"),
    **dict.fromkeys(("RT", "WT"), "AC|DC"),
    **dict.fromkeys(("XS", "XC"), r"(0[xX][0-9A-Fa-f]{1,16})(,\s?0[xX][0-9A-Fa-f]{1,16})*"),
    **dict.fromkeys(("TX", "ST"), "[A-Za-z]?"),
    "EF": "[Et]*",
    "IL": _LEVELS,
    "IF": rf"(RFID|OCPP|ISO15118|PLMN)_{_WORD}",
    "IT": _TYPES,
    "PG": r"[TF]\d{1,10}",
    "CT": "EVSEID|CBIDC",
    "FV": r"\d{1,2}(\.\d{1,2}){0,2}",
    "SA": r"ECDSA-[0-9A-Za-z]{1,20}-SHA\d{1,3}",
    "SE": "hex|base64",
    "SM": "application/x-der",
}
"""Fields of the meter's and of OCMF's that tell nothing as long as they have the form that is known of them."""
_MAKES: Final = ("GI", "GV", "MV", "MM", "MF")
"""Make, model and firmware: kept, because a recording is for them; but not what looks like a serial number in them."""
_MEASURED: Final = ("U1", "U2", "U3", "U4", "I", "P", "RV", "WV", "FV", "EI", "CL", "LR")
_KNOWN_KEYS: Final = frozenset(
    (*_FORMS, *_MAKES, *_MEASURED, "MS", "GS", "CI", "ID", "TT", "PK", "SD", "RD", "XT", "IS")
)
_HEADERS: Final = frozenset(
    (
        "allow",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "expires",
        "keep-alive",
        "pragma",
        "server",
        "transfer-encoding",
        "vary",
    )
)
_DIGITS: Final = re.compile("[0-9]")
_SHORTEST_NUMBER: Final = 4


class Disguise:
    """The pseudonyms, and the key, of one recording.

    Args:
        secret: further texts that must not be told wherever they stand, as the meter's address.
    """

    def __init__(self, secret: Iterable[str] = ()) -> None:
        self._pseudonyms = Pseudonyms(secrets.token_bytes(32))
        self._key = ThrowAwayKey()
        self._PK = ""
        self._receipts: dict[str, tuple[str, str]] = {}
        for text in secret:
            self._pseudonyms.add(text)

    # --- first pass ---------------------------------------------------------------------------------------------------

    def learn(self, body: bytes) -> None:
        """Take note of every value in an answer that must not be told."""
        walked(
            body,
            Parts(self._learn_string, self._learn_number, self._learn_text, self._learn_text, self._learn_receipt),
        )

    def learn_header(self, name: str, value: str) -> None:
        """Take note of a header's value, if it is not one of those that tell nothing."""
        if name.lower() not in _HEADERS:
            self._pseudonyms.add(value)

    def _learn_string(self, key: str, value: str) -> str:
        if key == "PK":
            self._learn_key(value)
        elif key in _MAKES:
            self._pseudonyms.learn_numbers(value)
        elif not _is_plain(key, value):
            self._pseudonyms.add(value)
        return value

    def _learn_key(self, PK: str) -> None:
        self._PK = self._PK or PK
        written = self._key.written_as(PK)
        if written is None:
            self._pseudonyms.add(PK)
            return
        coordinates, new = written
        self._pseudonyms.add(PK, new)
        for old, other in coordinates.items():
            self._pseudonyms.add(old, other)

    def _learn_number(self, key: str, written: str) -> str:
        if _tells(key, written):
            self._pseudonyms.add("".join(_DIGITS.findall(written)))
        return written

    def _learn_text(self, text: str) -> str:
        if text not in _KNOWN_KEYS:
            self._pseudonyms.learn_numbers(text)
        return text

    def _learn_receipt(self, text: str) -> str:
        receipt = _parsed(text)
        if receipt is None:
            self._pseudonyms.add(text)
            return text
        for section in _sections(text, receipt):
            json_text.replaced(section, self._learn_string, self._learn_number, self._learn_text)
        return text

    # --- second pass --------------------------------------------------------------------------------------------------

    def body(self, body: bytes) -> bytes:
        """Return an answer with pseudonyms in it."""
        return walked(body, Parts(self._string, self._number, self._key_name, self._pseudonyms.within, self._receipt))

    def header(self, name: str, value: str) -> str:
        """Return a header's value with pseudonyms in it."""
        return self._pseudonyms.within(value) if name.lower() in _HEADERS else self._pseudonyms.of(value)

    def _string(self, key: str, value: str) -> str:
        if _is_plain(key, value):
            return value
        return self._pseudonyms.within(value) if key in _MAKES else self._pseudonyms.of(value)

    def _number(self, key: str, written: str) -> str:
        if not _tells(key, written):
            return written
        digits = iter(self._pseudonyms.of("".join(_DIGITS.findall(written))))
        new = "".join(next(digits) if character.isdigit() else character for character in written)
        first = 1 if written.startswith("-") else 0
        if (written[first] == "0") == (new[first] == "0"):
            return new
        return new[:first] + ("0" if written[first] == "0" else "9") + new[first + 1 :]

    def _key_name(self, key: str) -> str:
        return key if key in _KNOWN_KEYS else self._pseudonyms.within(key)

    def _receipt(self, text: str) -> str:
        """Return a receipt with pseudonyms in it; the same one each time."""
        if text not in self._receipts:
            self._receipts[text] = self._made_receipt(text)
        return self._receipts[text][0]

    def _made_receipt(self, text: str) -> tuple[str, str]:
        receipt = _parsed(text)
        if receipt is None:
            return HEADER + self._pseudonyms.of(text)[len(HEADER) :], NOISE
        payload, signature = _sections(text, receipt)
        payload = json_text.replaced(payload, self._string, self._number, self._key_name)
        SD, what = None, NOISE
        if ocmf.verify(receipt, self._PK).outcome is ocmf.Outcome.VALID and receipt.algorithm == _ALGORITHM:
            SD, what = self._key.sign(payload.encode(), receipt.signature), SIGNED_AGAIN
        if SD is None:
            SD, what = noise(receipt.signature), NOISE

        def string(key: str, value: str) -> str:
            return SD if key == "SD" and SD is not None else self._string(key, value)

        signature = json_text.replaced(signature, string, self._number, self._key_name)
        return f"{HEADER}{payload}|{signature}", what


def _parsed(text: str) -> Receipt | None:
    try:
        receipt = ocmf.parse(text)
    except ReceiptError:
        return None
    return receipt if receipt.text == text else None


def _sections(text: str, receipt: Receipt) -> tuple[str, str]:
    payload = receipt.signed.decode()
    return payload, text[len(HEADER) + len(payload) + 1 :]


def _is_plain(key: str, value: str) -> bool:
    form = _FORMS.get(key)
    return not value or (form is not None and re.fullmatch(form, value, re.ASCII) is not None)


def _tells(key: str, written: str) -> bool:
    return key not in _MEASURED and len(_DIGITS.findall(written)) >= _SHORTEST_NUMBER
