"""A meter's public key in the forms it is met in.

GET /publickey of 2025 firmware gives hex of DER SubjectPublicKeyInfo; a unit of 2023 is known by bare X‖Y; OCMF
allows base64. All are brought to hex of DER SubjectPublicKeyInfo, which everything onward asks for.
"""

from __future__ import annotations

import binascii
import re

from iem_dcr.errors import ReceiptError, printable
from iem_dcr.ocmf.curves import SECP256R1, Curve

_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_UNCOMPRESSED = b"\x04"


def public_key_der_hex(text: str) -> str:
    """Bring a secp256r1 key to hex of DER SubjectPublicKeyInfo.

    Args:
        text: DER SubjectPublicKeyInfo as hex or base64, or 04‖X‖Y or X‖Y as hex; white space is left out.

    Returns:
        The hex in lower case; a text that already is hex of DER keeps its letter case.

    Raises:
        ReceiptError: the text is none of these, or the point is not on the curve.
    """
    x, y = public_point(text, SECP256R1)
    der = SECP256R1.spki_prefix + encode_point(x, y, SECP256R1)
    written = _without_space(text)
    return written if written.lower() == der.hex() else der.hex()


def public_point(text: str, curve: Curve) -> tuple[int, int]:
    """Read a key as the point (x, y) of a curve, from the forms of `public_key_der_hex`.

    Raises:
        ReceiptError: the text is none of these forms, or the point is not on the curve.
    """
    written = _without_space(text)
    if not written:
        raise ReceiptError("no public key: the text is empty")
    coordinates = _coordinates(written, curve)
    if coordinates is None:
        raise ReceiptError(
            f"not a public key of {curve.name}: {printable(written, limit=40)!r}; expected is DER SubjectPublicKeyInfo "
            "as hex or base64, or 04‖X‖Y or X‖Y as hex"
        )
    size = curve.field_size
    x, y = int.from_bytes(coordinates[:size], "big"), int.from_bytes(coordinates[size:], "big")
    if not curve.holds(x, y):
        raise ReceiptError(f"not a public key: its point is not on the curve {curve.name}; is a digit wrong?")
    return x, y


def encode_point(x: int, y: int, curve: Curve) -> bytes:
    """Write a point as 04‖X‖Y (SEC 1, uncompressed)."""
    size = curve.field_size
    return _UNCOMPRESSED + x.to_bytes(size, "big") + y.to_bytes(size, "big")


def _without_space(text: str) -> str:
    return "".join(text.split())


def _coordinates(written: str, curve: Curve) -> bytes | None:
    prefix = curve.spki_prefix + _UNCOMPRESSED
    if _HEX.fullmatch(written):
        raw = bytes.fromhex(written)
        for lead in (prefix, _UNCOMPRESSED, b""):
            if len(raw) == len(lead) + 2 * curve.field_size and raw.startswith(lead):
                return raw[len(lead) :]
    try:
        raw = binascii.a2b_base64(written, strict_mode=True)
    except ValueError:
        return None
    if len(raw) == len(prefix) + 2 * curve.field_size and raw.startswith(prefix):
        return raw[len(prefix) :]
    return None
