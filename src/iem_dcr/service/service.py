"""The service: the broker's connection and every meter, each a task of its own that is started again when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from itertools import zip_longest
from typing import TYPE_CHECKING, NoReturn, Protocol

from iem_dcr.driver.rate_limited_log import RateLimitedLog
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import printable
from iem_dcr.everest_api.bus import Bus
from iem_dcr.everest_api.context import METER
from iem_dcr.everest_api.discovery import discover
from iem_dcr.everest_api.meter_api import MeterApi
from iem_dcr.everest_api.mqtt import MqttConnection
from iem_dcr.journaling import Journals
from iem_dcr.service.duplicate_serials import DuplicateSerials
from iem_dcr.service.observation import ObservedMeter
from iem_dcr.service.standing import Standing
from iem_dcr.service.systemd import Notifier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from iem_dcr.device.messages import MeterValue
    from iem_dcr.journaling import LateJournal
    from iem_dcr.service.config import MeterConfig, ServiceConfig
    from iem_dcr.service.web_settings import WebSettings
    from iem_dcr.web.server import WebServer

_log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
HEALTHY_AFTER_S = 60.0
"""A task that lived so long before it failed is started again after the first pause."""
METERS_BEGIN_EVERY_S = 0.005
"""What it takes to set up a meter that answers: a thousand that began at once would all be late, and time out."""
STATUS_EVERY_S = 1.0
SERIALS_EVERY_S = 2.0
NAMED_ADDRESSES = 4
"""So many addresses of one serial are named in a line of the log."""
METERS_END_WITHIN_S = 2.5
"""How long the meters' tasks may take to answer what waits and to have the answers delivered."""
LEAVES_BROKER_WITHIN_S = 0.5
ENDS_WITHIN_S = 1.0
JOURNALS_CLOSE_WITHIN_S = 1.0

ASKED_FOR_S = 1.0
"""How long one question to EVerest waits for its modules' answers."""
CERTAIN_AFTER_S = 3.0
"""EVerest's modules come up one by one: the only one has to be the only one a second time, so much later."""
ASKED_AGAIN_AFTER_S = 10.0


class Connection(Bus, Protocol):
    """A bus that has to be run, as `everest_api.mqtt.MqttConnection` has."""

    async def run(self) -> None:
        """Be connected until closed or cancelled."""

    async def close(self, within_s: float) -> None:
        """Let what waits go out, for that long at most, and have `run` end."""


