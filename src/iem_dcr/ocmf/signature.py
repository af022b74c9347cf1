"""The signature of a receipt, from the text of SD to the numbers r and s of ECDSA."""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING

from iem_dcr.errors import ReceiptError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iem_dcr.ocmf.curves import Curve

_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_SEQUENCE = 0x30
_INTEGER = 0x02
_LONG_FORM = 0x80


def signature_numbers(signature: Mapping[str, object], curve: Curve) -> list[tuple[int, int]]:
    """Read r and s out of a signature section, in every way its bytes can be read: as DER, and as raw r‖s.

    A raw signature can by chance look like DER, so there may be two.

    Raises:
        ReceiptError: SD is no text in the encoding SE, or its bytes are neither DER nor raw r‖s.
    """
    raw = _signature_bytes(signature)
    numbers = _der_numbers(raw)
    read = [] if numbers is None else [numbers]
    size = curve.order_size
    if len(raw) == 2 * size:
        read.append((int.from_bytes(raw[:size], "big"), int.from_bytes(raw[size:], "big")))
    if not read:
        raise ReceiptError("the signature SD is unreadable: its bytes are neither DER nor raw r‖s")
    return read


def _signature_bytes(signature: Mapping[str, object]) -> bytes:
    """Decode SD as SE says, hex by default (OCMF 1.4.1, Signature Section)."""
    encoding, data = signature.get("SE", "hex"), signature.get("SD")
    if encoding not in ("hex", "base64"):
        raise ReceiptError("the signature SD is unreadable: its encoding SE is neither hex nor base64")
    if not isinstance(data, str):
        raise ReceiptError("the signature SD is missing or not a string")
    if encoding == "hex" and _HEX.fullmatch(data):
        return bytes.fromhex(data)
    if encoding == "base64":
        try:
            return binascii.a2b_base64(data, strict_mode=True)
        except ValueError:
            pass
    raise ReceiptError(f"the signature SD is unreadable: it is not {encoding}")


def _der_numbers(raw: bytes) -> tuple[int, int] | None:
    """Read SEQUENCE { INTEGER r, INTEGER s } with nothing behind it.

    The integers are read as unsigned and may have any number of leading zeros: this meter writes both with 32 bytes
    as they come, without the 00 that DER puts before a set top bit (as in its genuine receipts) and, by the same
    habit, with a leading 00 that DER would leave out. Lengths are the short form: SEQUENCEs of all curves of OCMF
    are shorter than 128 bytes.
    """
    if len(raw) < 2 or raw[0] != _SEQUENCE or raw[1] >= _LONG_FORM or raw[1] != len(raw) - 2:
        return None
    first = _der_integer(raw, 2)
    if first is None:
        return None
    r, at = first
    second = _der_integer(raw, at)
    if second is None or second[1] != len(raw):
        return None
    return r, second[0]


def _der_integer(raw: bytes, at: int) -> tuple[int, int] | None:
    if len(raw) < at + 2 or raw[at] != _INTEGER:
        return None
    start, end = at + 2, at + 2 + raw[at + 1]
    if raw[at + 1] >= _LONG_FORM or end == start or end > len(raw):
        return None
    return int.from_bytes(raw[start:end], "big"), end
