"""A meter's latest receipts: from its journal if it has one, else from the memory of this process.

One separate thread reads files, and another one checks receipts. So a hanging disk blocks nothing else, and visitors do
not occupy the loop's threads. The drivers verify receipts in those, and give up soon.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from iem_dcr import ocmf
from iem_dcr.diagnostics.status import shown
from iem_dcr.errors import JournalError, printable, shortened
from iem_dcr.ocmf.codes import how_ended
from iem_dcr.ocmf.examination import examine
from iem_dcr.ocmf.export import Format, Item, export
from iem_dcr.ocmf.rules import FINDINGS, Severity
from iem_dcr.ocmf.verdict import Judgement, energy_summary_of, energy_summary_of_text, verdict_on
from iem_dcr.web import templates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from iem_dcr.journal import Entry, JournalReader
    from iem_dcr.ocmf import Reading, Receipt
    from iem_dcr.ocmf.rules import Finding
    from iem_dcr.ocmf.verdict import Verdict
    from iem_dcr.service.observation import ObservedMeter, ObservedReceipt

T = TypeVar("T")

MAX_RECEIPTS: Final = 20
JOURNAL_TIMEOUT_S: Final = 5.0
_IN_JOURNAL: Final = "j"
_IN_MEMORY: Final = "m"
_DIGITS: Final = 12
_KEY: Final = re.compile(rf"(?P<where>[jm])(?P<number>[0-9]{{1,18}})-[0-9a-f]{{{_DIGITS}}}", re.ASCII)
MAX_FINDINGS: Final = 100
"""Largest number of findings on the page. A meter that signs nonsense can cause thousands."""
_WHY: Final = {
    Judgement.INVALID: "The signature does not match: {}.",
    Judgement.NOT_CHECKED: "The signature could not be checked: {}.",
    Judgement.REFUSED: "The signature matches, but the transparency software refuses this receipt.",
    Judgement.ACCEPTED: "The signature matches, and there are no objections to the receipt.",
}
_KINDS: Final = {Severity.ERROR: "fault", Severity.WARNING: "warning", Severity.INFO: ""}


@dataclass(frozen=True, slots=True)
class Row:
    """One receipt in the list.

    Attributes:
        key: the key for `ReceiptList.find`.
        pagination: PG, or "".
        ended: when it ended, as text.
        energy: its energy, as text.
        signature: the result of the signature check, and its kind.
        findings: the number of findings, and their kind.
        transaction_id: the station's, or "".
        is_erased: whether the receipt is erased and only this row is left.
    """

    key: str
    pagination: str
    ended: str
    energy: str
    signature: tuple[str, str]
    findings: tuple[str, str]
    transaction_id: str
    is_erased: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """One receipt in full.

    Attributes:
        receipt: as the meter signed it.
        verdict: a new verdict on this receipt alone.
        public_key: the key that checked it, or "".
        transaction_id: the station's, or "".
    """

    receipt: Receipt
    verdict: Verdict
    public_key: str
    transaction_id: str


class ReceiptList:
    """Finds receipts for the page."""

    def __init__(self) -> None:
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="page-reading")
        self._checking = ThreadPoolExecutor(1, thread_name_prefix="page-checking")

    def close(self) -> None:
        """Make the threads end."""
        for thread in (self._reading, self._checking):
            thread.shutdown(wait=False, cancel_futures=True)

    async def rows(self, meter: ObservedMeter) -> tuple[tuple[Row, ...], str]:
        """Return a row for each of the latest receipts, newest first, and a note about them, or ""."""
        note = ""
        path, serial = meter.journal_path, meter.serial
        if path and serial:
            try:
                entries = await self._read(path, lambda reader: reader.latest(serial, MAX_RECEIPTS))
            except JournalError as error:
                note = f"Only receipts since the service started: {printable(error, limit=300)}."
            else:
                return tuple(map(_row_of_entry, entries)), ""
        elif path:
            note = "Receipts in the journal are shown as soon as the serial number of the meter is known."
        remembered = tuple(reversed(meter.receipts))
        return await self._check(lambda: tuple(map(_row_remembered, remembered))), note

    async def find(self, meter: ObservedMeter, key: str) -> Found | None:
        """Return the receipt of a key of `rows`, or None if it does not exist or is not this meter's.

        Raises:
            JournalError: the file cannot be read.
            ReceiptError: it cannot be read as a receipt.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            return None
        where, number = match["where"], int(match["number"])
        path, serial = meter.journal_path, meter.serial
        text = public_key = transaction_id = ""
        if where == _IN_MEMORY:
            if kept := next((seen.kept for seen in meter.receipts if seen.number == number), None):
                text, public_key, transaction_id = kept.receipt.text, kept.public_key, kept.transaction_id
        elif path and serial:
            entry = await self._read(path, lambda reader: reader.entry(number))
            if entry and entry.meter == serial:
                text, public_key, transaction_id = entry.text, entry.public_key, entry.transaction_id
        if not text or key != key_of(where, number, text):
            return None
        public_key = public_key or meter.public_key
        return await self._check(lambda: _judged(text, public_key, transaction_id))

    async def _read(self, path: Path, ask: Callable[[JournalReader], T]) -> T:
        """Ask a journal in the thread for it.

        Raises:
            JournalError: it cannot be read, or it or an earlier one does not answer.
        """
        try:
            async with asyncio.timeout(JOURNAL_TIMEOUT_S):
                return await asyncio.get_running_loop().run_in_executor(self._reading, _ask, path, ask)
        except TimeoutError:
            raise JournalError("the journal does not answer") from None

    async def _check(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._checking, work)


