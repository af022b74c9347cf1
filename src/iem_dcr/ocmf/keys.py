"""A meter's public key in all its known formats, and the curves of OCMF.

Known formats of a key:

* GET /publickey of 2025 firmware returns DER SubjectPublicKeyInfo in hex. A unit of 2023 has bare X‖Y.
* OCMF allows base64.
* OCPP has base64 of ``oca:base16:asn1:<hex>`` (OCA, Signed Meter Values in OCPP), or base64 of the hex, as in the
  example of that paper.

A text is therefore decoded until bytes remain. These are a DER SubjectPublicKeyInfo or a point in SEC 1 encoding.
``cryptography`` checks whether the point is on the curve. It refuses keys with lengths in long form, or with a curve
given by its parameters. The S.A.F.E. transparency software accepts them, because it only takes the BIT STRING out of
the sequence. This module does the same.

A SubjectPublicKeyInfo that names another curve than SA is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from iem_dcr.errors import ReceiptError, printable
from iem_dcr.ocmf.encoding import BIT_STRING, SEQUENCE, elements, from_base32, from_base64, from_hex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----", re.ASCII)
_OCA = re.compile(r"\s*oca:(\w{1,10}):\w{1,10}:(.*)", re.DOTALL | re.ASCII)
_BETWEEN_DIGITS = re.compile(r"[\s:]+")
_UNCOMPRESSED = b"\x04"
_COMPRESSED = (b"\x02", b"\x03")
_LONGEST = 4000
"""Maximum length of a key's text. Base64 of a PEM of a key with curve parameters has about 1,000 characters."""
_DEEPEST = 3
_KEYS_KEPT = 256

_EXPECTED = "expected DER SubjectPublicKeyInfo as hex, base64, PEM or oca:base16:asn1:…, or a point as hex: 04‖X‖Y, X‖Y"


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """An elliptic curve of OCMF (OCMF 1.4.1, Signature methods). ``cryptography`` does the arithmetic.

    Attributes:
        name: the name within SA.
        size: size in bytes of a coordinate, and of r and s in a raw signature.
        class_name: its class in ``cryptography``, or "" if it has none.
    """

    name: str
    size: int
    class_name: str


SECP192K1 = Curve("secp192k1", 24, "")
SECP192R1 = Curve("secp192r1", 24, "SECP192R1")
SECP256R1 = Curve("secp256r1", 32, "SECP256R1")
CURVES = (
    SECP192K1,
    SECP192R1,
    Curve("secp256k1", 32, "SECP256K1"),
    SECP256R1,
    Curve("secp384r1", 48, "SECP384R1"),
    Curve("brainpool256r1", 32, "BrainpoolP256R1"),
    Curve("brainpool384r1", 48, "BrainpoolP384R1"),
)

ALGORITHMS = (
    *(f"ECDSA-{curve.name}-SHA256" for curve in CURVES),
    "ECDSA-brainpoolP256r1-SHA256",
    "ECDSA-brainpoolP384r1-SHA256",
)
"""The values of SA. The hash is SHA-256. Some programs write brainpool with the P of RFC 5639."""

_CURVE_OF = {f"ecdsa-{curve.name}-sha256": curve for curve in CURVES}


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """A key that can check signatures.

    Attributes:
        der: the key as DER SubjectPublicKeyInfo with a named curve and an uncompressed point.
        verifies: returns whether its first argument, DER, is an ECDSA signature with SHA-256 of its second.
    """

    der: bytes
    verifies: Callable[[bytes, bytes], bool]


def curve_of(algorithm: str | None) -> Curve:
    """Return the curve of a value of SA. The case of the letters after ``ECDSA`` is ignored.

    Args:
        algorithm: SA, or None if SA is not a string.

    Raises:
        ReceiptError: the algorithm is not one of OCMF's.
    """
    curve = None
    if algorithm is not None and algorithm.startswith("ECDSA-"):
        curve = _CURVE_OF.get(algorithm.lower().replace("brainpoolp", "brainpool"))
    if curve is None:
        said = "not a string" if algorithm is None else repr(printable(algorithm, limit=40))
        raise ReceiptError(f"the signature algorithm SA is {said}; known: {', '.join(ALGORITHMS)}")
    return curve


