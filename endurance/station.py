"""The station: it has transactions begun and ended, over either of its interfaces, and keeps what it is told."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from endurance.clock import HostClock
from endurance.disk import Disk, SteppedJournal
from endurance.meter import Unit
from endurance.model import SERVICE, Call, Record, Truth
from endurance.process import TOPICS, Process, payload_of_start
from iem_dcr.config import Settings

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from datetime import datetime
    from pathlib import Path

    from endurance.network import Network
    from endurance.plan import Plan

NOTED_WITHIN_S: Final = 0.1
WRITTEN_AFTER_S: Final = 6.0
"""What waits for a disk that was in trouble is written so long after its end: it is tried again every 3 s."""


class Station(Record):
    """A charging point and its station, without what goes wrong.

    Attributes:
        plan: the plan.
        broker_troubled: pairs of times in which the broker was away.
        story: what happened when, for whoever reads a failed run.
    """

    processes: list[Process]
    units: list[Unit]

    def __init__(self, plan: Plan, folder: Path) -> None:
        super().__init__(journal=plan.journal)
        self.plan = plan
        self.processes = []
        self.units = []
        self.broker_troubled: list[list[float]] = []
        self.story: list[tuple[float, str]] = []
        self.settings = Settings.of({"CT": "EVSEID", "CI": "DE*SIM*E1", **plan.settings, "journal_path": ""})
        self.host = HostClock(plan.host)
        self.disk = Disk()
        self.broker_is_up = True
        self.network: Network
        self._folder = folder
        self._latency = random.Random(plan.seed)
        self._by_reply: dict[str, Call] = {}
        self._queued: list[tuple[str, bytes, Call]] = []
        self._unnoted: list[Truth] = []
        self._trouble_began_s = 0.0
        self._trouble_ended_s = -WRITTEN_AFTER_S
        self._tasks: set[asyncio.Task[Any]] = set()

    def host_at(self, at_s: float) -> datetime:
        """Return what the host's clock says, as it is set now, at a time of the run's."""
        return self.host.at(at_s)

    def host_is_set_at(self, at_s: float) -> bool:
        """Tell whether the host's clock could be trusted: one behind the times in the journal cannot."""
        return super().host_is_set_at(at_s) and self.host.latest <= self.host_at(at_s)

    @property
    def process(self) -> Process | None:
        """The process that lives."""
        return self.processes[-1] if self.processes and not self.processes[-1].killed else None

    @property
    def unit(self) -> Unit:
        """The meter that stands there."""
        return self.network.unit

    @property
    def now_s(self) -> float:
        """Seconds since the beginning."""
        return asyncio.get_running_loop().time()

    @property
    def disk_is_well(self) -> bool:
        """Whether all that is to be in the journal can be in it by now."""
        process = self.process
        return self.disk.is_well and (process is None or process.journal is None or not process.journal.unwritten)

    def tell(self, what: str) -> None:
        """Add a line to the story."""
        self.story.append((self.now_s, what))

    # --- what it asks for ---

    def start(self, request: dict[str, Any]) -> None:
        """Have a transaction begun."""
        call = Call("start", request["transaction_id"], len(self.calls), request)
        self.calls.append(call)
        self._send(call, request)

    def stop(self, transaction_id: str) -> None:
        """Have a transaction ended."""
        call = Call("stop", transaction_id, len(self.calls))
        self.calls.append(call)
        # Both forms that EVerest's API has are sent.
        plain = call.number % 2 == 0
        self._send(call, transaction_id if plain else {"transaction_id": transaction_id})

    def stop_again_if_failed(self, transaction_id: str) -> None:
        """Have a transaction ended whose end failed so far."""
        stops = [call for call in self.calls if call.command == "stop" and call.transaction_id == transaction_id]
        if not any(call.ok for call in stops):
            self.stop(transaction_id)

    def stop_if_begun(self, transaction_id: str) -> None:
        """Have a transaction ended, as EVerest does: one whose start has not succeeded is not stopped."""
        starts = [call for call in self.calls if call.command == "start" and call.transaction_id == transaction_id]
        if any(call.ok for call in starts):
            self.stop(transaction_id)

    def _send(self, call: Call, payload: Any) -> None:
        self.counts[f"station: {call.command}"] += 1
        if self.plan.kind == SERVICE:
            reply_to = f"reply/{call.number}"
            self._by_reply[reply_to] = call
            topic = TOPICS.start if call.command == "start" else TOPICS.stop
            message = payload_of_start(payload, reply_to)
            if not self._send_to_process(topic, message):
                self._queued.append((topic, message, call))
            else:
                self._taken(call)
                if self._latency.random() < 0.1:
                    self._later(0.3, lambda: self._hand_over_again(call, topic, message))
            return
        process = self.process
        if process is None:
            call.excused = "no module was there"
            return
        self._taken(call)
        value = payload if call.command == "start" else call.transaction_id
        self._spawn(self._call_module(process, call, value))

    async def _call_module(self, process: Process, call: Call, value: object) -> None:
        answer = await process.call(call.command, value)
        if not process.killed:
            self._answered(call, answer)

    def _taken(self, call: Call) -> None:
        process = self.process
        assert process is not None  # noqa: S101  it has just taken it
        call.process, call.asked_s = process.number, self.now_s

    def _answered(self, call: Call, answer: dict[str, Any]) -> None:
        call.answers += 1
        if call.command == "start" and answer.get("status") == "OK":
            running = self.unit.running
            if running is not None:
                self._later(NOTED_WITHIN_S, lambda: self._noted(running))
        if call.answer is None:
            call.answer, call.answered_s = answer, self.now_s
            call.answered_by = None if self.process is None else self.process.number
            for begin_s, end_s in self.broker_troubled:
                call.broker_away_s += max(0.0, min(end_s, self.now_s) - max(begin_s, call.asked_s or 0.0))
            self.counts[f"{call.command}: {answer['status']}"] += 1
            why = answer.get("error", "")
            self.tell(f"call {call.number} {call.command} {call.transaction_id!r}: {answer['status']} {why}")
        elif call.answer != answer:
            self.dead_letters.append(f"another answer to {call.command} {call.transaction_id}")

    # --- what a process finds around it (`process.Surroundings`) ---

    def open_journal(self) -> SteppedJournal | None:
        """Open the journal for a process."""
        if not self.journal:
            return None
        return SteppedJournal(self._folder / "journal.sqlite", self.disk, self.host, self._unwritten_was_dropped)

    def ready(self, process: Process) -> None:
        """Hear that a process has subscribed, or is about to within this round."""
        asyncio.get_running_loop().call_soon(self._hand_over_queued, process)

    def heard(self, topic: str, payload: bytes) -> None:
        """Take what was published at the broker."""
        if topic == TOPICS.values:
            self.published(json.loads(payload))
        elif topic == TOPICS.check:
            self.checks.add(payload)
        elif topic in self._by_reply:
            self._answered(self._by_reply[topic], json.loads(payload))
        elif topic != TOPICS.key:
            self.dead_letters.append(topic)

    def published(self, value: dict[str, Any]) -> None:
        """Take a live value."""
        process = self.processes[-1].number if self.processes else 0
        self.energies.append((value["meter_id"], value["energy_Wh_import"]["total"], process))

    def raised(self, error_type: str, sub_type: str) -> None:
        """Take an error."""
        if (error_type, sub_type) in self.errors:
            self.dead_letters.append(f"error {error_type} {sub_type!r}, which is active already")
        self.errors.add((error_type, sub_type))

    def cleared(self, error_type: str, sub_type: str) -> None:
        """Take the end of an error."""
        if (error_type, sub_type) not in self.errors:
            self.dead_letters.append(f"the end of error {error_type} {sub_type!r}, which is not active")
        self.errors.discard((error_type, sub_type))

    def _unwritten_was_dropped(self) -> None:
        """Hear of an end before all was written: nothing is promised where the disk is in trouble, or has just been."""
        self.counts["unwritten at a kill"] += 1
        if not self.disk.is_well or self.now_s - self._trouble_ended_s < WRITTEN_AFTER_S:
            self.disk_troubled.append((self._trouble_began_s, self.now_s))

    # --- the broker ---

    def _send_to_process(self, topic: str, message: bytes) -> bool:
        return self.process is not None and self.process.receive(topic, message)

    def _hand_over_again(self, call: Call, topic: str, message: bytes) -> None:
        """Have the broker hand over again what it got no acknowledgement for; who has answered has acknowledged it."""
        process = self.process
        if process is not None and (call.answer is None or process.number == call.process):
            process.receive(topic, message)

    def _hand_over_queued(self, process: Process) -> None:
        """Have the broker hand over what it held for a client that was away."""
        if process.killed:
            return
        queued, self._queued = self._queued, []
        for topic, message, call in queued:
            if process.receive(topic, message):
                self._taken(call)
            else:
                self._queued.append((topic, message, call))

    # --- help ---

    def _noted(self, truth: Truth) -> None:
        """Keep that the journal has had the time to write a transaction; one in trouble has it when it is well."""
        if self.process is None or not truth.process_is(self.process.number):
            return
        if self.disk_is_well:
            self.noted.add(truth)
        else:
            self._unnoted.append(truth)

    def _new_unit(self, serial: str) -> Unit:
        unit = Unit(replace(self.plan.options, MS=serial), self.counts)
        self.units.append(unit)
        return unit

    def _later(self, after_s: float, what: Any) -> None:
        asyncio.get_running_loop().call_later(after_s, what)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