class Service:
    """All meters of a configuration on one broker.

    Args:
        config: the configuration.
        notifier: tells systemd.
        broker: the connection; made from the configuration where there is none.
        journals: opens the meters' journals; without it ``auto`` means none.

    Attributes:
        page: the server of the bring-up page, or None without one.
    """

    def __init__(
        self,
        config: ServiceConfig,
        *,
        notifier: Notifier | None = None,
        broker: Connection | None = None,
        journals: Journals | None = None,
    ) -> None:
        journals = journals or Journals()
        self._broker = broker or MqttConnection(config.mqtt, identity=identity(config))
        observed = [_observed(meter) for meter in config.meters] if config.web is not None else []
        self._meters = [
            _Meter(meter, self._broker, journals.of(meter.settings), number * METERS_BEGIN_EVERY_S, seen)
            for number, (meter, seen) in enumerate(zip_longest(config.meters, observed))
        ]
        self.page = self._page(config.web, observed) if config.web is not None else None
        self._notifier = notifier or Notifier({})
        self._stop = asyncio.Event()
        self._ready_told = False
        self._status_told = ""

    @property
    def status(self) -> str:
        """How the service is, in a line."""
        broker = "broker connected" if self._broker.connected else "no connection to the broker"
        if any(meter.api is None for meter in self._meters):
            return f"no powermeter API found yet, {broker}"
        answering = sum(meter.answers for meter in self._meters)
        return f"{answering} of {_meters(len(self._meters))} {'answers' if answering == 1 else 'answer'}, {broker}"

    @property
    def standing(self) -> Standing:
        """How the service is, for programs. No meter has a part in it: one that is dead makes nothing unready."""
        takes_requests = all(meter.takes_requests for meter in self._meters)
        return Standing(self._broker.connected, self._broker.connected and takes_requests and not self._stop.is_set())

    def stop(self) -> None:
        """Have `run` end in good order; to be called on its loop."""
        self._stop.set()

    async def run(self) -> None:
        """Serve until stopped: then answer what waits, and leave the broker. What runs in the meters goes on."""
        # The meters come first: they have subscribed when the broker hands over what it held for this client.
        meters = [asyncio.create_task(_supervise("the meter's task", meter.run)) for meter in self._meters]
        broker = asyncio.create_task(_supervise("the broker's task", self._be_connected))
        others = [asyncio.create_task(_supervise("telling systemd", work)) for work in (self._tell, self._prove_life)]
        others.append(asyncio.create_task(_supervise("comparing serials", self._compare_serials)))
        if self.page is not None:
            others.append(asyncio.create_task(_supervise("the bring-up page", self.page.run)))
        try:
            await self._stop.wait()
        finally:
            self._stop.set()
            self._notifier.stopping()
            _log.info("ending")
            await _end(meters, METERS_END_WITHIN_S)
            closing = [asyncio.create_task(meter.close()) for meter in self._meters]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ENDS_WITHIN_S):
                    await self._broker.close(LEAVES_BROKER_WITHIN_S)
            await _end([broker, *others], ENDS_WITHIN_S)
            await asyncio.wait(closing, timeout=JOURNALS_CLOSE_WITHIN_S)
            self._notifier.close()

    def _page(self, settings: WebSettings, observed: Sequence[ObservedMeter]) -> WebServer:
        # Imported here: without a page its server is not worth its memory.
        from iem_dcr.web.server import WebServer  # noqa: PLC0415

        return WebServer(settings, observed, lambda: self.status, lambda: self.standing)

    async def _be_connected(self) -> None:
        await self._broker.run()
        if self._stop.is_set():  # closed, and so it is at its end
            await _for_ever()

    async def _tell(self) -> NoReturn:
        """Tell systemd that all tasks run, and how they are whenever that changes."""
        while True:
            if not self._ready_told:
                self._ready_told = self._notifier.ready()
            status = self.status
            if status != self._status_told and self._notifier.status(status):
                self._status_told = status
            await asyncio.sleep(STATUS_EVERY_S)

    async def _compare_serials(self) -> NoReturn:
        """Log a serial that answers at two addresses, and when that is over. No driver waits for it."""
        duplicates, log = DuplicateSerials(), RateLimitedLog(_log, now_s)
        seen: dict[str, MeterValue] = {}
        told: set[str] = set()
        while True:
            newest = {meter.address: meter.value for meter in self._meters if meter.value is not None}
            read = {address: value.MS for address, value in newest.items() if value is not seen.get(address)}
            seen, found = newest, duplicates.take_up(read, now_s())
            for serial in found.keys() - told:
                what = (
                    "the meter with serial %s answers at %s: the drivers of these addresses end each other's"
                    " transactions. Give each [[meter]] the address of its own meter, or take one out of the file"
                )
                log.log(logging.ERROR, what, printable(serial), _named(found[serial]))
            for serial in told - found.keys():
                log.info("the meter with serial %s answers at one address only again", printable(serial))
            told = {*found}
            doubled = {address for addresses in found.values() for address in addresses}
            for meter in self._meters:
                meter.show_duplicate(is_duplicate=meter.address in doubled)
            await asyncio.sleep(SERIALS_EVERY_S)

    async def _prove_life(self) -> None:
        """Tell the watchdog that the loop turns; nobody else may."""
        while self._notifier.watchdog_every_s is not None:
            self._notifier.alive()
            await asyncio.sleep(self._notifier.watchdog_every_s)
        await _for_ever()


