"""A meter's latest receipts: from its journal where it has one, else those that this process remembers.

Files are read in one thread of its own, and receipts checked in another: a disk that hangs keeps neither the loop nor
the threads in which the drivers' receipts are verified.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from iem_dcr import ocmf
from iem_dcr.bringup.sight import shown
from iem_dcr.errors import JournalError, printable
from iem_dcr.ocmf import Outcome
from iem_dcr.ocmf.examination import examine
from iem_dcr.ocmf.rules import Severity
from iem_dcr.ocmf.verdict import verdict_on
from iem_dcr.service.one_thread import OneThread
from iem_dcr.service.web import words
from iem_dcr.service.web.meter_view import path_of
from iem_dcr.service.web.view import Cell, Row, text
from iem_dcr.service.web.words import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal
    from pathlib import Path

    from iem_dcr.journal import Entry
    from iem_dcr.ocmf import Receipt
    from iem_dcr.ocmf.verdict import Verdict
    from iem_dcr.service.observation import ObservedMeter, SeenReceipt

T = TypeVar("T")

SHOWN: Final = 20
ANSWERS_WITHIN_S: Final = 5.0
_IN_JOURNAL: Final = "j"
_IN_MEMORY: Final = "m"
_DIGITS: Final = 12
_KEY: Final = re.compile(rf"(?P<where>[jm])(?P<number>[0-9]{{1,18}})-[0-9a-f]{{{_DIGITS}}}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Found:
    """One receipt in full.

    Attributes:
        receipt: as the meter signed it.
        verdict: on it alone, made anew.
        public_key: that it was checked with, or "".
        transaction_id: the station's, or "".
    """

    receipt: Receipt
    verdict: Verdict
    public_key: str
    transaction_id: str


class ReceiptBook:
    """Finds receipts for the page."""

    def __init__(self) -> None:
        self._reading = OneThread("page-reading")
        self._checking = OneThread("page-checking")

    def close(self) -> None:
        """Let the threads end."""
        for thread in (self._reading, self._checking):
            thread.close()

    async def rows(self, meter: ObservedMeter) -> tuple[tuple[Row, ...], str]:
        """Return a row for each of the latest receipts, newest first, and what has to be said of them, or ""."""
        note = ""
        path, serial = meter.journal_path, meter.serial
        if path and serial:
            try:
                entries = await _done_in(self._reading, lambda: _latest(path, serial))
            except JournalError as error:
                note = f"Only what this process remembers: {printable(error, limit=300)}."
            else:
                return tuple(_row_of_entry(meter, entry) for entry in entries), ""
        elif path:
            note = "Those in the journal are shown as soon as the meter has said its serial number."
        remembered = tuple(reversed(meter.receipts))
        rows = await _done_in(self._checking, lambda: tuple(_row_remembered(meter, seen) for seen in remembered))
        return rows, note

    async def find(self, meter: ObservedMeter, key: str) -> Found | None:
        """Return the receipt of a key of `rows`, or None where it is not there, or not this meter's.

        Raises:
            JournalError: the file cannot be read.
            ReceiptError: it cannot be read as a receipt.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            return None
        where, number = match["where"], int(match["number"])
        if where == _IN_MEMORY:
            kept = next((seen.kept for seen in meter.receipts if seen.number == number), None)
            if kept is None:
                return None
            tuple_text, public_key, transaction_id = kept.receipt.text, kept.public_key, kept.transaction_id
        else:
            path, serial = meter.journal_path, meter.serial
            entry = await _done_in(self._reading, lambda: _entry(path, number)) if path and serial else None
            if entry is None or entry.meter != serial or not entry.text:
                return None
            tuple_text, public_key, transaction_id = entry.text, entry.public_key, entry.transaction_id
        if key != _key(where, number, tuple_text):
            return None
        public_key = public_key or meter.public_key
        return await _done_in(self._checking, lambda: _judged(tuple_text, public_key, transaction_id))


def _key(where: str, number: int, tuple_text: str) -> str:
    """Return what a receipt is found under: numbers begin anew with a process or a file, so its digest is in it."""
    return f"{where}{number}-{hashlib.sha256(tuple_text.encode('utf-8', 'replace')).hexdigest()[:_DIGITS]}"


