"""The signature of a receipt, from the text of SD to the numbers r and s of ECDSA."""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING

from iem_dcr.errors import ReceiptError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iem_dcr.ocmf.curves import Curve

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


def is_der(signature: Mapping[str, object]) -> bool:
    """Whether SD is DER as the transparency software reads it: it takes integers whose top bit stands for no sign, as
    this meter writes them, but not one that begins with nine equal bits (its reader calls that malformed).

    Anything that is no signature at all is none in DER either.
    """
    try:
        raw = _signature_bytes(signature)
    except ReceiptError:
        return False
    return _der_numbers(raw) is not None and not any(_is_malformed(part) for part in _der_integers(raw))


def rewritten(signature: Mapping[str, object], numbers: tuple[int, int], curve: Curve) -> str | None:
    """Write other numbers r and s as SD in exactly the form of a signature: encoding, case of letters, every length,
    and whether an integer begins with 00 or has its top bit set.

    Returns:
        The text of SD, or None where these numbers cannot be written so.

    Raises:
        ReceiptError: SD is none that `signature_numbers` reads.
    """
    signature_numbers(signature, curve)
    raw = _signature_bytes(signature)
    is_raw = _der_numbers(raw) is None
    parts = (raw[: curve.order_size], raw[curve.order_size :]) if is_raw else _der_integers(raw)
    try:
        new = [number.to_bytes(len(part), "big") for number, part in zip(numbers, parts, strict=True)]
    except OverflowError:
        return None
    if not is_raw and [_head(part) for part in new] != [_head(part) for part in parts]:
        return None
    written = b"".join(new) if is_raw else raw[:4] + new[0] + raw[4 + raw[3] : 6 + raw[3]] + new[1]
    if signature.get("SE", "hex") == "base64":
        return binascii.b2a_base64(written, newline=False).decode()
    text = written.hex()
    return text.upper() if str(signature["SD"]).upper() == signature["SD"] else text


def _head(integer: bytes) -> tuple[bool, bool, bool]:
    """Tell what DER sees in an integer's first bytes: a 00, a sign, and whether the 00 is there because of a sign."""
    return integer[0] == 0, integer[0] >= 0x80, len(integer) > 1 and integer[0] == 0 and integer[1] >= 0x80


def _signature_bytes(signature: Mapping[str, object]) -> bytes:
    """Decode SD as SE says, hex by default (OCMF 1.4.1, Signature Section)."""
    encoding, data = signature.get("SE", "hex"), signature.get("SD")
    if not isinstance(data, str):
        raise ReceiptError("the signature SD is missing or not a string")
    try:
        if encoding == "hex":
            raw = bytes.fromhex(data)
            if data and len(raw) * 2 == len(data):  # fromhex leaves white space out
                return raw
        elif encoding == "base64":
            return binascii.a2b_base64(data, strict_mode=True)
        else:
            raise ReceiptError("the signature SD is unreadable: its encoding SE is neither hex nor base64")
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
    size = len(raw)
    if not 8 <= size < 2 + _LONG_FORM or raw[0] != _SEQUENCE or raw[1] != size - 2 or raw[2] != _INTEGER:
        return None
    behind_r = 4 + raw[3]
    if raw[3] == 0 or behind_r + 3 > size or raw[behind_r] != _INTEGER or raw[behind_r + 1] != size - behind_r - 2:
        return None
    return int.from_bytes(raw[4:behind_r], "big"), int.from_bytes(raw[behind_r + 2 :], "big")


def _der_integers(raw: bytes) -> tuple[bytes, bytes]:
    """Cut the two integers out of what `_der_numbers` has read."""
    behind_r = 4 + raw[3]
    return raw[4:behind_r], raw[behind_r + 2 :]


def _is_malformed(integer: bytes) -> bool:
    return len(integer) > 1 and (integer[0], integer[1] & 0x80) in ((0x00, 0x00), (0xFF, 0x80))
