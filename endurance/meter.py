"""A simulated meter that records what it really does. The driver's answers are compared with this truth."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from iem_dcr.simulator import BASE, SimulatedMeter, node_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from iem_dcr.simulator import Answer, Event, SimulatorOptions

SLOW_BOOT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Serving:
    """A start in progress: its id and the number of the process that handles it."""

    transaction_id: str
    process: int


@dataclass(slots=True, eq=False)
class Truth:
    """A transaction that a meter really began.

    Attributes:
        owner: the start that began it; None for a foreign transaction.
        begun_s: when it began.
        closed_s: when it ended or was lost; None while it runs.
        text: its tuple once it is signed.
        lost: the meter will never sign it, because a power cut or another B destroyed it.
    """

    serial: str
    number: int
    owner: Serving | None
    begun_s: float
    closed_s: float | None = None
    text: str | None = None
    lost: bool = False

    @property
    def transaction_id(self) -> str | None:
        return None if self.owner is None else self.owner.transaction_id

    def process_is(self, number: int | None) -> bool:
        return self.owner is not None and self.owner.process == number


@dataclass(frozen=True, slots=True)
class Trap:
    """An action ``delay_s`` after the meter acted on a request, or, if ``before`` is true, when the request arrives."""

    method: str
    node: str
    delay_s: float
    spring: Callable[[], None]
    before: bool = False


class Meter(SimulatedMeter):
    """A simulated meter that records its transactions.

    Args:
        options: options of the simulator.
        now_s: returns the time of the run.
        counts: counts the power cuts and their circumstances.
        owner_of_card: returns the start that a card belongs to, if requests do not have ``sent_for``.

    Attributes:
        truths: every transaction that it began, in order. They are signed in the same order.
        spoiled: transactions that a B of ours destroyed while they ran or were being signed, each with the start that
            sent the B.
        interfered_s: times of other possible ends of a transaction: a power cut, a technician, a request that was
            acted on late. None means any time.
        shifted_s: when its clock leapt.
    """

    def __init__(
        self,
        options: SimulatorOptions,
        now_s: Callable[[], float],
        counts: Counter[str] | None = None,
        owner_of_card: Callable[[str], Serving | None] = lambda _: None,
    ) -> None:
        super().__init__(options, monotonic=now_s)
        self.serial = options.MS
        self.now_s = now_s
        self.truths: list[Truth] = []
        self.spoiled: list[tuple[Truth, Serving]] = []
        self.interfered_s: list[float] | None = []
        self.traps: list[Trap] = []
        self.shifted_s: list[float] = []
        self.power_cuts = 0
        self._counts = Counter() if counts is None else counts
        self._owner_of_card = owner_of_card
        self._card = ""
        self._sent_for: Serving | None = None
        self.state.watchers.append(self._on_event)

    def shift_clock(self, by_s: float) -> None:
        self.shifted_s.append(self.now_s())
        super().shift_clock(by_s)

    @property
    def open_transaction(self) -> Truth | None:
        opened = self.state.opened
        return None if opened is None else self.truths[opened.number - 1]

    @property
    def signed_truths(self) -> list[Truth]:
        _ = self.state  # signs the records that are due
        return [truth for truth in self.truths if truth.text is not None]

    def handle(self, method: str, path: str, body: bytes = b"", sent_for: Serving | None = None) -> Answer:
        node = node_of(path)
        self._spring(method, node, before=True)
        self._sent_for = sent_for or self._owner_of_card(self._card)
        try:
            answer = super().handle(method, path, body)
        finally:
            self._sent_for = None
        if answer.status < 300:
            if (method, node) == ("POST", "/user"):
                self._card = json.loads(body)["ID"]
            self._spring(method, node, before=False)
        return answer

    def power_cycle(self, off_s: float = 2.0, boot_s: float = 3.0) -> None:
        self._counts[f"power cut {self._moment()}"] += 1
        if boot_s >= SLOW_BOOT_S:
            self._counts["slow boot"] += 1
        self.power_cuts += 1
        self.note_interference(self.now_s())
        super().power_cycle(off_s, boot_s)

    def note_interference(self, *at_s: float) -> None:
        """Record times at which something other than a timely request may have ended a transaction."""
        if self.interfered_s is not None:
            self.interfered_s += at_s

    def by_hand(self, command: str) -> None:
        """Begin or end a transaction ("B", "E") as a technician with a tool does."""
        if self.unreachable_for_s <= 0:
            self.note_interference(self.now_s())
            super().handle("POST", f"{BASE}/receipt", f'{{"TX":"{command}"}}'.encode())

    def _moment(self) -> str:
        """Name the present phase of a session."""
        state = self.state
        if state.opened is not None:
            return f"in a session, {state.options.open_at_power_cut}"
        if state.unsigned:
            return "while signing"
        if state.user is not None:
            return "between /user and B"
        asked = [each for each in list(self.requests)[-30:] if each.node == "/receipt"]
        since_post = list(itertools.takewhile(lambda each: each.method == "GET", reversed(asked)))
        is_unread = all(each.status != HTTPStatus.OK for each in since_post)
        return "between E and GET /receipt" if asked and is_unread and state.ended else "while idle"

    def _spring(self, method: str, node: str, *, before: bool) -> None:
        for trap in [trap for trap in self.traps if (trap.method, trap.node, trap.before) == (method, node, before)]:
            self.traps.remove(trap)
            if trap.delay_s > 0:
                asyncio.get_running_loop().call_later(trap.delay_s, trap.spring)
            else:
                trap.spring()

    def _on_event(self, event: Event) -> None:
        if event.kind == "begun":
            self.truths.append(Truth(self.serial, len(self.truths), self._sent_for, self.now_s()))
            return
        truth = self.truths[event.transaction - 1]
        if event.kind == "signed":
            truth.text = event.text
            return
        truth.closed_s = self.now_s() if truth.closed_s is None else truth.closed_s
        truth.lost = event.kind == "lost"
        if truth.lost and self._sent_for is not None:
            self.spoiled.append((truth, self._sent_for))
