"""A transaction's record: what is kept of it and how it is written as an OCMF tuple."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iem_dcr.simulator.energy import Registers, kwh_text
from iem_dcr.simulator.options import TOTAL_EXPORT, TOTAL_IMPORT
from iem_dcr.simulator.signing import ALGORITHM, Signer

if TYPE_CHECKING:
    from decimal import Decimal

    from iem_dcr.simulator.options import SimulatorOptions


@dataclass(frozen=True, slots=True)
class User:
    """What POST /user says; without one a record says that nobody was assigned."""

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
    """One reading of a record."""

    TM: str
    TX: str
    EF: str
    ST: str
    registers: Registers


@dataclass(frozen=True, slots=True)
class OpenRecord:
    """A transaction that runs: user and tariff text are those in force at its beginning."""

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
    """A signed tuple and what a test wants to know of it.

    Attributes:
        text: the OCMF tuple.
        PG: pagination, ``T4``.
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


def signed(record: ClosedRecord, number: int, options: SimulatorOptions, signer: Signer) -> SignedRecord:
    """Write and sign a record in the order of the 2025 firmware: FV GI GS … PG TT RD."""
    page = f"T{number}"
    payload = _compact(_payload(record, page, options))
    signature = {"SA": ALGORITHM, "SD": signer.sign(payload.encode(), options.signature_encoding)}
    energy = record.end.registers.minus(record.opened.begin.registers)
    return SignedRecord(
        text=f"OCMF|{payload}|{_compact(signature)}",
        PG=page,
        ID=record.opened.user.ID,
        TX=record.end.TX,
        import_wh=energy.import_wh,
        export_wh=energy.export_wh,
    )


def _payload(record: ClosedRecord, page: str, options: SimulatorOptions) -> dict[str, object]:
    user = record.opened.user
    rows = [row for reading in (record.opened.begin, record.end) for row in _rows(reading, options.bidirectional)]
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
        "PG": page,
        "TT": record.opened.TT,
        "RD": rows,
    }


def _rows(reading: Reading, bidirectional: bool) -> list[dict[str, str]]:  # noqa: FBT001  # private, named at its call
    head = {"TM": reading.TM, "TX": reading.TX, "EF": reading.EF, "ST": reading.ST}
    rows = [head | _register(reading.registers.import_wh, TOTAL_IMPORT)]
    if bidirectional:
        rows.append(_register(reading.registers.export_wh, TOTAL_EXPORT))
    return rows


def _register(energy_wh: Decimal, code: str) -> dict[str, str]:
    return {"RV": kwh_text(energy_wh), "RI": code, "RU": "kWh", "RT": "DC"}


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
