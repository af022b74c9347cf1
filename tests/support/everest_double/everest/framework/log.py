"""EVerest's log: a line goes to the test, and from level info on to standard output, as the manager shows it."""

from __future__ import annotations

import sys

from ._check import encodable
from ._link import link

_HIDDEN = ("verbose", "debug")


def _write(level: str, message: object) -> None:
    if not isinstance(message, str) or not encodable(message):
        error = f"{level}(): incompatible function arguments: {message!r}"
        raise TypeError(error)
    link().send("log", level=level, text=message)
    if level not in _HIDDEN:
        sys.stdout.write(f"[{level}] {message}\n")
        sys.stdout.flush()


def update_process_name(process_name: str, /) -> None:
    """Name the process in the log's lines."""
    link().send("process_name", name=process_name)


def verbose(message: str, /) -> None:
    """Log a line that is not shown."""
    _write("verbose", message)


def debug(message: str, /) -> None:
    """Log a line that is not shown."""
    _write("debug", message)


def info(message: str, /) -> None:
    """Log a line."""
    _write("info", message)


def warning(message: str, /) -> None:
    """Log a warning."""
    _write("warning", message)


def error(message: str, /) -> None:
    """Log an error."""
    _write("error", message)


def critical(message: str, /) -> None:
    """Log what the charger cannot go on with."""
    _write("critical", message)
