"""Tells systemd by sd_notify(3) that the service is ready and alive, and its status.

Without NOTIFY_SOCKET in the environment nothing is sent, and nothing fails.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

from iem_dcr.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger(__name__)

_MICROSECONDS = 1_000_000


class Notifier:
    """Sends messages to systemd. No method raises or blocks.

    Attributes:
        watchdog_period_s: period for the message ``WATCHDOG=1``, half of what systemd allows; None without a watchdog.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        self._failing = False
        self.watchdog_period_s: float | None = None
        if self._address:
            self.watchdog_period_s = _watchdog_period_s(environment)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)  # noqa: FBT003  the signature is socket's

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


def _address(path: str) -> str:
    """Return the address of systemd's socket; a leading ``@`` means an abstract one. Return "" if it is not local."""
    if path.startswith("@") and len(path) > 1:
        return "\0" + path[1:]
    if path.startswith("/"):
        return path
    if path:
        _log.warning("NOTIFY_SOCKET is %s, which is not a local socket: nothing is sent to systemd", printable(path))
    return ""


def _watchdog_period_s(environment: Mapping[str, str]) -> float | None:
    """Return half the watchdog's time in seconds; None without a watchdog, or if it watches another process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdigit() and len(text) < 19) or int(text) == 0:
        return None
    return int(text) / _MICROSECONDS / 2
