"""Makes keys from points and checks signatures. Only this module imports ``cryptography``.

``cryptography`` may lack two curves: it never supported secp192k1, and some builds of OpenSSL omit secp192r1. For these
the pure-Python package ``ecdsa`` is used. It only checks signatures here, so its lack of timing protection is harmless.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature as der_of
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from iem_dcr.ocmf.keys import CURVES, SECP192K1, Key

if TYPE_CHECKING:
    from iem_dcr.ocmf.keys import Curve

__all__ = ["curve_named_in", "der_of", "key_at", "python_secp192k1"]

_ALGORITHM = ec.ECDSA(SHA256())
_SECP192K1_OID = bytes.fromhex("06052b8104001f")
_NAMES = {curve.class_name.lower(): curve.name for curve in CURVES if curve.class_name}
_SECP192K1_P = 2**192 - 2**32 - 4553
_SECP192K1_G = (
    0xDB4FF10EC057E9AE26B07D0280B7F4341DA5D1B1EAE06C7D,
    0x9B2F2F6D9C5628A7844163D015BE86344082AA88D95E2F9D,
)
_SECP192K1_N = 0xFFFFFFFFFFFFFFFFFFFFFFFE26F2FC170F69466A74DEFD8D


def curve_named_in(raw: bytes) -> str:
    """Return the name of the curve in a DER SubjectPublicKeyInfo, or "" if the bytes are not a readable one."""
    if _SECP192K1_OID in raw[:40]:
        return SECP192K1.name
    try:
        key = load_der_public_key(raw)
    except (ValueError, UnsupportedAlgorithm):
        return ""
    name = getattr(getattr(key, "curve", None), "name", "another kind")
    return _NAMES.get(name.lower(), name)


def key_at(point: bytes, curve: Curve) -> Key:
    """Make a key from a point in SEC 1 encoding.

    Raises:
        ValueError: the point is not on the curve.
        ImportError: ``cryptography`` lacks the curve, and the package ``ecdsa`` is not installed.
    """
    kind = getattr(ec, curve.class_name, None) if curve.class_name else None
    if kind is not None:
        try:
            return _openssl_key(ec.EllipticCurvePublicKey.from_encoded_point(kind(), point))
        except UnsupportedAlgorithm:
            pass
    return _python_key(point, curve)


def _openssl_key(key: ec.EllipticCurvePublicKey) -> Key:
    def verifies(signature: bytes, signed: bytes) -> bool:
        try:
            key.verify(signature, signed, _ALGORITHM)
        except InvalidSignature:
            return False
        return True

    return Key(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), verifies)


def _python_key(point: bytes, curve: Curve) -> Key:
    import ecdsa  # type: ignore[import-untyped]  # noqa: PLC0415  only for rare curves; it has no types

    kind = ecdsa.NIST192p if curve.name == "secp192r1" else python_secp192k1()
    try:
        key = ecdsa.VerifyingKey.from_string(point, curve=kind)
    except ecdsa.errors.MalformedPointError as error:
        raise ValueError(str(error)) from error

    def verifies(signature: bytes, signed: bytes) -> bool:
        try:
            return bool(key.verify(signature, signed, hashlib.sha256, ecdsa.util.sigdecode_der, allow_truncate=True))
        except (ecdsa.BadSignatureError, ecdsa.der.UnexpectedDER, TypeError):  # the point at infinity has no x
            return False

    return Key(bytes(key.to_der()), verifies)


@cache
def python_secp192k1() -> Any:  # noqa: ANN401  the package has no types
    """Return secp192k1 as a curve of the package ``ecdsa``: y² = x³ + 3 (SEC 2, 2.2.1)."""
    from ecdsa import curves, ellipticcurve  # noqa: PLC0415  only for rare curves

    field = ellipticcurve.CurveFp(_SECP192K1_P, 0, 3, 1)
    generator = ellipticcurve.PointJacobi(field, *_SECP192K1_G, 1, _SECP192K1_N, generator=True)
    return curves.Curve(SECP192K1.name, field, generator, (1, 3, 132, 0, 31))
