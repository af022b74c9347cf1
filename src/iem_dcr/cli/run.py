"""``iem-dcr run``: drives meters behind EVerest's MQTT API until it is asked to end.

The first SIGTERM, SIGINT or SIGHUP ends it in good order within a few seconds. A second SIGTERM or SIGINT ends it at
once.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from iem_dcr import __version__
from iem_dcr.cli.arguments import common, verbosity
from iem_dcr.cli.config import meter_names
from iem_dcr.cli.exit_codes import EXIT_FAILURE, EXIT_INTERRUPTED
from iem_dcr.cli.output import counted
from iem_dcr.config import VENDOR_CI
from iem_dcr.journaling import Journals
from iem_dcr.service.config import ServiceConfig
from iem_dcr.service.log import STYLES, log_lines
from iem_dcr.service.service import Service
from iem_dcr.service.systemd import Notifier

if TYPE_CHECKING:
    from types import FrameType

_log = logging.getLogger(__name__)

ENDS_WITHIN_S = 5.0
"""The process ends at the latest this long after the first signal, even if something blocks its loop."""
_LEVELS = {-2: logging.ERROR, -1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}


@click.command(name="run")
@click.argument("file", metavar="CONFIG.toml", type=click.Path(path_type=Path))
@click.option(
    "--log-format",
    type=click.Choice(STYLES),
    default="text",
    show_default=True,
    help="Format of the log on standard error.",
)
@common
def command(file: Path, log_format: str) -> int:
    """Drive the meters of a configuration file behind EVerest's MQTT API until interrupted.

    For an example of the file see: iem-dcr config example.
    """
    config = ServiceConfig.load(file)
    level = _LEVELS[max(-2, min(verbosity(), 1))]
    with log_lines(log_format, level):
        status = _serve(config)
    _leave(status)


def _serve(config: ServiceConfig) -> int:
    if with_vendor_ci := [meter for meter in config.meters if meter.settings.CI == VENDOR_CI]:
        _log.error(
            "CI is %s, the default of the vendor's module: it is being frozen into each of these meters until the next "
            "power cycle of the meter, and receipts are signed for it: %s. Set CI of each [[meter]] to the evse_id of "
            "its EvseManager",
            VENDOR_CI,
            meter_names(with_vendor_ci),
        )
    for warning in config.warnings:
        _log.warning("%s", warning)
    _log.info("iem-dcr %s: %s, broker %s", __version__, counted(len(config.meters), "meter"), config.mqtt.address)
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(_until_a_signal(config))
    except Exception:  # noqa: BLE001  every failure goes to the log
        _log.exception("the service failed because of a bug in the program")
        return EXIT_FAILURE
    return 0


async def _until_a_signal(config: ServiceConfig) -> None:
    service = Service(config, notifier=Notifier(), journals=Journals(resolves_auto=True))
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()
    signalled = False

    def stop(number: int) -> None:
        _log.info("%s", signal.Signals(number).name)
        service.stop()

    # Not a handler of the loop, which would wait for whatever blocks the loop.
    def take(number: int, _frame: FrameType | None) -> None:
        nonlocal signalled
        if not signalled:
            signalled = True
            guard = threading.Timer(ENDS_WITHIN_S, _leave, (EXIT_FAILURE,))
            guard.daemon = True
            guard.start()
            # In a context of its own, because the signal interrupts the work of some meter.
            loop.call_soon_threadsafe(stop, number, context=context)
        elif number != signal.SIGHUP:  # a closing terminal sends it, and its shell sends it again
            _leave(EXIT_INTERRUPTED)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores it
            signal.signal(number, take)
    await service.run()


def _leave(status: int) -> NoReturn:
    """End the process without waiting for threads. One of them may be resolving the broker's host name."""
    for handler in logging.getLogger().handlers:
        handler.close()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)
