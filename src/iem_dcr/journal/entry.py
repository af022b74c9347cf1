"""One receipt as it stands in the journal, and how it gets there from a tuple."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from iem_dcr.meter_time import FIRST_SANE_YEAR
from iem_dcr.ocmf import Outcome
from iem_dcr.ocmf.findings import examine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iem_dcr.driver.station import KeptReceipt
    from iem_dcr.ocmf import Reading, Receipt

_log = logging.getLogger("iem_dcr.journal")

FIRST_SANE = datetime(FIRST_SANE_YEAR, 1, 1, tzinfo=UTC)
"""A clock that says less was never set."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)

COLUMNS = (
    "id", "meter", "pagination", "digest", "address", "transaction_id", "identification", "begin_text", "begin_ms",
    "end_text", "end_ms", "begin_wh", "end_wh", "energy_wh", "tuple", "public_key", "outcome", "findings", "found",
    "kept_ms", "erased_ms",
)  # fmt: skip
"""The columns an `Entry` is made from, in their order."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One receipt in the journal.

    Attributes:
        id: number of the entry in its file; a later one is larger.
        meter: serial number of the meter.
        address: of the meter, ``host:port``.
        pagination: PG, or "".
        transaction_id: the station's, or "" where it is not known or was erased.
        identification: ID of the tuple, or "" where it has none or it was erased.
        begin_text: TM of the reading that begins, as the meter wrote it; "" without one.
        begin: the same as an instant in UTC, or None.
        end_text: TM of the reading that ends.
        end: the same as an instant in UTC, or None.
        begin_wh: import register at the beginning, Wh, exactly; None where the tuple has none.
        end_wh: the same at the end.
        energy_wh: imported energy, Wh, exactly.
        text: the tuple byte for byte, or "" where it was erased.
        public_key: hex of the meter's DER key, or "".
        outcome: of the check of its signature, or None where it was not checked.
        findings: what was found beside the signature when it was kept: objects of code, severity, reading, field, text.
        found: it was only found in the meter, and handed to nobody.
        kept: host's time at which it was kept first.
        erased: host's time at which it was erased on request, or None.
        is_whole: the tuple is the one that was kept; False where the file was damaged, or it was erased.
    """

    id: int
    meter: str
    address: str
    pagination: str
    transaction_id: str
    identification: str
    begin_text: str
    begin: datetime | None
    end_text: str
    end: datetime | None
    begin_wh: Decimal | None
    end_wh: Decimal | None
    energy_wh: Decimal | None
    text: str
    public_key: str
    outcome: Outcome | None
    findings: tuple[Mapping[str, object], ...]
    found: bool
    kept: datetime
    erased: datetime | None
    is_whole: bool

    @classmethod
    def of_row(cls, row: tuple[object, ...]) -> Entry:
        """Make an entry from the values of `COLUMNS`; what was damaged reads as nothing."""
        values = dict(zip(COLUMNS, row, strict=True))
        raw = values["tuple"]
        raw = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
        raw = raw if isinstance(raw, bytes) else b""

        def text(column: str) -> str:
            value = values[column]
            return value if isinstance(value, str) else ""

        return cls(
            id=_whole(values["id"]) or 0,
            meter=text("meter"),
            address=text("address"),
            pagination=text("pagination"),
            transaction_id=text("transaction_id"),
            identification=text("identification"),
            begin_text=text("begin_text"),
            begin=_instant(values["begin_ms"]),
            end_text=text("end_text"),
            end=_instant(values["end_ms"]),
            begin_wh=_decimal(text("begin_wh")),
            end_wh=_decimal(text("end_wh")),
            energy_wh=_decimal(text("energy_wh")),
            text=raw.decode("utf-8", "replace"),
            public_key=text("public_key"),
            outcome=_OUTCOMES.get(text("outcome")),
            findings=_findings_of(text("findings")),
            found=bool(values["found"]),
            kept=_instant(values["kept_ms"]) or _EPOCH,
            erased=_instant(values["erased_ms"]),
            is_whole=bool(raw) and hashlib.sha256(raw).digest() == values["digest"],
        )


