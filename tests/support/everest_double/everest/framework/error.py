"""EVerest's errors: what is active is kept here, within the process, as everestpy keeps it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from ._link import link

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class Severity(Enum):
    """How bad an error is."""

    Low = 0
    Medium = 1
    High = 2


@dataclass
class Error:
    """An error as a factory makes it."""

    type: str
    sub_type: str
    message: str = ""
    severity: Severity = Severity.Low


class Errors:
    """The errors of one implementation: everestpy's factory, and its monitor of those that are active."""

    def __init__(self, types: Collection[str], active: Iterable[tuple[str, str]]) -> None:
        self._types = types
        self._active = set(active)
        self._lock = threading.Lock()

    def create_error(self, type_: str, sub_type: str, message: str, severity: Severity = Severity.Low, /) -> Error:
        """Make an error of a type that the interface declares."""
        self._check_declared(type_)
        return Error(type_, sub_type, message, severity)

    def is_error_active(self, type_: str, sub_type: str, /) -> bool:
        """Whether an error of that type and sub-type is active."""
        self._check_declared(type_)
        with self._lock:
            return (type_, sub_type) in self._active

    def raise_error(self, error: Error) -> None:
        """Raise an error; one that is active already stays as it is, with its old message."""
        key = error.type, error.sub_type
        with self._lock:
            self._tell("raised", error, effective=key not in self._active)
            self._active.add(key)

    def clear_error(self, type_: str, sub_type: str) -> None:
        """Clear an error; nothing happens when it is not active."""
        self._check_declared(type_)
        with self._lock:
            self._tell("cleared", Error(type_, sub_type), effective=(type_, sub_type) in self._active)
            self._active.discard((type_, sub_type))

    def _check_declared(self, type_: str) -> None:
        if type_ not in self._types:
            raise RuntimeError(f"error type {type_!r} is not declared by the interface")

    def _tell(self, change: str, error: Error, *, effective: bool) -> None:
        link().send(
            "error",
            change=change,
            effective=effective,
            type=error.type,
            sub_type=error.sub_type,
            message=error.message,
            severity=error.severity.name if change == "raised" else "",
        )
