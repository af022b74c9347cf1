"""Whose work is being done: the log lines of one meter's tasks and handlers are told from another's by this."""

from __future__ import annotations

from contextvars import ContextVar

METER: ContextVar[str] = ContextVar("METER", default="")
"""The module_id of the meter at work, or "" where none is."""
