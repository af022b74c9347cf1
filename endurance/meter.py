"""A meter, and what it really did: the truth that the driver's answers are held against."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from endurance.model import MeterRecord, Truth
from iem_dcr.simulator import BASE, SimulatedMeter, node_of

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from endurance.model import Serving
    from iem_dcr.simulator import Answer, Event, SimulatorOptions

SLOW_BOOT_S: Final = 10.0


@dataclass(slots=True, eq=False)
class Trap:
    """Something that happens when the meter has acted on a request.

    Attributes:
        method, node: of the request.
        delay_s: how long after it.
        spring: what happens.
    """

    method: str
    node: str
    delay_s: float
    spring: Callable[[], None]


class Unit(MeterRecord):
    """One simulated meter with its truth.

    Attributes:
        meter: the simulated one.
        power: counts its power cuts.
        traps: that are set.
    """

    meddled_s: list[float]

    def __init__(self, options: SimulatorOptions, counts: Counter[str]) -> None:
        super().__init__(options.MS)
        self._now_s = asyncio.get_running_loop().time
        self.meter = SimulatedMeter(options, monotonic=self._now_s)
        self.meter.state.watchers.append(self._heard)
        self.power = 0
        self.traps: list[Trap] = []
        self._counts = counts
        self._sent_for: Serving | None = None

    @property
    def is_on(self) -> bool:
        """Whether it answers."""
        return self.meter.unreachable_for_s <= 0

    @property
    def running(self) -> Truth | None:
        """The transaction that runs."""
        opened = self.meter.state.opened
        return None if opened is None else self.truths[opened.number - 1]

    @property
    def signed(self) -> list[Truth]:
        """Those that are signed by now."""
        self.meter.state  # noqa: B018  what is due is signed
        return super().signed

    def act(self, method: str, path: str, body: bytes, sent_for: Serving | None) -> Answer | None:
        """Have the meter act on a request; None when it has no power."""
        self._sent_for = sent_for
        try:
            answer = self.meter.handle(method, path, body)
        except ConnectionRefusedError:
            return None
        finally:
            self._sent_for = None
        if answer.status < 300 and self.traps:
            self._spring(method, node_of(path))
        return answer

    def cut_power(self, off_s: float, boot_s: float) -> None:
        """Cut its power; every connection breaks."""
        self._counts[f"power cut {self._moment()}"] += 1
        if boot_s >= SLOW_BOOT_S:
            self._counts["slow boot"] += 1
        self.power += 1
        self.meddled_s.append(self._now_s())
        self.meter.power_cycle(off_s, boot_s)

    def begin_by_hand(self) -> None:
        """Begin a transaction as a technician with a tool of his own does; a refusal changes nothing."""
        if self.is_on:
            self.meddled_s.append(self._now_s())
            self.meter.handle("POST", f"{BASE}/receipt", b'{"TX":"B"}')

    def end_by_hand(self) -> None:
        """End whatever runs, likewise."""
        if self.is_on:
            self.meddled_s.append(self._now_s())
            self.meter.handle("POST", f"{BASE}/receipt", b'{"TX":"E"}')

    def _moment(self) -> str:
        """Say at which moment of a session this is."""
        state = self.meter.state
        if state.opened is not None:
            return f"in a session, {state.options.open_at_power_cut}"
        if state.unsigned:
            return "while signing"
        if state.user is not None:
            return "between /user and B"
        asked = [each for each in list(self.meter.requests)[-30:] if each.node == "/receipt"]
        since_post = list(itertools.takewhile(lambda each: each.method == "GET", reversed(asked)))
        is_unread = all(each.status != HTTPStatus.OK for each in since_post)
        return "between E and GET /receipt" if asked and is_unread and state.ended else "while idle"

    def _spring(self, method: str, node: str) -> None:
        for trap in [trap for trap in self.traps if (trap.method, trap.node) == (method, node)]:
            self.traps.remove(trap)
            if trap.delay_s > 0:
                asyncio.get_running_loop().call_later(trap.delay_s, trap.spring)
            else:
                trap.spring()

    def _heard(self, event: Event) -> None:
        now_s = self._now_s()
        if event.kind == "begun":
            self.truths.append(Truth(self.serial, len(self.truths), self._sent_for, now_s))
            return
        truth = self.truths[event.transaction - 1]
        if event.kind == "signed":
            truth.text = event.text
            return
        truth.lost = event.kind == "lost"
        if truth.lost and self._sent_for is not None:
            self.spoiled.append((truth, self._sent_for))
        truth.closed_s = now_s if truth.closed_s is None else truth.closed_s