def public_key_der_hex(text: str, algorithm: str | None = None) -> str:
    """Convert a key to hex of DER SubjectPublicKeyInfo with an uncompressed point. Imports ``cryptography``.

    Args:
        text: DER SubjectPublicKeyInfo as hex, base64 or PEM, or 04‖X‖Y, X‖Y or a compressed point as hex or base64, or
            any of these as ``oca:base16:asn1:<hex>``, or base64 of one of these texts. White space is ignored.
        algorithm: the SA of the key. The default is secp256r1.

    Returns:
        The hex in lower case. A text that is already hex of DER keeps its letter case.

    Raises:
        ReceiptError: the text is none of these, the point is not on the curve, or ``cryptography`` is unusable.
    """
    curve = SECP256R1 if algorithm is None else curve_of(algorithm)
    try:
        der_hex = key_of(text, curve).der.hex()
    except ImportError as error:
        raise ReceiptError(missing(error)) from error
    written = "".join(text.split())
    return written if written.lower() == der_hex else der_hex


@lru_cache(maxsize=_KEYS_KEPT)
def is_plain(text: str, algorithm: str | None) -> bool:
    """Return whether a key of DER in hex or base64 has padding, short lengths and a named curve.

    Other forms (PEM, a point, OCPP's forms) count as plain too, and so does what is not a key of this SA.
    """
    try:
        curve = curve_of(algorithm)
        size = len(key_of(text, curve).der)
    except (ReceiptError, ImportError):
        return True
    written = "".join(text.split())
    raw = from_hex(written)
    is_padded = raw is not None or len(written) % 4 == 0
    raw = from_base64(written) if raw is None else raw
    return raw is None or raw[0] != SEQUENCE or (is_padded and len(raw) in (size, size - curve.size))


def missing(error: ImportError) -> str:
    """Return a message that names the missing package."""
    if (error.name or "").partition(".")[0] == "ecdsa":
        return "this curve needs the package ecdsa: install iem-dcr[tools]"
    return f"the package cryptography cannot be used: {printable(error)}"


@lru_cache(maxsize=_KEYS_KEPT)
def key_of(text: str, curve: Curve) -> Key:
    """Read a key in a form of `public_key_der_hex`. Keys are cached.

    Raises:
        ReceiptError: the text is not a key of this curve.
        ImportError: ``cryptography`` is unusable, or lacks the curve and the package ``ecdsa`` is not installed.
    """
    if len(text) > _LONGEST:
        raise ReceiptError(f"not a public key: {len(text)} characters are more than any key has")
    if not text.strip():
        raise ReceiptError("no public key: the text is empty")
    from iem_dcr.ocmf import ecdsa  # noqa: PLC0415  cryptography is imported with the first key only

    for raw in _bytes_of(text, _DEEPEST):
        point = _point_in(raw, curve)
        if point is None:
            continue
        named = ecdsa.curve_named_in(raw)
        if named not in ("", curve.name):
            raise ReceiptError(f"the key has the curve {named}, but the signature algorithm has {curve.name}")
        try:
            return ecdsa.key_at(point, curve)
        except ValueError as error:
            raise ReceiptError(
                f"not a public key: its point is not on the curve {curve.name}; is a digit wrong?"
            ) from error
    shown = printable("".join(text.split()), limit=40)
    raise ReceiptError(f"not a public key of {curve.name}: {shown!r}; {_EXPECTED}")


def _bytes_of(text: str, depth: int) -> Iterator[bytes]:
    """Yield every possible decoding of a key's text, as hex digits may also be base64."""
    if match := _OCA.match(text):
        text = match[2] if match[1] in ("base16", "base64") else ""
    elif match := _PEM.search(text):
        text = match[1]
    if (raw := from_hex(_BETWEEN_DIGITS.sub("", text))) is not None:
        yield raw
    written = "".join(text.split())
    raw = from_base64(written)
    yield from (one for one in (raw, from_base32(written)) if one is not None)
    if depth and raw is not None and raw.isascii():
        yield from _bytes_of(raw.decode(), depth - 1)


def _point_in(raw: bytes, curve: Curve) -> bytes | None:
    """Return the point of a key in SEC 1 encoding, or None if the bytes hold no point of the curve's size.

    It does not check whether the point is on the curve.
    """
    inner, end = elements(raw) or ([], 0)
    if len(inner) > 1 and inner[1][0] == BIT_STRING and end == len(raw):
        return inner[1][1][1:]
    if len(raw) == 2 * curve.size:
        return _UNCOMPRESSED + raw
    is_point = (len(raw) == 2 * curve.size + 1 and raw[:1] == _UNCOMPRESSED) or (
        len(raw) == curve.size + 1 and raw[:1] in _COMPRESSED
    )
    return raw if is_point else None
