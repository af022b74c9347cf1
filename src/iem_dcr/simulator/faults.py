"""Faults as data: which requests they hit and for how many of them. The server makes bytes of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from iem_dcr.errors import ConfigError, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FaultKind = Literal[
    "refuse",
    "lose-request",
    "lose-answer",
    "stall",
    "drip",
    "reset",
    "server-error",
    "garbage",
    "garbage-http",
    "wrong-length",
]

_METHODS = ("*", "GET", "POST")
_DEFAULT_STATUS = {"refuse": 428, "server-error": 500}
_DEFAULT_DELAY_S = {"stall": 30.0, "drip": 0.05}
_ALWAYS_ACT = ("lose-answer", "drip", "garbage", "garbage-http", "wrong-length")
_MAY_ACT = ("stall", "server-error")


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the next ``count`` requests that match.

    Attributes:
        kind: "refuse": a status, not acted on; "lose-request": the connection is closed, not acted on; "lose-answer":
            acted on, then closed; "stall": nothing for ``delay_s``, then closed; "drip": acted on, the answer comes
            byte by byte, ``delay_s`` apart; "reset": the connection is reset, not acted on; "server-error": a status;
            "garbage": acted on, status 200 with bytes that are no JSON; "garbage-http": acted on, bytes that are no
            HTTP; "wrong-length": acted on, announces more bytes than come, then closed.
        node: ``/receipt``, or "*" for every node.
        method: "GET", "POST" or "*".
        count: how many requests it hits.
        status: HTTP status of "refuse" (428) and "server-error" (500).
        body: text of the answer of those two.
        delay_s: of "stall" (30 s in all) and "drip" (0.05 s between bytes).
        acts: whether "stall" and "server-error" act on the request; the other kinds have it in their nature.
    """

    kind: FaultKind
    node: str = "*"
    method: str = "*"
    count: int = 1
    status: int | None = None
    body: str = ""
    delay_s: float | None = None
    acts: bool = False

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: with one line for each value that does not fit.
        """
        problems = list(self._problems())
        if problems:
            raise ConfigError(problems)

    def _problems(self) -> Iterable[str]:
        if self.kind not in get_args(FaultKind):
            yield f"kind: {printable(repr(self.kind))} is not one of {', '.join(get_args(FaultKind))}"
        if not _line(self.node) or not (self.node == "*" or self.node.startswith("/")):
            yield 'node: expects a node like "/receipt", or "*"'
        if self.method not in _METHODS:
            yield f"method: expects one of {', '.join(_METHODS)}"
        if not _whole(self.count) or self.count < 1:
            yield "count: expects a whole number, at least 1"
        if self.status is not None and not (_whole(self.status) and 400 <= self.status <= 599):
            yield "status: expects an HTTP status from 400 to 599"
        if not _line(self.body):
            yield "body: expects text in one line"
        if self.delay_s is not None and not (_number(self.delay_s) and 0 <= self.delay_s <= 86_400):
            yield "delay_s: expects seconds, from 0 to 86400"
        if not _truth(self.acts):
            yield "acts: expects true or false"
        if self.acts and self.kind not in _MAY_ACT:
            yield f"acts: has a meaning for {' and '.join(_MAY_ACT)} only"

    @classmethod
    def from_json(cls, value: object) -> Fault:
        """Read one fault of the control path.

        Raises:
            ConfigError: it is no object, has unknown keys, lacks "kind" or has a value that does not fit.
        """
        if not isinstance(value, dict):
            raise ConfigError(["fault: expects an object with at least the key kind"])
        known = {field.name for field in fields(cls)}
        problems = [f"{printable(key)}: no such key of a fault" for key in value if key not in known]
        if "kind" not in value:
            problems.append("kind: is missing")
        if problems:
            raise ConfigError(problems)
        return cls(**cast("Mapping[str, Any]", value))

    @property
    def acted(self) -> bool:
        """Whether the meter acts on a request this fault hits."""
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


def _line(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _truth(value: object) -> bool:
    return isinstance(value, bool)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
