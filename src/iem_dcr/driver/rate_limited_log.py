"""The log of one meter. Rate-limits messages that external input can trigger."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from iem_dcr.driver.timing import now_s

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

LINES: Final = 5
PER_S: Final = 60.0


class MeterLog(logging.LoggerAdapter[logging.Logger]):
    """Names the meter in each line. A failure is logged as a warning first, and at debug while it continues.

    Attributes:
        address: address of the meter, ``host:port``.
    """

    def __init__(self, address: str) -> None:
        super().__init__(logging.getLogger("iem_dcr.driver"))
        self.address = address
        self._failing: set[str] = set()
        self._limited: dict[str, RateLimitedLog] = {}

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:  # noqa: ANN401  the signature is logging's
        """Prefix the message with the meter's address."""
        return f"meter {self.address}: {msg}", kwargs

    def failure(self, topic: str, msg: str, *args: object, level: int = logging.WARNING) -> None:
        """Log a failure: at ``level`` the first time, at debug while it continues."""
        if topic in self._failing:
            self.debug(msg, *args)
            return
        self._failing.add(topic)
        self.limited(f"{topic} failed").log(level, msg, *args)

    def limited(self, topic: str) -> RateLimitedLog:
        """Return the rate-limited log of a topic."""
        return self._limited.setdefault(topic, RateLimitedLog(self, now_s))

    def recovered(self, topic: str) -> None:
        """Log that a topic works again, if it failed before."""
        if topic in self._failing:
            self._failing.discard(topic)
            self.limited(f"{topic} works").log(logging.INFO, "%s works again", topic)


class RateLimitedLog:
    """Writes at most five lines a minute. Further lines are written at debug and counted.

    Args:
        log: the logger, or an adapter of one.
        now_s: a monotonic clock, seconds.
    """

    def __init__(self, log: logging.Logger | logging.LoggerAdapter[logging.Logger], now_s: Callable[[], float]) -> None:
        self._log = log
        self._now_s = now_s
        self._since_s = float("-inf")
        self._written = 0
        self._left_out = 0

    def info(self, msg: str, *args: object) -> None:
        """Write a line at level info."""
        self.log(logging.INFO, msg, *args)

    def warning(self, msg: str, *args: object) -> None:
        """Write a line at level warning."""
        self.log(logging.WARNING, msg, *args)

    def log(self, level: int, msg: str, *args: object, exc_info: bool = False) -> None:
        """Write a line, or count it."""
        now_s = self._now_s()
        if now_s - self._since_s >= PER_S:
            if self._left_out:
                self._log.log(level, "%d more lines like the next one were suppressed", self._left_out)
            self._since_s = now_s
            self._written = self._left_out = 0
        if self._written < LINES:
            self._written += 1
            self._log.log(level, msg, *args, exc_info=exc_info)
        else:
            self._left_out += 1
            self._log.debug(msg, *args)
