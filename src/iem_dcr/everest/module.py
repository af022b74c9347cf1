"""The EVerest module: a process that runs one meter's driver.

* The driver runs on one asyncio loop on the main thread. EVerest calls handlers on its own threads and may call start
  and stop at the same time. Each handler passes its command to the loop and waits for the answer, one second longer
  than the driver's own deadline.
* An exception in a handler, or a module that exits, takes the whole charger down. So a handler always returns an
  answer, and a driver that fails is started again.
* Signals are blocked in every thread but one, which waits for them and ends the loop. If the loop does not end, because
  a publish or the log hangs, that thread answers the waiting handlers and ends the process.
* The process ends with `os._exit`, because the framework's threads would call into an interpreter that is shutting
  down. There is nothing to flush: the log has no buffer. A flush could block on the log's lock, which a thread that
  writes to a full pipe may hold.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from concurrent.futures import CancelledError, Future
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

from iem_dcr.config import VENDOR_CI, Settings
from iem_dcr.driver import MeterDriver
from iem_dcr.driver.driver import SILENT_STOP_S, START_S
from iem_dcr.driver.meter_state import KNOWN_ERRORS
from iem_dcr.errors import ConfigError
from iem_dcr.journaling import Journals
from iem_dcr.powermeter import StationError, TransactionRequestStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from iem_dcr.device.transport import Connect
    from iem_dcr.everest.framework import Framework
    from iem_dcr.journal import Journal
    from iem_dcr.journaling import LateJournal
    from iem_dcr.powermeter import TransactionStartResponse, TransactionStopResponse

    Response = TransactionStartResponse | TransactionStopResponse

_log = logging.getLogger(__name__)

HANDLER_MARGIN_S: Final = 1.0
"""How much longer than the driver's own deadline a handler waits for the answer."""
RESTART_DELAY_S: Final = 1.0
JOURNAL_CLOSE_TIMEOUT_S: Final = 0.3
LOOP_END_TIMEOUT_S: Final = 0.9
"""How long the loop may take to end after a signal."""
HANDLERS_END_TIMEOUT_S: Final = 0.3
REPLIES_GO_OUT_S = 0.05
"""Time for the framework to send an answer after its handler has returned. It does not report that it has."""


