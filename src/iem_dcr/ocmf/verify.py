"""The check of a receipt's signature. Its three outcomes are never mixed: valid, not valid, could not be checked."""

from __future__ import annotations

import contextlib
import enum
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iem_dcr.errors import ReceiptError, printable
from iem_dcr.ocmf.curves import CURVE_OF_ALGORITHM
from iem_dcr.ocmf.keys import public_point
from iem_dcr.ocmf.signature import signature_numbers

if TYPE_CHECKING:
    from iem_dcr.ocmf.curves import Curve
    from iem_dcr.ocmf.receipt import Receipt


class Outcome(enum.Enum):
    """What became of a check."""

    VALID = "valid"
    INVALID = "invalid"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of a check, and why in words for the one who asked."""

    outcome: Outcome
    reason: str


def verify(receipt: Receipt, public_key: str) -> Verification:
    """Check a receipt's signature: ECDSA over the SHA-256 of `Receipt.signed` (OCMF 1.4.1, Signature Section).

    Never raises. The first call imports ``cryptography``.

    Args:
        receipt: what was signed, and the signature: DER, DER with integers not padded, or raw r‖s.
        public_key: the meter's key, in a form `iem_dcr.ocmf.public_key_der_hex` reads.

    Returns:
        ``VALID``, or ``INVALID`` where a signature was read and does not match, or ``NOT_CHECKED`` where the
        algorithm is another one, or the key or the signature cannot be read.
    """
    try:
        curve = _curve(receipt.algorithm)
        point = public_point(public_key, curve)
        read = signature_numbers(receipt.signature, curve)
    except ReceiptError as error:
        return Verification(Outcome.NOT_CHECKED, str(error))
    possible = [(r, s) for r, s in read if 0 < r < curve.n and 0 < s < curve.n]
    if not possible:
        return Verification(Outcome.INVALID, f"r or s of the signature is out of the range of {curve.name}")
    try:
        from iem_dcr.ocmf import ecdsa  # noqa: PLC0415  # nothing loads cryptography before the first check
    except ImportError as error:
        return Verification(Outcome.NOT_CHECKED, f"the package cryptography cannot be used: {printable(error)}")
    if any(ecdsa.matches(receipt.signed, numbers, point, curve) for numbers in possible):
        return Verification(Outcome.VALID, "the signature matches the data and the key")
    return Verification(
        Outcome.INVALID, "the signature does not match: the data was changed, or the key is another meter's"
    )


def prepare() -> None:
    """Import ``cryptography`` ahead of the first check: it takes a while, so it belongs in a worker thread."""
    with contextlib.suppress(ImportError):
        importlib.import_module("iem_dcr.ocmf.ecdsa")


def _curve(algorithm: str | None) -> Curve:
    curve = None if algorithm is None else CURVE_OF_ALGORITHM.get(algorithm)
    if curve is None:
        said = "not a string" if algorithm is None else repr(printable(algorithm, limit=40))
        raise ReceiptError(f"the signature algorithm SA is {said}; known: {', '.join(CURVE_OF_ALGORITHM)}")
    return curve
