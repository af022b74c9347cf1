"""The world in which a plan is carried out: host, network, broker, disk, meter, station, and our process."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from endurance.clock import JumpingLoop, NothingLeftError
from endurance.invariants import broken_so_far
from endurance.mistakes import Mistakes
from endurance.model import Call, Filed
from endurance.network import Network
from endurance.process import TOPICS, Rigged, task_factory
from endurance.troubles import Troubles
from iem_dcr.journal import open_for_reading

if TYPE_CHECKING:
    from endurance.plan import Plan, Step

AFTERWARDS_S: Final = 145.0
"""How long a session waits for its last answer: longer than any command may take, with a broker that is away first."""
CALM_S: Final = 100.0
"""How long nothing goes wrong at the end of a run before it is judged."""


class World(Troubles):
    """Carries out one plan, and knows what happened."""

    # --- a run ---

    async def run(self) -> None:
        """Carry out the plan, then let it be calm, have one more session, and end."""
        self.network = Network(self._new_unit(self.plan.options.MS), self._latency.random, self.counts)
        with Rigged():
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
                self._read_journal()
                self.broken_early += broken_so_far(self)
                if self.broken_early:
                    break
            await self._end(beating)

    async def _end(self, beating: asyncio.Task[None]) -> None:
        self.heal()
        await asyncio.sleep(CALM_S)
        self.calmed_s = self.now_s
        self.running_after_calm = self.unit.running
        await self._ask_for_what_is_owed()
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
        self._read_journal()

    def _read_journal(self) -> None:
        path = self._folder / "journal.sqlite"
        if self.journal and path.exists():
            with open_for_reading(path) as reader:
                self.filed = [Filed(entry.text, entry.transaction_id) for entry in reader.entries()]

    async def _ask_for_what_is_owed(self) -> None:
        """Stop once more what ended last and was not handed over; its receipt is there, so this has to succeed."""
        signed = self.unit.signed
        transaction_id = signed[-1].transaction_id if signed and self.running_after_calm is None else None
        if transaction_id is None or any(call.tuple_text == signed[-1].text for call in self.calls):
            return
        if [truth for truth in self.unit.truths if truth.transaction_id == transaction_id][-1] is not signed[-1]:
            return  # a later one under that id was lost: a stop is for that
        self.stop(transaction_id)
        self.counts["stop of what is owed"] += 1
        self.calls[-1].owed = True
        await self._answers(self.calls)

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
        while self.now_s < ends_s and any(call.answer is None and not call.excused for call in calls):  # noqa: ASYNC110
            await asyncio.sleep(0.25)  # virtual time costs nothing to wait in

    def _do(self, step: Step) -> None:
        self.counts[step.what] += 1
        self.tell(str(step))
        getattr(self, step.what)(**step.detail)

    async def _beat(self) -> None:
        for beat in itertools.count(1):
            self._send_to_process(TOPICS.heartbeat, str(beat).encode())
            await asyncio.sleep(1.0)

    def _weigh(self) -> None:
        process = self.process
        if process is not None:
            self.memory.append(process.driver.remembered)


def carry_out(plan: Plan) -> World:
    """Carry out a plan, and return the world as it was left.

    Raises:
        NothingLeftError: everything waited for ever.
    """
    folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)  # noqa: S108  the quickest
    try:
        with folder as name, asyncio.Runner(loop_factory=JumpingLoop) as runner, Mistakes() as mistakes:
            world = World(plan, Path(name))
            world.mistakes = mistakes.found
            make_task: Any = task_factory
            runner.get_loop().set_task_factory(make_task)
            runner.run(world.run())
            return world
    except NothingLeftError as error:
        raise NothingLeftError("everything waits, and nothing will ever happen") from error
