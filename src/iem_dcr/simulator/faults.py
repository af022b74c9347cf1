"""Faults as data: which requests they hit, for how many of them, and what the meter does then. The server writes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Final, Literal, get_args

import click

from iem_dcr.errors import ConfigError
from iem_dcr.simulator.nodes import METHODS
from iem_dcr.simulator.options import SECONDS, knob, read_all

FaultKind = Literal[
    "refuse", "lose-request", "lose-answer", "act-late", "stall", "drip", "reset", "server-error", "garbage",
    "garbage-http", "wrong-length",
]  # fmt: skip

_DEFAULT_STATUS: Final = {"refuse": 428, "server-error": 500}
_DEFAULT_DELAY_S: Final = {"act-late": 3.0, "stall": 30.0, "drip": 0.05}
_ALWAYS_ACT: Final = ("lose-answer", "drip", "garbage", "garbage-http", "wrong-length")
_MAY_ACT: Final = ("stall", "server-error")


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the next ``count`` requests that match.

    Attributes:
        kind: what becomes of the request; docs/simulator.md has each.
        node: ``/receipt``, or "*" for every node.
        method: "GET", "POST" or "*".
        count: how many requests it hits.
        status: HTTP status of "refuse" (428) and "server-error" (500); None: as in brackets.
        body: text of the answer of those two.
        delay_s: of "act-late" (3 s), "stall" (30 s in all) and "drip" (0.05 s between bytes); None: as in brackets.
        acts: whether "stall" and "server-error" act on the request; the other kinds have it in their nature.

    Raises:
        ConfigError: with one line for each value that does not fit.
    """

    kind: FaultKind = field(metadata={"type": click.Choice(get_args(FaultKind))})
    node: str = knob("*", kind=click.Choice(("*", *METHODS)))
    method: str = knob("*", kind=click.Choice(("*", "GET", "POST")))
    count: int = knob(1, kind=click.IntRange(1))
    status: int | None = knob(None, kind=click.IntRange(400, 599))
    body: str = knob("")
    delay_s: float | None = knob(None, kind=SECONDS)
    acts: bool = knob(False)

    def __post_init__(self) -> None:
        read_all(self)
        if self.acts and self.kind not in _MAY_ACT:
            raise ConfigError([f"acts: has a meaning for {' and '.join(_MAY_ACT)} only"])

    @property
    def acted(self) -> bool:
        """Whether the meter acts at once on a request that this fault hits."""
        return self.acts or self.kind in _ALWAYS_ACT

    @property
    def http_status(self) -> int:
        """The status it answers with."""
        return self.status if self.status is not None else _DEFAULT_STATUS.get(self.kind, 200)

    @property
    def wait_s(self) -> float:
        """The delay it makes."""
        return self.delay_s if self.delay_s is not None else _DEFAULT_DELAY_S.get(self.kind, 0.0)


class FaultPlan:
    """Faults in the order they were added; the first that matches a request is the one that hits it."""

    def __init__(self) -> None:
        self._left: list[Fault] = []

    def add(self, *faults: Fault) -> None:
        """Add faults behind those there are."""
        self._left.extend(faults)

    def clear(self) -> None:
        """Forget all faults."""
        self._left.clear()

    def take(self, method: str, node: str) -> Fault | None:
        """Return the fault that hits this request and count it off, or None."""
        for index, fault in enumerate(self._left):
            if fault.method in ("*", method) and fault.node in ("*", node):
                self._left[index : index + 1] = [replace(fault, count=fault.count - 1)] if fault.count > 1 else []
                return fault
        return None

    def as_json(self) -> list[dict[str, object]]:
        """Return what is left, with ``count`` the requests still to be hit."""
        return [asdict(fault) for fault in self._left]
