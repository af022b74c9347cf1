"""What the meter signs: the record of a transaction as an OCMF tuple, and the formats of key and signature.

The order of fields and the default signature format are those of the 2025 firmware
(receipts/iem-dcr-2025-unpadded-der.ocmf).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from iem_dcr.simulator.energy import kwh_text
from iem_dcr.simulator.options import TOTAL_EXPORT, TOTAL_IMPORT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iem_dcr.simulator.energy import Registers
    from iem_dcr.simulator.options import SimulatorOptions

ALGORITHM: Final = "ECDSA-secp256r1-SHA256"
NO_GATEWAY: Final[Mapping[str, str]] = {"CT": "", "CI": ""}
"""Charge point in a record if no POST /gw has set it."""
NO_USER: Final[Mapping[str, Any]] = {"IS": False, "IL": "NONE", "IF": [], "IT": "NONE", "ID": ""}
"""User in a record if no POST /user has set one."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of a record: TM, TX, EF and ST, the registers, and the charge point at that time."""

    head: Mapping[str, str]
    registers: Registers
    gateway: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class OpenRecord:
    """A running transaction with the user and tariff text in force at its begin.

    ``number`` counts the transactions of the meter. ``begun_s`` is the caller's monotonic time.
    """

    number: int
    begun_s: float
    begin: Reading
    user: Mapping[str, Any]
    TT: str


@dataclass(frozen=True, slots=True)
class ClosedRecord:
    """An ended transaction with its last reading. It is signed at ``due_s``.

    ``late`` is true if the meter signs it only some time after a power-up.
    """

    opened: OpenRecord
    end: Reading
    due_s: float
    late: bool = False


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """A signed OCMF tuple and its main contents.

    ``PG`` is "" if the tuple has no pagination. ``TX`` is that of the last reading, "E" or "P". The energies are those
    of the transaction, in Wh.
    """

    text: str
    PG: str
    ID: str
    TX: str
    import_wh: int
    export_wh: int


def private_key(secret: int | None) -> ec.EllipticCurvePrivateKey:
    """Return the secp256r1 key with this secret number, or a new key for None."""
    curve = ec.SECP256R1()
    return ec.generate_private_key(curve) if secret is None else ec.derive_private_key(secret, curve)


def public_key_text(key: ec.EllipticCurvePrivateKey, form: str) -> str:
    """Return PK in hex: "der" is SubjectPublicKeyInfo with a lower-case head, "raw" is X‖Y in upper case."""
    info = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    coordinates = info[-64:].hex().upper()
    return coordinates if form == "raw" else info[:-64].hex() + coordinates


def signature(key: ec.EllipticCurvePrivateKey, payload: bytes, encoding: str) -> str:
    """Sign ``payload`` and return SD in upper-case hex: as "der", as "raw" r‖s, or as "unpadded-der".

    In "unpadded-der" both integers have 32 bytes and never the leading 00 that keeps them positive
    (receipts/iem-dcr-2025: ``3044 0220 <r> 0220 <s>``). In one of 128 signatures an integer begins with nine equal
    bits.
    """
    der = key.sign(payload, ec.ECDSA(hashes.SHA256()))
    r, s = (number.to_bytes(32, "big") for number in decode_dss_signature(der))
    unpadded = b"\x30\x44\x02\x20" + r + b"\x02\x20" + s
    return {"der": der, "raw": r + s, "unpadded-der": unpadded}[encoding].hex().upper()


def signed(key: ec.EllipticCurvePrivateKey, record: ClosedRecord, page: int, options: SimulatorOptions) -> SignedRecord:
    """Write the tuple of a record and sign it."""
    opened, end = record.opened, record.end
    pagination = {} if options.PG == "missing" else {"PG": f"T{page}"}
    payload = _compact({
        "FV": "1.0", "GI": options.GI, "GS": options.MS, "GV": options.GV,
        "MV": options.MV, "MM": options.MM, "MS": options.MS, **end.gateway,
        **{name: opened.user[name] for name in NO_USER}, **pagination, "TT": opened.TT,
        "RD": _rows(opened.begin, options) + _rows(end, options),
    })  # fmt: skip
    SD = signature(key, payload.encode(), options.signature_encoding)
    text = f"OCMF|{payload}|{_compact({'SA': ALGORITHM, 'SD': SD})}"
    energy = end.registers.minus(opened.begin.registers)
    return SignedRecord(text, pagination.get("PG", ""), opened.user["ID"], end.head["TX"], *energy)


def _rows(reading: Reading, options: SimulatorOptions) -> list[dict[str, str]]:
    import_wh, export_wh = reading.registers
    rows = [{**reading.head, "RV": kwh_text(import_wh), "RI": TOTAL_IMPORT, "RU": "kWh", "RT": "DC"}]
    if options.bidirectional:
        rows.append({"RV": kwh_text(export_wh), "RI": TOTAL_EXPORT, "RU": "kWh", "RT": "DC"})
    return rows


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
