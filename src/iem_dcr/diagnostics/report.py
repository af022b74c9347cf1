"""Doctor's report on a meter: the result of each check, with what to do about it."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(enum.StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_ASKED = "not asked"


OK, WARNING, FAILED, NOT_ASKED = State


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check.

    Attributes:
        state: ok requires no action, a warning is worth knowing, failed requires a correction.
        text: what was found, in words; printable.
        to_do: what to do about it, or "".
        values: what was found as JSON types, with units in the names.
    """

    state: State
    text: str
    to_do: str = ""
    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """The results of all checks of one meter.

    Attributes:
        address: of the meter.
        is_meter: whether an IEM-DCR answered. If not, the only result says why.
        results: by the name of the check, in the order in which they are shown.
        error: a message that is shown before all results, or ""; printable.
    """

    address: str
    is_meter: bool
    results: Mapping[str, Result]
    error: str = ""

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
            "errors": [self.error] if self.error else [],
            "checks": [
                {"number": number, "check": name, **asdict(result)}
                for number, (name, result) in enumerate(self.results.items(), 1)
            ],
        }