class Row(NamedTuple):
    """What is written of a receipt. Names and meanings are those of the table's columns."""

    meter: str
    pagination: str
    digest: bytes
    address: str
    transaction_id: str
    identification: str
    begin_text: str
    begin_ms: int | None
    end_text: str
    end_ms: int | None
    begin_wh: str
    end_wh: str
    energy_wh: str
    tuple: bytes
    public_key: str
    outcome: str
    findings: str
    found: bool
    kept_ms: int
    age_ms: int | None

    @classmethod
    def of(cls, kept: KeptReceipt, now: datetime) -> Row:
        """Make a row of a receipt; ``now`` is the host's time."""
        receipt = kept.receipt
        raw = receipt.text.encode()
        begin, end = receipt.begin, receipt.end
        end_ms = _ms(end)
        return cls(
            meter=clean(receipt.meter_serial or kept.meter),
            pagination=receipt.pagination or "",
            digest=hashlib.sha256(raw).digest(),
            address=clean(kept.address),
            transaction_id=clean(kept.transaction_id),
            identification=receipt.identification or "",
            begin_text=_TM_text(receipt, begin),
            begin_ms=_ms(begin),
            end_text=_TM_text(receipt, end),
            end_ms=end_ms,
            begin_wh=_exact(begin.energy_wh if begin else None),
            end_wh=_exact(end.energy_wh if end else None),
            energy_wh=_exact(receipt.energy_wh),
            tuple=raw,
            public_key=clean(kept.public_key),
            outcome=kept.outcome.value if kept.outcome is not None else "",
            findings=_findings(receipt),
            found=kept.found,
            kept_ms=milliseconds(now),
            age_ms=_age_ms(milliseconds(now), end_ms),
        )


def milliseconds(instant: datetime) -> int:
    """Return an instant as whole milliseconds since 1970 UTC."""
    return (instant - _EPOCH) // _MS


def clean(text: str) -> str:
    """Make text of a station's or a host's fit for the file: half surrogate pairs are written out."""
    return text.encode("utf-8", "backslashreplace").decode()


_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_FIRST_SANE_MS = milliseconds(FIRST_SANE)


def _age_ms(kept_ms: int, end_ms: int | None) -> int | None:
    """Return the time a receipt's age counts from: when it was kept, or when it ended if the host had no time then."""
    return next((ms for ms in (kept_ms, end_ms) if ms is not None and ms >= _FIRST_SANE_MS), None)


def _ms(reading: Reading | None) -> int | None:
    return milliseconds(reading.TM.instant) if reading is not None and reading.TM is not None else None


def _exact(energy_wh: Decimal | None) -> str:
    return "" if energy_wh is None else f"{energy_wh:f}"


def _TM_text(receipt: Receipt, reading: Reading | None) -> str:  # noqa: N802  TM is OCMF's name
    """Return the TM of a reading as the tuple has it; one that is left out is that of the reading before."""
    rows = receipt.payload.get("RD")
    if reading is None or not isinstance(rows, list):
        return ""
    text = ""
    for row, made in zip(rows, receipt.readings, strict=False):
        if isinstance(row, dict) and "TM" in row:
            text = row["TM"] if isinstance(row["TM"], str) else ""
        elif not isinstance(row, dict):
            text = ""
        if made is reading:
            break
    return clean(text)


def _findings(receipt: Receipt) -> str:
    """Return what there is to say of a receipt beside its signature, as JSON."""
    try:
        found = [
            {
                "code": finding.code,
                "severity": finding.severity.value,
                "reading": finding.reading,
                "field": finding.field,
                "text": finding.text,
            }
            for finding in examine(receipt)
        ]
        return clean(json.dumps(found, ensure_ascii=False))
    except Exception:  # noqa: BLE001  the receipt is worth more than what is said of it
        _log.exception("a receipt could not be examined; it is kept without findings")
        return "[]"


def _findings_of(text: str) -> tuple[Mapping[str, object], ...]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    return tuple(one for one in found if isinstance(one, dict)) if isinstance(found, list) else ()


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _instant(value: object) -> datetime | None:
    ms = _whole(value)
    try:
        return None if ms is None else _EPOCH + ms * _MS
    except OverflowError:
        return None


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text) if text else None
    except ArithmeticError:
        return None
