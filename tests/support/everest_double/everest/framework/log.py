"""EVerest's log: a line goes to the test."""

from __future__ import annotations

from functools import partial

from ._link import link


def update_process_name(process_name: str, /) -> None:
    """Name the process in the log's lines."""
    link().send("process_name", name=process_name)


def _write(level: str, message: str, /) -> None:
    link().send("log", level=level, text=message)


verbose, debug, info = partial(_write, "verbose"), partial(_write, "debug"), partial(_write, "info")
warning, error, critical = partial(_write, "warning"), partial(_write, "error"), partial(_write, "critical")
