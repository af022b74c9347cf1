"""Counts what really happened in a run: not what was planned, but what hit a request, a meter, a process, a station."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime
from itertools import pairwise, product
from typing import TYPE_CHECKING, Final

from endurance.knobs import UNKNOWN, differences

if TYPE_CHECKING:
    from endurance.model import Call
    from endurance.world import World

CLOCK_CHANGES: Final = (datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC))
"""When summer time begins and ends in Europe."""
AT_ONCE_S: Final = 0.05

EVERY_KIND: Final = (
    "request lost", "answer lost", "answer stalled", "answer garbled", "request refused",
    "power cut in a session, closed", "power cut in a session, closed-late", "power cut in a session, running",
    "power cut in a session, lost", "power cut between /user and B", "power cut while signing",
    "power cut between E and GET /receipt", "slow boot", "meter's clock leaps", "meter exchanged",
    "process killed", "process killed in a start", "process killed in a stop", "process ended and started",
    "start twice", "stop twice", "stop before start", "start and stop at once", "stop with a wrong id",
    "stop without an id", "stop after a refused start", "host's clock stepped", "host in 1970",
    "clock change in a session", "disk full", "disk writes slowly",
)  # fmt: skip
"""Everything of which a large number of runs has to have some, with the knobs ``known``."""
MORE_KINDS: Final = (
    "request acted on late", "disk slow", "disk silent", "disk broken", "values_freeze", "register_falls",
    "swap_meters",
    *(f"knob {name}" for name in UNKNOWN),
)  # fmt: skip
"""What runs with ``all`` knobs have besides."""


def counted(world: World) -> Counter[str]:
    """Return how often what happened in a run: to requests, meters, processes, clocks, the disk, the station."""
    plan = world.plan
    counts = Counter({name: count for name, count in world.counts.items() if name in (*EVERY_KIND, *MORE_KINDS)})
    counts.update(f"knob {name}" for name, _ in differences(plan.options) if name in UNKNOWN)
    steps = [step for session in plan.sessions for step in session.steps if step.what == "step_host"]
    return +(
        counts
        + _disorder(world.calls)
        + Counter(
            {
                "sessions": len(plan.sessions),
                "commands": len(world.calls),
                "receipts handed over": sum(call.tuple_text is not None for call in world.calls),
                "transactions": sum(len(meter.truths) for meter in world.meters),
                "live values": len(world.energies),
                "virtual seconds": int(world.calmed_s),
                "meter's clock leaps": world.counts["shift_clock"],
                "meter exchanged": len(world.meters) - 1,
                "host's clock stepped": world.counts["step_host"],
                "host in 1970": (plan.host.year == 1970) + sum(step.detail["by_s"] < -1e9 for step in steps),
                "clock change in a session": 0 if world.counts["step_host"] else _clock_changes(world),
            }
        )
    )


def _disorder(calls: list[Call]) -> Counter[str]:
    """Count what a station in disorder does."""
    counts: Counter[str] = Counter()
    by_command: dict[str, defaultdict[str, list[Call]]] = {"start": defaultdict(list), "stop": defaultdict(list)}
    for call in calls:
        by_command[call.command][call.transaction_id].append(call)
    for transaction_id, stops in by_command["stop"].items():
        starts = by_command["start"].get(transaction_id, [])
        if not starts:
            counts["stop with a wrong id" if transaction_id else "stop without an id"] += len(stops)
            continue
        counts["stop twice"] += len(stops) > 1
        counts["stop before start"] += stops[0].number < starts[0].number
        counts["stop after a refused start"] += any(
            start.answer is not None and not start.ok and start.number < stop.number
            for start, stop in product(starts, stops)
        )
        counts["start and stop at once"] += any(
            abs(start.asked_s - stop.asked_s) < AT_ONCE_S
            for start, stop in product(starts, stops)
            if start.asked_s is not None and stop.asked_s is not None
        )
    for one, other in pairwise(call for call in calls if call.asked_s is not None):
        counts["start twice"] += one.command == other.command == "start"
    return counts


def _clock_changes(world: World) -> int:
    """Count the transactions in which summer time began or ended."""
    changes_s = [(change - world.plan.host).total_seconds() for change in CLOCK_CHANGES]
    truths = [truth for meter in world.meters for truth in meter.truths]
    return sum(truth.begun_s < at_s < (truth.closed_s or 0.0) for truth, at_s in product(truths, changes_s))
