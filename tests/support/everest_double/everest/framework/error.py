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

    type: str = ""
    sub_type: str = ""
    message: str = ""
    severity: Severity = Severity.Low


class ErrorFactory:
    """Makes the errors an implementation may raise."""

    def __init__(self, types: Collection[str]) -> None:
        self._types = types

    def create_error(self, type_: str, sub_type: str, message: str, severity: Severity = Severity.Low, /) -> Error:
        """Make an error.

        Raises:
            RuntimeError: When the interface does not declare the type.
            TypeError: When an argument is of another type than C++ takes.
        """
        if not all(isinstance(text, str) for text in (type_, sub_type, message)) or not isinstance(severity, Severity):
            wrong = f"create_error(): incompatible function arguments: {(type_, sub_type, message, severity)}"
            raise TypeError(wrong)
        check_declared(type_, self._types)
        return Error(type_, sub_type, message, severity)


class ActiveErrors:
    """The active errors of one implementation."""

    def __init__(self, implementation: str, types: Collection[str], active: Iterable[tuple[str, str]]) -> None:
        self._implementation = implementation
        self._types = types
        self._active = set(active)
        self._lock = threading.Lock()

    def raise_error(self, error: object) -> None:
        """Raise an error; one that is active already stays as it is, with its old message."""
        if not isinstance(error, Error):
            wrong = f"raise_error(): incompatible function arguments: {error!r}"
            raise TypeError(wrong)
        check_declared(error.type, self._types)
        key = (error.type, error.sub_type)
        with self._lock:
            self._tell("raised", key, effective=key not in self._active, error=error)
            self._active.add(key)

    def clear_error(self, type_: str, sub_type: str) -> None:
        """Clear an error; nothing happens when it is not active."""
        check_declared(type_, self._types)
        key = (type_, sub_type)
        with self._lock:
            self._tell("cleared", key, effective=key in self._active)
            self._active.discard(key)

    def is_error_active(self, type_: str, sub_type: str, /) -> bool:
        """Whether an error of that type and sub-type is active."""
        check_declared(type_, self._types)
        with self._lock:
            return (type_, sub_type) in self._active

    def _tell(self, change: str, key: tuple[str, str], *, effective: bool, error: Error | None = None) -> None:
        link().send(
            "error",
            implementation=self._implementation,
            change=change,
            effective=effective,
            type=key[0],
            sub_type=key[1],
            message=error.message if error else "",
            severity=error.severity.name if error else "",
        )


def check_declared(type_: str, types: Collection[str]) -> None:
    """Refuse a type of error that the interface does not declare.

    Raises:
        RuntimeError: When it is not declared.
    """
    if type_ not in types:
        message = f"error type {type_!r} is not declared by the interface, which has {', '.join(sorted(types))}"
        raise RuntimeError(message)
