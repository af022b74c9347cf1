"""Signing OCMF payloads with every algorithm of OCMF, by a key made for the test."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ecdsa import ellipticcurve  # type: ignore[import-untyped]  # it comes without types
from ecdsa.ecdsa import Private_key, Public_key  # type: ignore[import-untyped]

from iem_dcr.ocmf.keys import encode_point

if TYPE_CHECKING:
    from iem_dcr.ocmf.curves import Curve

NONCE = 0x1F2E3D4C5B6A79880123456789ABCDEF


def integer(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return b"\x02" + bytes([len(raw)]) + raw


def der(r: int, s: int) -> bytes:
    body = integer(r) + integer(s)
    return b"\x30" + bytes([len(body)]) + body


@dataclass(frozen=True)
class CurveSigner:
    """A key on any curve; its signatures are good for tests only, the nonce is known."""

    curve: Curve
    secret: int = 0xC0FFEE

    def point(self) -> tuple[int, int]:
        public = self._public().point
        return int(public.x()), int(public.y())

    @property
    def public(self) -> bytes:
        """The point as 04‖X‖Y."""
        return encode_point(*self.point(), self.curve)

    @property
    def spki(self) -> str:
        return self.curve.spki(self.public).hex()

    def numbers(self, payload: str) -> tuple[int, int]:
        size = self.curve.n.bit_length()
        digest = int.from_bytes(hashlib.sha256(payload.encode()).digest(), "big") >> max(0, 256 - size)
        signature = Private_key(self._public(), self.secret).sign(digest, NONCE)
        return int(signature.r), int(signature.s)

    def tuple_of(self, payload: str, algorithm: str | None = None) -> str:
        """Write a tuple with a DER signature."""
        section = {"SA": algorithm or f"ECDSA-{self.curve.name}-SHA256", "SD": der(*self.numbers(payload)).hex()}
        return f"OCMF|{payload}|{json.dumps(section)}"

    def _public(self) -> Public_key:
        curve = self.curve
        field = ellipticcurve.CurveFp(curve.p, curve.a, curve.b, 1)
        generator = ellipticcurve.PointJacobi(field, curve.gx, curve.gy, 1, curve.n)
        return Public_key(generator, generator * self.secret)
