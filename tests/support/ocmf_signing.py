"""Signing OCMF payloads with every algorithm of OCMF, by a throw-away key whose nonce is known, and a plain payload."""

from __future__ import annotations

import base64
import hashlib
import json
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ecdsa  # type: ignore[import-untyped]  # it comes without types

from iem_dcr.ocmf.ecdsa import python_secp192k1
from iem_dcr.ocmf.keys import SECP256R1

if TYPE_CHECKING:
    from iem_dcr.ocmf.keys import Curve

Row = dict[str, object]
BEGIN: Row = {
    "TM": "2024-10-27T02:30:00,125+0200 S", "TX": "B", "EF": "", "ST": "G",
    "RV": "00000012.500", "RI": "1-b:1.8.e", "RU": "kWh", "RT": "DC",
}  # fmt: skip
END: Row = BEGIN | {"TM": "2024-10-27T02:45:00,250+0100 S", "TX": "E", "RV": "00000020.125"}
EXPORT: Row = {"RI": "1-b:2.8.e", "RV": "7"}
NONCE = 0x1F2E3D4C5B6A79880123456789ABCDEF
KINDS = {
    "secp192r1": ecdsa.NIST192p,
    "secp256k1": ecdsa.SECP256k1,
    "secp256r1": ecdsa.NIST256p,
    "secp384r1": ecdsa.NIST384p,
    "brainpool256r1": ecdsa.BRAINPOOLP256r1,
    "brainpool384r1": ecdsa.BRAINPOOLP384r1,
}


def order_of(curve: Curve) -> int:
    """The order of a curve's generator; r and s are below it."""
    return int(CurveSigner(curve).key.curve.order)


FORMS = ("der", "unpadded", "fixed", "raw")
"""Signatures as DER; as DER whose integers have no 00 before a set top bit, or have all their bytes; as r and s."""


def in_form(form: str, r: int, s: int, curve: Curve = SECP256R1) -> bytes:
    """Write the numbers of a signature."""
    if form == "raw":
        return r.to_bytes(curve.size, "big") + s.to_bytes(curve.size, "big")
    body = b""
    for number in (r, s):
        least = max(1, (number.bit_length() + 7) // 8)
        size = {"der": number.bit_length() // 8 + 1, "unpadded": least, "fixed": max(least, curve.size)}[form]
        body += bytes([0x02, size]) + number.to_bytes(size, "big")
    return bytes([0x30, len(body)]) + body


def b64(data: str | bytes) -> str:
    """Write a text or bytes as base64."""
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def payload(*rows: object, **fields: object) -> str:
    """Write a payload with these readings; a field of None is left out."""
    written = {"FV": "1.0", "MS": "M1", "PG": "T1", "ID": "04AB", "RD": list(rows)} | fields
    return json.dumps({name: value for name, value in written.items() if value is not None}, ensure_ascii=False)


@dataclass(frozen=True)
class CurveSigner:
    """A key on any curve; its signatures are good for tests only."""

    curve: Curve = SECP256R1
    secret: int = 0xC0FFEE
    nonce: int = NONCE

    @property
    def key(self) -> Any:
        """The private key, as the package ecdsa has it."""
        kind = KINDS.get(self.curve.name) or python_secp192k1()
        return ecdsa.SigningKey.from_secret_exponent(self.secret, kind)

    def point(self) -> tuple[int, int]:
        point = self.key.verifying_key.pubkey.point
        return int(point.x()), int(point.y())

    @property
    def public(self) -> bytes:
        """The point as 04‖X‖Y."""
        return bytes(self.key.verifying_key.to_string("uncompressed"))

    @property
    def spki(self) -> str:
        return str(self.key.verifying_key.to_der().hex())

    def spki_of(self, point: bytes) -> str:
        """A SubjectPublicKeyInfo of this curve around any point."""
        der_key = bytes.fromhex(self.spki)
        algorithm = der_key[2 : 4 + der_key[3]]
        body = algorithm + bytes([0x03, len(point) + 1, 0]) + point
        return (bytes([0x30, len(body)]) + body).hex()

    def numbers(self, payload: str) -> tuple[int, int]:
        digest = hashlib.sha256(payload.encode()).digest()
        r, s = self.key.sign_digest(digest, sigencode=lambda r, s, _: (r, s), k=self.nonce, allow_truncate=True)
        return int(r), int(s)

    def tuple_of(self, payload: str, algorithm: str | None = None, section: dict[str, object] | None = None) -> str:
        """Write a tuple with a DER signature; a field of the signature section that is given takes its place."""
        fields: dict[str, object] = {
            "SA": algorithm or f"ECDSA-{self.curve.name}-SHA256",
            "SD": in_form("der", *self.numbers(payload)).hex(),
        }
        return f"OCMF|{payload}|{json.dumps(fields | (section or {}))}"


def pem(spki: str) -> str:
    body = "\n".join(textwrap.wrap(b64(bytes.fromhex(spki)), 64))
    return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"


def key_forms(signer: CurveSigner) -> dict[str, str]:
    """A key in every usual form."""
    point, spki, der = signer.public, signer.spki, bytes.fromhex(signer.spki)
    x, y = signer.point()
    short = bytes([2 + y % 2]) + x.to_bytes(signer.curve.size, "big")
    oca = "oca:base16:asn1:"
    return {
        "hex": spki, "upper hex": spki.upper(), "hex in a line": f" {spki}\n", "base64": b64(der),
        "base64 in lines": base64.encodebytes(der).decode(), "base32": base64.b32encode(der).decode(),
        "PEM": pem(spki), "base64 of PEM": b64(pem(spki)), "base64 twice": b64(b64(der)),
        "base64 of hex, as the OCA's example": b64(spki), "base64 of upper hex": b64(spki.upper()),
        "oca": oca + spki, "base64 of oca": b64(oca + spki), "oca of base64": f"oca:base64:asn1:{b64(der)}",
        "oca with blanks": f" {oca} {der.hex(' ')}", "oca with colons": oca + der.hex(":"),
        "oca in lines": oca + "\r\n".join(textwrap.wrap(spki, 40)), "base64 of oca in lines": b64(f"{oca}\n{spki}\n"),
        "point": point.hex(), "upper point": point.hex().upper(), "point with blanks": f"\n\t{point.hex(' ')}\n",
        "base64 of a point": b64(point), "X and Y": point[1:].hex(), "upper X and Y": point[1:].hex().upper(),
        "base64 of X and Y": b64(point[1:]), "compressed point": short.hex(), "compressed DER": signer.spki_of(short),
    }  # fmt: skip
