"""Faults as data: which requests a fault hits, how many of them, and what the meter does. The server applies them."""

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
    """A fault that hits the next ``count`` matching requests.

    Attributes:
        kind: what happens to the request; docs/simulator.md describes each kind.
        node: a node such as ``/receipt``, or "*" for every node.
        method: "GET", "POST" or "*".
        count: number of requests that it hits.
        status: HTTP status of "refuse" and "server-error"; None is 428 and 500.
        body: text of the answer of "refuse" and "server-error".
        delay_s: delay of "act-late", total time of "stall", or time between the bytes of "drip"; None is 3 s, 30 s and
            0.05 s.
        acts: whether the meter acts on a request hit by "stall" or "server-error". The other kinds determine it.

    Raises:
        ConfigError: with one line for each invalid value.
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
            raise ConfigError([f"acts: is only valid for {' and '.join(_MAY_ACT)}"])

    @property
    def acted(self) -> bool:
        """Whether the meter acts immediately on a request that this fault hits."""
        return self.acts or self.kind in _ALWAYS_ACT

    @property
    def status_instead(self) -> int | None:
        """The HTTP status that replaces the meter's answer, or None."""
        return (self.status or _DEFAULT_STATUS[self.kind]) if self.kind in _DEFAULT_STATUS else None

    @property
    def wait_s(self) -> float:
        """The delay in seconds, or its default."""
        return self.delay_s if self.delay_s is not None else _DEFAULT_DELAY_S.get(self.kind, 0.0)


class FaultPlan:
    """The pending faults in the order they were added. The first one that matches a request hits it."""

    def __init__(self) -> None:
        self._left: list[Fault] = []

    def add(self, *faults: Fault) -> None:
        """Append faults."""
        self._left.extend(faults)

    def clear(self) -> None:
        """Remove all faults."""
        self._left.clear()

    def take(self, method: str, node: str) -> Fault | None:
        """Return the fault that hits this request, or None, and reduce its count."""
        for index, fault in enumerate(self._left):
            if fault.method in ("*", method) and fault.node in ("*", node):
                self._left[index : index + 1] = [replace(fault, count=fault.count - 1)] if fault.count > 1 else []
                return fault
        return None

    def as_json(self) -> list[dict[str, object]]:
        """Return the pending faults; ``count`` is the number of requests that each will still hit."""
        return [asdict(fault) for fault in self._left]
