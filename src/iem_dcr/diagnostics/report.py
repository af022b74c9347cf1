"""Doctor's report on a meter: the result of each check, with what to do about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    Values = Mapping[str, object]


class State(enum.Enum):
    """The outcome of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_ASKED = "not asked"


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check.

    Attributes:
        text: what was found, in words; printable.
        to_do: what to do about it, or "".
        values: what was found as JSON types, with units in the names.
    """

    state: State
    text: str
    to_do: str = ""
    values: Values = field(default_factory=dict)


def ok(text: str, values: Values | None = None) -> Result:
    """Return a result that requires no action."""
    return Result(State.OK, text, "", values or {})


def warning(text: str, to_do: str = "", values: Values | None = None) -> Result:
    """Return a result that the user should know about."""
    return Result(State.WARNING, text, to_do, values or {})


def failed(text: str, to_do: str = "", values: Values | None = None) -> Result:
    """Return a result that requires a correction."""
    return Result(State.FAILED, text, to_do, values or {})


@dataclass(frozen=True, slots=True)
class Report:
    """The results of all checks of one meter.

    Attributes:
        address: of the meter.
        is_meter: whether an IEM-DCR answered. If not, the only result says why.
        results: by the name of the check, in the order in which they are shown.
        errors: messages that are shown before all results; printable.
    """

    address: str
    is_meter: bool
    results: Mapping[str, Result]
    errors: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        """0 nothing failed; 1 something failed, or no IEM-DCR answered."""
        return int(not self.is_meter or any(result.state is State.FAILED for result in self.results.values()))

    def to_json(self) -> dict[str, object]:
        """Return the report as JSON types. Names and states stay the same in all versions."""
        return {
            "address": self.address,
            "is_meter": self.is_meter,
            "exit_status": self.exit_status,
            "errors": list(self.errors),
            "checks": [
                {
                    "number": number,
                    "check": name,
                    "state": result.state.value,
                    "text": result.text,
                    "to_do": result.to_do,
                    "values": dict(result.values),
                }
                for number, (name, result) in enumerate(self.results.items(), 1)
            ],
        }
