"""What the bring-up page and the metrics know of a meter: what its driver reads anyway, looked on while it is driven.

Nothing here asks a meter anything. Without a page nothing of this is made, and nothing is kept.
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
from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.service.counts import Counts
from iem_dcr.service.history import History

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from iem_dcr.config import Settings
    from iem_dcr.device.messages import MeterValue
    from iem_dcr.diagnostics.status import Status
    from iem_dcr.driver import KeptReceipt, MeterDriver
    from iem_dcr.errors import MeterError
    from iem_dcr.powermeter import (
        StationError,
        TransactionReq,
        TransactionStartResponse,
        TransactionStopResponse,
    )

ERRORS: Final = 50
RECEIPTS: Final = 20
"""So many of the latest are remembered of a meter."""


@dataclass(frozen=True, slots=True)
class SeenError:
    """An error that was raised at the station.

    Attributes:
        number: counts those of the meter.
        error: what it is.
        raised: host's time.
        cleared: host's time, or None while it stands.
    """

    number: int
    error: StationError
    raised: datetime
    cleared: datetime | None = None


@dataclass(frozen=True, slots=True)
class SeenReceipt:
    """A receipt that passed: its number in this process, the host's time at which it came first, and what it is."""

    number: int
    came: datetime
    kept: KeptReceipt


class KeptInFile(Protocol):
    """A journal: ``path`` is its file, or None before it is open."""

    @property
    def path(self) -> Path | None:
        """The file."""


class ObservedMeter:
    """Looks on while one meter is driven: its driver's observer, and a keeper of its latest receipts.

    Args:
        settings: of the meter.
        module_id: of EVerest's module it is behind; None where that is to be found out.
        address: of the meter, ``host:port``.
        wall: the host's clock, aware.

    Attributes:
        settings: as given.
        module_id: as given, or as it was found out.
        address: as given.
        history: its values of the last half hour.
        counts: what is counted of it.
        errors: raised at the station, the latest last.
        receipts: the latest last.
        received: how many have come.
        now: tells the host's time.
        receipts_version: changes whenever one comes or more is known of one.
        is_duplicate: its serial answers at another address of the file, too.
    """

    def __init__(
        self,
        settings: Settings,
        module_id: str | None,
        address: str,
        wall: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self.settings = settings
        self.module_id = module_id
        self.address = address
        self.history = History()
        self.counts = Counts()
        self.errors: deque[SeenError] = deque(maxlen=ERRORS)
        self.receipts: deque[SeenReceipt] = deque(maxlen=RECEIPTS)
        self.now = wall
        self._driver: MeterDriver | None = None
        self._journal: KeptInFile | None = None
        self._tracker = StatusTracker()
        self._raised = 0
        self.received = 0
        self.receipts_version = 0
        self.is_duplicate = False
        self._next: asyncio.Event | None = None

    @property
    def name(self) -> str:
        """What it is called: its module_id, or its address while that is not known."""
        return self.module_id or self.address

    @property
    def serial(self) -> str:
        """Serial number at the last live value, or "" before the first."""
        return "" if self._tracker.value is None else self._tracker.value.MS

    @property
    def public_key(self) -> str:
        """Hex of its DER key, or "" before it is known."""
        return "" if self._driver is None else self._driver.public_key

    @property
    def held_registers(self) -> int:
        """How often a register that fell was published at its value before."""
        return 0 if self._driver is None else self._driver.held_registers

    @property
    def frozen_values(self) -> int:
        """How many live values were not published because nothing in them moved."""
        return 0 if self._driver is None else self._driver.frozen_values

    @property
    def journal_path(self) -> Path | None:
        """The file of its journal; None while none is open."""
        return None if self._journal is None else self._journal.path

    @property
    def request(self) -> TransactionReq | None:
        """The station's request for the transaction whose receipt is still to come, or None."""
        return None if self._driver is None else self._driver.request

    def attach(
        self, driver: MeterDriver | None, module_id: str | None = None, journal: KeptInFile | None = None
    ) -> None:
        """Take note of who drives it, behind which module, and of the journal of its receipts."""
        self._driver = driver
        self._journal = journal
        self.module_id = module_id or self.module_id

    def status(self) -> Status:
        """Return what there is to see now, but for the values of the last half hour; to be called on the loop."""
        status = self._tracker.status(self.address)
        return replace(
            status,
            read_at=None if status.read_at is None else status.read_at.astimezone(),
            gateway=None if self._driver is None else self._driver.gateway,
        )

    def troubles(self) -> Iterator[Trouble]:
        """Yield the errors that stand at the station, of those that are not seen in the meter's values."""
        for seen in self.errors:
            if seen.cleared is None and seen.error.sub_type == WRONG_SERIAL:
                yield Trouble(seen.error.message)

    async def changed(self, within_s: float) -> None:
        """Wait until something is new, for so long at most."""
        if self._next is None:
            self._next = asyncio.Event()
        event = self._next
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await event.wait()

    # --- the driver's observer ---

    def value_read(self, value: MeterValue, read_at: datetime) -> None:
        """Take up a live value."""
        change = self._tracker.on_value(value, read_at)
        if change.is_another_meter:
            self.history.clear()
        self.counts.value(change.before, value)
        self.history.add(self._tracker.read_s, value)
        self._tell()

    def reading_failed(self, problem: str) -> None:
        """Take note that there was no value, and since when that is so."""
        self._tracker.on_failure(problem, self.now(), now_s())
        self._tell()

    def error_raised(self, error: StationError) -> None:
        """Remember an error."""
        self.counts.fault_raised(error)
        self._raised += 1
        self.errors.append(SeenError(self._raised, error, self.now()))
        self._tell()

    def error_cleared(self, error: StationError) -> None:
        """Remember that it is over."""
        self.counts.fault_cleared(error)
        for index, seen in enumerate(self.errors):
            if seen.cleared is None and (seen.error.type, seen.error.sub_type) == (error.type, error.sub_type):
                self.errors[index] = replace(seen, cleared=self.now())
        self._tell()

    def request_made(self, method: str, node: str, duration_s: float, error: MeterError | None) -> None:
        """Count a request to the meter."""
        self.counts.request(method, node, duration_s, error)

    def start_answered(self, response: TransactionStartResponse) -> None:
        """Count a start."""
        self.counts.command("start", is_ok=response.status is TransactionRequestStatus.OK)

    def stop_answered(self, response: TransactionStopResponse) -> None:
        """Count a stop."""
        self.counts.command("stop", is_ok=response.status is TransactionRequestStatus.OK)

    # --- a keeper of receipts ---

    async def keep(self, kept: KeptReceipt) -> None:
        """Remember a receipt; one that comes again is the same, with what is known of it by then."""
        is_new = not kept.found
        for index, seen in enumerate(self.receipts):
            if seen.kept.receipt.text == kept.receipt.text:
                is_new = is_new and seen.kept.found
                known = kept if kept.transaction_id or not kept.found else seen.kept
                self.receipts[index] = replace(seen, kept=known)
                break
        else:
            self.received += 1
            self.receipts.append(SeenReceipt(self.received, self.now(), kept))
        if is_new:
            self.counts.receipt(kept.outcome, accepted=kept.accepted)
        self.receipts_version += 1
        self._tell()

    def _tell(self) -> None:
        if self._next is not None:
            self._next.set()
            self._next = None
