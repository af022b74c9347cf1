"""What is told to systemd: that the service is ready, how it is, that it lives (sd_notify(3), by a plain datagram).

Without NOTIFY_SOCKET in the environment nobody is told anything, and nothing here fails.
"""

from __future__ import annotations

import contextlib
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
    """Tells systemd. No method raises or blocks.

    Attributes:
        watchdog_every_s: how often `alive` has to be called, half of what systemd allows; None when it does not watch.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        self._failing = False
        self.watchdog_every_s = _half_of_watchdog_s(environment) if self._address else None
        if self._address:
            with contextlib.suppress(OSError):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.settimeout(0.0)

    def ready(self) -> bool:
        """Say that the service has started. Returns False when it has to be said again."""
        return self._tell("READY=1")

    def stopping(self) -> bool:
        """Say that the service is about to end."""
        return self._tell("STOPPING=1")

    def alive(self) -> bool:
        """Say that the service lives."""
        return self._tell("WATCHDOG=1")

    def status(self, text: str) -> bool:
        """Say in a line how the service is, for ``systemctl status``."""
        return self._tell(f"STATUS={printable(text, limit=400)}")

    def close(self) -> None:
        """Tell nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, message: str) -> bool:
        if self._socket is None:
            return True
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError as error:
            level = logging.DEBUG if self._failing else logging.WARNING
            self._failing = True
            _log.log(
                level, "systemd was not told %s: %s", message.partition("=")[0], printable(error.strerror or error)
            )
            return False
        self._failing = False
        return True


def _address(path: str) -> str:
    """Return the address of systemd's socket; ``@`` stands for an abstract one. "" when it is none of ours."""
    if path.startswith("@") and len(path) > 1:
        return "\0" + path[1:]
    if path.startswith("/"):
        return path
    if path:
        _log.warning("NOTIFY_SOCKET is %s, which is no local socket: systemd is told nothing", printable(path))
    return ""


def _half_of_watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return half the watchdog's time, seconds; None without one, or where another process is watched."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdigit() and len(text) < 19) or int(text) == 0:
        return None
    return int(text) / _MICROSECONDS / 2
