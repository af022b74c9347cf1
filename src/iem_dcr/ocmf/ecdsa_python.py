"""The one place that imports the package ``ecdsa``: pure Python, for curves that ``cryptography`` lacks.

It checks signatures and never makes any, so that it is not hardened against timing does no harm.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ecdsa import ecdsa, ellipticcurve  # type: ignore[import-untyped]  # it comes without types

if TYPE_CHECKING:
    from iem_dcr.ocmf.curves import Curve


class PythonKey:
    """The key with this point of the curve."""

    def __init__(self, point: tuple[int, int], curve: Curve) -> None:
        field = ellipticcurve.CurveFp(curve.p, curve.a, curve.b, 1)
        generator = ellipticcurve.PointJacobi(field, curve.gx, curve.gy, 1, curve.n, generator=True)
        self._key = ecdsa.Public_key(generator, ellipticcurve.PointJacobi(field, *point, 1, curve.n))
        self._surplus_bits = max(0, 256 - curve.n.bit_length())

    def matches(self, signed: bytes, r: int, s: int) -> bool:
        """Whether (r, s) is the signature over ``signed``: of the hash, as many leftmost bits as n has are used."""
        number = int.from_bytes(hashlib.sha256(signed).digest(), "big") >> self._surplus_bits
        try:
            return bool(self._key.verifies(number, ecdsa.Signature(r, s)))
        except TypeError:  # the sum of the two points is the point at infinity, which has no x
            return False
