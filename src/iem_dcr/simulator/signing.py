"""The meter's key and the forms in which key and signature are written."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ALGORITHM = "ECDSA-secp256r1-SHA256"


class Signer:
    """A secp256r1 key that signs."""

    def __init__(self, private_key: int | ec.EllipticCurvePrivateKey | None) -> None:
        if private_key is None:
            private_key = ec.generate_private_key(ec.SECP256R1())
        elif isinstance(private_key, int):
            private_key = ec.derive_private_key(private_key, ec.SECP256R1())
        self._key = private_key

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The other half, for whoever verifies."""
        return self._key.public_key()

    def public_key_text(self, form: str) -> str:
        """Write PK: "der" is hex of SubjectPublicKeyInfo with its head in lower case, "raw" is X‖Y in upper case."""
        point = self.public_key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        coordinates = point[1:].hex().upper()
        if form == "raw":
            return coordinates
        info = self.public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return info[: -len(point) + 1].hex() + coordinates

    def sign(self, payload: bytes, encoding: str) -> str:
        """Sign bytes and write SD in upper-case hex.

        Args:
            payload: the signed bytes, as they will be sent.
            encoding: "der"; "raw": r‖s; "unpadded-der": DER in which both integers are 32 bytes and never get the 00
                that keeps them positive (receipts/iem-dcr-2025: ``3044 0220 <r> 0220 <s>``).
        """
        der = self._key.sign(payload, ec.ECDSA(hashes.SHA256()))
        if encoding == "der":
            return der.hex().upper()
        r, s = (number.to_bytes(32, "big") for number in decode_dss_signature(der))
        if encoding == "raw":
            return (r + s).hex().upper()
        return (b"\x30\x44\x02\x20" + r + b"\x02\x20" + s).hex().upper()
