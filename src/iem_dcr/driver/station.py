"""Whom the driver talks to: a station, a keeper of receipts, a journal. All are protocols; the driver knows no kind."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from iem_dcr.device.client import OnRequest
    from iem_dcr.device.messages import MeterValue
    from iem_dcr.errors import MeterError
    from iem_dcr.ocmf import Outcome, Receipt
    from iem_dcr.powermeter import Powermeter, StationError, TransactionStartResponse, TransactionStopResponse

_log = logging.getLogger(__name__)


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
        """Take a live value as the meter gave it, whoever asked for it, and the host's time of its answer."""

    def reading_failed(self, problem: str) -> None:
        """Take note that there was no live value, and why."""

    def error_raised(self, error: StationError) -> None:
        """Take note of an error that is raised at the station."""

    def error_cleared(self, error: StationError) -> None:
        """Take note that an error is cleared at the station."""

    def request_made(self, method: str, node: str, duration_s: float, error: MeterError | None) -> None:
        """Take note of a request to the meter that came to its end, and what it failed with."""

    def start_answered(self, response: TransactionStartResponse) -> None:
        """Take note of what the station was answered to a start."""

    def stop_answered(self, response: TransactionStopResponse) -> None:
        """Take note of what the station was answered to a stop."""


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """A receipt on its way to be kept.

    Attributes:
        receipt: the tuple.
        transaction_id: of the transaction it belongs to, or "" where that is not known.
        public_key: hex of the meter's DER key, or "".
        outcome: of its verification, or None where it was not verified.
        address: of the meter, ``host:port``.
        meter: serial number of the meter that gave it, or "" where that is not known.
        found: it was only found in the meter, and is handed to nobody.
    """

    receipt: Receipt
    transaction_id: str
    public_key: str
    outcome: Outcome | None
    address: str = ""
    meter: str = ""
    found: bool = False


@dataclass(frozen=True, slots=True)
class NotedBegin:
    """A transaction that was begun for the station, as it is noted for a process that comes after this one.

    Attributes:
        transaction_id: the station's.
        ID: that was assigned, which the receipt will show.
        meter: serial number of the meter.
        address: of the meter, ``host:port``.
        PG_before: PG of the last tuple before it; "" when the meter had none; None when that is not known.
        began: the meter's own time shortly before it, or None.
        noted: the host's time; it tells this note from another under the same id.
    """

    transaction_id: str
    ID: str
    meter: str
    address: str
    PG_before: str | None
    began: datetime | None
    noted: datetime


class AwaitedReceipt(Protocol):
    """A transaction as a journal has noted it; the names are those of `NotedBegin`."""

    @property
    def transaction_id(self) -> str:
        """The station's id."""

    @property
    def ID(self) -> str:  # noqa: N802  OCMF's name
        """What was assigned."""

    @property
    def meter(self) -> str:
        """Serial number of the meter."""

    @property
    def PG_before(self) -> str | None:  # noqa: N802  OCMF's name
        """PG of the last tuple before it; None where it is not known."""

    @property
    def began(self) -> datetime | None:
        """The meter's own time shortly before it."""


class RecalledNotes(Protocol):
    """What a journal has noted of a meter."""

    @property
    def awaited(self) -> Sequence[AwaitedReceipt]:
        """What was begun and has no receipt there, in order; one of an id."""

    @property
    def refused(self) -> Sequence[str]:
        """The ids whose start was refused, in order."""


class ReceiptSink(Protocol):
    """Keeps receipts."""

    async def keep(self, kept: KeptReceipt) -> None:
        """Keep a receipt; called before it is handed to the station, and for what is found in the meter.

        Raises:
            JournalError: it is not kept yet.
        """


class FiledReceipt(Protocol):
    """A receipt as it stands in a journal."""

    @property
    def text(self) -> str:
        """The tuple."""

    @property
    def public_key(self) -> str:
        """Hex of the meter's DER key, or ""."""


class ReceiptJournal(ReceiptSink, Protocol):
    """Keeps receipts for longer than the process lives, and finds them again. Any method may raise a JournalError."""

    async def receipt_of(self, transaction_id: str, *, meter: str, address: str) -> FiledReceipt | None:
        """Return the receipt of a transaction of this meter or address, or None where there is none."""

    async def is_of_another(self, receipt: Receipt, transaction_id: str, *, meter: str) -> bool:
        """Tell whether a receipt is known to be that of another transaction than this one."""

    async def begun(self, noted: NotedBegin) -> None:
        """Take note of a transaction: a receipt under its id is an older one's, and its own is still to come."""

    def withdraw(self, noted: NotedBegin) -> None:
        """Take back a note on a transaction that was certainly not begun; in order with `begun`, and at once.

        What was noted before under the same id counts again, and what is noted later stands.
        """

    def refused(self, transaction_id: str, *, meter: str, address: str) -> None:
        """Take note of an id whose start was refused, where none was begun under it; in order with `begun`, at once."""

    async def recall(self, *, meter: str, address: str) -> RecalledNotes:
        """Return what was noted of this meter or address."""


class GuardedStation:
    """A station whose failures are logged and go no further: none of them may keep a meter from being driven.

    Args:
        station: the station.
        observer: looks on, with the same guard; None where nobody does.
    """

    def __init__(self, station: Station, observer: Observer | None = None) -> None:
        self._station = station
        self._observer = observer

    def publish_powermeter(self, value: Powermeter) -> None:
        """Pass on a live value."""
        self._guard(lambda: self._station.publish_powermeter(value))

    def publish_public_key(self, key: str) -> None:
        """Pass on the key."""
        self._guard(lambda: self._station.publish_public_key(key))

    def raise_error(self, error: StationError) -> None:
        """Pass on an error that is raised."""
        self._guard(lambda: self._station.raise_error(error))
        self._observed(lambda observer: observer.error_raised(error))

    def clear_error(self, error: StationError) -> None:
        """Pass on an error that is cleared."""
        self._guard(lambda: self._station.clear_error(error))
        self._observed(lambda observer: observer.error_cleared(error))

    def value_read(self, value: MeterValue, read_at: datetime) -> None:
        """Show the observer a live value."""
        self._observed(lambda observer: observer.value_read(value, read_at))

    def reading_failed(self, problem: str) -> None:
        """Tell the observer that there was none."""
        self._observed(lambda observer: observer.reading_failed(problem))

    @property
    def on_request(self) -> OnRequest | None:
        """What is to be told of each request to the meter; None where nobody looks on."""
        return None if self._observer is None else self._request_made

    def start_answered(self, response: TransactionStartResponse) -> None:
        """Show the observer the answer to a start."""
        self._observed(lambda observer: observer.start_answered(response))

    def stop_answered(self, response: TransactionStopResponse) -> None:
        """Show the observer the answer to a stop."""
        self._observed(lambda observer: observer.stop_answered(response))

    def _request_made(self, method: str, node: str, duration_s: float, error: MeterError | None) -> None:
        self._observed(lambda observer: observer.request_made(method, node, duration_s, error))

    @staticmethod
    def _guard(call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # noqa: BLE001  whatever a station does wrong must not stop the meter from being driven
            _log.exception("the station did not take what was published")

    def _observed(self, call: Callable[[Observer], None]) -> None:
        if self._observer is None:
            return
        try:
            call(self._observer)
        except Exception:  # noqa: BLE001  as above
            _log.exception("the observer failed")
