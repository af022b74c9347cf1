"""A station: EVerest's part at one power meter, and the meter. It records everything that both do."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from endurance import invariants
from endurance.model import Call, Filed, MeterRecord, Record, Serving
from endurance.processes.watched_meter import WatchedMeter
from iem_dcr.journal import open_for_reading

if TYPE_CHECKING:
    from pathlib import Path

EVSE_ID: Final = "DE*PRO*E1"
ANSWER_TIMEOUT_S: Final = 62.0
"""A stop may take 60 s."""
CALM_S: Final = 100.0
"""How long a station waits at the end for a session that succeeds, as in the simulation."""
FIRST_WORD_S: Final = 0.2
"""No process says anything so soon after its start: what comes earlier is from the one before."""

OnAnswer: TypeAlias = Callable[[dict[str, Any]], None]
Send: TypeAlias = Callable[[str, Any, OnAnswer], Callable[[], None] | None]
"""Sends a command with its payload. Returns what sends the same request again, or None where no process is there."""


async def until(condition: Callable[[], object], timeout_s: float) -> bool:
    """Wait until a condition holds. Returns False when it does not hold in time."""
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up_s:
            return False
        await asyncio.sleep(0.01)
    return True


@dataclass(slots=True)
class Process:
    """One process of ours, from its start on. ``back_s`` is how long its first value took."""

    number: int
    began_s: float
    back_s: float | None = None
    failures: tuple[str, ...] = ()


class Station(Record):
    """One station. Its times are those of `time.monotonic`.

    Args:
        name: its power meter's module_id.
        serial: its meter's.
        journal: whether receipts are kept.
        options: of its meter.

    Attributes:
        meter: its meter.
        address: where the power meter reaches it.
        send: how commands reach the power meter.
        troubles: what went wrong beside the promises.
        value_s: when the last live value came.
    """

    def __init__(self, name: str, serial: str, *, journal: bool = True, **options: Any) -> None:
        super().__init__(journal=journal)
        self.name = name
        self.meter = WatchedMeter(serial, self._serving, **options)
        self.units = [self.meter.record]
        self.processes: list[Process] = []
        self.address = "127.0.0.1", 0
        self.send: Send
        self.troubles: list[str] = []
        self.value_s = 0.0
        self._ids = 0

    @property
    def unit(self) -> MeterRecord:
        return self.meter.record

    def host_at(self, at_s: float) -> datetime:
        return datetime.now(UTC) - timedelta(seconds=time.monotonic() - at_s)

    def settings(self, journal: Path) -> dict[str, object]:
        """Return the settings of its power meter."""
        host, port = self.address
        kept = {"journal_path": str(journal) if self.journal else "off"}
        return {"ip_address": host, "port_http": port, "CI": EVSE_ID, **kept}

    def process_starts(self) -> Process:
        """Record that a process of ours is started now."""
        self.processes.append(Process(len(self.processes), time.monotonic()))
        return self.processes[-1]

    @property
    def process_number(self) -> int:
        """The number of the process that speaks now."""
        last = self.processes[-1]
        return last.number if time.monotonic() > last.began_s + FIRST_WORD_S else max(0, last.number - 1)

    def _serving(self, card: str) -> Serving | None:
        """Return the start that a card belongs to: every start has a card of its own."""
        for call in self.calls:
            if card and call.request.get("identification_data") == card:
                return Serving(call.transaction_id, call.number, self.process_number)
        return None

    # --- what the power meter publishes ---

    def on_value(self, value: dict[str, Any], at_s: float | None = None) -> None:
        """Record a live value."""
        self.value_s = at_s or time.monotonic()
        process = self.processes[-1]
        self.energies.append((value["meter_id"], value["energy_Wh_import"]["total"], process.number))
        if process.back_s is None and self.value_s > process.began_s + FIRST_WORD_S:
            process.back_s = self.value_s - process.began_s

    def on_check(self, payload: bytes) -> None:
        """Record a communication check."""
        self.checks.add(payload)

    # --- commands ---

    def new_id(self) -> str:
        """Return an id that was not used before."""
        self._ids += 1
        return f"{self.name}-{self._ids}"

    def start(self, transaction_id: str) -> Call:
        """Send a start, with a card of its own."""
        call = Call("start", transaction_id, len(self.calls))
        card = f"04{self.name.encode().hex()}{call.number:06}"
        call.request = {
            "evse_id": EVSE_ID, "transaction_id": transaction_id, "identification_status": "ASSIGNED",
            "identification_flags": [], "identification_type": "ISO14443", "identification_data": card,
        }  # fmt: skip
        self.command(call, call.request)
        return call

    def stop(self, transaction_id: str) -> Call:
        """Send a stop."""
        call = Call("stop", transaction_id, len(self.calls))
        self.command(call, transaction_id)
        return call

    def command(self, call: Call, payload: object) -> Callable[[], None] | None:
        """Send a command, and record every answer to it. Returns what `send` does."""
        self.calls.append(call)
        self.counts[call.command] += 1
        call.asked_s, call.process = time.monotonic(), self.process_number
        repeat = self.send(call.command, payload, lambda answer: self._on_answer(call, answer))
        if repeat is None:
            call.excused = "no process was there"
        return repeat

    def _on_answer(self, call: Call, answer: dict[str, Any]) -> None:
        """Record an answer. A broker may hand a request over again to the process that is started next."""
        call.answers += 1
        now_s, process = time.monotonic(), self.processes[self.process_number]
        if process.number != call.process:
            # Both processes may have acted on it.
            self.meter.meddle(call.asked_s or now_s, process.began_s, now_s)
        if call.answer is None:
            call.answer, call.answered_s, call.process = answer, now_s, process.number
            call.asked_s = max(call.asked_s or now_s, process.began_s)
            self.counts[f"{call.command}: {answer['status']}"] += 1
        elif call.answer["status"] == answer["status"] == "OK" and call.answer != answer:
            self.dead_letters.append(f"another answer to {call.command} {call.transaction_id}")

    def excuse(self, why: str) -> None:
        """Record why what is not answered yet need not be."""
        for call in self.calls:
            if call.answer is None and not call.excused:
                call.excused = why

    async def answers(self, *calls: Call) -> None:
        """Wait until these commands, or all, are answered or excused."""
        waited_for = calls or self.calls
        await until(lambda: all(call.answer is not None or call.excused for call in waited_for), ANSWER_TIMEOUT_S)

    async def session(self, length_s: float) -> tuple[Call, Call]:
        """Run a whole session."""
        start = self.start(self.new_id())
        await self.answers(start)
        await asyncio.sleep(length_s)
        stop = self.stop(start.transaction_id)
        await self.answers(stop)
        return start, stop

    async def last_session(self) -> None:
        """Run sessions until one succeeds, for 100 s at most. The last one counts as one in which nothing is wrong."""
        give_up_s = time.monotonic() + CALM_S
        while True:
            start, stop = await self.session(1.5)
            if (start.ok and stop.ok) or time.monotonic() > give_up_s:
                break
        start.fresh = stop.fresh = True
        self.running_at_end = self.meter.open_transaction

    # --- what came of it ---

    def judge(self, journal: Path) -> list[str]:
        """Read the journal, leave a chronicle beside it, and return every promise that was broken."""
        if self.journal:
            with open_for_reading(journal) as reader:
                entries = reader.entries(meter=self.unit.serial)
                self.filed = [Filed(entry.text, entry.transaction_id) for entry in entries]
        journal.with_name(f"{self.name}.txt").write_text(self.chronicle(), "utf-8")
        return self.broken()

    def broken(self) -> list[str]:
        """Return every promise that was broken. The journal is told of a transaction before B goes out."""
        dropped = self.disk_troubled
        self.noted = {
            truth for truth in self.unit.truths if not any(begin <= truth.begun_s <= end for begin, end in dropped)
        }
        return [*invariants.broken(self), *self.troubles]

    def chronicle(self) -> str:
        """Return what happened, line by line, for a person who looks for a reason."""
        lines = [(each.began_s, f"process {each.number} starts, back after {each.back_s}") for each in self.processes]
        for call in self.calls:
            name = f"call {call.number} {call.command} {call.transaction_id!r}"
            lines.append((call.asked_s or 0.0, f"{name} {call.excused}"))
            if call.answer is not None:
                said = call.answer.get("error") or call.answer["status"]
                lines.append((call.answered_s or 0.0, f"{name}: {said} by {call.process}, {_receipt(call.tuple_text)}"))
        for truth in self.unit.truths:
            fate = "lost" if truth.lost else _receipt(truth.text)
            lines.append((truth.begun_s, f"the meter begins {truth.transaction_id!r}: {fate}"))
            if truth.closed_s is not None:
                lines.append((truth.closed_s, f"{truth.transaction_id!r} ended"))
        lines += [(begin_s, f"until {end_s:.3f} a disk in trouble drops") for begin_s, end_s in self.disk_troubled]
        return "".join(f"{at_s:10.3f}  {line}\n" for at_s, line in sorted(lines))


def _receipt(text: str | None) -> str:
    return "no receipt" if text is None else "receipt {PG} of card {ID}".format_map(json.loads(text.split("|", 2)[1]))
