"""The elliptic curves whose signatures can be checked, by the names of OCMF's SA (OCMF 1.4.1, Signature Algorithm).

A further curve is a further `Curve` here, and its class of ``cryptography`` in `iem_dcr.ocmf.verify`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve y² = x³ + ax + b over the integers modulo p, with a generator of order n (SEC 2, FIPS 186-4).

    Attributes:
        name: the name within SA.
        spki_prefix: what stands before 04‖X‖Y in a DER SubjectPublicKeyInfo of this curve (RFC 5480).
    """

    name: str
    p: int
    a: int
    b: int
    n: int
    spki_prefix: bytes

    @property
    def field_size(self) -> int:
        """Bytes of one coordinate."""
        return (self.p.bit_length() + 7) // 8

    @property
    def order_size(self) -> int:
        """Bytes of r, and of s, in a raw signature."""
        return (self.n.bit_length() + 7) // 8

    def holds(self, x: int, y: int) -> bool:
        """Whether (x, y) is a point of the curve."""
        return 0 <= x < self.p and 0 <= y < self.p and (y * y - (x * x + self.a) * x - self.b) % self.p == 0


_P256 = 2**256 - 2**224 + 2**192 + 2**96 - 1

SECP256R1 = Curve(
    name="secp256r1",
    p=_P256,
    a=_P256 - 3,
    b=0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    n=0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    spki_prefix=bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"),
)

CURVE_OF_ALGORITHM = {"ECDSA-secp256r1-SHA256": SECP256R1}
"""The curve of each value of SA that can be checked; the hash of all of them is SHA-256."""
