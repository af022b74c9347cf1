"""A meter's public key in the forms it is met in.

GET /publickey of 2025 firmware gives hex of DER SubjectPublicKeyInfo; a unit of 2023 is known by bare X‖Y; OCMF
allows base64; OCPP carries base64 of ``oca:base16:asn1:<hex>`` (OCA, Signed Meter Values in OCPP). All are brought to
hex of DER SubjectPublicKeyInfo, which everything onward asks for.

A SubjectPublicKeyInfo names its curve; one that is not the curve of SA is refused. (The transparency software takes
the bare point out of it and finds it to be no point of SA's curve.)
"""

from __future__ import annotations

import binascii
import re

from iem_dcr.errors import ReceiptError, printable
from iem_dcr.ocmf.curves import CURVES, SECP256R1, Curve, curve_of

_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----", re.ASCII)
_OCA = "oca:"
_UNCOMPRESSED = 0x04
_COMPRESSED = (0x02, 0x03)
_LONGEST = 2000
"""Characters of the longest text looked at; the longest key has some 330 in its longest form."""

_EXPECTED = (
    "expected is DER SubjectPublicKeyInfo as hex, base64, PEM or oca:base16:asn1:…, or a point as hex: 04‖X‖Y, X‖Y"
)


def public_key_der_hex(text: str, algorithm: str | None = None) -> str:
    """Bring a key to hex of DER SubjectPublicKeyInfo with an uncompressed point.

    Args:
        text: DER SubjectPublicKeyInfo as hex, base64 or PEM, or 04‖X‖Y, X‖Y or a compressed point as hex, or any of
            these as ``oca:base16:asn1:<hex>`` or base64 of that; white space is left out.
        algorithm: the SA the key belongs to; by default that of a key of secp256r1.

    Returns:
        The hex in lower case; a text that already is hex of DER keeps its letter case.

    Raises:
        ReceiptError: the text is none of these, or the point is not on the curve.
    """
    curve = SECP256R1 if algorithm is None else curve_of(algorithm)
    der = curve.spki(encode_point(*public_point(text, curve), curve))
    written = _without_space(text)
    return written if written.lower() == der.hex() else der.hex()


def public_point(text: str, curve: Curve) -> tuple[int, int]:
    """Read a key as the point (x, y) of a curve, from the forms of `public_key_der_hex`.

    Raises:
        ReceiptError: the text is none of these forms, or the key is one of another curve, or off the curve.
    """
    if len(text) > _LONGEST:
        raise ReceiptError(f"not a public key: {len(text)} characters are more than any key has")
    pem = _PEM.search(text)
    written = _without_space(pem[1] if pem else text)
    if not written:
        raise ReceiptError("no public key: the text is empty")
    for raw in _readings(written):
        point = _point(raw, curve)
        if point is not None:
            return _coordinates(point, curve)
    raise ReceiptError(f"not a public key of {curve.name}: {printable(written, limit=40)!r}; {_EXPECTED}")


def encode_point(x: int, y: int, curve: Curve) -> bytes:
    """Write a point as 04‖X‖Y (SEC 1, uncompressed)."""
    size = curve.field_size
    return bytes([_UNCOMPRESSED]) + x.to_bytes(size, "big") + y.to_bytes(size, "big")


def _without_space(text: str) -> str:
    return "".join(text.split())


def _readings(written: str) -> list[bytes]:
    """Read a text in every way its characters allow: a text of hex digits may be base64 as well."""
    read = []
    if written.startswith(_OCA):
        encoding, _, written = written.removeprefix(_OCA).partition(":asn1:")
        if encoding not in ("base16", "base64"):
            return []
        return [raw for raw in (_hex(written) if encoding == "base16" else _base64(written),) if raw is not None]
    if (raw := _hex(written)) is not None:
        read.append(raw)
    if (raw := _base64(written)) is not None:
        if raw.startswith(_OCA.encode()):
            return _readings(raw.decode("ascii", "replace"))
        if raw[:1] == b"\x30":  # only DER: a bare point is written as hex
            read.append(raw)
    return read


def _hex(written: str) -> bytes | None:
    return bytes.fromhex(written) if _HEX.fullmatch(written) else None


def _base64(written: str) -> bytes | None:
    try:
        return binascii.a2b_base64(written, strict_mode=True)
    except ValueError:
        return None


def _point(raw: bytes, curve: Curve) -> bytes | None:
    """Return the point as SEC 1 writes it, or None where the bytes are no key of this curve.

    Raises:
        ReceiptError: they are a SubjectPublicKeyInfo of another curve.
    """
    for named in CURVES:
        for size in (2 * named.field_size + 1, named.field_size + 1):
            point = raw[-size:]
            if _is_point(point, named) and raw == named.spki(point):
                if named is not curve:
                    raise ReceiptError(f"the key is one of {named.name}, but the signature algorithm's is {curve.name}")
                return point
    if _is_point(raw, curve):
        return raw
    return bytes([_UNCOMPRESSED]) + raw if len(raw) == 2 * curve.field_size else None


def _is_point(raw: bytes, curve: Curve) -> bool:
    size = curve.field_size
    return (len(raw) == 2 * size + 1 and raw[0] == _UNCOMPRESSED) or (len(raw) == size + 1 and raw[0] in _COMPRESSED)


def _coordinates(point: bytes, curve: Curve) -> tuple[int, int]:
    size = curve.field_size
    x = int.from_bytes(point[1 : size + 1], "big")
    if point[0] == _UNCOMPRESSED:
        y: int | None = int.from_bytes(point[size + 1 :], "big")
    else:
        y = curve.y_of(x, odd=point[0] == _COMPRESSED[1])
    if y is None or not curve.holds(x, y):
        raise ReceiptError(f"not a public key: its point is not on the curve {curve.name}; is a digit wrong?")
    return x, y
