"""A meter, and what it really did: the truth that the driver's words are held against."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iem_dcr.simulator.meter import SimulatedMeter
from iem_dcr.simulator.nodes import BASE, node_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from endurance.process import Serving
    from iem_dcr.simulator.answer import Answer
    from iem_dcr.simulator.options import SimulatorOptions
    from iem_dcr.simulator.record import ClosedRecord, OpenRecord


@dataclass(slots=True, eq=False)
class Truth:
    """A transaction that a meter really began.

    Attributes:
        serial: of the meter.
        number: how many it had begun before.
        owner: the start it was begun for; None for one that somebody else began.
        begun_s: when.
        closed_s: when it ended, or was lost; None while it runs.
        text: its tuple as soon as it is signed.
        lost: a power cut destroyed it: the meter will never sign it.
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
        """The station's id of it."""
        return None if self.owner is None else self.owner.transaction_id

    def process_is(self, number: int | None) -> bool:
        """Whether the process of this number began it."""
        return self.owner is not None and self.owner.process == number


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


class Unit:
    """One meter with its truth.

    Attributes:
        meter: the simulated one.
        serial: its MS.
        power: counts its power cuts.
        truths: every transaction it began, in order.
        traps: that are set.
        meddled_s: when its power was cut, or somebody ended by hand what ran.
    """

    def __init__(self, options: SimulatorOptions) -> None:
        self._now_s = asyncio.get_running_loop().time
        self.meter = SimulatedMeter(options, monotonic=self._now_s)
        self.serial = options.MS
        self.power = 0
        self.truths: list[Truth] = []
        self.traps: list[Trap] = []
        self.meddled_s: list[float] = []
        self._owner: Serving | None = None
        self._by_record: dict[int, tuple[OpenRecord, Truth]] = {}
        self._look_into(self.meter._state)

    @property
    def is_on(self) -> bool:
        """Whether it answers."""
        return self.meter.unreachable_for_s <= 0

    @property
    def running(self) -> Truth | None:
        """The transaction that runs."""
        self.meter.running  # noqa: B018  brings the meter's state to this moment
        return next((truth for truth in reversed(self.truths) if truth.closed_s is None), None)

    @property
    def signed(self) -> list[Truth]:
        """Those that are signed, in the order of their tuples."""
        records = self.meter.signed
        by_text = {truth.text: truth for truth in self.truths}
        return [by_text[record.text] for record in records]

    def act(self, method: str, path: str, body: bytes, sent_for: Serving | None) -> Answer | None:
        """Have the meter act on a request; None when it has no power."""
        self._owner = sent_for
        try:
            answer = self.meter.handle(method, path, body)
        except ConnectionRefusedError:
            return None
        finally:
            self._owner = None
        if answer.status == 200 and self.traps:
            self._spring(method, node_of(path))
        return answer

    def cut_power(self, off_s: float, boot_s: float) -> None:
        """Cut its power; every connection breaks."""
        self.meter.running  # noqa: B018  what is due before the cut is done before it
        self.power += 1
        self.meddled_s.append(self._now_s())
        self.meter.power_cycle(off_s, boot_s)

    def begin_by_hand(self) -> None:
        """Begin a transaction as a technician with a tool of his own does; refused ones come to nothing."""
        if self.is_on:
            self.meter.handle("POST", f"{BASE}/receipt", b'{"TX":"B"}')

    def end_by_hand(self) -> None:
        """End whatever runs, likewise."""
        if self.is_on:
            self.meddled_s.append(self._now_s())
            self.meter.handle("POST", f"{BASE}/receipt", b'{"TX":"E"}')

    def _spring(self, method: str, node: str) -> None:
        for trap in [trap for trap in self.traps if (trap.method, trap.node) == (method, node)]:
            self.traps.remove(trap)
            if trap.delay_s > 0:
                asyncio.get_running_loop().call_later(trap.delay_s, trap.spring)
            else:
                trap.spring()

    def _look_into(self, state: Any) -> None:
        """Note what begins, ends, is signed and is lost, where it happens."""
        begin, close, sign, power_up = state.begin, state._close, state._sign, state.power_up

        def begun(now_s: float) -> None:
            before = state.opened
            begin(now_s)
            if state.opened is not before:
                truth = Truth(self.serial, len(self.truths), self._owner, now_s)
                self.truths.append(truth)
                self._by_record[id(state.opened)] = state.opened, truth

        def closed(opened: OpenRecord, *rest: Any) -> ClosedRecord:
            self._truth_of(opened).closed_s = self._now_s()
            record: ClosedRecord = close(opened, *rest)
            return record

        def signed(record: ClosedRecord) -> None:
            sign(record)
            self._truth_of(record.opened).text = state.signed[-1].text

        def powered_up(now_s: float) -> None:
            opened = state.opened
            power_up(now_s)
            if opened is not None and state.options.open_at_power_cut == "lost":
                self._truth_of(opened).lost = True

        state.begin, state._close, state._sign, state.power_up = begun, closed, signed, powered_up

    def _truth_of(self, opened: OpenRecord) -> Truth:
        return self._by_record[id(opened)][1]
