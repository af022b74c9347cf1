"""What every part of the world has: its plan, what stands in it, and what is known of what happened."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from endurance.clock import HostClock
from endurance.disk import Disk, SteppedJournal
from endurance.unit import Truth, Unit
from iem_dcr.config import Settings
from iem_dcr.everest_api.topics import Topics

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from endurance.plan import Plan
    from endurance.process import Process
    from endurance.wire import Socket

TOPICS: Final = Topics("pm")


@dataclass(slots=True, eq=False)
class Call:
    """A command of the station, and its answer.

    Attributes:
        command: "start" or "stop".
        transaction_id: the station's.
        request: of a start.
        process: number of the process that had it first; None while none was there to have it.
        asked_s: when the process had it.
        answered_s, answer: when the station had the answer, and what it was.
        answers: how many answers came.
        excused: why it needs no answer: its process was killed or ended.
        fresh: nothing was wrong with the world when it was asked, nor since.
        owed: it asks, when all is calm, for a receipt that the meter has and nobody was given.
        broker_away_s: how long the broker was away between question and answer.
    """

    command: str
    transaction_id: str
    number: int
    request: dict[str, Any] = field(default_factory=dict)
    process: int | None = None
    asked_s: float | None = None
    answered_s: float | None = None
    answer: dict[str, Any] | None = None
    answers: int = 0
    excused: str = ""
    fresh: bool = False
    owed: bool = False
    broker_away_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it was answered OK."""
        return self.answer is not None and self.answer.get("status") == "OK"

    @property
    def tuple_text(self) -> str | None:
        """The receipt that was handed over."""
        signed = (self.answer or {}).get("signed_meter_value")
        return signed.get("signed_meter_data") if isinstance(signed, dict) else None


@dataclass(slots=True)
class Filed:
    """A receipt as it stood in the journal at the end."""

    text: str
    transaction_id: str


class Stage:
    """The world without what happens in it.

    Attributes:
        plan: the plan.
        calls: every command of the station.
        processes: every process of ours, in order.
        units: every meter that stood there, in order.
        energies: what was published: serial and watt hours, in order.
        checks: payloads of the communication check.
        filed: the journal at the end; None where there was none.
        counts: how often what happened.
        disk_troubled: pairs of times in which the journal could not be written at once.
        broker_troubled: pairs of times in which the broker was away.
        broken_early: promises that were broken at the end of a session.
        tasks_left: tasks that were there at the end of each session.
        leftover: tasks that were there after the end.
        memory: receipts and ids that the driver remembered at the end of each session.
        noted: transactions that a journal that is well was told of.
        dead_letters: messages that nobody waits for.
        mistakes: exceptions that nobody expected.
        errors: type and sub_type of those that EVerest holds for active.
        story: what happened when, for whoever reads a failed run.
    """

    _socket: Socket

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.calls: list[Call] = []
        self.processes: list[Process] = []
        self.units: list[Unit] = []
        self.energies: list[tuple[str, float]] = []
        self.checks: set[bytes] = set()
        self.filed: list[Filed] | None = None
        self.counts: Counter[str] = Counter()
        self.disk_troubled: list[list[float]] = []
        self.broker_troubled: list[list[float]] = []
        self.broken_early: list[str] = []
        self.tasks_left: list[int] = []
        self.leftover = 0
        self.memory: list[int] = []
        self.dead_letters: list[str] = []
        self.mistakes: list[str] = []
        self.errors: set[tuple[str, str]] = set()
        self.noted: set[Truth] = set()
        self.story: list[tuple[float, str]] = []
        self.settings = Settings.of({"CT": "EVSEID", "CI": "DE*SIM*E1", **plan.settings, "journal_path": ""})
        self.host = HostClock(plan.host)
        self.disk = Disk()
        self.broker_is_up = True
        self._folder = folder
        self._latency = random.Random(plan.seed)
        self._by_reply: dict[str, Call] = {}
        self._queued: list[tuple[str, bytes, Call]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._heartbeats = 0

    # --- what our processes need ---

    @property
    def process(self) -> Process | None:
        """The process that lives."""
        return self.processes[-1] if self.processes and not self.processes[-1].killed else None

    @property
    def unit(self) -> Unit:
        """The meter that stands there."""
        return self.units[-1]

    @property
    def now_s(self) -> float:
        """Seconds since the beginning."""
        return asyncio.get_running_loop().time()

    def open_journal(self) -> SteppedJournal | None:
        """Open the journal for a process."""
        return SteppedJournal(self._folder / "journal.sqlite", self.disk) if self.plan.journal else None

    def published(self, value: dict[str, Any]) -> None:
        """Take a live value."""
        self.energies.append((value["meter_id"], value["energy_Wh_import"]["total"]))

    def raised(self, error_type: str, sub_type: str) -> None:
        """Take an error."""
        if (error_type, sub_type) in self.errors:
            self.dead_letters.append(f"error {error_type} {sub_type!r}, which is active already")
        self.errors.add((error_type, sub_type))

    def cleared(self, error_type: str, sub_type: str) -> None:
        """Take an error back."""
        if (error_type, sub_type) not in self.errors:
            self.dead_letters.append(f"the end of error {error_type} {sub_type!r}, which is not active")
        self.errors.discard((error_type, sub_type))

    def tell(self, what: str) -> None:
        """Add a line to the story."""
        self.story.append((self.now_s, what))

    def _new_unit(self, serial: str) -> Unit:
        unit = Unit(replace(self.plan.options, MS=serial))
        self.units.append(unit)
        return unit

    def _later(self, after_s: float, what: Any) -> None:
        asyncio.get_running_loop().call_later(after_s, what)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