class EverestModule:
    """One meter's driver in an EVerest module.

    Args:
        framework: the connection to EVerest and the driver's station. The commands are offered on it here.
        settings: settings of the meter.
        journal: journal of its receipts, or None. It is closed at the end.
        loop: the loop that runs the driver.
        wall: the host's clock, as aware datetimes.
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
        self._journal = journal
        self._loop = loop
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._ended = threading.Event()
        self._handlers = threading.Condition()
        self._waiting: set[Future[Response]] = set()
        self._answers_no_more = False
        self._driver = MeterDriver(settings, framework, journal=journal, wall=wall, connect=connect)
        framework.implement("start_transaction", self._start_transaction)
        framework.implement("stop_transaction", self._stop_transaction)
        framework.on_shutdown(self.stop)

    # --- on EVerest's threads ---

    def _start_transaction(self, arguments: dict[str, Any]) -> dict[str, object]:
        return self._answer(self._driver.start_from_json, arguments.get("value"), START_S)

    def _stop_transaction(self, arguments: dict[str, Any]) -> dict[str, object]:
        return self._answer(self._driver.stop_from_json, arguments.get("transaction_id"), SILENT_STOP_S)

    def _answer(
        self, command: Callable[[object], Coroutine[None, None, Response]], argument: object, within_s: float
    ) -> dict[str, object]:
        """Carry out a command on the loop and return its answer. Always return an answer."""
        try:
            with self._handlers:
                if self._answers_no_more:
                    return _failed("the module is stopping")
                future = self._submit(command(argument))
                self._waiting.add(future)
            try:
                return future.result(within_s + HANDLER_MARGIN_S).to_json()
            except TimeoutError:
                if future.cancel():
                    return _failed("the meter did not do it in time")
                # The answer came just as the wait for it ended.
                return future.result(HANDLER_MARGIN_S).to_json()
            finally:
                with self._handlers:
                    self._waiting.discard(future)
                    self._handlers.notify_all()
        except CancelledError:
            return _failed("the module is stopping")
        except Exception as error:  # noqa: BLE001  an exception in a handler takes the whole charger down
            _log.exception("a command failed")
            return _failed(f"internal error: {type(error).__name__}")

    def _submit(self, command: Coroutine[None, None, Response]) -> Future[Response]:
        return asyncio.run_coroutine_threadsafe(command, self._loop)

    # --- from any thread ---

    def ready(self) -> None:
        """Start driving the meter."""
        self._loop.call_soon_threadsafe(self._ready.set)

    def stop(self) -> None:
        """End `run`, also before ready."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._loop.call_soon_threadsafe(self._ready.set)

    def end(self) -> None:
        """Stop, and return when every waiting handler has its answer, even if the loop hangs."""
        self.stop()
        self._ended.wait(LOOP_END_TIMEOUT_S)
        self.answer_what_waits()

    def answer_what_waits(self) -> None:
        """Let the waiting handlers return an answer and the framework send it. The loop has ended or hangs."""
        with self._handlers:
            self._answers_no_more = True
            for future in tuple(self._waiting):
                future.cancel()
            self._handlers.wait_for(lambda: not self._waiting, HANDLERS_END_TIMEOUT_S)
        time.sleep(REPLIES_GO_OUT_S)

    # --- on the thread of the loop ---

    def run(self) -> None:
        """Report that all commands are offered, drive the meter from ready on, and return after `stop`."""
        self._framework.init_done(self.ready)
        try:
            self._loop.run_until_complete(self.drive())
        finally:
            self._ended.set()
            self.answer_what_waits()

    async def drive(self) -> None:
        """Drive the meter from ready on until `stop` is called."""
        await self._ready.wait()
        stopped = asyncio.ensure_future(self._stop.wait())
        if not self._stop.is_set():
            self._clear_errors_of_before()
        while not self._stop.is_set():
            driving = asyncio.ensure_future(self._driver.run())
            await asyncio.wait({driving, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if driving.done():
                error = asyncio.CancelledError() if driving.cancelled() else driving.exception()
                _log.critical("the driver failed and is started again", exc_info=error)
                await asyncio.wait({stopped}, timeout=RESTART_DELAY_S)
            else:
                driving.cancel()
                await asyncio.wait({driving})
        if self._journal is not None:
            await self._journal.close(JOURNAL_CLOSE_TIMEOUT_S)

    def _clear_errors_of_before(self) -> None:
        """Clear the errors that are still active from before a restart. The driver raises those that persist again."""
        for known in KNOWN_ERRORS:
            error = StationError(*known, message="")
            try:
                if self._framework.is_error_active(error):
                    self._framework.clear_error(error)
            except Exception:  # noqa: BLE001  the meter is driven even if the framework fails here
                _log.exception("the state of error %s %s is not known", *known)


def _failed(why: str) -> dict[str, object]:
    """Return the answer to a start or a stop that was not carried out."""
    return {"status": TransactionRequestStatus.UNEXPECTED_ERROR.value, "error": why}


# --- the process ---


def main(framework_type: type[Framework], signals: Sequence[signal.Signals]) -> NoReturn:
    """Run the module that EVerest's manager has started. The signals end it. They are blocked and may be pending."""
    running: list[EverestModule] = []
    threading.Thread(target=_leave_on_a_signal, args=(signals, running), daemon=True).start()
    framework = framework_type()
    logging.raiseExceptions = False
    logging.basicConfig(level=logging.INFO, handlers=[framework.log_handler], format="%(message)s")
    try:
        settings = Settings.of(framework.config)
        if settings.CI == VENDOR_CI:
            _log.error(
                "CI is %s, the default of the vendor's module: it is being frozen into the meter until the next power "
                "cycle of the meter, and receipts are signed for it. Set CI in this module's config_module to the "
                "evse_id of EvseManager",
                settings.CI,
            )
        journal = Journals(resolves_auto=True).of(settings)
        module = EverestModule(framework, settings, journal, asyncio.new_event_loop())
        running.append(module)
        module.run()
    except ConfigError as error:
        _log.critical("the configuration is wrong: %s", error)
        os._exit(1)
    except Exception:  # noqa: BLE001  EVerest's log shows it; a traceback on stderr is not read
        _log.critical("the module failed, which is a bug in the program", exc_info=True)
        os._exit(1)
    os._exit(0)


def _leave_on_a_signal(signals: Sequence[signal.Signals], running: list[EverestModule]) -> None:
    # sigwait also returns an ignored signal if it is blocked. With SIGHUP ignored (nohup) the module goes on.
    signal.sigwait([one for one in signals if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN])
    if running:
        running[0].end()
    os._exit(0)
