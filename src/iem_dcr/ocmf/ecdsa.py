"""The one place that imports ``cryptography``; `iem_dcr.ocmf.verify` imports it when a signature is first checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256

from iem_dcr.ocmf.curves import SECP256R1, Curve
from iem_dcr.ocmf.keys import encode_point

if TYPE_CHECKING:
    from collections.abc import Mapping

_CLASS_OF: Mapping[Curve, type[ec.EllipticCurve]] = {SECP256R1: ec.SECP256R1}


def matches(signed: bytes, numbers: tuple[int, int], point: tuple[int, int], curve: Curve) -> bool:
    """Whether (r, s) is the ECDSA signature with SHA-256 over ``signed`` by the key with this point of the curve."""
    key = ec.EllipticCurvePublicKey.from_encoded_point(_CLASS_OF[curve](), encode_point(*point, curve))
    try:
        key.verify(utils.encode_dss_signature(*numbers), signed, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True
