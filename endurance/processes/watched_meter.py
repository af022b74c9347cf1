"""A simulated meter that records what it really does, and springs a trap when a request comes."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from endurance.model import MeterRecord, Truth
from iem_dcr.simulator import SimulatedMeter, SimulatorOptions, node_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from endurance.model import Serving
    from iem_dcr.simulator import Answer, Event


@dataclass(frozen=True, slots=True)
class Trap:
    """Something that happens when a request comes: before or after the meter acts on it, and so long after that."""

    method: str
    node: str
    is_acted: bool
    delay_s: float
    spring: Callable[[], None]


class WatchedMeter(SimulatedMeter):
    """A simulated meter that charges and signs quickly. Its times are those of `time.monotonic`.

    Args:
        serial: its MS.
        serving: returns the start that a card belongs to.
        options: of the meter.

    Attributes:
        record: what it did.
        trap: what is set.
    """

    def __init__(self, serial: str, serving: Callable[[str], Serving | None], **options: Any) -> None:
        quick: dict[str, Any] = {"load_delay_s": 0.05, "charge_s": 0.3, "signing_delay_s": 0.15}
        super().__init__(SimulatorOptions(MS=serial, **(quick | options)), monotonic=time.monotonic)
        self.record = MeterRecord(serial)
        self.trap: Trap | None = None
        self._serving = serving
        self._card = ""
        self.state.watchers.append(self._on_event)

    @property
    def open_transaction(self) -> Truth | None:
        """The transaction that runs."""
        opened = self.state.opened
        return None if opened is None else self.record.truths[opened.number - 1]

    def handle(self, method: str, path: str, body: bytes = b"") -> Answer:
        """Act on a request."""
        self._spring(method, node_of(path), is_acted=False)
        answer = super().handle(method, path, body)
        if (method, node_of(path)) == ("POST", "/user") and answer.status < 300:
            self._card = json.loads(body)["ID"]
        self._spring(method, node_of(path), is_acted=True)
        return answer

    def power_cycle(self, off_s: float = 2.0, boot_s: float = 3.0) -> None:
        """Cut the power for a while."""
        super().power_cycle(off_s, boot_s)
        self.meddle(time.monotonic())

    def meddle(self, *at_s: float) -> None:
        """Record when something else than a request in time may have ended what ran."""
        if self.record.meddled_s is not None:
            self.record.meddled_s += at_s

    def _spring(self, method: str, node: str, *, is_acted: bool) -> None:
        trap = self.trap
        if trap is not None and (trap.method, trap.node, trap.is_acted) == (method, node, is_acted):
            self.trap = None
            if trap.delay_s:
                asyncio.get_running_loop().call_later(trap.delay_s, trap.spring)
            else:
                trap.spring()

    def _on_event(self, event: Event) -> None:
        truths, now_s = self.record.truths, time.monotonic()
        if event.kind == "begun":
            truths.append(Truth(self.record.serial, len(truths), self._serving(self._card), now_s))
            return
        truth = truths[event.transaction - 1]
        if event.kind == "signed":
            truth.text = event.text
        else:
            truth.closed_s, truth.lost = truth.closed_s or now_s, event.kind == "lost"
