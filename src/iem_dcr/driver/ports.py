"""What the driver asks of whoever is around it: a station, an observer, a journal. It knows none of them.

The journal is the ledger's memory on disk, nothing else. It is read whole when a process starts, written before B goes
out, after the answer to B or E, and before a receipt is returned. The driver waits 0.5 s for a write at most; a journal
that takes longer goes on by itself, and no failure of it keeps a receipt from the station.
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
        """Take a live value."""

    def publish_public_key(self, key: str) -> None:
        """Take the meter's public key: hex of DER SubjectPublicKeyInfo, never empty."""

    def raise_error(self, error: StationError) -> None:
        """Raise an error that was not active."""

    def clear_error(self, error: StationError) -> None:
        """Clear an error that was active; it is the one that was raised."""


class Observer(Protocol):
    """Looks on while a meter is driven. Its methods are called on the driver's loop and must not block."""

    def value_read(self, value: MeterValue, read_at: datetime) -> None:
        """Take a live value as the meter gave it, and the host's time of its answer."""

    def reading_failed(self, problem: str) -> None:
        """Take why there was no live value."""

    def error_raised(self, error: StationError) -> None:
        """Take an error that is raised at the station."""

    def error_cleared(self, error: StationError) -> None:
        """Take an error that is cleared at the station."""

    def request_made(self, method: str, node: str, duration_s: float, error: MeterError | None) -> None:
        """Take a request to the meter that came to its end, and what it failed with."""

    def start_answered(self, response: TransactionStartResponse) -> None:
        """Take what the station was answered to a start."""

    def stop_answered(self, response: TransactionStopResponse) -> None:
        """Take what the station was answered to a stop."""


@dataclass(frozen=True, slots=True)
class NotedEntry:
    """An entry of the ledger as the journal keeps it: a B that may have been acted on.

    Attributes:
        transaction_id: the station's.
        ID: that was assigned, which the receipt will show.
        meter: serial number of the meter.
        address: of the meter, ``host:port``.
        PG_before: PG of the last receipt before it; "" when the meter had none; None when that is not known.
        sent: the meter's own time when B went out, or None.
        answered: the meter's own time of the answer to B, or of its time-out; None while there is none.
        state: "uncertain", "open", "ended" or "lost".
        noted: the host's time when it was made; with the id it names the entry in every later note of it.
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
    """A receipt on its way to be kept.

    Attributes:
        receipt: the tuple.
        transaction_id: of the transaction it belongs to, or "" where that is not known.
        public_key: hex of the meter's DER key, or "".
        outcome: of the check of its signature, or None where it was not checked.
        accepted: False where its signature is valid and the transparency software refuses it all the same.
        address: of the meter, ``host:port``.
        meter: serial number of the meter that gave it, or "" where that is not known.
        found: it was only found in the meter, and is delivered to no one.
        superseded: it belongs to an earlier transaction under its id, and answers no stop any more.
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
    """A receipt as it stands in a journal: the tuple, the id it belongs to or "", and the meter's key or ""."""

    text: str
    transaction_id: str
    public_key: str
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class Recalled:
    """What a journal knows of a meter, and of what was at its address before.

    Attributes:
        entries: those whose receipt is not here, in the order of their B; the latest state of each.
        refused: ids whose start was refused with no B acted on, in order.
        receipts: the latest, in the order in which they were kept, at most 64.
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
        """Keep a receipt; called before it is returned to the station, and for what is found in the meter.

        Raises:
            JournalError: it is not kept yet.
        """


class Journal(Protocol):
    """The ledger's memory on disk. Every method may raise a JournalError; what is written is queued even then.

    The awaitables may be abandoned: being cancelled while one waits changes nothing in what is written.
    """

    def recall(self, *, meter: str, address: str) -> Awaitable[Recalled]:
        """Return what is known of a meter or of its address. A file that is absent, foreign or moved aside is empty.

        Raises:
            JournalError: the file does not answer, or answers with an error: ask again.
        """

    def receipt_of(self, transaction_id: str, *, meter: str, address: str) -> Awaitable[FiledReceipt | None]:
        """Return the receipt that answers a stop for an id, however old, or None."""

    def note(self, entry: NotedEntry) -> Awaitable[None]:
        """Write an entry, or a later state of it; in the order of the calls."""

    def withdraw(self, entry: NotedEntry) -> Awaitable[None]:
        """Take back the entry of a B that was refused: it leaves none.

        What was noted before under the id counts again.
        """

    def refused(self, transaction_id: str, *, meter: str, address: str) -> Awaitable[None]:
        """Note an id whose start failed with none of its B possibly acted on, unless an entry stands under it."""

    def keep(self, kept: KeptReceipt) -> Awaitable[None]:
        """Write a receipt; done when it is committed and will stand after a power cut. Its entry is done with."""

    def pin(self, address: str, meter: str) -> Awaitable[None]:
        """Write the serial that is accepted at an address."""