def key_of(where: str, number: int, text: str) -> str:
    """Return the key that finds a receipt.

    Each process or file numbers its receipts anew. So the key contains the digest of the tuple, and an old link never
    leads to another receipt.
    """
    return f"{where}{number}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:_DIGITS]}"


def _ask(path: Path, ask: Callable[[JournalReader], T]) -> T:
    from iem_dcr.journal import open_for_reading  # noqa: PLC0415  without a journal SQLite is not loaded

    with open_for_reading(path) as reader:
        return ask(reader)


def _judged(text: str, public_key: str, transaction_id: str) -> Found:
    receipt = ocmf.parse(text)
    return Found(receipt, verdict_on([receipt], public_key), public_key, transaction_id)


def _row_of_entry(entry: Entry) -> Row:
    is_erased = entry.erased is not None
    return Row(
        key=key_of(_IN_JOURNAL, entry.id, entry.text),
        pagination=shown(entry.pagination),
        ended=shown(entry.end_text) or f"kept {templates.day_and_time(entry.kept)}",
        energy=energy_summary_of_text(entry.text) or templates.NOTHING,
        signature=("erased", "off") if is_erased else templates.signature(entry.outcome, accepted=entry.accepted),
        findings=_counted([str(finding.get("severity")) for finding in entry.findings]),
        transaction_id=shown(entry.transaction_id),
        is_erased=not entry.text,
    )


def _row_remembered(seen: ObservedReceipt) -> Row:
    receipt = seen.kept.receipt
    last = receipt.end or (receipt.readings[-1] if receipt.readings else None)
    return Row(
        key=key_of(_IN_MEMORY, seen.number, receipt.text),
        pagination=shown(receipt.pagination or ""),
        ended=templates.meter_time(last.TM) if last and last.TM else f"came {templates.day_and_time(seen.came)}",
        energy=energy_summary_of(receipt) or templates.NOTHING,
        signature=templates.signature(seen.kept.outcome, accepted=seen.kept.accepted),
        findings=_counted([finding.severity.value for finding in examine(receipt)]),
        transaction_id=shown(seen.kept.transaction_id),
    )


def _counted(severities: list[str]) -> tuple[str, str]:
    """Return the number of findings by severity as text, and its kind."""
    counts = [(severities.count(one.value), one.value) for one in Severity]
    parts = [f"{count} {name}{'' if count == 1 or name == 'info' else 's'}" for count, name in counts if count]
    kind = "fault" if counts[0][0] else "warning" if counts[1][0] else ""
    return ", ".join(parts) or "none", kind


# --- one receipt ---


def receipt_view(found: Found) -> dict[str, Any]:
    """Return the variables of the receipt template."""
    receipt, verdict = found.receipt, found.verdict
    word, kind = templates.signature(verdict.outcome, accepted=verdict.judgement is Judgement.ACCEPTED)
    order = list(Severity)
    worst = sorted(verdict.findings, key=lambda finding: order.index(finding.severity))[:MAX_FINDINGS]
    return {
        "title": f"Receipt {shown(receipt.pagination or 'without PG')}",
        "word": word,
        "kind": kind,
        "why": _WHY[verdict.judgement].format(shown(verdict.reason)),
        "lines": tuple(_lines(receipt, found.transaction_id)),
        "findings": tuple(_finding(receipt, finding) for finding in worst),
        "left_out": len(verdict.findings) - len(worst),
        "notes": export([Item(receipt, found.public_key)], Format.TRANSPARENCY).notes,
    }


def _lines(receipt: Receipt, transaction_id: str) -> Iterator[tuple[str, str]]:
    ID = receipt.identification or ""
    last = receipt.end or (receipt.readings[-1] if receipt.readings else None)
    yield "Charge point", _payload(receipt, "CT", "CI")
    yield "Meter", _payload(receipt, "MM", "MS")
    yield "User", f"{shortened(ID) if ID else templates.NOTHING} ({_payload(receipt, 'IT') or 'no type'})"
    yield "Tariff", _payload(receipt, "TT")
    yield "Begin", _reading(receipt.begin)
    how = how_ended(last.TX) if last else ""
    yield "End", _reading(last) + (f", ended {how}" if how else "")
    yield "Energy", energy_summary_of(receipt) or "not in the receipt"
    yield "Transaction", shown(transaction_id)
    yield "Algorithm", shown(receipt.algorithm or "")


def _payload(receipt: Receipt, *keys: str) -> str:
    return " ".join(shown(receipt.payload[key]) for key in keys if receipt.payload.get(key) not in (None, ""))


def _reading(reading: Reading | None) -> str:
    if reading is None:
        return "not in the receipt"
    time = templates.meter_clock(reading.TM) if reading.TM else "time not readable"
    return time if reading.energy_wh is None else f"{time}; register {templates.kwh(reading.energy_wh)} kWh"


def _finding(receipt: Receipt, finding: Finding) -> tuple[str, str, str, str, str]:
    """Return kind, severity, code, text and what to do. The text may contain the user's id, which is shortened."""
    ID = receipt.identification or ""
    text = shown(finding.text)
    text = text.replace(ID, shortened(ID)) if len(ID) > 2 else text
    return _KINDS[finding.severity], finding.severity.value, finding.code, text, FINDINGS[finding.code].to_do
