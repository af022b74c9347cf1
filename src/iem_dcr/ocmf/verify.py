"""The check of a receipt's signature. Its three outcomes are never mixed: valid, not valid, could not be checked."""

from __future__ import annotations

import contextlib
import enum
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from iem_dcr.errors import ReceiptError, printable
from iem_dcr.ocmf.curves import curve_of
from iem_dcr.ocmf.signature import signature_numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    from iem_dcr.ocmf.curves import Curve
    from iem_dcr.ocmf.ecdsa import Key
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

    Never raises. The first call imports ``cryptography``. A key read once is kept at hand for the next call.

    Args:
        receipt: what was signed, and the signature: DER, DER with integers not padded, or raw r‖s.
        public_key: the meter's key, in a form `iem_dcr.ocmf.public_key_der_hex` reads.

    Returns:
        ``VALID``, or ``INVALID`` where a signature was read and does not match, or ``NOT_CHECKED`` where the
        algorithm is none of OCMF's, the key or the signature cannot be read, the key is one of another curve than SA
        says, or a package is missing.
    """
    try:
        curve = curve_of(receipt.algorithm)
        read = signature_numbers(receipt.signature, curve)
        if not public_key or public_key.isspace():
            return Verification(Outcome.NOT_CHECKED, "no public key: the text is empty")
        key = _key_reader()(public_key, curve)
    except ReceiptError as error:
        return Verification(Outcome.NOT_CHECKED, str(error))
    except ImportError as error:
        return Verification(Outcome.NOT_CHECKED, _missing(error))
    order, in_range = curve.n, False
    for r, s in read:
        if 0 < r < order and 0 < s < order:
            if key.matches(receipt.signed, r, s):
                return _VALID
            in_range = True
    if not in_range:
        return Verification(Outcome.INVALID, f"r or s of the signature is out of the range of {curve.name}")
    return _INVALID


def prepare() -> None:
    """Import ``cryptography`` ahead of the first check: it takes a while, so it belongs in a worker thread."""
    with contextlib.suppress(ImportError):
        _key_reader()


_VALID = Verification(Outcome.VALID, "the signature matches the data and the key")
_INVALID = Verification(
    Outcome.INVALID, "the signature does not match: the data was changed, or the key is another meter's"
)


@cache
def _key_reader() -> Callable[[str, Curve], Key]:
    from iem_dcr.ocmf.ecdsa import key_of  # noqa: PLC0415  # nothing loads cryptography before the first check

    return key_of


def _missing(error: ImportError) -> str:
    if (error.name or "").partition(".")[0] == "ecdsa":
        return "this curve needs the package ecdsa: install iem-dcr[tools]"
    return f"the package cryptography cannot be used: {printable(error)}"
