"""What the page and the metrics know about the service and a meter. All of it is what the driver reads anyway.

Nothing here sends requests to a meter. Without a page these objects do not exist.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

from iem_dcr.diagnostics.status import StatusTracker, Trouble
from iem_dcr.driver.meter_state import WRONG_SERIAL
from iem_dcr.driver.timing import now_s
from iem_dcr.service.counters import Counters
from iem_dcr.service.history import History

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from iem_dcr.config import Settings
    from iem_dcr.device.messages import MeterValue
    from iem_dcr.diagnostics.status import Status
    from iem_dcr.driver import KeptReceipt, MeterDriver
    from iem_dcr.powermeter import StationError, TransactionReq

MAX_ERRORS: Final = 50
MAX_RECEIPTS: Final = 20


@dataclass(frozen=True, slots=True)
class Health:
    """The health of the service at one moment, for ``/health/ready`` and the metrics.

    Attributes:
        broker_connected: whether the broker is connected; None without a broker.
        is_ready: whether the service accepts requests for every meter from the broker. The state of the meters has no
            influence.
    """

    broker_connected: bool | None = None
    is_ready: bool = True


@dataclass(frozen=True, slots=True)
class ObservedError:
    """An error raised at the station. Its times are the host's; ``cleared`` is None while it is active."""

    error: StationError
    raised: datetime
    cleared: datetime | None = None


@dataclass(frozen=True, slots=True)
class ObservedReceipt:
    """A receipt: its number in this process, the host's time of its first delivery, and the receipt itself."""

    number: int
    came: datetime
    kept: KeptReceipt


class JournalFile(Protocol):
    """The part of a journal that is used here."""

    @property
    def path(self) -> Path | None:
        """The file, or None before it is open."""


class ObservedMeter(Counters):
    """One meter as its driver sees it: the driver's `Observer` and a `ReceiptSink`.

    Args:
        settings: of the meter.
        module_id: of EVerest's module; None until it is discovered.
        address: of the meter, ``host:port``.
        wall: the host's clock, aware; the attribute ``now``.

    Attributes:
        driver: of the meter, or None before it is known.
        history: its live values of the last 24 hours.
        errors: the latest errors raised at the station, newest last.
        receipts: the latest receipts, newest last.
        receipts_version: changes whenever a receipt comes or changes.
        is_duplicate: whether another address of the configuration answers with the same serial number.
    """

    def __init__(
        self,
        settings: Settings,
        module_id: str | None,
        address: str,
        wall: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        super().__init__()
        self.settings = settings
        self.module_id = module_id
        self.address = address
        self.now = wall
        self.history = History()
        self.errors: deque[ObservedError] = deque(maxlen=MAX_ERRORS)
        self.receipts: deque[ObservedReceipt] = deque(maxlen=MAX_RECEIPTS)
        self.receipts_version = 0
        self.is_duplicate = False
        self._received = 0
        self.driver: MeterDriver | None = None
        self._journal: JournalFile | None = None
        self._tracker = StatusTracker()
        self._news = asyncio.Event()

    def attach(
        self, driver: MeterDriver | None, module_id: str | None = None, journal: JournalFile | None = None
    ) -> None:
        """Set the driver, the module_id when it is known, and the journal of the receipts."""
        self.driver = driver
        self._journal = journal
        self.module_id = module_id or self.module_id

    @property
    def name(self) -> str:
        """The module_id, or the address while the module_id is not known."""
        return self.module_id or self.address

    @property
    def serial(self) -> str:
        """Serial number of the last live value, or "" before the first."""
        return "" if self._tracker.value is None else self._tracker.value.MS

    @property
    def public_key(self) -> str:
        """Hex of the meter's DER key, or "" before it is known."""
        return "" if self.driver is None else self.driver.public_key

    @property
    def journal_path(self) -> Path | None:
        """The file of the journal, or None while none is open."""
        return None if self._journal is None else self._journal.path

    @property
    def request(self) -> TransactionReq | None:
        """The station's request for the transaction whose receipt is still awaited, or None."""
        return None if self.driver is None else self.driver.request

    def status(self) -> Status:
        """Return the current status of the meter. Must be called on the loop."""
        gateway = None if self.driver is None else self.driver.gateway
        return replace(self._tracker.status(self.address), gateway=gateway)

    def troubles(self) -> Iterator[Trouble]:
        """Yield the active errors that are not visible in the live values."""
        for seen in self.errors:
            if seen.cleared is None and seen.error.sub_type == WRONG_SERIAL:
                yield Trouble(seen.error.message)

    async def changed(self, within_s: float) -> None:
        """Wait until something has changed, but at most this time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._news.wait()

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # --- the driver's observer ---

    def value_read(self, value: MeterValue, read_at: datetime) -> None:
        """Process a live value."""
        change = self._tracker.on_value(value, read_at.astimezone())
        if change.is_another_meter:
            self.history.clear()
        if change.before is not None:
            self.count_transactions(change.before, value)
        self.history.add(self._tracker.read_s, value)
        self._notify()

    def reading_failed(self, problem: str) -> None:
        """Process the reason why there was no live value."""
        self._tracker.on_failure(problem, self.now(), now_s())
        self._notify()

    def error_raised(self, error: StationError) -> None:
        """Store an error."""
        super().error_raised(error)
        self.errors.append(ObservedError(error, self.now()))
        self._notify()

    def error_cleared(self, error: StationError) -> None:
        """Mark an error as cleared."""
        super().error_cleared(error)
        for index, seen in enumerate(self.errors):
            if seen.cleared is None and (seen.error.type, seen.error.sub_type) == (error.type, error.sub_type):
                self.errors[index] = replace(seen, cleared=self.now())
        self._notify()

    # --- a sink of receipts ---

    async def keep(self, kept: KeptReceipt) -> None:
        """Store a receipt. A repeated receipt keeps its number. A receipt is counted when it is first delivered."""
        is_delivered = not kept.found
        for index, seen in enumerate(self.receipts):
            if seen.kept.receipt.text == kept.receipt.text:
                is_delivered = is_delivered and seen.kept.found
                if kept.transaction_id or not kept.found:
                    self.receipts[index] = replace(seen, kept=kept)
                break
        else:
            self._received += 1
            self.receipts.append(ObservedReceipt(self._received, self.now(), kept))
        if is_delivered:
            self.count_receipt(kept)
        self.receipts_version += 1
        self._notify()