async def _done_in(thread: OneThread, work: Callable[[], T]) -> T:
    """Have something done in a thread, for five seconds at most.

    Raises:
        JournalError: it takes longer.
    """
    try:
        return await thread.do(work, ANSWERS_WITHIN_S)
    except TimeoutError:
        raise JournalError("the journal does not answer") from None


def _latest(path: Path, serial: str) -> list[Entry]:
    from iem_dcr.journal import open_for_reading  # noqa: PLC0415  only who has a journal loads SQLite

    with open_for_reading(path) as reader:
        return reader.latest(serial, SHOWN)


def _entry(path: Path, number: int) -> Entry | None:
    from iem_dcr.journal import open_for_reading  # noqa: PLC0415  as above

    with open_for_reading(path) as reader:
        return reader.entry(number)


def _judged(tuple_text: str, public_key: str, transaction_id: str) -> Found:
    receipt = ocmf.parse(tuple_text)
    return Found(receipt, verdict_on([receipt], public_key), public_key, transaction_id)


def _row_of_entry(meter: ObservedMeter, entry: Entry) -> Row:
    is_erased = entry.erased is not None
    line = _Line(
        key=_key(_IN_JOURNAL, entry.id, entry.text),
        pagination=entry.pagination,
        ended=shown(entry.end_text) or f"kept {words.day_and_time(entry.kept)}",
        energy_wh=entry.energy_wh,
        signature=Cell("erased", "off") if is_erased else _signature(entry.outcome, accepted=entry.accepted),
        severities=tuple(str(finding.get("severity")) for finding in entry.findings),
        transaction_id=entry.transaction_id,
        is_there=bool(entry.text),
    )
    return line.row(meter)


def _row_remembered(meter: ObservedMeter, seen: SeenReceipt) -> Row:
    receipt = seen.kept.receipt
    last = receipt.end or (receipt.readings[-1] if receipt.readings else None)
    line = _Line(
        key=_key(_IN_MEMORY, seen.number, receipt.text),
        pagination=receipt.pagination or "",
        ended=words.meter_time(last.TM) if last and last.TM else f"came {words.day_and_time(seen.came)}",
        energy_wh=receipt.energy_wh,
        signature=_signature(seen.kept.outcome, accepted=seen.kept.accepted),
        severities=tuple(finding.severity.value for finding in examine(receipt)),
        transaction_id=seen.kept.transaction_id,
    )
    return line.row(meter)


def _signature(outcome: Outcome | None, *, accepted: bool) -> Cell:
    is_refused = outcome is Outcome.VALID and not accepted
    return Cell(*(words.NOT_ACCEPTED if is_refused else words.OUTCOMES[outcome]))


@dataclass(frozen=True, slots=True)
class _Line:
    """What a row says of a receipt."""

    key: str
    pagination: str
    ended: str
    energy_wh: Decimal | None
    signature: Cell
    severities: tuple[str, ...]
    transaction_id: str
    is_there: bool = True

    def row(self, meter: ObservedMeter) -> Row:
        """Return the row; its links lead to the receipt, if it is there."""
        path = f"{path_of(meter)}/receipts/{self.key}"
        energy = words.kwh(self.energy_wh)
        cells = (
            Cell(shown(self.pagination) or "without PG", href=path if self.is_there else ""),
            text(self.ended),
            text(f"{energy} kWh" if self.energy_wh is not None else energy),
            self.signature,
            _counted(self.severities),
            text(shown(self.transaction_id) or NOTHING),
            Cell("XML", href=f"{path}.xml") if self.is_there else text(NOTHING),
        )
        return Row(self.key, cells)


def _counted(severities: tuple[str, ...]) -> Cell:
    """Return how many findings there are, by severity."""
    counts = [(severities.count(one.value), one.value) for one in Severity]
    parts = [f"{count} {name}{'' if count == 1 or name == 'info' else 's'}" for count, name in counts if count]
    kind = "fault" if counts[0][0] else "warning" if counts[1][0] else ""
    return Cell(", ".join(parts) or "none", kind)
