"""The service's log on standard error: each record one line, of text or of JSON, with the meter's module_id.

A log that nobody takes (a pipe that is full, a reader that left) costs lines, never time: records are made into lines
where they are logged, and a thread of its own writes them. What it cannot keep up with is dropped and counted.
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
from typing import TYPE_CHECKING

from iem_dcr.errors import printable
from iem_dcr.everest_api.context import METER
from iem_dcr.meter_time import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STYLES = ("text", "json")
LONGEST_MESSAGE = 4000
"""Characters of a message that are logged."""
LONGEST_TRACEBACK = 16_000
"""Characters of a traceback that are logged: its end, which says what went wrong."""
WAITING_LINES = 2000
FLUSHED_WITHIN_S = 0.5
NO_METER = "-"
"""Stands for the module_id in a line that is about no meter, or about all."""

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_PRIORITY_DEBUG = 7


class TextFormatter(logging.Formatter):
    """``2026-03-01T12:00:00.000Z INFO module_id: message``, a traceback behind it in the same line.

    For the journal, which knows the time: ``<6>INFO module_id: message`` (sd-daemon(3)).
    """

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """Make a line of a record."""
        head = f"<{_priority(record.levelno)}>" if self._journal else f"{_time(record)} "
        traceback = " | ".join(line for line in map(printable_whole, _traceback(self, record).split("\n")) if line)
        behind = f" | {traceback}" if traceback else ""
        return f"{head}{record.levelname} {_module_id() or NO_METER}: {_message(record)}{behind}"


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, module_id ("" where it is about no meter), message; exception if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Make a line of a record."""
        line = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "module_id": _module_id(),
            "message": _message(record),
        }
        traceback = _traceback(self, record)
        if traceback:
            line["exception"] = traceback
        return json.dumps(line, separators=(",", ":"))


class LineHandler(logging.Handler):
    """Has records written as lines to a file descriptor by a thread of its own.

    Args:
        descriptor: where to write; it stays open.
        formatter: makes the lines.
    """

    def __init__(self, descriptor: int, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._descriptor = descriptor
        # Of this kind, for a signal's handler may log while its own thread is putting a line in.
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lost = 0
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record."""
        if self._lines.qsize() >= WAITING_LINES:
            self._lost += 1
            return
        try:
            if self._lost:
                told = f"{self._lost} lines of the log were lost: nobody took them"
                self._lost = 0
                self._lines.put(self._line(logging.LogRecord(__name__, logging.WARNING, "", 0, told, None, None)))
            self._lines.put(self._line(record))
        except Exception:  # noqa: BLE001  a record that cannot be written must not hurt what it tells of
            self._lost += 1

    def close(self) -> None:
        """Have what waits written, for half a second at most."""
        self._lines.put(None)
        self._thread.join(FLUSHED_WITHIN_S)
        super().close()

    def _line(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode(errors="replace")

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            with contextlib.suppress(OSError):
                self._write(line)

    def _write(self, line: bytes) -> None:
        while line:
            try:
                line = line[os.write(self._descriptor, line) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [], 1.0)


@contextlib.contextmanager
def log_lines(style: str, level: int, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Write the whole process's log to standard error as lines, in the place of what wrote it before.

    Args:
        style: one of `STYLES`.
        level: from which on this package logs; other packages' warnings and errors are logged too.
        environment: says whether standard error is the journal.
    """
    root, ours = logging.getLogger(), logging.getLogger("iem_dcr")
    before = root.handlers[:], root.level, ours.level, logging.raiseExceptions
    descriptor = _standard_error()
    formatter = JsonFormatter() if style == "json" else TextFormatter(journal=is_journal(descriptor, environment))
    handler = LineHandler(descriptor, formatter)
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    ours.setLevel(level)
    logging.raiseExceptions = False
    logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:], logging.raiseExceptions = before[0], before[3]
        root.setLevel(before[1])
        ours.setLevel(before[2])
        handler.close()


def is_journal(descriptor: int, environment: Mapping[str, str]) -> bool:
    """Tell whether a descriptor leads to the journal: JOURNAL_STREAM has its device and inode (systemd.exec(5))."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM", "") == f"{found.st_dev}:{found.st_ino}"


def printable_whole(text: str) -> str:
    """Make text safe for a line of the log without cutting it at a message's usual length."""
    return text.strip() if text.isprintable() else printable(text, limit=LONGEST_MESSAGE)


def _standard_error() -> int:
    """Return its descriptor; where the process has none, that of nothing, for 2 may be anything then."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return os.open(os.devnull, os.O_WRONLY)


def _message(record: logging.LogRecord) -> str:
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001  a line whose arguments do not fit still tells something
        message = f"{record.msg} (its arguments do not fit)"
    return printable(message, limit=LONGEST_MESSAGE)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    return formatter.formatException(record.exc_info)[-LONGEST_TRACEBACK:]


def _module_id() -> str:
    return METER.get()


def _time(record: logging.LogRecord) -> str:
    return rfc3339(datetime.fromtimestamp(record.created, UTC))


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), _PRIORITY_DEBUG)
