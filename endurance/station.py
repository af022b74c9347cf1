"""The station: EVerest's part at one charging point, the events at its meter, and the record of both.

It is the common part of the runs in virtual time (`world.World`) and of the runs of real processes
(`processes.station.RealStation`), so that `invariants` judges both. Each trouble of the meter is a method that a step
of a plan names. A subclass sends the commands to a process.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from endurance.meter import Trap
from endurance.plan import SERVICE
from iem_dcr.everest_api.topics import Topics
from iem_dcr.journal import open_for_reading
from iem_dcr.meter_time import RELEASED
from iem_dcr.simulator import Fault

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Coroutine, Sequence
    from datetime import datetime
    from pathlib import Path

    from endurance.meter import Meter, Truth

LOAD: Final = (20.0, 400.0)
XC_OK, XC_ERROR = "0x0000, 0x00000000, 0x00, 0x00", "0x0001, 0x00000000, 0x00, 0x00"


async def until(condition: Callable[[], object], timeout_s: float, poll_s: float = 0.01) -> bool:
    """Wait until a condition holds. Return False if it does not hold within ``timeout_s``."""
    now_s = asyncio.get_running_loop().time
    deadline_s = now_s() + timeout_s
    while not condition():
        if now_s() >= deadline_s:
            return False
        await asyncio.sleep(poll_s)
    return True


@dataclass(slots=True, eq=False)
class Call:
    """A command of the station and its answer.

    Attributes:
        process: number of the first process that received it, or None.
        asked_s: when that process received it.
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
    def took_s(self) -> float:
        """Seconds from the request to the answer, if there are both."""
        return (self.answered_s or 0.0) - (self.asked_s or 0.0)

    @property
    def tuple_text(self) -> str | None:
        signed = (self.answer or {}).get("signed_meter_value")
        return signed.get("signed_meter_data") if isinstance(signed, dict) else None


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A receipt in the journal at the end."""

    text: str
    transaction_id: str


class Station(ABC):
    """A charging station with one meter, and the record of a run. Its times are those of its meter.

    Attributes:
        processes: every process of ours, in order, with its number and the failures of its main task.
        energies: published values in order: serial number, energy in Wh, number of the process.
        errors: type and sub_type of the errors that are active in EVerest.
        disk_troubled: periods in which a failing disk delayed entries that a kill then lost.
        problems: what is known to be wrong before the run is judged, one sentence each.
        tasks_left: number of tasks at the end of each session.
        memory: number of receipts and ids that the driver remembered at the end of each session.
        leftover: number of tasks after the end.
        dead_letters: messages that answer no request.
        running_after_calm: the transaction that ran after a period without faults, or None.
        running_at_end: the transaction that ran after one more session, or None.
    """

    answer_timeout_s = 62.0  # a stop may take 60 s
    poll_s = 0.01

    def __init__(self, name: str, kind: str, meter: Meter, counts: Counter[str], *, journal: bool) -> None:
        self.name = name
        self.kind = kind
        self.journal = journal
        self.meter = meter
        self.meters = [meter]
        self.processes: Sequence[Any] = []
        self.calls: list[Call] = []
        self.energies: list[tuple[str, float, int]] = []
        self.checks: set[bytes] = set()
        self.errors: set[tuple[str, str]] = set()
        self.journal_entries: list[JournalEntry] | None = None
        self.counts = counts
        self.disk_troubled: list[tuple[float, float]] = []
        self.problems: list[str] = []
        self.tasks_left: list[int] = []
        self.memory: list[int] = []
        self.leftover = 0
        self.dead_letters: list[str] = []
        self.mistakes: list[str] = []
        self.running_after_calm: Truth | None = None
        self.running_at_end: Truth | None = None
        self.topics = Topics(name)
        self._by_reply: dict[str, Call] = {}
        self._last_sent: tuple[Call, str, bytes] | None = None
        self._story: list[tuple[float, str]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def truths(self) -> list[Truth]:
        """Every transaction that its meters began."""
        return [truth for meter in self.meters for truth in meter.truths]

    @property
    def disk_works(self) -> bool:
        """Whether the disk works and all entries are written."""
        return True

    @abstractmethod
    def host_at(self, at_s: float) -> datetime:
        """Return the time of the host's clock, as it is set now, for a time of the run."""

    def host_is_set_at(self, at_s: float) -> bool:
        """Return whether the host's clock was plausible at a time of the run."""
        return self.host_at(at_s) >= RELEASED

    # --- commands ---

    def calls_of(self, command: str, transaction_id: str) -> list[Call]:
        return [call for call in self.calls if (call.command, call.transaction_id) == (command, transaction_id)]

    def start(self, request: dict[str, Any]) -> Call:
        return self._command(Call("start", request["transaction_id"], len(self.calls), request), request)

    def stop(self, transaction_id: str) -> Call:
        """Stop a transaction. For a service, calls alternate between the two forms of EVerest's API."""
        call = Call("stop", transaction_id, len(self.calls))
        as_object = self.kind == SERVICE and call.number % 2
        return self._command(call, {"transaction_id": transaction_id} if as_object else transaction_id)

    def stop_again_if_failed(self, transaction_id: str) -> None:
        """Stop a transaction unless an earlier stop succeeded."""
        if not any(call.ok for call in self.calls_of("stop", transaction_id)):
            self.stop(transaction_id)

    def stop_if_begun(self, transaction_id: str) -> None:
        """Stop a transaction if its start succeeded, as EVerest does."""
        if any(call.ok for call in self.calls_of("start", transaction_id)):
            self.stop(transaction_id)

    async def session(self, request: dict[str, Any], length_s: float) -> tuple[Call, Call]:
        start = self.start(request)
        await self.answers(start)
        await asyncio.sleep(length_s)
        stop = self.stop(start.transaction_id)
        await self.answers(stop)
        return start, stop

    async def answers(self, *calls: Call) -> None:
        """Wait until these commands, or all, are answered or excused."""
        waited_for = calls or self.calls
        await until(
            lambda: all(call.answer is not None or call.excused for call in waited_for),
            self.answer_timeout_s,
            self.poll_s,
        )

    def excuse(self, why: str, process: int | None = None) -> None:
        """Excuse all unanswered commands, or those of one process."""
        for call in self.calls:
            if call.answer is None and not call.excused and process in (None, call.process):
                call.excused = why

    def on_answer(self, call: Call, answer: dict[str, Any]) -> None:
        if call.answer is None:
            call.answer, call.answered_s = answer, self.meter.now_s()
            self.counts[f"{call.command}: {answer['status']}"] += 1
        elif call.answer != answer:
            self.dead_letters.append(f"another answer to {call.command} {call.transaction_id}")

    def _command(self, call: Call, payload: object) -> Call:
        self.calls.append(call)
        self.counts[call.command] += 1
        self._send(call, payload)
        return call

    @abstractmethod
    def _send(self, call: Call, payload: Any) -> None:
        """Send a command to the process that drives the meter."""

    def _message(self, call: Call, payload: object) -> tuple[str, bytes]:
        """Return topic and message of a command in the form of EVerest's API module."""
        reply_to = f"everest/reply/{self.name}/{call.number}"
        self._by_reply[reply_to] = call
        topic = self.topics.start if call.command == "start" else self.topics.stop
        message = json.dumps({"headers": {"replyTo": reply_to}, "payload": payload}).encode()
        self._last_sent = call, topic, message
        return topic, message

    # --- published values ---

    def on_message(self, topic: str, payload: bytes) -> None:
        if topic == self.topics.values:
            self.on_value(json.loads(payload))
        elif topic == self.topics.check:
            self.checks.add(payload)
        elif topic in self._by_reply:
            self.on_answer(self._by_reply[topic], json.loads(payload))
        elif topic != self.topics.key:
            self.dead_letters.append(topic)

    def on_value(self, value: dict[str, Any]) -> None:
        process = self.processes[-1].number if self.processes else 0
        self.energies.append((value["meter_id"], value["energy_Wh_import"]["total"], process))

    # --- troubles of the meter ---

    def wire_fault(self, **detail: Any) -> None:
        self.meter.faults.add(Fault(**detail))

    def wire_heals(self) -> None:
        self.meter.faults.clear()

    def cut_power(self, off_s: float, boot_s: float, open_at_power_cut: str) -> None:
        self.meter.configure(open_at_power_cut=open_at_power_cut)
        self.meter.power_cycle(off_s, boot_s)

    def set_trap(self, method: str, node: str, delay_s: float, what: str, then: dict[str, Any]) -> None:
        """Run a step when the meter next handles such a request."""

        def spring() -> None:
            self.note(f"{what} after {method} {node} {then}")
            self.counts[what] += 1
            getattr(self, what)(**then)

        self.meter.traps.append(Trap(method, node, delay_s, spring))

    def shift_clock(self, by_s: float) -> None:
        if self.meter.unreachable_for_s <= 0:
            self.meter.shift_clock(by_s)

    def meter_in_error(self, for_s: float) -> None:
        self._configured_for(for_s, {"XC": XC_ERROR}, {"XC": XC_OK})

    def values_freeze(self, for_s: float) -> None:
        self._configured_for(for_s, {"frozen": True}, {"frozen": False})

    def register_falls(self, to_wh: int) -> None:
        self.meter.configure(import_wh=min(to_wh, int(self.meter.registers.import_wh)))

    def current_flows(self, for_s: float) -> None:
        """Connect a load under which the meter refuses B and E."""
        self.meter.set_load(*LOAD)
        self._later(for_s, self.meter.clear_load)

    def end_faults(self) -> None:
        self._end_faults_of(self.meter)

    @staticmethod
    def _end_faults_of(meter: Meter) -> None:
        meter.traps.clear()
        meter.faults.clear()
        meter.clear_load()
        meter.configure(XC=XC_OK, frozen=False)

    def _configured_for(self, for_s: float, changes: dict[str, Any], after: dict[str, Any]) -> None:
        meter = self.meter
        meter.configure(**changes)
        self._later(for_s, lambda: meter.configure(**after))

    def _later(self, after_s: float, what: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_later(after_s, what)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- results ---

    def read_journal(self, path: Path) -> None:
        """Read the journal's receipts of all meters of this station."""
        if self.journal and path.exists():
            with open_for_reading(path) as reader:
                entries = [entry for meter in self.meters for entry in reader.entries(meter=meter.serial)]
            self.journal_entries = [JournalEntry(entry.text, entry.transaction_id) for entry in entries]

    def note(self, what: str) -> None:
        self._story.append((self.meter.now_s(), what))

    def chronicle(self) -> str:
        """Return the events of the run, one a line, for the analysis of a failure."""
        lines = list(self._story)
        for call in self.calls:
            name = f"call {call.number} {call.command} {call.transaction_id!r}"
            lines.append((call.asked_s or 0.0, f"{name} {call.excused}"))
            if call.answer is not None:
                said = call.answer.get("error") or call.answer["status"]
                lines.append((call.answered_s or 0.0, f"{name}: {said} by {call.process}, {_receipt(call.tuple_text)}"))
        for truth in self.truths:
            lines.append((truth.begun_s, f"{truth.serial} begins {truth.transaction_id!r}: {_fate(truth)}"))
            if truth.closed_s is not None:
                lines.append((truth.closed_s, f"{truth.transaction_id!r} ended"))
        lines += [(begin_s, f"until {end_s:.3f} a disk in trouble drops") for begin_s, end_s in self.disk_troubled]
        return "".join(f"{at_s:10.3f}  {line}\n" for at_s, line in sorted(lines))


def _fate(truth: Truth) -> str:
    return "lost" if truth.lost else _receipt(truth.text)


def _receipt(text: str | None) -> str:
    payload = {} if text is None else json.loads(text.split("|", 2)[1])
    return f"receipt {payload.get('PG')} of card {payload['ID']}" if payload else "no receipt"
