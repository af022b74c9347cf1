"""Receipts: the signed OCMF tuples of a meter, read without touching a byte, and their signatures checked.

Importing this package does not import ``cryptography``: only `verify` and `public_key_der_hex` do, when called.
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
