"""A key that is thrown away: what a recording is signed with in the place of the meter's own."""

from __future__ import annotations

import binascii
import secrets
from typing import TYPE_CHECKING, Final

from iem_dcr.errors import ReceiptError
from iem_dcr.ocmf.keys import SECP256R1, key_of
from iem_dcr.ocmf.signature import rewritten

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRIES: Final = 5000
"""A signature with an integer of 31 bytes comes once in 256; one of 30 in 65,536."""


class ThrowAwayKey:
    """A key of secp256r1 that nobody keeps."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415  # whoever only reads needs none

        self._key = ec.generate_private_key(ec.SECP256R1())

    def written_as(self, PK: str) -> tuple[dict[str, str], str] | None:
        """Write the public key in the form of another one.

        Returns:
            What is to stand for its coordinates wherever they are met, as hex; and the key. None where the other one
            cannot be read, or is in a form that keeps no coordinates (a compressed point, a key in several lines).
        """
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415  # as above

        try:
            old = key_of(PK, SECP256R1).point[1:]
        except ReceiptError:
            return None
        new = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        at = PK.lower().find(old.hex())
        if at >= 0:
            text = new.hex()
            text = text.upper() if PK[at : at + len(text)] == old.hex().upper() else text
            return _both(old, new), PK[:at] + text + PK[at + len(text) :]
        try:
            der = binascii.a2b_base64(PK, strict_mode=True)
        except ValueError:
            return None
        if old not in der:
            return None
        return _both(old, new), binascii.b2a_base64(der.replace(old, new), newline=False).decode()

    def sign(self, payload: bytes, signature: Mapping[str, object]) -> str | None:
        """Sign a payload, and write SD in the form of another signature; None where that does not come about."""
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415  # as above
        from cryptography.hazmat.primitives.asymmetric import ec, utils  # noqa: PLC0415  # as above

        for _ in range(_TRIES):
            numbers = utils.decode_dss_signature(self._key.sign(payload, ec.ECDSA(hashes.SHA256())))
            text = rewritten(signature, numbers, SECP256R1)
            if text is not None:
                return text
        return None


def noise(signature: Mapping[str, object]) -> str | None:
    """Write numbers that sign nothing as SD in the form of a signature; None where that has no form that is known."""
    for _ in range(_TRIES):
        numbers = secrets.randbelow(SECP256R1.n - 1) + 1, secrets.randbelow(SECP256R1.n - 1) + 1
        try:
            text = rewritten(signature, numbers, SECP256R1)
        except ReceiptError:
            return None
        if text is not None:
            return text
    return None


def _both(old: bytes, new: bytes) -> dict[str, str]:
    return {old.hex(): new.hex(), old.hex().upper(): new.hex().upper()}
