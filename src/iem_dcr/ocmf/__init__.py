"""Receipts: reads the signed OCMF tuples of a meter without changing a byte, and checks their signatures.

Importing this package does not import ``cryptography``. Only calls of `verify` and `public_key_der_hex` do.
"""

from __future__ import annotations

from iem_dcr.ocmf.keys import public_key_der_hex
from iem_dcr.ocmf.receipt import Reading, Receipt, parse
from iem_dcr.ocmf.signature import Outcome, Verification, prepare, verify
from iem_dcr.ocmf.tuple_text import find_tuple

__all__ = [
    "Outcome",
    "Reading",
    "Receipt",
    "Verification",
    "find_tuple",
    "parse",
    "prepare",
    "public_key_der_hex",
    "verify",
]
