"""The EVerest module: its process, its threads, and the one loop on which the driver lives.

The framework calls handlers on threads of its own, start and stop in parallel. Each hands its work to the loop, waits
for the answer, and always returns one: an exception in a handler would take the whole charger down.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, NoReturn

from iem_dcr.config import Settings
from iem_dcr.driver import MeterDriver
from iem_dcr.driver.driver import START_S, STOP_S
from iem_dcr.driver.meter import KNOWN_ERRORS
from iem_dcr.errors import ConfigError
from iem_dcr.everest.framework import EverestLogHandler, Framework, critical
from iem_dcr.everest.station import EverestStation
from iem_dcr.powermeter import TransactionRequestStatus, TransactionStartResponse, TransactionStopResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_log = logging.getLogger(__name__)

ANSWER_MARGIN_S = 1.0
"""How much longer than the driver's own deadline a handler waits for its answer."""
RESTART_AFTER_S = 1.0
HANDLERS_END_WITHIN_S = 0.3
REPLIES_GO_OUT_WITHIN_S = 0.05

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
    """

    def __init__(self, framework: Framework, settings: Settings) -> None:
        self._framework = framework
        self._loop = asyncio.new_event_loop()
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._stopping = False
        self._handlers = 0
        self._handlers_changed = threading.Condition()
        self._driver = MeterDriver(settings, EverestStation(framework))
        framework.implement("start_transaction", self._start_transaction)
        framework.implement("stop_transaction", self._stop_transaction)
        framework.on_shutdown(self._stop_from_a_thread)

    def run(self) -> None:
        """Say that everything is offered, drive the meter from ready on, and return when told to stop."""
        with contextlib.closing(self._loop):
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._stop.set)
            self._framework.init_done(self._ready_from_a_thread)
            self._loop.run_until_complete(self._drive())
            self._stopping = True
            self._await_handlers()

    # --- on the loop ---

    async def _drive(self) -> None:
        stopped = asyncio.ensure_future(self._stop.wait())
        ready = asyncio.ensure_future(self._ready.wait())
        await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not stopped.done():
            self._clear_errors_of_before()
        driving = asyncio.ensure_future(self._driver.run())
        while not stopped.done():
            await asyncio.wait({driving, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if driving.done():
                _log.critical("the driver failed and is started again", exc_info=driving.exception())
                await asyncio.wait({stopped}, timeout=RESTART_AFTER_S)
                driving = asyncio.ensure_future(self._driver.run())
        driving.cancel()
        await asyncio.wait({driving})

    def _clear_errors_of_before(self) -> None:
        """Clear what EVerest still holds for active from before a restart: the driver raises anew what stands."""
        for error_type, sub_type in KNOWN_ERRORS:
            try:
                if self._framework.is_error_active(error_type, sub_type):
                    self._framework.clear_error(error_type, sub_type)
            except Exception:  # noqa: BLE001  the framework's trouble must not keep the meter from being driven
                _log.exception("the state of error %s %s is not known", error_type, sub_type)

    # --- on the framework's threads ---

    def _ready_from_a_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._ready.set)

    def _stop_from_a_thread(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has stopped already
            self._loop.call_soon_threadsafe(self._stop.set)

    def _start_transaction(self, arguments: dict[str, Any]) -> dict[str, object]:
        return self._answer(lambda: self._driver.start_from_json(arguments.get("value")), _start_failed, START_S)

    def _stop_transaction(self, arguments: dict[str, Any]) -> dict[str, object]:
        return self._answer(lambda: self._driver.stop_from_json(arguments.get("transaction_id")), _stop_failed, STOP_S)

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
        if self._stopping:
            return failed("the module is stopping")
        coroutine = work()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            return failed("the module is stopping")
        try:
            return future.result(deadline_s + ANSWER_MARGIN_S)
        except TimeoutError:
            future.cancel()
            return failed("the meter did not do it in time")
        except CancelledError:
            return failed("the module is stopping")

    def _await_handlers(self) -> None:
        """Let the handlers return what they have been answered, and the framework send it."""
        until = time.monotonic() + HANDLERS_END_WITHIN_S
        with self._handlers_changed:
            had_some = self._handlers > 0
            while self._handlers and (left_s := until - time.monotonic()) > 0:
                self._handlers_changed.wait(left_s)
        if had_some:
            time.sleep(REPLIES_GO_OUT_WITHIN_S)


def main() -> NoReturn:
    """Be the module that EVerest's manager started."""
    framework = Framework()
    try:
        settings = Settings.of(framework.config)
    except ConfigError as error:
        critical(f"the configuration is wrong: {error}")
        sys.exit(1)
    handler = EverestLogHandler()
    logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(message)s")
    EverestModule(framework, settings).run()
    # The framework's own threads are still there and would call into an interpreter that is being taken apart.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
