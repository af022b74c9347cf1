"""What the meter signs: a transaction's record as an OCMF tuple, and the forms of key and signature.

The order of fields and the way of signing are those of the 2025 firmware (receipts/iem-dcr-2025-unpadded-der.ocmf).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from iem_dcr.simulator.energy import Registers, kwh_text
from iem_dcr.simulator.options import TOTAL_EXPORT, TOTAL_IMPORT

if TYPE_CHECKING:
    from decimal import Decimal

    from iem_dcr.simulator.options import SimulatorOptions

ALGORITHM: Final = "ECDSA-secp256r1-SHA256"


@dataclass(frozen=True, slots=True)
class User:
    """What POST /user says; a record without one says that no user was assigned."""

    IS: bool = False
    IL: str = "NONE"
    IF: tuple[str, ...] = ()
    IT: str = "NONE"
    ID: str = ""
    US: bool = False
    TT: str | None = None


class Gateway(NamedTuple):
    """What POST /gw says of the charge point."""

    CT: str = ""
    CI: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of a record, with the charge point of its moment; TM is None where the meter writes none."""

    TM: str | None
    TX: str
    EF: str
    ST: str
    registers: Registers
    gateway: Gateway


@dataclass(frozen=True, slots=True)
class OpenRecord:
    """A transaction that runs: user and tariff text are those in force at its beginning.

    ``number`` counts the transactions that the meter began; ``begun_s`` is the caller's monotonic time.
    """

    number: int
    begun_s: float
    begin: Reading
    user: User
    TT: str


@dataclass(frozen=True, slots=True)
class ClosedRecord:
    """A transaction with its last reading, which is signed at ``due_s``.

    ``late`` is one that the meter closes some time after a power-up.
    """

    opened: OpenRecord
    end: Reading
    due_s: float
    late: bool = False


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """A signed tuple, and what it is about.

    Attributes:
        text: the OCMF tuple.
        PG: pagination, ``T4``; "" where the meter writes none.
        ID: the user's id.
        TX: code of the last reading, "E" or "P".
        import_wh: energy of the transaction.
        export_wh: energy fed back in the transaction.
    """

    text: str
    PG: str
    ID: str
    TX: str
    import_wh: Decimal
    export_wh: Decimal


class Signer:
    """A secp256r1 key that signs; a new one where the options have none.

    Attributes:
        public_key: the other half, for whoever verifies.
    """

    def __init__(self, secret: int | ec.EllipticCurvePrivateKey | None) -> None:
        if secret is None:
            secret = ec.generate_private_key(ec.SECP256R1())
        self._key = ec.derive_private_key(secret, ec.SECP256R1()) if isinstance(secret, int) else secret
        self.public_key = self._key.public_key()

    def public_key_text(self, form: str) -> str:
        """Write PK: "der" is hex of SubjectPublicKeyInfo with its head in lower case, "raw" is X‖Y in upper case."""
        info = self.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        coordinates = info[-64:].hex().upper()
        return coordinates if form == "raw" else info[:-64].hex() + coordinates

    def sign(self, payload: bytes, encoding: str) -> str:
        """Sign bytes and write SD in upper-case hex.

        Args:
            payload: the signed bytes, as they will be sent.
            encoding: "der"; "raw": r‖s; "unpadded-der": DER in which both integers are 32 bytes and never get the 00
                that keeps them positive (receipts/iem-dcr-2025: ``3044 0220 <r> 0220 <s>``).
        """
        der = self._key.sign(payload, ec.ECDSA(hashes.SHA256()))
        r, s = (number.to_bytes(32, "big") for number in decode_dss_signature(der))
        unpadded = b"\x30\x44\x02\x20" + r + b"\x02\x20" + s
        return {"der": der, "raw": r + s, "unpadded-der": unpadded}[encoding].hex().upper()

    def signed(self, record: ClosedRecord, page: int, options: SimulatorOptions) -> SignedRecord:
        """Write and sign a record."""
        PG = "" if options.PG == "missing" else f"T{page}"
        payload = _compact(_payload(record, PG, options))
        signature = {"SA": ALGORITHM, "SD": self.sign(payload.encode(), options.signature_encoding)}
        import_wh, export_wh = record.end.registers.minus(record.opened.begin.registers)
        text = f"OCMF|{payload}|{_compact(signature)}"
        return SignedRecord(text, PG, record.opened.user.ID, record.end.TX, import_wh, export_wh)


def _payload(record: ClosedRecord, PG: str, options: SimulatorOptions) -> dict[str, object]:
    user, gateway = record.opened.user, record.end.gateway
    return {
        "FV": "1.0",
        "GI": options.GI,
        "GS": options.MS,
        "GV": options.GV,
        "MV": options.MV,
        "MM": options.MM,
        "MS": options.MS,
        "CT": gateway.CT,
        "CI": gateway.CI,
        "IS": user.IS,
        "IL": user.IL,
        "IF": user.IF,
        "IT": user.IT,
        "ID": user.ID,
        **({"PG": PG} if PG else {}),
        "TT": record.opened.TT,
        "RD": [row for reading in (record.opened.begin, record.end) for row in _rows(reading, options)],
    }


def _rows(reading: Reading, options: SimulatorOptions) -> list[dict[str, str]]:
    head = {} if reading.TM is None else {"TM": reading.TM}
    head |= {"TX": reading.TX, "EF": reading.EF, "ST": reading.ST}
    rows = [head | _register(reading.registers.import_wh, TOTAL_IMPORT)]
    if options.bidirectional:
        rows.append(_register(reading.registers.export_wh, TOTAL_EXPORT))
    return rows


def _register(energy_wh: Decimal, code: str) -> dict[str, str]:
    return {"RV": kwh_text(energy_wh), "RI": code, "RU": "kWh", "RT": "DC"}


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
