"""What the meter signs: a transaction's record as an OCMF tuple, the key, and the forms of key and signature."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

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


@dataclass(frozen=True, slots=True)
class Gateway:
    """What POST /gw says of the charge point; both "" after power-up."""

    CT: str = ""
    CI: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of a record; TM is None where the meter writes none."""

    TM: str | None
    TX: str
    EF: str
    ST: str
    registers: Registers


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
    """A transaction with its last reading; CT and CI are those in force at that reading."""

    opened: OpenRecord
    end: Reading
    gateway: Gateway


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
    """A secp256r1 key that signs."""

    def __init__(self, private_key: int | ec.EllipticCurvePrivateKey | None) -> None:
        if private_key is None:
            private_key = ec.generate_private_key(ec.SECP256R1())
        elif isinstance(private_key, int):
            private_key = ec.derive_private_key(private_key, ec.SECP256R1())
        self._key = private_key

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The other half, for whoever verifies."""
        return self._key.public_key()

    def public_key_text(self, form: str) -> str:
        """Write PK: "der" is hex of SubjectPublicKeyInfo with its head in lower case, "raw" is X‖Y in upper case."""
        point = self.public_key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        coordinates = point[1:].hex().upper()
        if form == "raw":
            return coordinates
        info = self.public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return info[: -len(point) + 1].hex() + coordinates

    def sign(self, payload: bytes, encoding: str) -> str:
        """Sign bytes and write SD in upper-case hex.

        Args:
            payload: the signed bytes, as they will be sent.
            encoding: "der"; "raw": r‖s; "unpadded-der": DER in which both integers are 32 bytes and never get the 00
                that keeps them positive (receipts/iem-dcr-2025: ``3044 0220 <r> 0220 <s>``).
        """
        der = self._key.sign(payload, ec.ECDSA(hashes.SHA256()))
        if encoding == "der":
            return der.hex().upper()
        r, s = (number.to_bytes(32, "big") for number in decode_dss_signature(der))
        if encoding == "raw":
            return (r + s).hex().upper()
        return (b"\x30\x44\x02\x20" + r + b"\x02\x20" + s).hex().upper()

    def signed(self, record: ClosedRecord, page: int, options: SimulatorOptions) -> SignedRecord:
        """Write and sign a record in the order of the 2025 firmware: FV GI GS … PG TT RD."""
        PG = "" if options.PG == "missing" else f"T{page}"
        payload = _compact(_payload(record, PG, options))
        signature = {"SA": ALGORITHM, "SD": self.sign(payload.encode(), options.signature_encoding)}
        energy = record.end.registers.minus(record.opened.begin.registers)
        return SignedRecord(
            text=f"OCMF|{payload}|{_compact(signature)}",
            PG=PG,
            ID=record.opened.user.ID,
            TX=record.end.TX,
            import_wh=energy.import_wh,
            export_wh=energy.export_wh,
        )


def _payload(record: ClosedRecord, PG: str, options: SimulatorOptions) -> dict[str, object]:
    user = record.opened.user
    return {
        "FV": "1.0",
        "GI": options.GI,
        "GS": options.MS,
        "GV": options.GV,
        "MV": options.MV,
        "MM": options.MM,
        "MS": options.MS,
        "CT": record.gateway.CT,
        "CI": record.gateway.CI,
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
