"""The EVerest module within its process: the framework's threads, and the one loop on which the driver lives.

The framework calls handlers on threads of its own, start and stop in parallel. Each hands its work to the loop, waits
for the answer, and always returns one: an exception in a handler would take the whole charger down.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import CancelledError, Future
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from iem_dcr.driver import MeterDriver
from iem_dcr.driver.driver import SILENT_STOP_S, START_S
from iem_dcr.driver.meter_state import KNOWN_ERRORS
from iem_dcr.everest.station import EverestStation
from iem_dcr.powermeter import TransactionRequestStatus, TransactionStartResponse, TransactionStopResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from iem_dcr.config import Settings
    from iem_dcr.device.transport import Connect
    from iem_dcr.everest.framework import Framework
    from iem_dcr.journal import Journal
    from iem_dcr.journaling import LateJournal

_log = logging.getLogger(__name__)

HANDLER_MARGIN_S = 1.0
"""How much longer than the driver's own deadline a handler waits for its answer."""
RESTART_AFTER_S = 1.0
HANDLERS_END_WITHIN_S = 0.3
REPLIES_GO_OUT_WITHIN_S = 0.05
JOURNAL_CLOSES_WITHIN_S = 0.3

Response = TransactionStartResponse | TransactionStopResponse


def _start_failed(why: str) -> TransactionStartResponse:
    return TransactionStartResponse(TransactionRequestStatus.UNEXPECTED_ERROR, why)


def _stop_failed(why: str) -> TransactionStopResponse:
    return TransactionStopResponse(TransactionRequestStatus.UNEXPECTED_ERROR, error=why)


class EverestModule:
    """One meter's driver within an EVerest module.

    Args:
        framework: the connection to EVerest; the commands are offered on it here.
        settings: of the meter.
        journal: of its receipts, or None. It is closed at the end.
        loop: on which the driver is to live.
        wall: the host's clock; aware datetimes.
        connect: makes the connections: see `iem_dcr.device.transport`.
    """

    def __init__(
        self,
        framework: Framework,
        settings: Settings,
        journal: Journal | LateJournal | None,
        loop: asyncio.AbstractEventLoop,
        *,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        connect: Connect | None = None,
    ) -> None:
        self._framework = framework
        self._loop = loop
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._stopping = False
        self._handlers = 0
        self._waiting: set[Future[Response]] = set()
        self._handlers_changed = threading.Condition()
        self._journal = journal
        self._driver = MeterDriver(settings, EverestStation(framework), journal=journal, wall=wall, connect=connect)
        framework.implement("start_transaction", self._start_transaction)
        framework.implement("stop_transaction", self._stop_transaction)
        framework.on_shutdown(self.stop)

    def run(self) -> None:
        """Say that everything is offered, drive the meter from ready on, and return when told to stop."""
        self._framework.init_done(self.ready)
        self._loop.run_until_complete(self.drive())
        self.answer_what_waits()

    def ready(self) -> None:
        """Begin to drive the meter; to be called from any thread."""
        self._loop.call_soon_threadsafe(self._ready.set)

    def stop(self) -> None:
        """Have `run` end; to be called from any thread."""
        self._loop.call_soon_threadsafe(self._stop.set)

    # --- on the thread of the loop ---

    async def drive(self) -> None:
        """Drive the meter from ready on, until told to stop."""
        stopped = asyncio.ensure_future(self._stop.wait())
        ready = asyncio.ensure_future(self._ready.wait())
        await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not stopped.done():
            self._clear_errors_of_before()
        while not stopped.done():
            driving = asyncio.ensure_future(self._driver.run())
            await asyncio.wait({driving, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if driving.done():
                error = asyncio.CancelledError() if driving.cancelled() else driving.exception()
                _log.critical("the driver failed and is started again", exc_info=error)
                await asyncio.wait({stopped}, timeout=RESTART_AFTER_S)
            else:
                driving.cancel()
                await asyncio.wait({driving})
        if self._journal is not None:
            await self._journal.close(JOURNAL_CLOSES_WITHIN_S)

    def _clear_errors_of_before(self) -> None:
        """Clear what EVerest still holds for active from before a restart: the driver raises anew what stands."""
        for error_type, sub_type in KNOWN_ERRORS:
            try:
                if self._framework.is_error_active(error_type, sub_type):
                    self._framework.clear_error(error_type, sub_type)
            except Exception:  # noqa: BLE001  the framework's trouble must not keep the meter from being driven
                _log.exception("the state of error %s %s is not known", error_type, sub_type)

    def answer_what_waits(self) -> None:
        """Let the handlers return an answer, and the framework send it: the loop will do nothing any more."""
        with self._handlers_changed:
            self._stopping = True
            for future in tuple(self._waiting):
                future.cancel()
            self._handlers_changed.wait_for(lambda: self._handlers == 0, HANDLERS_END_WITHIN_S)
        time.sleep(REPLIES_GO_OUT_WITHIN_S)

    # --- on the framework's threads ---

    def _start_transaction(self, arguments: dict[str, Any]) -> dict[str, object]:
        return self._answer(lambda: self._driver.start_from_json(arguments.get("value")), _start_failed, START_S)

    def _stop_transaction(self, arguments: dict[str, Any]) -> dict[str, object]:
        return self._answer(
            lambda: self._driver.stop_from_json(arguments.get("transaction_id")), _stop_failed, SILENT_STOP_S
        )

    def _answer(
        self, work: Callable[[], Coroutine[None, None, Response]], failed: Callable[[str], Response], deadline_s: float
    ) -> dict[str, object]:
        """Have the loop do the work and return its answer; whatever happens, return one."""
        with self._handlers_changed:
            self._handlers += 1
        try:
            return self._on_the_loop(work, failed, deadline_s).to_json()
        except Exception as error:  # noqa: BLE001  an exception in a handler takes the whole charger down
            _log.exception("a command failed")
            return failed(f"internal error: {type(error).__name__}").to_json()
        finally:
            with self._handlers_changed:
                self._handlers -= 1
                self._handlers_changed.notify_all()

    def _on_the_loop(
        self, work: Callable[[], Coroutine[None, None, Response]], failed: Callable[[str], Response], deadline_s: float
    ) -> Response:
        with self._handlers_changed:
            if self._stopping:
                return failed("the module is stopping")
            future = self._submit(work())
            self._waiting.add(future)
        try:
            return future.result(deadline_s + HANDLER_MARGIN_S)
        except TimeoutError:
            if not future.cancel():
                return future.result(HANDLER_MARGIN_S)  # it came in the very moment in which the wait ended
            return failed("the meter did not do it in time")
        except CancelledError:
            return failed("the module is stopping")
        finally:
            with self._handlers_changed:
                self._waiting.discard(future)

    def _submit(self, work: Coroutine[None, None, Response]) -> Future[Response]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)
