"""Signing OCMF payloads with every algorithm of OCMF, by a throw-away key; its nonce is known."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ecdsa  # type: ignore[import-untyped]  # it comes without types

from iem_dcr.ocmf.ecdsa import python_secp192k1

if TYPE_CHECKING:
    from iem_dcr.ocmf.keys import Curve

NONCE = 0x1F2E3D4C5B6A79880123456789ABCDEF
KINDS = {
    "secp192r1": ecdsa.NIST192p,
    "secp256k1": ecdsa.SECP256k1,
    "secp256r1": ecdsa.NIST256p,
    "secp384r1": ecdsa.NIST384p,
    "brainpool256r1": ecdsa.BRAINPOOLP256r1,
    "brainpool384r1": ecdsa.BRAINPOOLP384r1,
}


def integer(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return b"\x02" + bytes([len(raw)]) + raw


def der(r: int, s: int) -> bytes:
    body = integer(r) + integer(s)
    return b"\x30" + bytes([len(body)]) + body


@dataclass(frozen=True)
class CurveSigner:
    """A key on any curve; its signatures are good for tests only."""

    curve: Curve
    secret: int = 0xC0FFEE

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
        r, s = self.key.sign_digest(digest, sigencode=lambda r, s, _: (r, s), k=NONCE, allow_truncate=True)
        return int(r), int(s)

    def tuple_of(self, payload: str, algorithm: str | None = None, section: dict[str, object] | None = None) -> str:
        """Write a tuple with a DER signature; a field of the signature section that is given takes its place."""
        fields: dict[str, object] = {
            "SA": algorithm or f"ECDSA-{self.curve.name}-SHA256",
            "SD": der(*self.numbers(payload)).hex(),
        }
        return f"OCMF|{payload}|{json.dumps(fields | (section or {}))}"
