"""Which meter the running task or handler works for. The log shows it."""

from __future__ import annotations

from contextvars import ContextVar

METER: ContextVar[str] = ContextVar("METER", default="")
"""The module_id of that meter, or "" outside any meter's work."""
