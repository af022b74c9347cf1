"""Exceptions that nobody expected: what the program and its event loop log with a traceback."""

from __future__ import annotations

import logging
from typing import Final, Self

LOGGERS: Final = ("iem_dcr", "asyncio")
MOST_KEPT: Final = 20


class Mistakes(logging.Handler):
    """Takes the place of all other logging while it is entered, and keeps what has a traceback.

    Attributes:
        found: message and exception of each, the first of them.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []
        self._before: list[tuple[logging.Logger, int, bool, list[logging.Handler]]] = []

    def __enter__(self) -> Self:
        """Take their place."""
        for logger in map(logging.getLogger, LOGGERS):
            self._before.append((logger, logger.level, logger.propagate, logger.handlers))
            logger.handlers, logger.propagate = [self], False
            logger.setLevel(logging.ERROR)
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        while self._before:
            logger, level, propagate, handlers = self._before.pop()
            logger.propagate, logger.handlers = propagate, handlers
            logger.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it if it has a traceback."""
        if record.exc_info and record.exc_info[1] is not None and len(self.found) < MOST_KEPT:
            self.found.append(f"{record.getMessage()}: {record.exc_info[1]!r}")
