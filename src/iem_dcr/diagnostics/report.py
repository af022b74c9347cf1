"""What was found out about a meter: a numbered list of checks, each with what to do."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKS: Final = {
    "reachable": ("Reachable", "It answers, and how fast"),
    "connections": ("Connections", "Whether it keeps a connection for the next request"),
    "serial": ("Serial number", "MS, against `meter_serial` of the configuration"),
    "transaction": ("Transaction", "XT: whether one runs"),
    "gateway": ("Charge point", "CT and CI, against those of the configuration"),
    "clock": ("Clock", "Its difference to this host's, that it moves, its sync flag and its zone"),
    "errors": ("Errors", "XC: every word is zero"),
    "status": ("Status", "ST, EF and XS"),
    "key": ("Public key", "It can be read, is a point of its curve, and what it is written in"),
    "reading": ("Reading", "U2·I against P, and the direction of the current"),
    "register": ("Registers", "They do not fall, and count what flows, over 3 s"),
    "api": ("API", "Whether /transaction is below v1 or v2"),
    "receipt": ("Last receipt", "Its signature, and what is found in it"),
}
"""Every check by the name it has in JSON: its title, and what is looked at. The list is in this order."""


class State(enum.Enum):
    """What became of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_ASKED = "not asked"


@dataclass(frozen=True, slots=True)
class Line:
    """One check.

    Attributes:
        check: a key of `CHECKS`.
        text: what was found, in words; fit to be printed.
        to_do: what to do about it, or "".
        values: what was found as JSON types, units in the names.
    """

    check: str
    state: State
    text: str
    to_do: str = ""
    values: Mapping[str, object] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name of the check for people."""
        return CHECKS[self.check][0]


@dataclass(frozen=True, slots=True)
class Report:
    """All checks of one meter.

    Attributes:
        address: of the meter.
        is_meter: an IEM-DCR could be asked; without one there is but the one line that says why.
    """

    address: str
    is_meter: bool
    lines: tuple[Line, ...]

    @property
    def exit_status(self) -> int:
        """0 nothing failed, 1 something did, 2 no IEM-DCR could be asked."""
        if not self.is_meter:
            return 2
        return int(any(line.state is State.FAILED for line in self.lines))

    def to_json(self) -> dict[str, object]:
        """Return it as JSON types; names and states do not change from version to version."""
        return {
            "address": self.address,
            "is_meter": self.is_meter,
            "exit_status": self.exit_status,
            "checks": [
                {
                    "number": number,
                    "check": line.check,
                    "state": line.state.value,
                    "text": line.text,
                    "to_do": line.to_do,
                    "values": dict(line.values),
                }
                for number, line in enumerate(self.lines, 1)
            ],
        }
