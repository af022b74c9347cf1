"""The service: the broker connection and every meter run in their own task, which is restarted when it fails.

No meter's task depends on another meter's. Neither a dead meter nor a lost broker ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from iem_dcr.driver.rate_limited_log import RateLimitedLog
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import printable
from iem_dcr.everest_api.discovery import discover
from iem_dcr.everest_api.meter_api import METER, MeterApi
from iem_dcr.everest_api.mqtt import MqttConnection
from iem_dcr.journaling import Journals
from iem_dcr.service.duplicate_serials import DuplicateSerials
from iem_dcr.service.observation import Health, ObservedMeter
from iem_dcr.service.systemd import Notifier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from iem_dcr.device.messages import MeterValue
    from iem_dcr.everest_api.bus import Bus
    from iem_dcr.journaling import LateJournal
    from iem_dcr.service.config import MeterConfig, ServiceConfig
    from iem_dcr.service.web_settings import WebSettings
    from iem_dcr.web.server import WebServer

_log = logging.getLogger(__name__)

MIN_PAUSE_S = 1.0
MAX_PAUSE_S = 30.0
HEALTHY_AFTER_S = 60.0
"""A task that ran at least this long before it failed is restarted after the shortest pause."""
BEGIN_PERIOD_S = 0.005
"""CPU time to set up a meter that answers. If a thousand meters began at once, all would time out."""
STATUS_PERIOD_S = 1.0
SERIALS_PERIOD_S = 2.0
METERS_TIMEOUT_S = 2.5
"""Time for the meters' tasks to answer waiting requests and to deliver the answers."""
DISCONNECT_TIMEOUT_S = 0.5
END_TIMEOUT_S = 1.0
JOURNAL_TIMEOUT_S = 1.0

CONNECTED_PERIOD_S = 0.2
DISCOVERY_TIMEOUT_S = 1.0
DISCOVERY_PERIOD_S = 3.0
"""EVerest's modules start one by one, so the only API must still be the only one after this time."""
AMBIGUOUS_PERIOD_S = 11.0
"""Period of the queries while EVerest offers several APIs."""


