"""The service's log on standard error: one line for each record, as text or as JSON, with the meter's module_id.

Logging never blocks. A record is formatted where it is logged, because only there its meter is known. A separate thread
writes the line. When standard error accepts nothing (a full pipe), lines are dropped and counted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import select
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TextIO

from iem_dcr.errors import printable
from iem_dcr.everest_api.meter_api import METER
from iem_dcr.meter_time import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STYLES: Final = ("text", "json")
MAX_MESSAGE: Final = 4000
"""Number of characters of a message that are logged."""
MAX_TRACEBACK: Final = 16_000
"""Number of characters of a traceback that are logged. These are its end, which contains the error."""
MAX_WAITING_LINES: Final = 2000
FLUSH_TIMEOUT_S: Final = 0.5
NO_METER: Final = "-"
"""Replaces the module_id in a line of text that is about no meter or about all meters."""

_PRIORITIES: Final = {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "INFO": 6, "DEBUG": 7}
"""Of syslog(3), as systemd's journal reads them."""


class TextFormatter(logging.Formatter):
    """``2026-03-01T12:00:00.000Z INFO module_id: message``. A traceback follows in the same line.

    The format for systemd's journal, which adds the time itself, is ``<6>INFO module_id: message`` (sd-daemon(3)).
    """

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        head = f"<{_PRIORITIES.get(record.levelname, 6)}>" if self._journal else f"{_time(record)} "
        lines = [_message(record), *map(_printable, _traceback(self, record).split("\n"))]
        return f"{head}{record.levelname} {METER.get() or NO_METER}: {' | '.join(filter(None, lines))}"


class JsonFormatter(logging.Formatter):
    """A JSON object with time, level, logger, module_id ("" without a meter), message and, if present, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "module_id": METER.get(),
            "message": _message(record),
        }
        if traceback := _traceback(self, record):
            line["exception"] = traceback
        return json.dumps(line, separators=(",", ":"))


class LineHandler(logging.Handler):
    """Formats records where they are logged. A thread writes the lines to a stream.

    The thread writes to the stream's descriptor: Python flushes its own streams when it exits, and would then wait for
    a reader that may have gone.

    Args:
        stream: standard error, or None if the process has none; then nothing is written.
        formatter: formats the lines.
    """

    def __init__(self, stream: TextIO | None, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._descriptor: int | None = None
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                self._descriptor = stream.fileno()
        # A SimpleQueue, because a signal handler may put a line while its thread is putting one.
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_lines, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line of a record, or drop it if too many lines wait."""
        if self._lines.qsize() >= MAX_WAITING_LINES:
            self._dropped += 1
            return
        try:
            if self._dropped:
                text = f"{self._dropped} lines of the log were lost: standard error did not accept them"
                self._dropped = 0
                self._lines.put(self.format(logging.LogRecord(__name__, logging.WARNING, "", 0, text, None, None)))
            self._lines.put(self.format(record))
        except Exception:  # noqa: BLE001  as every handler of logging
            self.handleError(record)

    def close(self) -> None:
        """Wait until all lines are written, but at most half a second."""
        self._lines.put(None)
        self._thread.join(FLUSH_TIMEOUT_S)
        super().close()

    def _write_lines(self) -> None:
        """Write lines, however long it takes. An error of standard error cannot be reported."""
        while (text := self._lines.get()) is not None:
            if self._descriptor is None:
                continue
            line = f"{text}\n".encode(errors="replace")
            with contextlib.suppress(OSError):
                while line:
                    try:
                        line = line[os.write(self._descriptor, line) :]
                    except BlockingIOError:
                        select.select([], [self._descriptor], [], 1.0)


@contextlib.contextmanager
def log_lines(style: str, level: int, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Write the log of the whole process to standard error as lines, in place of the previous handlers.

    Args:
        style: one of `STYLES`.
        level: the lowest level of this package that is logged; for other packages it is WARNING.
        environment: shows whether standard error is systemd's journal.
    """
    root, ours = logging.getLogger(), logging.getLogger("iem_dcr")
    before = root.handlers[:], root.level, ours.level, logging.raiseExceptions
    formatter = JsonFormatter() if style == "json" else TextFormatter(journal=_is_journal(sys.stderr, environment))
    handler = LineHandler(sys.stderr, formatter)
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    ours.setLevel(level)
    logging.raiseExceptions = False  # an error of standard error cannot be reported
    logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:], logging.raiseExceptions = before[0], before[3]
        root.setLevel(before[1])
        ours.setLevel(before[2])
        handler.close()


def _is_journal(stream: TextIO | None, environment: Mapping[str, str]) -> bool:
    """Whether a stream is systemd's journal. JOURNAL_STREAM contains its device and inode (systemd.exec(5))."""
    if stream is None:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM", "") == f"{found.st_dev}:{found.st_ino}"


def _message(record: logging.LogRecord) -> str:
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001  a message whose arguments do not fit is still useful
        message = f"{record.msg} (its arguments do not fit)"
    return _printable(message)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    return formatter.formatException(record.exc_info)[-MAX_TRACEBACK:]


def _printable(text: str) -> str:
    return printable(text, limit=MAX_MESSAGE)


def _time(record: logging.LogRecord) -> str:
    return rfc3339(datetime.fromtimestamp(record.created, UTC))
