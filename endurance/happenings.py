"""Counts what really happened in runs: not what was planned, but what hit a request, a meter, a process, a station."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from endurance.unit import Unit
from endurance.world import World, carry_out
from iem_dcr.simulator.faults import FaultPlan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from endurance.plan import Plan
    from endurance.stage import Call
    from iem_dcr.simulator.faults import Fault

CLOCK_CHANGES: Final = (datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC))
"""When summer time begins and ends in Europe."""
SLOW_BOOT_S: Final = 10.0
AT_ONCE_S: Final = 0.05

WIRE: Final = {
    "refuse": "request refused",
    "lose-request": "request lost",
    "lose-answer": "answer lost",
    "stall": "answer stalled",
    "drip": "answer stalled",
    "reset": "request lost",
    "server-error": "request refused",
    "garbage": "answer garbled",
    "garbage-http": "answer garbled",
    "wrong-length": "answer garbled",
}
"""What the kinds of faults are to who looks at them."""

EVERY_KIND: Final = (
    "request lost",
    "answer lost",
    "answer stalled",
    "answer garbled",
    "request refused",
    "power cut in a session, closed",
    "power cut in a session, closed-late",
    "power cut in a session, running",
    "power cut in a session, lost",
    "power cut between /user and B",
    "power cut while signing",
    "power cut between E and GET /receipt",
    "slow boot",
    "meter's clock leaps",
    "meter exchanged",
    "process killed",
    "process killed in a start",
    "process killed in a stop",
    "process ended and started",
    "start twice",
    "stop twice",
    "stop before start",
    "start and stop at once",
    "stop with a wrong id",
    "stop without an id",
    "stop after a refused start",
    "host's clock stepped",
    "host in 1970",
    "clock change in a session",
    "disk full",
    "disk slow",
)
"""Everything of which a large number of runs has to have some."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A run as it was carried out, and what happened in it."""

    world: World
    counts: Counter[str]


def carry_out_counted(plan: Plan) -> Ran:
    """Carry out a run and count what happens in it.

    Raises:
        NothingLeftError: everything waited for ever.
    """
    counts: Counter[str] = Counter()
    with _counting(counts):
        world = carry_out(plan)
    counts.update(_told(world))
    counts["sessions"] = len(plan.sessions)
    return Ran(world, counts)


@contextmanager
def _counting(counts: Counter[str]) -> Iterator[None]:
    """Count what hits requests, meters and processes, where it does."""
    take, cut, leave = FaultPlan.take, Unit.cut_power, World._leave

    def took(self: FaultPlan, method: str, node: str) -> Fault | None:
        fault = take(self, method, node)
        if fault is not None:
            counts[WIRE[fault.kind]] += 1
        return fault

    def was_cut(self: Unit, off_s: float, boot_s: float) -> None:
        counts[f"power cut {_moment(self)}"] += 1
        if boot_s >= SLOW_BOOT_S:
            counts["slow boot"] += 1
        cut(self, off_s, boot_s)

    def left(self: World, away_s: float, *, kill: bool) -> None:
        process = self.process
        if process is not None:
            counts["process killed" if kill else "process ended and started"] += 1
            for call in self.calls:
                if kill and call.answer is None and call.process == process.number and not call.excused:
                    counts[f"process killed in a {call.command}"] += 1
        leave(self, away_s, kill=kill)

    patched: Any = (FaultPlan, Unit, World)
    patched[0].take, patched[1].cut_power, patched[2]._leave = took, was_cut, left
    try:
        yield
    finally:
        patched[0].take, patched[1].cut_power, patched[2]._leave = take, cut, leave


def _moment(unit: Unit) -> str:
    """Say at which moment of a session this is."""
    state = unit.meter._state
    if unit.running is not None:
        return f"in a session, {state.options.open_at_power_cut}"
    if state.unsigned is not None:
        return "while signing"
    if state.user is not None:
        return "between /user and B"
    latest = list(unit.meter.requests)[-30:]
    asked = [(each.method, each.node, each.status) for each in latest if each.node == "/receipt"]
    if asked and ("GET", "/receipt", 200) not in asked[_last_post(asked) :] and unit.meter.ended:
        return "between E and GET /receipt"
    return "while idle"


def _last_post(asked: list[tuple[str, str, int | None]]) -> int:
    return max((index for index, (method, _, _) in enumerate(asked) if method == "POST"), default=0)


def _told(world: World) -> Counter[str]:
    """Count what the station did, and what happened to clocks and disk."""
    counts = Counter(
        {
            "commands": len(world.calls),
            "receipts handed over": sum(call.tuple_text is not None for call in world.calls),
            "transactions": sum(len(unit.truths) for unit in world.units),
            "live values": len(world.energies),
            "virtual seconds": int(world.calmed_s),
            "meter's clock leaps": world.counts["shift_clock"],
            "meter exchanged": len(world.units) - 1,
            "host's clock stepped": world.counts["step_host"],
            "clock change in a session": _clock_changes(world),
        }
    )
    steps = [step for session in world.plan.sessions for step in session.steps]
    if world.plan.journal:
        counts["disk full"] = sum(step.what == "disk_fails" and bool(step.detail["full"]) for step in steps)
        counts["disk slow"] = sum(step.what == "disk_fails" and not step.detail["full"] for step in steps)
    back_to_1970 = sum(step.what == "step_host" and step.detail["by_s"] < -1e9 for step in steps)
    counts["host in 1970"] = back_to_1970 + (world.plan.host.year == 1970)
    counts.update(_disorder(world.calls))
    return +counts


def _disorder(calls: list[Call]) -> Counter[str]:
    """Count what a station in disorder does."""
    counts: Counter[str] = Counter()
    starts: dict[str, list[Call]] = {}
    stops: dict[str, list[Call]] = {}
    for call in calls:
        (starts if call.command == "start" else stops).setdefault(call.transaction_id, []).append(call)
    for transaction_id, several in stops.items():
        own = starts.get(transaction_id, [])
        if transaction_id == "":
            counts["stop without an id"] += len(several)
        elif not own:
            counts["stop with a wrong id"] += len(several)
        else:
            counts["stop twice"] += len(several) > 1
            counts["stop before start"] += several[0].number < own[0].number
            counts["stop after a refused start"] += any(
                start.answer is not None and not start.ok and start.number < stop.number
                for start in own
                for stop in several
            )
            counts["start and stop at once"] += any(
                abs(start.asked_s - stop.asked_s) < AT_ONCE_S
                for start in own
                for stop in several
                if start.asked_s is not None and stop.asked_s is not None
            )
    in_order = [call for call in calls if call.asked_s is not None]
    for one, other in pairwise(in_order):
        counts["start twice"] += one.command == other.command == "start"
    return counts


def _clock_changes(world: World) -> int:
    """Count the transactions in which summer time began or ended, as long as nobody has set the host's clock."""
    stepped = world.counts["step_host"] > 0
    changes_s = [] if stepped else [(change - world.plan.host).total_seconds() for change in CLOCK_CHANGES]
    return sum(
        truth.begun_s < change_s < (truth.closed_s or 0.0)
        for unit in world.units
        for truth in unit.truths
        for change_s in changes_s
    )
