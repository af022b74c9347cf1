"""Tells systemd by sd_notify(3) that the service is ready and alive, and its status.

Without NOTIFY_SOCKET in the environment nothing is sent, and nothing fails.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from typing import TYPE_CHECKING

from iem_dcr.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger(__name__)


class Notifier:
    """Sends messages to systemd. No method raises or blocks.

    Attributes:
        watchdog_period_s: period for the message ``WATCHDOG=1``, half of what systemd allows; None without a watchdog.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self.watchdog_period_s: float | None = None
        self._socket: socket.socket | None = None
        self._failing = False
        if not path:
            return
        if path[0] not in "/@" or path == "@":
            _log.warning(
                "NOTIFY_SOCKET is %s, which is not a local socket: nothing is sent to systemd", printable(path)
            )
            return
        self._address = "\0" + path[1:] if path[0] == "@" else path  # an abstract address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        watched, allowed_us = environment.get("WATCHDOG_PID", ""), environment.get("WATCHDOG_USEC", "")
        if watched in ("", str(os.getpid())) and re.fullmatch("[0-9]{1,18}", allowed_us) and int(allowed_us):
            self.watchdog_period_s = int(allowed_us) / 1_000_000 / 2

    def send(self, message: str) -> bool:
        """Send ``READY=1``, ``STATUS=...``, ``WATCHDOG=1`` or ``STOPPING=1``. Return whether nothing went wrong."""
        if self._socket is None:
            return True
        try:
            self._socket.sendto(printable(message, limit=400).encode(), self._address)
        except OSError as error:
            level = logging.DEBUG if self._failing else logging.WARNING
            self._failing = True
            name = message.partition("=")[0]
            _log.log(level, "%s was not sent to systemd: %s", name, printable(error.strerror or error))
            return False
        self._failing = False
        return True

    def close(self) -> None:
        """Close the socket; nothing more is sent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
