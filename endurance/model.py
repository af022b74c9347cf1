"""The record of a run: the commands of the station, the published values, and the contents of the journal.

Runs in virtual time (`world`) and runs of real processes (`processes`) are both recorded with these classes and those
of `meter`, so that `invariants` judges both. The classes here only hold data.
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
"""The two programs that drive a meter: `iem-dcr run` and the EVerest module."""

EVSE_ID: Final = "DE*SIM*E1"


def start_request(transaction_id: str, card: str) -> dict[str, Any]:
    """Return a request for a start in EVerest's form."""
    return {
        "evse_id": EVSE_ID, "transaction_id": transaction_id, "identification_status": "ASSIGNED",
        "identification_flags": ["RFID_PLAIN"], "identification_type": "ISO14443", "identification_data": card,
    }  # fmt: skip


@dataclass(slots=True, eq=False)
class Call:
    """A command of the station and its answer.

    Attributes:
        command: "start" or "stop".
        transaction_id: the station's id.
        number: counts the calls of a run.
        request: the request of a start.
        process: number of the first process that received it, or None.
        asked_s: when that process received it.
        answered_s: when the station received the answer.
        answer: the answer.
        answered_by: number of the process that answered, if known. A broker may deliver a request to several in turn.
        excused: why it needs no answer, such as a kill of its process; "" if it needs one.
        fresh: no fault was active when it was sent or later.
        owed: it was sent after all faults had ended, for a receipt that the meter has and that was not delivered.
        broker_away_s: how long the broker was away between request and answer.
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
    """A receipt in the journal at the end."""

    text: str
    transaction_id: str


class Record:
    """The record of a run, on which the promises are checked. Its times are those of its meters.

    Attributes:
        journal: whether there is a journal.
        meter: the meter that is connected now.
        meters: every meter that was connected, in order.
        processes: every process of ours, in order, with its number and the failures of its main task.
        calls: every command of the station, in order.
        energies: published values in order: serial number, energy in Wh, number of the process.
        checks: payloads of the communication check.
        errors: type and sub_type of the errors that are active in EVerest.
        filed: the journal at the end, or None.
        counts: number of events by name.
        disk_troubled: periods in which a failing disk delayed entries that a kill then lost.
        broken_early: promises that were broken before the end.
        tasks_left: number of tasks at the end of each session.
        memory: number of receipts and ids that the driver remembered at the end of each session.
        leftover: number of tasks after the end.
        dead_letters: messages that answer no request.
        mistakes: unexpected exceptions.
        running_after_calm: the transaction that ran after a period without faults, or None.
        running_at_end: the transaction that ran after one more session, or None.
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
        """Whether the disk works and all entries are written."""
        return True

    def host_at(self, at_s: float) -> datetime:
        """Return the time of the host's clock, as it is set now, for a time of the run."""
        raise NotImplementedError

    def host_is_set_at(self, at_s: float) -> bool:
        """Return whether the host's clock was plausible at a time of the run."""
        return self.host_at(at_s) >= RELEASED
