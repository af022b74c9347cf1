"""The interfaces that the driver uses: a station, an observer, a journal. The driver imports no implementation.

The journal is the ledger's memory on disk, nothing else. The driver reads it whole when a process starts. It writes
before B goes out, after the answer to B or E, and before a receipt is returned. It waits at most 0.5 s for a write; a
slower write is completed in the background. No failure of the journal withholds a receipt from the station.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from datetime import datetime

    from iem_dcr.device.messages import MeterValue
    from iem_dcr.errors import MeterError
    from iem_dcr.ocmf import Outcome, Receipt
    from iem_dcr.powermeter import Powermeter, StationError, TransactionStartResponse, TransactionStopResponse


class Station(Protocol):
    """A charging station. Its methods are called on the driver's loop and must not block."""

    def publish_powermeter(self, value: Powermeter) -> None:
        """Publish a live value."""

    def publish_public_key(self, key: str) -> None:
        """Publish the meter's public key: hex of DER SubjectPublicKeyInfo, never empty."""

    def raise_error(self, error: StationError) -> None:
        """Raise an error that was not active."""

    def clear_error(self, error: StationError) -> None:
        """Clear an active error; ``error`` is the object that was raised."""


class Observer(Protocol):
    """Is notified of what happens at a meter. Its methods are called on the driver's loop and must not block."""

    def value_read(self, value: MeterValue, read_at: datetime) -> None:
        """A live value was read: as the meter sent it, with the host's time of the answer."""

    def reading_failed(self, problem: str) -> None:
        """A live value could not be read, for this reason."""

    def error_raised(self, error: StationError) -> None:
        """An error was raised at the station."""

    def error_cleared(self, error: StationError) -> None:
        """An error was cleared at the station."""

    def request_made(self, method: str, node: str, duration_s: float, error: MeterError | None) -> None:
        """A request to the meter ended; ``error`` is None if it succeeded."""

    def start_answered(self, response: TransactionStartResponse) -> None:
        """A start of the station was answered."""

    def stop_answered(self, response: TransactionStopResponse) -> None:
        """A stop of the station was answered."""


@dataclass(frozen=True, slots=True)
class NotedEntry:
    """An entry of the ledger as the journal keeps it: a B that the meter may have acted on.

    Attributes:
        transaction_id: the station's id.
        ID: the assigned ID, which the receipt will show.
        meter: serial number of the meter.
        address: address of the meter, ``host:port``.
        PG_before: PG of the last receipt before this B; "" if the meter had none; None if it is unknown.
        sent: the meter's own time when B went out, or None.
        answered: the meter's own time of the answer to B, or of its time-out; None before that.
        state: "uncertain", "open", "ended" or "lost".
        noted: the host's time when the entry was made. Together with the id it identifies the entry in later notes.
    """

    transaction_id: str
    ID: str
    meter: str
    address: str
    PG_before: str | None
    sent: datetime | None
    answered: datetime | None
    state: str
    noted: datetime


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """A receipt for a sink or the journal.

    Attributes:
        receipt: the parsed tuple.
        transaction_id: id of the transaction that the receipt belongs to, or "" if it is unknown.
        public_key: hex of the meter's DER key, or "".
        outcome: result of the signature check, or None if it was not checked.
        accepted: False if the signature is valid but the transparency software refuses the receipt.
        address: address of the meter, ``host:port``.
        meter: serial number of the meter from which the receipt was read, or "" if it is unknown.
        found: the receipt was found on the meter and is not delivered to the station.
        superseded: it belongs to an earlier transaction under its id and answers no stop any more.
    """

    receipt: Receipt
    transaction_id: str
    public_key: str
    outcome: Outcome | None
    accepted: bool = True
    address: str = ""
    meter: str = ""
    found: bool = False
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class FiledReceipt:
    """A receipt as the journal has it: the tuple, the transaction id or "", and the meter's key or ""."""

    text: str
    transaction_id: str
    public_key: str
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class Recalled:
    """What the journal knows of a meter and of its address.

    Attributes:
        entries: the latest state of each entry that has no receipt, in the order of their B.
        refused: ids of starts that failed without the meter acting on a B, in order.
        receipts: the latest receipts, in the order in which they were written, at most 64.
        newest: the newest host time in the file, or None.
        pinned: the serial that was pinned for this address, or "".
    """

    entries: tuple[NotedEntry, ...] = ()
    refused: tuple[str, ...] = ()
    receipts: tuple[FiledReceipt, ...] = ()
    newest: datetime | None = None
    pinned: str = ""


class ReceiptSink(Protocol):
    """Keeps receipts."""

    def keep(self, kept: KeptReceipt) -> Awaitable[None]:
        """Keep a receipt. Called before it is returned to the station, and for receipts found on the meter.

        Raises:
            JournalError: the receipt is not kept yet.
        """


class Journal(Protocol):
    """The ledger's memory on disk. Every method may raise a JournalError; a write stays queued even then.

    The awaitables may be abandoned: cancelling one does not cancel its write.
    """

    def recall(self, *, meter: str, address: str) -> Awaitable[Recalled]:
        """Return what is known of a meter or of its address. A file that is absent, foreign or moved aside is empty.

        Raises:
            JournalError: the file does not answer, or answers with an error. The caller should ask again.
        """

    def receipt_of(self, transaction_id: str, *, meter: str, address: str) -> Awaitable[FiledReceipt | None]:
        """Return the receipt that answers a stop for an id, of any age, or None."""

    def note(self, entry: NotedEntry) -> Awaitable[None]:
        """Write an entry or a later state of it, in the order of the calls."""

    def withdraw(self, entry: NotedEntry) -> Awaitable[None]:
        """Withdraw the entry of a B that was refused. An earlier note under the id counts again."""

    def refused(self, transaction_id: str, *, meter: str, address: str) -> Awaitable[None]:
        """Note the id of a start that failed without the meter acting on a B, unless the id has an entry."""

    def keep(self, kept: KeptReceipt) -> Awaitable[None]:
        """Write a receipt, which closes its entry. Returns when the write is committed and survives a power cut."""

    def pin(self, address: str, meter: str) -> Awaitable[None]:
        """Write the serial that is accepted at an address."""