class Service:
    """All meters of a configuration on one broker.

    Args:
        config: the configuration.
        notifier: sends messages to systemd.
        broker: the connection; if None, it is made from the configuration.
        journals: opens the meters' journals; if None, ``auto`` means no journal.

    Attributes:
        page: the server of the page, or None without a page.
    """

    def __init__(
        self,
        config: ServiceConfig,
        *,
        notifier: Notifier | None = None,
        broker: Bus | None = None,
        journals: Journals | None = None,
    ) -> None:
        journals = journals or Journals()
        self._broker = broker or MqttConnection(config.mqtt, identity=identity(config))
        self._meters: list[_Meter] = []
        for number, meter in enumerate(config.meters):
            journal = journals.of(meter.settings)
            observed = ObservedMeter(meter.settings, meter.module_id, meter.address) if config.web else None
            self._meters.append(_Meter(meter, self._broker, journal, observed, number * BEGIN_PERIOD_S))
        self.page = self._page(config.web) if config.web else None
        self._notifier = notifier or Notifier({})
        self._stopping = asyncio.Event()

    @property
    def status(self) -> str:
        """The status of the service in one line."""
        broker = "broker connected" if self._broker.connected else "no connection to the broker"
        apis, count = self._apis(), len(self._meters)
        if len(apis) < count:
            return f"no powermeter API found yet, {broker}"
        answering = sum(api.reachable for api in apis)
        meters = "1 meter" if count == 1 else f"{count} meters"
        return f"{answering} of {meters} {'answers' if answering == 1 else 'answer'}, {broker}"

    @property
    def health(self) -> Health:
        """The health of the service, for programs."""
        apis = self._apis()
        takes_requests = len(apis) == len(self._meters) and all(api.takes_requests for api in apis)
        is_ready = self._broker.connected and takes_requests and not self._stopping.is_set()
        return Health(self._broker.connected, is_ready)

    def stop(self) -> None:
        """Make `run` end in good order. Must be called on its loop."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until stopped, then answer waiting requests and disconnect. Transactions in the meters continue."""
        # The meters start first, so that they have subscribed when the broker delivers the messages it held.
        meters = [self._start("the meter's task", meter.run) for meter in self._meters]
        others = [
            self._start("the broker's task", self._broker.run),
            self._start("telling systemd", self._report_status),
            self._start("comparing serials", self._compare_serials),
        ]
        if self._notifier.watchdog_period_s is not None:
            others.append(self._start("the watchdog", partial(self._feed_watchdog, self._notifier.watchdog_period_s)))
        if self.page is not None:
            others.append(self._start("the bring-up page", self.page.run))
        try:
            await self._stopping.wait()
        finally:
            self._stopping.set()
            self._notifier.send("STOPPING=1")
            _log.info("ending")
            await _end(meters, METERS_TIMEOUT_S)
            journals = [meter.journal for meter in self._meters if meter.journal is not None]
            closing = [asyncio.create_task(journal.close(JOURNAL_TIMEOUT_S)) for journal in journals]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_TIMEOUT_S):
                    await self._broker.close(DISCONNECT_TIMEOUT_S)
            await _end(others, END_TIMEOUT_S)
            if closing:
                await asyncio.wait(closing, timeout=JOURNAL_TIMEOUT_S)
            self._notifier.close()

    def _page(self, settings: WebSettings) -> WebServer:
        # Imported here to save memory without a page.
        from iem_dcr.web.server import WebServer  # noqa: PLC0415

        observed = [meter.observed for meter in self._meters if meter.observed is not None]
        return WebServer(settings, observed, lambda: self.status, lambda: self.health)

    def _apis(self) -> list[MeterApi]:
        return [meter.api for meter in self._meters if meter.api is not None]

    def _start(self, what: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        return asyncio.create_task(self._supervise(what, work))

    async def _supervise(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run work that should never end. Restart it after 1, 2, 4 … 30 s, or after 1 s if it had run for a minute."""
        pause_s, logged = MIN_PAUSE_S, ""
        while True:
            began_s = now_s()
            error: BaseException | None = None
            try:
                await work()
            except asyncio.CancelledError as cancelled:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                error = cancelled
            except Exception as failed:  # noqa: BLE001  a failure of one meter must not affect another
                error = failed
            if self._stopping.is_set():
                if error is not None:
                    _log.error("%s failed while the service ended", what, exc_info=error)
                return
            if now_s() - began_s >= HEALTHY_AFTER_S:
                pause_s, logged = MIN_PAUSE_S, ""
            trouble = "it ended" if error is None else f"{type(error).__name__}: {printable(error)}"
            # The traceback of a failure that repeats is logged once.
            traceback = error if trouble != logged else None
            _log.error("%s failed and is restarted in %.0f s: %s", what, pause_s, trouble, exc_info=traceback)
            logged = trouble
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _report_status(self) -> NoReturn:
        """Tell systemd that the service is ready, and send its status whenever it changes."""
        is_ready, reported = False, ""
        while True:
            is_ready = is_ready or self._notifier.send("READY=1")
            status = self.status
            if status != reported and self._notifier.send(f"STATUS={status}"):
                reported = status
            await asyncio.sleep(STATUS_PERIOD_S)

    async def _feed_watchdog(self, period_s: float) -> NoReturn:
        """Feed the watchdog as long as the loop runs. Nothing else may feed it."""
        while True:
            self._notifier.send("WATCHDOG=1")
            await asyncio.sleep(period_s)

    async def _compare_serials(self) -> NoReturn:
        """Log when a serial answers at two addresses, and when it no longer does. No driver waits for this."""
        duplicates, log = DuplicateSerials(), RateLimitedLog(_log, now_s)
        before: dict[str, MeterValue] = {}
        logged: set[str] = set()
        while True:
            values = {meter.config.address: meter.value for meter in self._meters if meter.value is not None}
            serials = {address: value.MS for address, value in values.items() if value is not before.get(address)}
            before, found = values, duplicates.update(serials, now_s())
            for serial in found.keys() - logged:
                what = (
                    "the meter with serial %s answers at %s: the drivers of these addresses end each other's"
                    " transactions. Give each [[meter]] the address of its own meter, or remove one from the file"
                )
                log.log(logging.ERROR, what, printable(serial), " and ".join(sorted(found[serial])))
            for serial in logged - found.keys():
                log.info("the meter with serial %s answers at only one address again", printable(serial))
            logged = {*found}
            doubled = frozenset().union(*found.values())
            for meter in self._meters:
                if meter.observed is not None:
                    meter.observed.is_duplicate = meter.config.address in doubled
            await asyncio.sleep(SERIALS_PERIOD_S)


@dataclass(slots=True, eq=False)
class _Meter:
    """One configured meter, with its API as soon as the module_id is known."""

    config: MeterConfig
    bus: Bus
    journal: LateJournal | None
    observed: ObservedMeter | None
    begins_after_s: float
    api: MeterApi | None = None

    @property
    def value(self) -> MeterValue | None:
        """The last live value, or None before the first."""
        return None if self.api is None else self.api.driver.value

    async def run(self) -> None:
        """Drive the meter until cancelled. A restart keeps the API and its stored replies."""
        if self.api is None:
            module_id = self.config.module_id or await find_module_id(self.bus)
            METER.set(module_id)
            self.api = MeterApi(
                module_id,
                self.config.settings,
                self.bus,
                sink=self.observed,
                journal=self.journal,
                observer=self.observed,
                begins_after_s=self.begins_after_s,
            )
            if self.observed is not None:
                self.observed.attach(self.api.driver, module_id, self.journal)
            _log.info("the meter is at %s", self.config.address)
        await self.api.run()


def identity(config: ServiceConfig) -> str:
    """Return the client id at the broker. It is the same after a restart, and differs for a service of other meters.

    A meter without a module_id is identified by its address.
    """
    names = sorted(meter.module_id or meter.address for meter in config.meters)
    return "iem-dcr-" + hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


async def find_module_id(bus: Bus) -> str:
    """Query EVerest until it offers exactly one powermeter API twice in a row, and return its module_id."""
    before: list[str] = []
    logged = ""
    while True:
        if not bus.connected:
            await asyncio.sleep(CONNECTED_PERIOD_S)
            continue
        found = [api.module_id for api in await discover(bus, wait_s=DISCOVERY_TIMEOUT_S)]
        if len(found) == 1 and found == before:
            return found[0]
        trouble = "" if found else "EVerest offers no powermeter API yet"
        if len(found) > 1:
            trouble = f"EVerest offers several powermeter APIs, {', '.join(found)}: give one of them as module_id"
        if trouble and trouble != logged:
            _log.log(logging.ERROR if found else logging.WARNING, "%s", trouble)
            logged = trouble
        before = found
        await asyncio.sleep((AMBIGUOUS_PERIOD_S if len(found) > 1 else DISCOVERY_PERIOD_S) - DISCOVERY_TIMEOUT_S)


async def _end(tasks: Sequence[asyncio.Task[None]], within_s: float) -> None:
    """Cancel tasks and wait until they end, but at most this time."""
    for task in tasks:
        task.cancel()
    _, late = await asyncio.wait(tasks, timeout=within_s)
    if late:
        _log.warning("%d tasks did not end within %.0f s and are abandoned", len(late), within_s)
