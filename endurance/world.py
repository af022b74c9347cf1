"""The world in which a plan is carried out: host, network, broker, disk, meter, station, and our process."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from iem_dcr.config import Settings
from iem_dcr.everest_api.topics import Topics
from iem_dcr.journal import open_for_reading
from iem_dcr.simulator.faults import Fault

from endurance.clock import HostClock, JumpingLoop, NothingLeftError
from endurance.disk import Disk, SteppedJournal
from endurance.process import SERVICE, Process, Rigged, payload_of_start, task_factory
from endurance.unit import Trap, Truth, Unit
from endurance.wire import Socket

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from endurance.plan import Plan, Step

TOPICS: Final = Topics("pm")
NOTED_WITHIN_S: Final = 0.1
LOAD: Final = (20.0, 400.0)
AFTERWARDS_S: Final = 75.0
"""How long a session waits for its last answer: longer than any command may take."""
CALM_S: Final = 100.0
"""How long nothing goes wrong at the end of a run before it is judged."""
HEALTHY_XC: Final = "0x0000, 0x00000000, 0x00, 0x00"


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


class World:
    """Carries out one plan, and knows what happened.

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
        tasks_left: tasks that were there at the end of each session.
        leftover: tasks that were there after the end.
        memory: receipts and ids that the driver remembered at the end of each session.
        noted: transactions that a journal that is well was told of.
        dead_letters: messages that nobody waits for.
        story: what happened when, for whoever reads a failed run.
    """

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
        self.tasks_left: list[int] = []
        self.leftover = 0
        self.memory: list[int] = []
        self.dead_letters: list[str] = []
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

    def ready(self, process: Process) -> None:
        """Take note that a process has subscribed, or is about to within this round."""
        asyncio.get_running_loop().call_soon(self._hand_over_queued, process)

    def published(self, value: dict[str, Any]) -> None:
        """Take a live value."""
        self.energies.append((value["meter_id"], value["energy_Wh_import"]["total"]))

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

    # --- a run ---

    async def run(self) -> None:
        """Carry out the plan, then let it be calm, have one more session, and end."""
        self._socket = Socket(self._new_unit(self.plan.options.MS), self._latency.random)
        with Rigged(self._socket):
            self._start_process()
            beating = asyncio.create_task(self._beat())
            for session in self.plan.sessions:
                self._latency.seed(f"{self.plan.seed} {session.number}")
                begins_s = self.now_s
                first_call = len(self.calls)
                for step in session.steps:
                    await self._until(begins_s + step.at_s)
                    self._do(step)
                await self._until(begins_s + session.length_s)
                await self._answers(self.calls[first_call:])
                self.tasks_left.append(len(asyncio.all_tasks()))
                self._weigh()
            await self._end(beating)

    async def _end(self, beating: asyncio.Task[None]) -> None:
        self.heal()
        await asyncio.sleep(CALM_S)
        self.calmed_s = self.now_s
        self.running_after_calm = self.unit.running
        await self._last_session()
        self.running_at_end = self.unit.running
        process = self.process
        assert process is not None  # noqa: S101  heal starts one
        await process.end()
        beating.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(2.0)
        self.leftover = len(asyncio.all_tasks()) - 1
        if self.plan.journal:
            with open_for_reading(self._folder / "journal.sqlite") as reader:
                self.filed = [Filed(entry.text, entry.transaction_id) for entry in reader.entries()]

    async def _last_session(self) -> None:
        """Have a session like any other, in a world in which nothing goes wrong."""
        request = {
            "evse_id": "DE*SIM*E1", "transaction_id": "T-last", "identification_status": "ASSIGNED",
            "identification_flags": [], "identification_type": "ISO14443", "identification_data": "04LAST",
        }  # fmt: skip
        self.start(request)
        await self._answers(self.calls)
        await asyncio.sleep(5.0)
        self.stop("T-last")
        await self._answers(self.calls)
        for call in self.calls[-2:]:
            call.fresh = True

    async def _until(self, at_s: float) -> None:
        if at_s > self.now_s:
            await asyncio.sleep(at_s - self.now_s)

    async def _answers(self, calls: list[Call]) -> None:
        """Wait until all have an answer or cannot get one any more."""
        ends_s = self.now_s + AFTERWARDS_S
        while self.now_s < ends_s and any(call.answer is None and not call.excused for call in calls):
            await asyncio.sleep(0.25)

    async def _beat(self) -> None:
        while True:
            self._heartbeats += 1
            self._send_to_process(TOPICS.heartbeat, str(self._heartbeats).encode())
            await asyncio.sleep(1.0)

    def _weigh(self) -> None:
        process = self.process
        if process is not None:
            receipts: Any = process.driver._receipts  # noqa: SLF001  what has to stay bounded is inside
            self.memory.append(
                len(receipts.older) + len(receipts.kept) + len(receipts.refused) + len(receipts._handed)  # noqa: SLF001
            )

    def tell(self, what: str) -> None:
        """Add a line to the story."""
        self.story.append((self.now_s, what))

    # --- steps: the station ---

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
        """Have a transaction ended that was not ended as yet."""
        stops = [call for call in self.calls if call.command == "stop" and call.transaction_id == transaction_id]
        if not any(call.ok for call in stops):
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
                    # A broker may hand over again what it got no acknowledgement for.
                    asyncio.get_running_loop().call_later(0.3, self._send_to_process, topic, message)
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
            self.counts[f"{call.command}: {answer['status']}"] += 1
            self.tell(
                f"call {call.number} {call.command} {call.transaction_id!r}: {answer['status']} {answer.get('error', '')}"
            )
        elif call.answer != answer:
            self.dead_letters.append(f"another answer to {call.command} {call.transaction_id}")

    def _send_to_process(self, topic: str, message: bytes) -> bool:
        process = self.process
        if process is None or process.kind != SERVICE:
            return False
        return process.bus.receive(topic, message)

    def _hand_over_queued(self, process: Process) -> None:
        """Have the broker hand over what it held for a client that was away."""
        if process.killed or process.kind != SERVICE:
            return
        queued, self._queued = self._queued, []
        for topic, message, call in queued:
            if process.bus.receive(topic, message):
                self._taken(call)
            else:
                self._queued.append((topic, message, call))

    def _noted(self, truth: Truth) -> None:
        """Take note that a journal that is well has had the time to be told of a transaction."""
        if self.process is not None and truth.process_is(self.process.number):
            self.noted.add(truth)

    # --- steps: what goes wrong ---

    def _do(self, step: Step) -> None:
        self.counts[step.what] += 1
        self.tell(str(step))
        getattr(self, step.what)(**step.detail)

    def wire_fault(self, **detail: Any) -> None:
        """Have the meter's next requests fail."""
        self.counts[f"wire: {detail['kind']}"] += 1
        self.unit.meter.faults.add(Fault(**detail))

    def wire_heals(self) -> None:
        """Forget those faults that did not come to it."""
        self.unit.meter.faults.clear()

    def cut_power(self, off_s: float, boot_s: float, open_at_power_cut: str) -> None:
        """Cut the meter's power."""
        running = self.unit.running is not None
        self.counts[f"power cut, {open_at_power_cut if running else 'idle'}"] += 1
        self.unit.meter.configure(open_at_power_cut=open_at_power_cut)
        self.unit.cut_power(off_s, boot_s)

    def set_trap(self, method: str, node: str, delay_s: float, what: str, then: dict[str, Any]) -> None:
        """Have something happen at the meter's next work of a kind."""

        def spring() -> None:
            self.counts[f"{what} after {method} {node}"] += 1
            self.tell(f"{what} after {method} {node} {then}")
            getattr(self, what)(**then)

        self.unit.traps.append(Trap(method, node, delay_s, spring))

    def shift_clock(self, by_s: float) -> None:
        """Have the meter's clock leap."""
        if self.unit.is_on:
            self.unit.meter.shift_clock(by_s)

    def step_host(self, by_s: float) -> None:
        """Have the host's clock leap."""
        self.host.step(by_s)

    def meter_in_error(self, for_s: float) -> None:
        """Have the meter report an error of its own for a while."""
        unit = self.unit
        unit.meter.configure(XC="0x0001, 0x00000000, 0x00, 0x00")
        self._later(for_s, lambda: unit.meter.configure(XC=HEALTHY_XC))

    def network_swallows(self, for_s: float) -> None:
        """Have the network take what is sent and give nothing back."""
        self._socket.swallows = True
        self._later(for_s, lambda: setattr(self._socket, "swallows", False))

    def network_is_slow(self, by_s: float, for_s: float) -> None:
        """Have every way take longer."""
        self._socket.slow_s = by_s
        self._later(for_s, lambda: setattr(self._socket, "slow_s", 0.0))

    def disk_fails(self, full: bool, for_s: float) -> None:  # noqa: FBT001  a step's detail
        """Have the journal's disk full, or slow."""
        if not self.plan.journal:
            return
        self.disk.full, self.disk.slow_s = full, self.disk.slow_s if full else 1.5
        self.disk_troubled.append([self.now_s, float("inf")])
        self._later(for_s, self._disk_heals)

    def _disk_heals(self) -> None:
        self.disk.heal()
        for trouble in self.disk_troubled:
            trouble[1] = min(trouble[1], self.now_s)

    def exchange_meter(self, private_network_s: float) -> None:
        """Put another meter in the place of this one; its address does not answer for a while."""
        self.unit.cut_power(private_network_s, 0.0)
        unit = self._new_unit(f"1SIM9{len(self.units):02}{self.plan.seed % 10**7:07}")
        unit.cut_power(private_network_s, 0.5)
        self._socket.unit = unit

    def begin_by_hand(self) -> None:
        """Have a technician begin a transaction; not in the very milliseconds in which ours assigns its user."""
        if self.process is None or self.process.serving is None:
            self.unit.begin_by_hand()

    def end_by_hand(self) -> None:
        """Have a technician end what runs."""
        self.unit.end_by_hand()

    def current_flows(self, for_s: float) -> None:
        """Have a current flow, at which nothing can be begun or ended."""
        unit = self.unit
        unit.meter.set_load(*LOAD)
        self._later(for_s, unit.meter.clear_load)

    def broker_away(self, for_s: float) -> None:
        """Have the broker gone for a while."""
        if self.broker_is_up:
            self.broker_is_up = False
            if self.process is not None:
                self.process.bus.disconnect()
        self._later(for_s, self._broker_back)

    def _broker_back(self) -> None:
        if not self.broker_is_up:
            self.broker_is_up = True
            process = self.process
            if process is not None:
                process.bus.connect()
                self._hand_over_queued(process)

    def kill(self, away_s: float) -> None:
        """Kill our process, and start it again."""
        self._leave(away_s, kill=True)

    def restart(self, away_s: float) -> None:
        """End our process, and start it again."""
        self._leave(away_s, kill=False)

    def _leave(self, away_s: float, *, kill: bool) -> None:
        process = self.process
        if process is None:
            return
        for call in self.calls:
            if call.answer is None and call.process == process.number:
                call.excused = "its process was killed" if kill else "its process was ended"
        if kill:
            process.kill()
            self._later(away_s, self._start_process)
        else:
            self._spawn(self._end_and_start(process, away_s))

    async def _end_and_start(self, process: Process, away_s: float) -> None:
        await process.end()
        await asyncio.sleep(away_s)
        self._start_process()

    def _start_process(self) -> None:
        if self.process is None:
            self.processes.append(Process(self, len(self.processes), self.plan.kind))

    def heal(self) -> None:
        """Have nothing wrong any more."""
        self._socket.swallows, self._socket.slow_s = False, 0.0
        unit = self.unit
        unit.traps.clear()
        unit.meter.faults.clear()
        unit.meter.clear_load()
        unit.meter.configure(XC=HEALTHY_XC)
        self._disk_heals()
        self._broker_back()
        self._start_process()

    # --- help ---

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


def carry_out(plan: Plan) -> World:
    """Carry out a plan, and return the world as it was left.

    Raises:
        NothingLeftError: everything waited for ever.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)  # noqa: S108  the quickest
    try:
        with folder as name, asyncio.Runner(loop_factory=JumpingLoop) as runner:
            world = World(plan, Path(name))
            runner.get_loop().set_task_factory(task_factory)
            runner.run(world.run())
        return world
    except NothingLeftError as error:
        raise NothingLeftError("everything waits, and nothing will ever happen") from error
    finally:
        logging.disable(before)
