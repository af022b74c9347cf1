"""The process of the EVerest module: what it begins with, the signals that end it, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from typing import NoReturn

from iem_dcr.config import Settings
from iem_dcr.errors import ConfigError
from iem_dcr.everest.driving import EverestModule
from iem_dcr.everest.framework import EverestLogHandler, Framework
from iem_dcr.journaling import Journals

_log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""SIGHUP comes from a terminal that closes, where EVerest's manager runs in one."""
LEAVES_WITHIN_S = 0.9
"""How long after a signal the process is ended, should it not have ended by itself."""


def main() -> NoReturn:
    """Be the module that EVerest's manager started."""
    # Blocked in every thread from here on, so that one thread takes them, whatever the others are doing.
    # Blocked, an ignored SIGHUP would come as well, and whoever ignores it (nohup) wants the module to go on.
    signals = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    running: list[EverestModule] = []
    threading.Thread(target=_leave_on_a_signal, args=(signals, running), daemon=True).start()
    framework = Framework()
    logging.raiseExceptions = False
    logging.basicConfig(level=logging.INFO, handlers=[EverestLogHandler()], format="%(message)s")
    try:
        settings = Settings.of(framework.config)
    except ConfigError as error:
        _log.critical("the configuration is wrong: %s", error)
        _leave(1)
    try:
        journal = Journals(resolves_auto=True).of(settings)
        module = EverestModule(framework, settings, journal, asyncio.new_event_loop())
        running.append(module)
        module.run()
    except Exception:  # noqa: BLE001  whatever it is goes to the log that is read
        _log.critical("the module failed, which is a mistake in the program", exc_info=True)
        _leave(1)
    _leave(0)


def _leave_on_a_signal(signals: list[signal.Signals], running: list[EverestModule]) -> None:
    """End the module when a signal comes, and the process in any case: a publish or the log may block the loop."""
    signal.sigwait(signals)
    if running:
        running[0].stop()
        time.sleep(LEAVES_WITHIN_S)
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End the process. The framework's threads would call into an interpreter that is being taken apart.

    Nothing is closed or flushed: the log has no buffer, and its lock may be held by who waits for a full pipe.
    """
    os._exit(code)
