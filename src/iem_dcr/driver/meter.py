"""The meter as starts, stops and ticks use it. Answers go to the ledger; a request that acts returns a `Reply`."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from iem_dcr.driver.ledger import CLOCK_LEAP
from iem_dcr.driver.meter_state import MeterState
from iem_dcr.driver.timing import now_s, seconds_since
from iem_dcr.errors import MeterError, MeterTimeoutError, MeterUnreachableError, NotUnderstoodError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from datetime import datetime

    from iem_dcr.config import Settings
    from iem_dcr.device.client import MeterClient
    from iem_dcr.device.messages import Gateway
    from iem_dcr.driver.host_clock import HostClock
    from iem_dcr.driver.ledger import Arrival, Ledger
    from iem_dcr.driver.rate_limited_log import MeterLog
    from iem_dcr.driver.receipt_keeper import ReceiptKeeper
    from iem_dcr.driver.station import GuardedStation
    from iem_dcr.driver.timing import Deadline
    from iem_dcr.meter_time import MeterTime
    from iem_dcr.ocmf import Receipt

VALUE_TIMEOUT_S: Final = 2.0
"""A meter that takes longer for a live value counts as slow. Its next reading gets ``command_timeout_ms``."""
TRANSACTION_EVERY_S: Final = 0.1


class Reply(Enum):
    """The outcome of a request that acts.

    ACCEPTED: 2xx. REFUSED: 4xx, the meter did not act. UNANSWERED: anything else, the meter may have acted. UNSENT: the
    request certainly did not go out.
    """

    ACCEPTED = auto()
    REFUSED = auto()
    UNANSWERED = auto()
    UNSENT = auto()


class Meter:
    """The meter that a driver owns.

    Attributes:
        settings, client, ledger, keeper, station, clock, log: the parts that it uses.
        state: what its live values show.
        why: the error of the last request that failed.
        is_ending: a new receipt belongs to a transaction that the driver has just ended, no matter who began it.
        read_s: when the last live value came, on the loop's clock; None before the first one.
        clock_leapt: a live value has shown a leap of the meter's clock since GET /gw, so `time` is unreliable.
    """

    def __init__(
        self,
        settings: Settings,
        client: MeterClient,
        *,
        ledger: Ledger,
        keeper: ReceiptKeeper,
        station: GuardedStation,
        clock: HostClock,
        log: MeterLog,
    ) -> None:
        self.settings = settings
        self.client = client
        self.ledger = ledger
        self.keeper = keeper
        self.station = station
        self.clock = clock
        self.log = log
        self.state = MeterState(settings, station, clock, log)
        self.why = ""
        self.read_s: float | None = None
        self.clock_leapt = False
        self.is_ending = False
        self._time: tuple[datetime, float] | None = None
        self._transaction_asked_s: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether a transaction of ours may run."""
        return self.ledger.running is not None

    @property
    def may_be_configured(self) -> bool:
        """Whether requests other than B and E may be posted: nothing runs, as far as the driver knows."""
        return not self.is_open and not self.state.XT and not self.state.unaccepted

    @property
    def time(self) -> datetime | None:
        """The meter's own time, by the TM of the last GET /gw; None if TM could not be read."""
        return None if self._time is None else self._time[0] + timedelta(seconds=now_s() - self._time[1])

    # --- questions ---

    async def gw(self, deadline: Deadline) -> Gateway:
        """GET /gw: the charge point, and the clock that gives the times of B and E.

        Raises:
            MeterError: the request failed.
        """
        asked_s = now_s()
        gateway = await self.client.gw(timeout_s=deadline.left_s)
        self.state.gateway = gateway
        self.clock_leapt = False
        self._time = None if gateway.TM is None else (gateway.TM.instant, (asked_s + now_s()) / 2)
        self._record_clock(gateway.TM)
        return gateway

    async def read(self, deadline: Deadline) -> bool:
        """GET /metervalue, and record what the value shows. Returns whether the value may be published.

        Raises:
            MeterError: there is no value.
        """
        began_s = now_s()
        limit_s = deadline.left_s if self.state.is_slow else min(deadline.left_s, VALUE_TIMEOUT_S)
        try:
            value = await self.client.metervalue(timeout_s=limit_s)
        except (MeterTimeoutError, MeterUnreachableError):
            self.state.is_slow = self.state.is_slow or now_s() - began_s >= VALUE_TIMEOUT_S
            raise
        self.read_s = now_s()
        self.state.is_slow = now_s() - began_s >= VALUE_TIMEOUT_S
        is_good = self.state.record(value, is_open=self.is_open)
        self.ledger.on_serial(self.state.serial)
        if self.state.value is not None and value.MS in (self.state.serial, ""):
            self.ledger.on_live_value(XT=value.XT, current_flows=self.state.current_flows, at_s=self.state.moved_s)
            self._record_clock(value.TM)
            if self.state.clock_leap is not None and abs(self.state.clock_leap) > CLOCK_LEAP:
                self.clock_leapt = True
        self.ledger.give_up(now_s())
        return is_good

    def _record_clock(self, TM: MeterTime | None) -> None:
        """Record the meter's time. If its clock leapt, match receipts without an owner again."""
        if TM is not None and self.ledger.on_clock(TM.instant, self.clock.now(), now_s()):
            self.keeper.match_again()

    async def publish_fresh(self, deadline: Deadline) -> None:
        """Read and publish a live value now. A failure is recorded and never raised."""
        try:
            if await self.read(deadline):
                self.state.publish()
        except MeterError as error:
            self.state.no_value(error.brief)

    async def last_receipt(self, deadline: Deadline) -> Arrival | None:
        """GET /transaction: the last receipt, also after a restart. Returns None if the request failed."""
        arrival = await self._receipt(self.client.transaction(timeout_s=deadline.left_s))
        self._transaction_asked_s = None if arrival is None else now_s()
        return arrival

    async def new_receipt(self, deadline: Deadline) -> Arrival | None:
        """Ask both nodes for a new receipt. /receipt shows it first; /transaction shows it also after a restart.

        Calls in quick succession ask only /receipt.
        """
        arrival = await self._receipt(self.client.receipt(timeout_s=deadline.left_s))
        if arrival is not None and (arrival.is_new or seconds_since(self._transaction_asked_s) < TRANSACTION_EVERY_S):
            return arrival
        return await self.last_receipt(deadline) or arrival

    async def _receipt(self, request: Awaitable[Receipt | None]) -> Arrival | None:
        try:
            receipt = await request
        except NotUnderstoodError as error:
            self.log.failure("reading the receipt", "the meter's receipt cannot be read: %s", error.brief)
            return None
        except MeterError as error:
            self.why = str(error)
            self.log.debug("no receipt: %s", error.brief)
            return None
        arrival = self.ledger.on_receipt(receipt, now_s())
        if receipt is not None and arrival.is_new:
            self.log.recovered("reading the receipt")
            self.keeper.found(receipt, arrival.entry, self.state, is_news=self.is_ending)
        return arrival

    # --- requests that act ---

    async def send(self, request: Awaitable[None], secret: str = "") -> Reply:
        """Send a request that acts, once. An error message that contains ``secret`` is not quoted."""
        try:
            await request
        except MeterError as error:
            is_quoted = not secret or secret not in str(error)
            self.why = str(error) if is_quoted else f"meter {error.meter}, {error.node}: refused"
            self.state.needs_reinit = self.state.needs_reinit or not isinstance(error, RefusedError)
            if error.may_have_acted:
                return Reply.UNANSWERED
            return Reply.REFUSED if isinstance(error, RefusedError) else Reply.UNSENT
        self.why = ""
        return Reply.ACCEPTED

    async def send_end(self, deadline: Deadline) -> Reply:
        """POST /receipt E."""
        reply = await self.send(self.client.end(timeout_s=deadline.left_s))
        before = self.ledger.awaited
        if reply is Reply.ACCEPTED:
            self.ledger.on_end_accepted(now_s())
        elif reply is Reply.REFUSED:
            self.ledger.on_end_refused(now_s())
        for entry in before:
            if self.ledger.get(entry).state is not entry.state:
                self.keeper.note_later(self.ledger.get(entry))
        return reply
