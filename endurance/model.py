"""What is known of a run: the commands of the station, what the meters really did, and what stands in the journal.

Runs under virtual time (`world`) and runs of real processes (`processes`) are told in these words, so that one file of
promises, `invariants`, judges both. Nothing here acts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from iem_dcr.meter_time import RELEASED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

SERVICE: Final = "service"
MODULE: Final = "module"
"""The two programs that drive a meter: `iem-dcr run`, and the EVerest module."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A start that a process is working on.

    Attributes:
        transaction_id: the station's.
        number: counts the starts of a run.
        process: number of the process.
    """

    transaction_id: str
    number: int
    process: int


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
        lost: the meter will never sign it: a power cut, or a B that restarted it, destroyed it.
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
class Call:
    """A command of the station, and its answer.

    Attributes:
        command: "start" or "stop".
        transaction_id: the station's.
        number: counts the calls of a run.
        request: of a start.
        process: number of the process that had it first; None while none was there to have it.
        asked_s: when the process had it.
        answered_s, answer: when the station had the answer, and what it was.
        answered_by: number of the process that gave it, where that is known; a broker hands a request on to the next.
        answers: how many answers came.
        excused: why it needs no answer: its process was killed or ended.
        fresh: nothing was wrong when it was asked, nor since.
        owed: it asks, when all is calm, for a receipt that the meter has and that was not delivered.
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
    answered_by: int | None = None
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
        """The receipt that was delivered."""
        signed = (self.answer or {}).get("signed_meter_value")
        return signed.get("signed_meter_data") if isinstance(signed, dict) else None


@dataclass(frozen=True, slots=True)
class Filed:
    """A receipt as it stands in the journal at the end."""

    text: str
    transaction_id: str


class MeterRecord:
    """What is known of a meter.

    Attributes:
        serial: its MS.
        truths: every transaction it began, in order; their records are signed in the same order.
        spoiled: transactions that a B of ours destroyed, running or being signed, and for which start it was sent.
        meddled_s: when something else than a request in time may have ended what ran: a power cut, a technician, a
            request that was acted on late. None: at any time.
    """

    def __init__(self, serial: str) -> None:
        self.serial = serial
        self.truths: list[Truth] = []
        self.spoiled: list[tuple[Truth, Serving]] = []
        self.meddled_s: list[float] | None = []

    @property
    def signed(self) -> list[Truth]:
        """Those that are signed."""
        return [truth for truth in self.truths if truth.text is not None]


class Worker(Protocol):
    """A process of ours: its number, and what its main task failed with."""

    @property
    def number(self) -> int: ...
    @property
    def failures(self) -> Sequence[object]: ...


class Record:
    """What is known of a run, as the promises look at it.

    Attributes:
        journal: whether receipts are kept.
        units: every meter that stood there, in the order in which they came.
        processes: every process of ours, in order.
        calls: every command of the station, in order.
        energies: what was published: serial, watt hours, and number of the process, in order.
        checks: payloads of the communication check.
        filed: the journal at the end; None where there was none.
        counts: how often what happened.
        disk_troubled: from when until when a disk in trouble kept something unwritten that a kill then dropped.
        broken_early: promises that were broken before the end.
        tasks_left: tasks that were there at the end of each session.
        leftover: tasks that were there after the end.
        memory: receipts and ids that the driver remembered at the end of each session.
        noted: transactions that the journal was told of, and had the time to write.
        dead_letters: messages that are answers to nothing.
        mistakes: exceptions that nothing expects.
        errors: type and sub_type of those that EVerest holds for active.
        running_after_calm, running_at_end: what ran when all had been calm, and after one more session.
    """

    def __init__(self, *, journal: bool) -> None:
        self.journal = journal
        self.units: Sequence[MeterRecord] = []
        self.processes: Sequence[Worker] = []
        self.calls: list[Call] = []
        self.energies: list[tuple[str, float, int]] = []
        self.checks: set[bytes] = set()
        self.filed: list[Filed] | None = None
        self.counts: Counter[str] = Counter()
        self.disk_troubled: list[tuple[float, float]] = []
        self.broken_early: list[str] = []
        self.tasks_left: list[int] = []
        self.leftover = 0
        self.memory: list[int] = []
        self.noted: set[Truth] = set()
        self.dead_letters: list[str] = []
        self.mistakes: list[str] = []
        self.errors: set[tuple[str, str]] = set()
        self.running_after_calm: Truth | None = None
        self.running_at_end: Truth | None = None

    @property
    def unit(self) -> MeterRecord:
        """The meter that stands there."""
        raise NotImplementedError

    @property
    def disk_is_well(self) -> bool:
        """Whether all that is to be in the journal can be in it by now."""
        return True

    def host_at(self, at_s: float) -> datetime:
        """Return what the host's clock says, as it is set now, at a time of the run's."""
        raise NotImplementedError

    def host_is_set_at(self, at_s: float) -> bool:
        """Tell whether the host's clock could be trusted then."""
        return self.host_at(at_s) >= RELEASED
