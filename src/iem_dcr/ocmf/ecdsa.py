"""The one place that imports ``cryptography``; `iem_dcr.ocmf.verify` imports it when a signature is first checked.

Two curves may be missing there: secp192k1 it never had, and secp192r1 some builds of OpenSSL leave out. For those
`iem_dcr.ocmf.ecdsa_python` is asked, which needs the package ``ecdsa``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256

from iem_dcr.ocmf.keys import encode_point, public_point

if TYPE_CHECKING:
    from iem_dcr.ocmf.curves import Curve

_CLASS_NAME_OF = {
    "secp192r1": "SECP192R1",
    "secp256k1": "SECP256K1",
    "secp256r1": "SECP256R1",
    "secp384r1": "SECP384R1",
    "brainpool256r1": "BrainpoolP256R1",
    "brainpool384r1": "BrainpoolP384R1",
}
_KEYS_KEPT = 256
_ALGORITHM = ec.ECDSA(SHA256())


class Key(Protocol):
    """A key that is ready to check signatures."""

    def matches(self, signed: bytes, r: int, s: int) -> bool:
        """Whether (r, s), both in the range of the curve, is the ECDSA signature with SHA-256 over ``signed``."""


@lru_cache(maxsize=_KEYS_KEPT)
def key_of(text: str, curve: Curve) -> Key:
    """Read a key, in a form `iem_dcr.ocmf.public_key_der_hex` reads; a key read before is still at hand.

    Raises:
        ReceiptError: the text is no key of this curve.
        ImportError: ``cryptography`` lacks the curve, and the package ``ecdsa`` is not there.
    """
    point = public_point(text, curve)
    kind = getattr(ec, _CLASS_NAME_OF.get(curve.name, ""), None)
    if kind is not None:
        try:
            return _OpenSslKey(ec.EllipticCurvePublicKey.from_encoded_point(kind(), encode_point(*point, curve)))
        except UnsupportedAlgorithm:
            pass
    from iem_dcr.ocmf import ecdsa_python  # noqa: PLC0415  # wanted for the rarest curves only

    return ecdsa_python.PythonKey(point, curve)


class _OpenSslKey:
    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        self._key = key

    def matches(self, signed: bytes, r: int, s: int) -> bool:
        try:
            self._key.verify(utils.encode_dss_signature(r, s), signed, _ALGORITHM)
        except InvalidSignature:
            return False
        return True
