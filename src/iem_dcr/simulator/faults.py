"""Faults as data: which requests they hit, for how many of them, and what the meter does then. The server writes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, get_args

import click

from iem_dcr.errors import ConfigError, printable
from iem_dcr.simulator.values import Flag, Line, Number, Whole, checked

FaultKind = Literal[
    "refuse", "lose-request", "lose-answer", "act-late", "stall", "drip", "reset", "server-error", "garbage",
    "garbage-http", "wrong-length",
]  # fmt: skip

_DEFAULT_STATUS: Final = {"refuse": 428, "server-error": 500}
_DEFAULT_DELAY_S: Final = {"act-late": 3.0, "stall": 30.0, "drip": 0.05}
_ALWAYS_ACT: Final = ("lose-answer", "drip", "garbage", "garbage-http", "wrong-length")
_MAY_ACT: Final = ("stall", "server-error")


class _Node(Line):
    """``/receipt`` and the like, or "*"."""

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str | None:
        """Read it."""
        if not isinstance(value, str) or not value.isprintable() or not (value == "*" or value.startswith("/")):
            self.fail('expects a node like "/receipt", or "*"', param, ctx)
        return value


def _field(default: object, kind: object) -> Any:  # noqa: ANN401  the field has its own type
    return field(default=default, metadata={"type": kind})


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the next ``count`` requests that match.

    Attributes:
        kind: "refuse": a status, not acted on; "lose-request": the connection is closed, not acted on; "lose-answer":
            acted on, then closed; "act-late": no answer, acted on after ``delay_s``, whether or not the client is
            still there, then closed; "stall": nothing for ``delay_s``, then closed; "drip": acted on, the answer comes
            byte by byte, ``delay_s`` apart; "reset": the connection is reset, not acted on; "server-error": a status;
            "garbage": acted on, status 200 with bytes that are no JSON; "garbage-http": acted on, bytes that are no
            HTTP; "wrong-length": acted on, announces more bytes than come, then closed.
        node: ``/receipt``, or "*" for every node.
        method: "GET", "POST" or "*".
        count: how many requests it hits.
        status: HTTP status of "refuse" (428) and "server-error" (500); None: as in brackets.
        body: text of the answer of those two.
        delay_s: of "act-late" (3 s), "stall" (30 s in all) and "drip" (0.05 s between bytes); None: as in brackets.
        acts: whether "stall" and "server-error" act on the request; the other kinds have it in their nature.
    """

    kind: FaultKind = field(metadata={"type": click.Choice(get_args(FaultKind))})
    node: str = _field("*", _Node())
    method: str = _field("*", click.Choice(("*", "GET", "POST")))
    count: int = _field(1, Whole(1))
    status: int | None = _field(None, Whole(400, 599, optional=True))
    body: str = _field("", Line())
    delay_s: float | None = _field(None, Number(0, 86_400, optional=True))
    acts: bool = _field(False, Flag())  # noqa: FBT003  the default

    def __post_init__(self) -> None:
        """Read and check every value.

        Raises:
            ConfigError: with one line for each value that does not fit.
        """
        checked(self)
        if self.acts and self.kind not in _MAY_ACT:
            raise ConfigError([f"acts: has a meaning for {' and '.join(_MAY_ACT)} only"])

    @classmethod
    def from_json(cls, value: object) -> Fault:
        """Read one fault of the control path.

        Raises:
            ConfigError: it is no object, has unknown keys, lacks "kind" or has a value that does not fit.
        """
        if not isinstance(value, dict):
            raise ConfigError(["fault: expects an object with at least the key kind"])
        known = {each.name for each in fields(cls)}
        problems = [f"{printable(key)}: no such key of a fault" for key in value if key not in known]
        if "kind" not in value:
            problems.append("kind: is missing")
        if problems:
            raise ConfigError(problems)
        given: dict[str, Any] = value
        return cls(**given)

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

    def hits(self, method: str, node: str) -> bool:
        """Whether it is for this request."""
        return self.method in ("*", method) and self.node in ("*", node)


class FaultPlan:
    """Faults in the order they were added; the first that matches a request is the one that hits it."""

    def __init__(self) -> None:
        self._left: list[tuple[Fault, int]] = []

    def add(self, *faults: Fault) -> None:
        """Add faults behind those there are."""
        self._left.extend((fault, fault.count) for fault in faults)

    def clear(self) -> None:
        """Forget all faults."""
        self._left.clear()

    def take(self, method: str, node: str) -> Fault | None:
        """Return the fault that hits this request and count it off, or None."""
        for index, (fault, left) in enumerate(self._left):
            if fault.hits(method, node):
                if left > 1:
                    self._left[index] = (fault, left - 1)
                else:
                    del self._left[index]
                return fault
        return None

    def as_json(self) -> list[dict[str, object]]:
        """Return what is left, with ``count`` the requests still to be hit."""
        return [asdict(fault) | {"count": left} for fault, left in self._left]