class _Meter:
    """One configured meter, and its API as soon as its module_id is known."""

    def __init__(
        self,
        config: MeterConfig,
        bus: Bus,
        journal: LateJournal | None,
        begins_after_s: float,
        observed: ObservedMeter | None = None,
    ) -> None:
        self._config = config
        self._observed = observed
        self._begins_after_s = begins_after_s
        self._bus = bus
        self.api: MeterApi | None = None
        self._journal = journal

    @property
    def address(self) -> str:
        """Address of the meter, ``host:port``."""
        return self._config.address

    @property
    def value(self) -> MeterValue | None:
        """Its last live value, or None."""
        return None if self.api is None else self.api.driver.value

    @property
    def answers(self) -> bool:
        """Whether the meter can be reached."""
        return self.api is not None and self.api.reachable

    @property
    def takes_requests(self) -> bool:
        """Whether EVerest's requests are taken from the bus, whatever the meter does."""
        return self.api is not None and self.api.takes_requests

    def show_duplicate(self, *, is_duplicate: bool) -> None:
        """Have the metrics tell whether the meter's serial answers at another address, too."""
        if self._observed is not None:
            self._observed.is_duplicate = is_duplicate

    async def run(self) -> None:
        """Be the meter until cancelled. Run again, it is the same one, with the replies that it remembers."""
        if self.api is None:
            module_id = self._config.module_id or await find_module_id(self._bus)
            METER.set(module_id)
            self.api = MeterApi(
                module_id,
                self._config.settings,
                self._bus,
                sink=self._observed,
                journal=self._journal,
                observer=self._observed,
                begins_after_s=self._begins_after_s,
            )
            if self._observed is not None:
                self._observed.attach(self.api.driver, module_id, self._journal)
            _log.info("the meter is at %s", self._config.address)
        await self.api.run()

    async def close(self) -> None:
        """Give the journal a moment for what is still to be written."""
        if self._journal is not None:
            await self._journal.close(JOURNALS_CLOSE_WITHIN_S)


def _observed(meter: MeterConfig) -> ObservedMeter:
    return ObservedMeter(meter.settings, meter.module_id, meter.address)


def identity(config: ServiceConfig) -> str:
    """Return the service's name at the broker: the same after a restart, another than that of other meters' services.

    A meter whose module_id is not known yet counts with its address.
    """
    names = sorted(meter.module_id or meter.address for meter in config.meters)
    return "iem-dcr-" + hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


async def find_module_id(bus: Bus) -> str:
    """Ask EVerest until it offers exactly one powermeter API, twice in a row, and return its module_id."""
    before: tuple[str, ...] = ()
    told = ""
    while True:
        found = await _offered(bus)
        if len(found) == 1 and found == before:
            return found[0]
        if len(found) > 1:
            trouble = f"EVerest offers several powermeter APIs, {', '.join(found)}: give one of them as module_id"
        else:
            trouble = "" if found else "EVerest offers no powermeter API yet"
        if trouble and trouble != told:
            told = trouble
            _log.log(logging.ERROR if found else logging.WARNING, "%s", trouble)
        before = found
        await asyncio.sleep(ASKED_AGAIN_AFTER_S if len(found) > 1 else CERTAIN_AFTER_S - ASKED_FOR_S)


async def _offered(bus: Bus) -> tuple[str, ...]:
    if not bus.connected:
        connected = asyncio.Event()
        take_back = bus.on_connected(connected.set)
        try:
            await connected.wait()
        finally:
            take_back()
    return tuple(sorted({api.module_id for api in await discover(bus, wait_s=ASKED_FOR_S)}))


async def _supervise(what: str, work: Callable[[], Awaitable[None]]) -> NoReturn:
    """Do work that never ends, again whenever it does: after 1, 2, 4 … 30 s, and after 1 s if it lasted a minute."""
    loop = asyncio.get_running_loop()
    pause_s = FIRST_PAUSE_S
    told = ""
    while True:
        began_s = loop.time()
        error: BaseException | None = None
        try:
            await work()
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            error = cancelled
        except Exception as failed:  # noqa: BLE001  one meter's trouble must never be another's
            error = failed
        if loop.time() - began_s >= HEALTHY_AFTER_S:
            pause_s, told = FIRST_PAUSE_S, ""
        trouble = f"{type(error).__name__}: {printable(error)}" if error is not None else "it ended"
        # The traceback of a failure that comes back is logged once.
        trace = error if trouble != told else None
        _log.error("%s failed and is started again in %.0f s: %s", what, pause_s, trouble, exc_info=trace)
        told = trouble
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _end(tasks: Iterable[asyncio.Task[NoReturn]], within_s: float) -> None:
    """Cancel tasks and wait for their ends, but no longer than that."""
    pending = set(tasks)
    for task in pending:
        task.cancel()
    _, late = await asyncio.wait(pending, timeout=within_s)
    if late:
        _log.warning("%d tasks did not end within %.0f s and are left", len(late), within_s)


def _named(addresses: Iterable[str]) -> str:
    """Name addresses for a line of the log, a few at most."""
    names = sorted(addresses)
    more = len(names) - NAMED_ADDRESSES
    return " and ".join(names[:NAMED_ADDRESSES]) + (f" and {more} more" if more > 0 else "")


def _meters(count: int) -> str:
    return "1 meter" if count == 1 else f"{count} meters"
