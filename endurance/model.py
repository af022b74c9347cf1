"""What is known of a run: the commands of the station, what was published, and what stands in the journal.

Runs under virtual time (`world`) and runs of real processes (`processes`) are told in these words and in those of
`meter`, so that one file of promises, `invariants`, judges both. Nothing here acts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from iem_dcr.meter_time import RELEASED

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence
    from datetime import datetime

    from endurance.meter import Meter, Truth

SERVICE: Final = "service"
MODULE: Final = "module"
"""The two programs that drive a meter: `iem-dcr run`, and the EVerest module."""


EVSE_ID: Final = "DE*SIM*E1"


def start_request(transaction_id: str, card: str) -> dict[str, Any]:
    """Return a request for a start, as EVerest makes it."""
    return {
        "evse_id": EVSE_ID, "transaction_id": transaction_id, "identification_status": "ASSIGNED",
        "identification_flags": ["RFID_PLAIN"], "identification_type": "ISO14443", "identification_data": card,
    }  # fmt: skip


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
    excused: str = ""
    fresh: bool = False
    owed: bool = False
    broker_away_s: float = 0.0

    @property
    def ok(self) -> bool:
        return self.answer is not None and self.answer.get("status") == "OK"

    @property
    def tuple_text(self) -> str | None:
        signed = (self.answer or {}).get("signed_meter_value")
        return signed.get("signed_meter_data") if isinstance(signed, dict) else None


@dataclass(frozen=True, slots=True)
class Filed:
    """A receipt as it stands in the journal at the end."""

    text: str
    transaction_id: str


class Record:
    """What is known of a run, as the promises look at it. Its times are those of its meters.

    Attributes:
        journal: whether receipts are kept.
        meter: that stands there.
        meters: every meter that stood there, in the order in which they came.
        processes: every process of ours, in order, with its number and what its main task failed with.
        calls: every command of the station, in order.
        energies: what was published: serial, watt hours, and number of the process, in order.
        checks: payloads of the communication check.
        errors: type and sub_type of those that EVerest holds for active.
        filed: the journal at the end; None where there was none.
        counts: how often what happened.
        disk_troubled: from when until when a disk in trouble kept something unwritten that a kill then dropped.
        broken_early: promises that were broken before the end.
        tasks_left, memory: tasks that were there at the end of sessions, and what the driver remembered then.
        leftover: tasks that were there after the end.
        dead_letters: messages that are answers to nothing.
        mistakes: exceptions that nothing expects.
        running_after_calm, running_at_end: what ran when all had been calm, and after one more session.
    """

    def __init__(self, meter: Meter, counts: Counter[str], *, journal: bool) -> None:
        self.journal = journal
        self.meter = meter
        self.meters = [meter]
        self.processes: Sequence[Any] = []
        self.calls: list[Call] = []
        self.energies: list[tuple[str, float, int]] = []
        self.checks: set[bytes] = set()
        self.errors: set[tuple[str, str]] = set()
        self.filed: list[Filed] | None = None
        self.counts = counts
        self.disk_troubled: list[tuple[float, float]] = []
        self.broken_early: list[str] = []
        self.tasks_left: list[int] = []
        self.memory: list[int] = []
        self.leftover = 0
        self.dead_letters: list[str] = []
        self.mistakes: list[str] = []
        self.running_after_calm: Truth | None = None
        self.running_at_end: Truth | None = None

    def calls_of(self, command: str, transaction_id: str) -> list[Call]:
        return [call for call in self.calls if (call.command, call.transaction_id) == (command, transaction_id)]

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
