"""The simulated world that carries out a plan: host, network, broker, disk, meters, and our process.

Each step of a plan is a method of `World` or of `station.Station`.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from endurance.clock import HostClock
from endurance.disk import Disk, SteppedJournal
from endurance.invariants import broken_so_far
from endurance.meter import Meter
from endurance.network import Network
from endurance.plan import MODULE, SERVICE, start_request
from endurance.process import ModuleProcess, Process, ServiceProcess, rigged
from endurance.station import Call, Station
from iem_dcr.config import Settings
from iem_dcr.driver.driver import START_S

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from endurance.plan import Plan, SessionPlan

ANSWER_TIMEOUT_S: Final = 145.0
"""Longer than any command may take, even if the broker is away first."""
CALM_S: Final = 100.0
"""Seconds without faults at the end of a run, before it is judged."""
KINDS: Final[dict[str, type[Process]]] = {SERVICE: ServiceProcess, MODULE: ModuleProcess}


class World(Station):
    """Carries out one plan and records the events.

    Attributes:
        broker_is_up: whether a service can connect to its broker.
        calmed_s: end of the period without faults.
    """

    answer_timeout_s = ANSWER_TIMEOUT_S
    poll_s = 0.25  # waiting in virtual time costs nothing

    def __init__(self, plan: Plan, folder: Path) -> None:
        counts: Counter[str] = Counter()
        now_s = asyncio.get_running_loop().time
        super().__init__("pm", plan.kind, Meter(plan.options, now_s, counts), counts, journal=plan.journal)
        self.plan = plan
        self.processes: list[Process] = []
        self.calmed_s = 0.0
        self.host = HostClock(plan.host)
        self.disk = Disk()
        self._journal_file = folder / "journal.sqlite"
        self.settings = Settings.of({"CT": "EVSEID", "CI": "DE*SIM*E1", **plan.settings, "journal_path": ""})
        self._latency = random.Random(plan.seed)
        self.network = Network(self.meter, self._latency.random, counts)
        self.broker_is_up = True
        self._broker_troubled: list[list[float]] = []
        self._queued: list[tuple[str, bytes, Call]] = []

    @property
    def process(self) -> Process | None:
        return self.processes[-1] if self.processes and not self.processes[-1].killed else None

    @property
    def now_s(self) -> float:
        return self.meter.now_s()

    @property
    def disk_works(self) -> bool:
        journal = self.process.journal if self.process is not None else None
        return not self.disk.trouble and (journal is None or not journal.unwritten)

    def host_at(self, at_s: float) -> datetime:
        return self.host.at(at_s)

    def host_is_set_at(self, at_s: float) -> bool:
        """Return whether the host's clock was plausible: set, and not behind the times in the journal."""
        return super().host_is_set_at(at_s) and self.host.latest <= self.host_at(at_s)

    # --- a run ---

    async def run(self) -> None:
        """Carry out the plan, wait without faults, run one more session, and end."""
        with rigged():
            self._start_process()
            heartbeats = asyncio.create_task(self._send_heartbeats())
            for session in self.plan.sessions:
                await self._run_session(session)
                self.read_journal(self._journal_file)
                self.problems += broken_so_far(self)
                if self.problems:
                    break
            await self._end(heartbeats)

    async def _run_session(self, session: SessionPlan) -> None:
        self._latency.seed(f"{self.plan.seed} {session.number}")
        begins_s, first_call = self.now_s, len(self.calls)
        for step in session.steps:
            await self._sleep_until(begins_s + step.at_s)
            self.counts[step.what] += 1
            getattr(self, step.what)(**step.detail)
        await self._sleep_until(begins_s + session.length_s)
        await self.answers(*self.calls[first_call:])
        self.measure()

    async def _sleep_until(self, at_s: float) -> None:
        if at_s > self.now_s:
            await asyncio.sleep(at_s - self.now_s)

    def measure(self) -> None:
        """Record the tasks and the remembered receipts after a session. A failing disk legitimately delays tasks."""
        if self.disk_works:
            self.tasks_left.append(len(asyncio.all_tasks()))
        if self.process is not None:
            self.memory.append(self.process.driver.remembered)

    async def _end(self, heartbeats: asyncio.Task[None]) -> None:
        self.end_faults()
        await asyncio.sleep(CALM_S)
        self.calmed_s = self.now_s
        self.running_after_calm = self.meter.open_transaction
        await self._request_missing_receipt()
        for call in await self.session(start_request("T-last", "04LAST"), 5.0):
            call.fresh = True
        self.running_at_end = self.meter.open_transaction
        await self.processes[-1].end()
        for task in (heartbeats, *self._tasks):
            task.cancel()
        await asyncio.sleep(2.0)
        self.leftover = len(asyncio.all_tasks()) - 1
        self.read_journal(self._journal_file)

    async def _request_missing_receipt(self) -> None:
        """Repeat the stop of the last transaction if its receipt was not delivered. It exists, so this must succeed."""
        signed = self.meter.signed_truths
        transaction_id = signed[-1].transaction_id if signed and self.running_after_calm is None else None
        if transaction_id is None or any(call.tuple_text == signed[-1].text for call in self.calls):
            return
        leapt = any(0.0 <= signed[-1].begun_s - each_s <= START_S for each_s in self.meter.shifted_s)
        if leapt and not signed[-1].process_is(self.processes[-1].number):
            return  # it begins at another time than B, and only that process could measure by how much
        if [truth for truth in self.meter.truths if truth.transaction_id == transaction_id][-1] is signed[-1]:
            call = self.stop(transaction_id)  # not if a later one under that id was lost: the stop would mean that one
            call.owed = True
            await self.answers()

    async def _send_heartbeats(self) -> None:
        for beat in itertools.count(1):
            self._receive(self.topics.heartbeat, str(beat).encode())
            await asyncio.sleep(1.0)

    # --- the broker and its messages to the process ---

    def _send(self, call: Call, payload: Any) -> None:
        if self.kind == MODULE:
            if isinstance(self.process, ModuleProcess):
                self._received(call)
                self._spawn(self._call(self.process, call, payload))
            else:
                call.excused = "no module was there"
            return
        topic, message = self._message(call, payload)
        if not self._receive(topic, message):
            self._queued.append((topic, message, call))
            return
        self._received(call)

    async def _call(self, process: ModuleProcess, call: Call, value: object) -> None:
        answer = await process.call(call.command, value)
        if answer and not process.killed:
            self.on_answer(call, answer)

    def on_answer(self, call: Call, answer: dict[str, Any]) -> None:
        if call.answer is None:
            call.answered_by = self.processes[-1].number
            for begin_s, end_s in self._broker_troubled:
                call.broker_away_s += max(0.0, min(end_s, self.now_s) - max(begin_s, call.asked_s or 0.0))
        super().on_answer(call, answer)

    def _received(self, call: Call) -> None:
        call.process, call.asked_s = self.processes[-1].number, self.now_s

    @property
    def _service(self) -> ServiceProcess | None:
        return self.process if isinstance(self.process, ServiceProcess) else None

    def _receive(self, topic: str, message: bytes) -> bool:
        return self._service is not None and self._service.bus.receive(topic, message)

    def repeat(self) -> None:
        """Deliver the last message again, as a broker does without an acknowledgement. An answer acknowledges it."""
        if self._last_sent is not None:
            call, topic, message = self._last_sent
            if call.answer is None or self.processes[-1].number == call.process:
                self._receive(topic, message)

    def _deliver_queued(self) -> None:
        """Deliver the messages that the broker queued for an absent client."""
        queued, self._queued = self._queued, []
        for topic, message, call in queued:
            if self._receive(topic, message):
                self._received(call)
            else:
                self._queued.append((topic, message, call))

    def broker_away(self, for_s: float) -> None:
        if self.broker_is_up:
            self.broker_is_up = False
            self._broker_troubled.append([self.now_s, float("inf")])
            if self._service is not None:
                self._service.bus.disconnect()
        self._later(for_s, self._broker_back)

    def _broker_back(self) -> None:
        if not self.broker_is_up:
            self.broker_is_up = True
            self._broker_troubled[-1][1] = self.now_s
            if self._service is not None:
                self._service.bus.connect()
                self._deliver_queued()

    # --- start and end of the process ---

    def _start_process(self) -> None:
        if self.process is not None:
            return
        journal = None
        if self.journal:
            journal = SteppedJournal(self._journal_file, self.disk, self.host, self._unwritten_was_dropped)
        self.note(f"process {len(self.processes)} starts")
        self.processes.append(KINDS[self.kind](self, len(self.processes), journal))
        asyncio.get_running_loop().call_soon(self._deliver_queued)  # it subscribes in this iteration of the loop

    def kill(self, away_s: float) -> None:
        process = self.process
        if process is not None:
            for call in self.calls:
                if call.answer is None and call.process == process.number and not call.excused:
                    self.counts[f"killed in a {call.command}"] += 1
            self.note(f"process {process.number} is killed")
            self.excuse("its process was killed", process.number)
            process.kill()
            self._later(away_s, self._start_process)

    def restart(self, away_s: float) -> None:
        if self.process is not None:
            self.note(f"process {self.process.number} is ended")
            self._excuse_service(self.process)
            self._spawn(self._end_and_start(self.process, away_s))

    async def _end_and_start(self, process: Process, away_s: float) -> None:
        await process.end()
        self._excuse_service(process)  # for messages that the broker delivered meanwhile
        await asyncio.sleep(away_s)
        self._start_process()

    def _excuse_service(self, process: Process) -> None:
        """Excuse the unanswered commands of a service that ends. A module must answer them before it ends."""
        if self.kind == SERVICE:
            self.excuse("its process was ended", process.number)

    # --- troubles around the process ---

    def step_host(self, by_s: float) -> None:
        self.host.step(by_s)

    def network_swallows(self, for_s: float) -> None:
        self.network.swallows = True
        self._later(for_s, lambda: setattr(self.network, "swallows", False))

    def network_is_slow(self, by_s: float, for_s: float) -> None:
        self.network.slow_s = by_s
        self._later(for_s, lambda: setattr(self.network, "slow_s", 0.0))

    def disk_fails(self, trouble: str, for_s: float) -> None:
        """Let the journal's disk fail, as described at `disk.Disk`."""
        if self.journal:
            self.counts[f"disk {trouble}"] += 1
            self.disk.fail(trouble)
            self._later(for_s, self.disk.heal)

    def _unwritten_was_dropped(self) -> None:
        """Record an end with unwritten entries, which is excused if the disk fails or has recently failed."""
        self.disk_troubled += self.disk.dropped_by_kill()

    def exchange_meter(self, private_network_s: float) -> None:
        """Replace the meter by another one. Its address does not answer for some time."""
        self.meter.power_cycle(private_network_s, 0.0)
        other = self._new_meter("1SIM9")
        other.power_cycle(private_network_s, 0.5)
        self._connect_meter(other)

    def swap_meters(self, away_s: float) -> None:
        """Let the meter of another charging point answer at this address, and later this one again."""
        here, other = self.meter, self._new_meter("1SIM8")
        self._connect_meter(other)
        self._later(away_s, lambda: self._connect_meter(here) if self.meter is other else None)

    def _new_meter(self, prefix: str) -> Meter:
        serial = f"{prefix}{len(self.meters):02}{self.plan.seed % 10**7:07}"
        self.meters.append(Meter(replace(self.plan.options, MS=serial), self.meter.now_s, self.counts))
        return self.meters[-1]

    def _connect_meter(self, meter: Meter) -> None:
        self.meter = self.network.meter = meter

    def begin_by_hand(self) -> None:
        """Let a technician begin a transaction, but not during a start of ours, between POST /user and B."""
        if self.process is None or self.process.serving is None:
            self.meter.by_hand("B")

    def end_by_hand(self) -> None:
        self.meter.by_hand("E")

    def end_faults(self) -> None:
        for meter in self.meters:  # one that was swapped may come back
            self._end_faults_of(meter)
        self.network.swallows, self.network.slow_s = False, 0.0
        self.disk.heal()
        self._broker_back()
        self._start_process()
