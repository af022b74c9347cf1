"""The signature of a receipt: decodes SD to ECDSA's r and s, and checks it.

The check has three separate outcomes: valid, invalid, and not checked.

Three formats of a signature are supported:

* DER
* DER whose integers lack the 00 that DER requires before a set top bit (this meter since 2025)
* raw r‖s (this meter in 2023), which the S.A.F.E. transparency software cannot read

Deviations are accepted as in that software. SA and SE may be null. The curve in SA may have letters of any case. SD may
contain white space. Base64 may lack its padding. DER may have lengths in long form, further elements, and trailing
bytes.
"""

from __future__ import annotations

import contextlib
import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iem_dcr.errors import ReceiptError
from iem_dcr.ocmf.encoding import INTEGER, elements, from_base32, from_base64, from_hex
from iem_dcr.ocmf.keys import ALGORITHMS, curve_of, key_of, missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iem_dcr.ocmf.keys import Curve
    from iem_dcr.ocmf.receipt import Receipt

_SPACE = re.compile(r"[ \t\r\n]+")
_DECODERS = {"hex": from_hex, "base64": from_base64, "base32": from_base32}
"""By the values of SE."""


class Outcome(enum.Enum):
    """The outcome of a check."""

    VALID = "valid"
    INVALID = "invalid"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of a check, and its reason in words for the user."""

    outcome: Outcome
    reason: str


class Form(enum.Enum):
    """How a signature is written, classified by whether the transparency software reads it."""

    PLAIN = "plain"
    """As OCMF specifies."""
    ODD = "odd"
    """Different, but that software reads it."""
    ENCODING = "encoding"
    """SE is not exactly hex, base64 or base32: that software cannot read it."""
    NOT_DER = "not DER"
    """Raw r‖s, an integer that begins with nine equal bits, or no signature: that software cannot read it."""


_VALID = Verification(Outcome.VALID, "the signature matches the data and the key")
_INVALID = Verification(
    Outcome.INVALID, "the signature does not match: the data was changed, or the key is another meter's"
)


def verify(receipt: Receipt, public_key: str) -> Verification:
    """Check a receipt's signature: ECDSA over the SHA-256 of `Receipt.signed` (OCMF 1.4.1, Signature Section).

    Never raises. The first call imports ``cryptography``. Keys are cached.

    Args:
        receipt: the signed data and the signature.
        public_key: the meter's key in a form that `iem_dcr.ocmf.public_key_der_hex` reads.

    Returns:
        ``VALID`` if the signature matches, and ``INVALID`` if it does not match. ``NOT_CHECKED`` if the algorithm is
        not one of OCMF's, the key or the signature is unreadable, the key has another curve than SA, or a package is
        missing.
    """
    try:
        curve = curve_of(receipt.algorithm)
        key = key_of(public_key, curve)
        if key.verifies(_bytes_of(receipt.signature), receipt.signed):  # the usual case: DER
            return _VALID
        numbers = signature_numbers(receipt.signature, curve)
        return _VALID if any(key.verifies(in_der(r, s), receipt.signed) for r, s in numbers) else _INVALID
    except ReceiptError as error:
        return Verification(Outcome.NOT_CHECKED, str(error))
    except ImportError as error:
        return Verification(Outcome.NOT_CHECKED, missing(error))


def prepare() -> None:
    """Import ``cryptography`` before the first check. This takes some time, so call it in a worker thread."""
    with contextlib.suppress(ImportError):
        from iem_dcr.ocmf import ecdsa  # noqa: F401, PLC0415  the import is the purpose


def signature_numbers(signature: Mapping[str, object], curve: Curve) -> list[tuple[int, int]]:
    """Return r and s of a signature section for every possible reading of its bytes: as DER, and as raw r‖s.

    There may be two, because a raw signature can accidentally look like DER.

    Raises:
        ReceiptError: SD is not a text in the encoding SE, or its bytes are neither DER nor raw r‖s.
    """
    raw = _bytes_of(signature)
    integers = _integers(raw)
    read = [] if integers is None else [integers]
    if len(raw) == 2 * curve.size:
        read.append((raw[: curve.size], raw[curve.size :]))
    if not read:
        raise ReceiptError("the signature SD is unreadable: its bytes are neither DER nor raw r‖s")
    return [(int.from_bytes(r, "big"), int.from_bytes(s, "big")) for r, s in read]


def form_of(signature: Mapping[str, object]) -> Form:
    """Return how a signature is written. It need not match."""
    SA, SE, SD = signature.get("SA", ""), signature.get("SE", "hex"), str(signature.get("SD"))
    try:
        raw = _bytes_of(signature)
    except ReceiptError:
        return Form.NOT_DER
    if SE not in (None, *_DECODERS) or (SE in ("base64", "base32") and "\r" in SD):
        return Form.ENCODING
    integers = _integers(raw)
    if integers is None or any(map(_has_nine_equal_bits, integers)):
        return Form.NOT_DER
    if SE == "hex":
        is_spelled_plainly = len(SD) == 2 * len(raw)
    else:
        is_spelled_plainly = SE == "base64" and len(SD) % 4 == 0 and not _SPACE.search(SD)
    is_short = len(raw) == 6 + sum(map(len, integers))  # three heads of two bytes, and nothing but two integers
    is_known = isinstance(SA, str) and (SA == "" or SA in ALGORITHMS)
    return Form.PLAIN if is_short and is_spelled_plainly and is_known else Form.ODD


def in_der(r: int, s: int) -> bytes:
    """Encode r and s as DER (RFC 3279, 2.2.3). Imports ``cryptography``.

    Raises:
        ReceiptError: ``cryptography`` is unusable.
    """
    try:
        from iem_dcr.ocmf import ecdsa  # noqa: PLC0415  cryptography is imported when it is needed
    except ImportError as error:
        raise ReceiptError(missing(error)) from error
    return ecdsa.der_of(r, s)


def _bytes_of(signature: Mapping[str, object]) -> bytes:
    """Decode SD by the encoding SE. The default is hex (OCMF 1.4.1, Signature Section)."""
    SE, SD = signature.get("SE"), signature.get("SD")
    if not isinstance(SD, str):
        raise ReceiptError("the signature SD is missing or not a string")
    encoding = "hex" if SE is None else SE.lower() if isinstance(SE, str) else ""
    if encoding not in _DECODERS:
        raise ReceiptError("the signature SD is unreadable: its encoding SE is neither hex nor base64")
    decode = _DECODERS[encoding]
    raw = decode(SD) or decode(_SPACE.sub("", SD))
    if raw is None:
        raise ReceiptError(f"the signature SD is unreadable: it is not {encoding}")
    return raw


def _integers(raw: bytes) -> tuple[bytes, bytes] | None:
    """Read SEQUENCE { INTEGER r, INTEGER s }. The integers are unsigned and may have any number of leading zeros."""
    found, _ = elements(raw) or ([], 0)
    if len(found) < 2:
        return None
    (tag_r, r), (tag_s, s) = found[:2]
    return (r, s) if tag_r == tag_s == INTEGER and r and s else None


def _has_nine_equal_bits(integer: bytes) -> bool:
    return len(integer) > 1 and (integer[0], integer[1] & 0x80) in ((0x00, 0x00), (0xFF, 0x80))
