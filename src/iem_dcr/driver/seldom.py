"""Log lines that others can bring about: so many a minute and no more."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

LINES: Final = 5
PER_S: Final = 60.0


class Seldom:
    """Writes at most five lines a minute; the others are written at debug and counted.

    Args:
        log: writes them; a logger or an adapter of one.
        now_s: a monotonic clock, seconds.
    """

    def __init__(self, log: logging.Logger | logging.LoggerAdapter[logging.Logger], now_s: Callable[[], float]) -> None:
        self._log = log
        self._now_s = now_s
        self._since_s = float("-inf")
        self._written = 0
        self._left_out = 0

    def info(self, msg: str, *args: object) -> None:
        """Write what happened."""
        self._write(logging.INFO, msg, *args)

    def warning(self, msg: str, *args: object) -> None:
        """Write what somebody should look at."""
        self._write(logging.WARNING, msg, *args)

    def _write(self, level: int, msg: str, *args: object) -> None:
        now_s = self._now_s()
        if now_s - self._since_s >= PER_S:
            if self._left_out:
                self._log.log(level, "%d more lines like the next were left out", self._left_out)
            self._since_s = now_s
            self._written = self._left_out = 0
        if self._written < LINES:
            self._written += 1
            self._log.log(level, msg, *args)
        else:
            self._left_out += 1
            self._log.debug(msg, *args)
