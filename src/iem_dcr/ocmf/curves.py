"""The elliptic curves whose signatures can be checked, by the names of OCMF's SA (OCMF 1.4.1, Signature methods).

A further curve is a further `Curve` here, and its class of ``cryptography`` in `iem_dcr.ocmf.ecdsa` where it has one.
"""

from __future__ import annotations

from dataclasses import dataclass

from iem_dcr.errors import ReceiptError, printable

_EC_PUBLIC_KEY = bytes.fromhex("06072a8648ce3d0201")
"""The object identifier id-ecPublicKey, as DER (RFC 5480)."""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A curve y² = x³ + ax + b over the integers modulo p, with a generator G of order n.

    Sources: SEC 2 (secp…, where secp256r1 and secp384r1 are P-256 and P-384 of FIPS 186-4) and RFC 5639 (brainpool).

    Attributes:
        name: the name within SA.
        oid: its object identifier, as DER with tag and length.
    """

    name: str
    p: int
    a: int
    b: int
    gx: int
    gy: int
    n: int
    oid: bytes

    @property
    def field_size(self) -> int:
        """Bytes of one coordinate."""
        return (self.p.bit_length() + 7) // 8

    @property
    def order_size(self) -> int:
        """Bytes of r, and of s, in a raw signature."""
        return (self.n.bit_length() + 7) // 8

    def holds(self, x: int, y: int) -> bool:
        """Whether (x, y) is a point of the curve; the point at infinity has no such coordinates."""
        return 0 <= x < self.p and 0 <= y < self.p and (y * y - (x * x + self.a) * x - self.b) % self.p == 0

    def y_of(self, x: int, *, odd: bool) -> int | None:
        """Return the y of a compressed point (SEC 1, 2.3.4); None where no point of the curve has this x.

        Every p here is 3 modulo 4, so a square root is one exponentiation.
        """
        if not 0 <= x < self.p:
            return None
        square = ((x * x + self.a) * x + self.b) % self.p
        y = pow(square, (self.p + 1) // 4, self.p)
        if y * y % self.p != square:
            return None
        return y if y % 2 == odd else self.p - y

    def spki(self, point: bytes) -> bytes:
        """Wrap a point, written as SEC 1 has it, into a DER SubjectPublicKeyInfo (RFC 5480).

        Lengths are DER's short form: with every curve of OCMF they stay below 128.
        """
        algorithm = _EC_PUBLIC_KEY + self.oid
        body = bytes([0x30, len(algorithm)]) + algorithm + bytes([0x03, len(point) + 1, 0]) + point
        return bytes([0x30, len(body)]) + body


def curve_of(algorithm: str | None) -> Curve:
    """Return the curve of a value of SA.

    Args:
        algorithm: SA, written exactly as in OCMF; None stands for an SA that is not a string.

    Raises:
        ReceiptError: the algorithm is not one of OCMF's.
    """
    curve = None if algorithm is None else CURVE_OF_ALGORITHM.get(algorithm)
    if curve is None:
        said = "not a string" if algorithm is None else repr(printable(algorithm, limit=40))
        raise ReceiptError(f"the signature algorithm SA is {said}; known: {', '.join(CURVE_OF_ALGORITHM)}")
    return curve


_P192 = 2**192 - 2**64 - 1
_P256 = 2**256 - 2**224 + 2**192 + 2**96 - 1
_P384 = 2**384 - 2**128 - 2**96 + 2**32 - 1

SECP192K1 = Curve(
    name="secp192k1",
    p=2**192 - 2**32 - 4553,
    a=0,
    b=3,
    gx=0xDB4FF10EC057E9AE26B07D0280B7F4341DA5D1B1EAE06C7D,
    gy=0x9B2F2F6D9C5628A7844163D015BE86344082AA88D95E2F9D,
    n=0xFFFFFFFFFFFFFFFFFFFFFFFE26F2FC170F69466A74DEFD8D,
    oid=bytes.fromhex("06052b8104001f"),
)
SECP192R1 = Curve(
    name="secp192r1",
    p=_P192,
    a=_P192 - 3,
    b=0x64210519E59C80E70FA7E9AB72243049FEB8DEECC146B9B1,
    gx=0x188DA80EB03090F67CBF20EB43A18800F4FF0AFD82FF1012,
    gy=0x07192B95FFC8DA78631011ED6B24CDD573F977A11E794811,
    n=0xFFFFFFFFFFFFFFFFFFFFFFFF99DEF836146BC9B1B4D22831,
    oid=bytes.fromhex("06082a8648ce3d030101"),
)
SECP256K1 = Curve(
    name="secp256k1",
    p=2**256 - 2**32 - 977,
    a=0,
    b=7,
    gx=0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    gy=0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
    n=0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    oid=bytes.fromhex("06052b8104000a"),
)
SECP256R1 = Curve(
    name="secp256r1",
    p=_P256,
    a=_P256 - 3,
    b=0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    gx=0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    gy=0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
    n=0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    oid=bytes.fromhex("06082a8648ce3d030107"),
)
SECP384R1 = Curve(
    name="secp384r1",
    p=_P384,
    a=_P384 - 3,
    b=0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    gx=0xAA87CA22BE8B05378EB1C71EF320AD746E1D3B628BA79B9859F741E082542A385502F25DBF55296C3A545E3872760AB7,
    gy=0x3617DE4A96262C6F5D9E98BF9292DC29F8F41DBD289A147CE9DA3113B5F0B8C00A60B1CE1D7E819D7A431D7C90EA0E5F,
    n=0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    oid=bytes.fromhex("06052b81040022"),
)
BRAINPOOL256R1 = Curve(
    name="brainpool256r1",
    p=0xA9FB57DBA1EEA9BC3E660A909D838D726E3BF623D52620282013481D1F6E5377,
    a=0x7D5A0975FC2C3057EEF67530417AFFE7FB8055C126DC5C6CE94A4B44F330B5D9,
    b=0x26DC5C6CE94A4B44F330B5D9BBD77CBF958416295CF7E1CE6BCCDC18FF8C07B6,
    gx=0x8BD2AEB9CB7E57CB2C4B482FFC81B7AFB9DE27E1E3BD23C23A4453BD9ACE3262,
    gy=0x547EF835C3DAC4FD97F8461A14611DC9C27745132DED8E545C1D54C72F046997,
    n=0xA9FB57DBA1EEA9BC3E660A909D838D718C397AA3B561A6F7901E0E82974856A7,
    oid=bytes.fromhex("06092b2403030208010107"),
)
BRAINPOOL384R1 = Curve(
    name="brainpool384r1",
    p=0x8CB91E82A3386D280F5D6F7E50E641DF152F7109ED5456B412B1DA197FB71123ACD3A729901D1A71874700133107EC53,
    a=0x7BC382C63D8C150C3C72080ACE05AFA0C2BEA28E4FB22787139165EFBA91F90F8AA5814A503AD4EB04A8C7DD22CE2826,
    b=0x04A8C7DD22CE28268B39B55416F0447C2FB77DE107DCD2A62E880EA53EEB62D57CB4390295DBC9943AB78696FA504C11,
    gx=0x1D1C64F068CF45FFA2A63A81B7C13F6B8847A3E77EF14FE3DB7FCAFE0CBD10E8E826E03436D646AAEF87B2E247D4AF1E,
    gy=0x8ABE1D7520F9C2A45CB1EB8E95CFD55262B70B29FEEC5864E19C054FF99129280E4646217791811142820341263C5315,
    n=0x8CB91E82A3386D280F5D6F7E50E641DF152F7109ED5456B31F166E6CAC0425A7CF3AB6AF6B7FC3103B883202E9046565,
    oid=bytes.fromhex("06092b240303020801010b"),
)

CURVES = (SECP192K1, SECP192R1, SECP256K1, SECP256R1, SECP384R1, BRAINPOOL256R1, BRAINPOOL384R1)

CURVE_OF_ALGORITHM = {f"ECDSA-{curve.name}-SHA256": curve for curve in CURVES} | {
    "ECDSA-brainpoolP256r1-SHA256": BRAINPOOL256R1,
    "ECDSA-brainpoolP384r1-SHA256": BRAINPOOL384R1,
}
"""The curve of each value of SA that can be checked; the hash of all of them is SHA-256.

OCMF writes brainpool without the P of RFC 5639; other readers take both.
"""
