"""A station whose process is killed in every session, during other troubles."""

from __future__ import annotations

import asyncio
import math
import random
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from endurance.invariants import CLOCK_OFF
from endurance.meter import Trap
from endurance.plan import CLOCK, LOAD, MODULE, MORE_TROUBLES, POWER, SERVICE, TRAP_REQUESTS, WIRE, Maker, picked
from endurance.processes.programs import RealModule, RealService, waited_for_core_s
from endurance.processes.station import CALM_S, EverestMqtt, ProcessRecord, RealStation
from endurance.station import Call, until
from iem_dcr import meter_time
from tests.support.shared import SHARED

if TYPE_CHECKING:
    from pathlib import Path

    from endurance.plan import Step
    from endurance.processes.wrapped_program import FailingDisk

KINDS: Final = (SERVICE, MODULE, SERVICE, SERVICE, MODULE, SERVICE, SERVICE, MODULE)
"""Kinds of the stations 0 to 7, repeated for more. Each pair of stations shares a journal."""
WITHOUT_JOURNAL: Final = (3, 4)
SETTLE_S: Final = 3.5
"""After this time the meter has acted on every request that the last faults delayed."""
BROKER_SETTLES_S: Final = 2.0
"""Seconds from the start of a broker until a service must be connected again."""
METER_SETTLES_S: Final = 10.0
"""Seconds by which a trouble of the meter or its network may delay the first value of a process."""
PLAN_S: Final = 12.0
PACE: Final = 0.2
HASTENED: Final = ("off_s", "boot_s", "for_s", "delay_s")
"""A session is planned for ``PLAN_S``. It runs in the share ``PACE`` of that time, as do these details of its steps."""
TROUBLES: Final = (*(4 * [WIRE]), *(2 * [POWER]), CLOCK, *(2 * [LOAD]), *MORE_TROUBLES["late"][:1])


class KilledStation(RealStation):
    """One station of the killing run.

    Args:
        number: selects its kind, its journal and the options of its meter.
        starting: limits the number of simultaneous starts, because more would wait for each other.

    Attributes:
        driver: the process that is killed.
        back_s: seconds from start to first value of each process that no trouble delayed.
    """

    driver: RealService | RealModule

    def __init__(self, number: int, seed: int, disk: FailingDisk, starting: asyncio.Semaphore) -> None:
        super().__init__(
            f"k{number}",
            f"1SIM{number:010}",
            KINDS[number % 8] if SHARED.is_dir() else SERVICE,
            journal=number % 8 not in WITHOUT_JOURNAL,
            receipt_while_signing=("refuse", "nothing", "previous")[number % 3],
            idle_end=("refuse", "accept")[number % 2],
            second_begin=("refuse", "ignore")[number % 2],
            firmware=("v1", "v2")[number % 2],
            late_close_s=1.0,
        )
        self.disk = disk
        self.back_s: list[float] = []
        self._chance = random.Random(f"{seed} {number}")
        self._maker = Maker(self._chance, TROUBLES, self.new_id)
        self._starting = starting
        self._is_killed = False
        self._broker_back_s = 0.0
        self._meter_settled_s = 0.0

    def settings(self, journal: Path) -> dict[str, object]:
        """Return the settings of its power meter, with shorter time-outs than the defaults."""
        quick = {"resilience_initial_connection_retry_delay": 1000, "command_timeout_ms": 1000}
        return {**super().settings(journal), **quick}

    def drive(self, folder: Path, everest: EverestMqtt) -> None:
        """Create the process that drives the meter. A service uses this broker. `begin` starts the process."""
        environment = {"IEM_DCR_ENDURANCE_DISK": str(self.disk.file)} if self.disk.has_troubles and self.journal else {}
        if self.kind == MODULE:
            self.driver = RealModule(self.settings(self.disk.journal), self.on_value, **environment)
        else:
            self.driver = RealService(folder, [self], everest.address, self.disk.journal, **environment)
            everest.add(self)

    # --- commands ---

    def _send(self, call: Call, payload: Any) -> None:
        if isinstance(self.driver, RealModule):
            call.asked_s, call.process = time.monotonic(), self._process_number
            if self.driver.takes_commands:
                self._spawn(self._call(self.driver, call, payload))
            else:
                call.excused = "no process was there"
            return
        super()._send(call, payload)
        if time.monotonic() <= self._broker_back_s + BROKER_SETTLES_S or self.value_s <= self._broker_back_s:
            call.excused = "its broker was killed, and the service is not connected again yet"

    async def _call(self, module: RealModule, call: Call, payload: Any) -> None:
        if answer := await module.call(call.command, payload):
            self.on_answer(call, answer)

    def broker_is_killed(self) -> None:
        """Excuse the unanswered commands, and those sent before the service is connected again."""
        self._broker_back_s = math.inf
        self.excuse("its broker was killed")

    def broker_is_back(self) -> None:
        self._broker_back_s = time.monotonic()

    # --- the process ---

    async def begin(self) -> None:
        """Start the process, and wait until it publishes."""
        async with self._starting:
            process = self.process_starts()
            self._is_killed = False
            await self.driver.start()
            if not await until(lambda: process.back_s is not None, self.answer_timeout_s):
                self.problems.append(f"process {process.number} does not publish within {self.answer_timeout_s} s")
            undisturbed_s = max(self._broker_back_s + BROKER_SETTLES_S, self._meter_settled_s, self.disk.well_s)
            if process.back_s is not None and process.began_s > undisturbed_s:
                # the time that other programs took of the cores says nothing about ours
                self.back_s.append(max(0.0, process.back_s - waited_for_core_s(self.driver.pid)))

    def _kill(self, process: ProcessRecord) -> None:
        """Kill the process immediately, if it is still this one."""
        if not self._is_killed and process is self.processes[-1]:
            self._is_killed = True
            self.disk_troubled += self.disk.dropped_by_kill()
            if problem := self.driver.kill():
                self.problems.append(f"process {process.number}: {problem}")
            self.note(f"process {process.number} is killed")
            self.excuse("its process was killed")

    async def session_with_kill(self) -> None:
        """Run a session in which the process is killed, and continue as EVerest does after a restart."""
        chance = self._chance
        kill = partial(self._kill, self.processes[-1])
        session = asyncio.create_task(self._session())
        if self.disk.has_troubles and self.disk.well_s < time.monotonic() and chance.random() < 0.3:
            self.counts[f"trouble: {self.disk.start_random_trouble(chance)}"] += 1
        if chance.random() < 0.5:
            trap = picked(chance, TRAP_REQUESTS)
            self.meter.traps.append(Trap(trap["method"], trap["node"], trap["delay_s"], kill, chance.random() < 0.4))
            self.counts["trap"] += 1
        else:
            self._later(PACE * chance.uniform(0.0, PLAN_S), kill)
        await session
        self.meter.traps.clear()
        kill()
        await self.driver.reap()
        await asyncio.sleep(chance.choice((0.0, 0.2, 0.8)))
        await self.begin()
        await self._stop_open_session()
        await self.answers()

    async def _session(self) -> None:
        """Run a session of the simulation's kind in less time."""
        chance, begin_s = self._chance, time.monotonic()
        session = self._maker.session(0, PLAN_S)
        for step in session.steps:
            left_s = begin_s + PACE * step.at_s - time.monotonic()
            if step.at_s > session.length_s:
                self._later(left_s, partial(self._carry_out, step))
                continue
            # the broker queues commands for a service that is away
            is_killed = await until(lambda: self._is_killed, left_s)
            if is_killed and (self.kind == MODULE or chance.random() < 0.5):
                return
            self._carry_out(step)

    def _carry_out(self, step: Step) -> None:
        detail = {name: PACE * each if name in HASTENED else each for name, each in step.detail.items()}
        if step.what in ("wire_fault", "cut_power", "shift_clock", "current_flows", "meter_in_error"):
            self.counts[f"trouble: {step.what}"] += 1
            self.note(f"{step.what} {detail}")
            self._meter_settled_s = time.monotonic() + METER_SETTLES_S
        if detail.get("kind") == "act-late":
            self.meter.interfered_s = None  # the late request may end a later transaction
        getattr(self, step.what)(**detail)

    def repeat(self) -> None:
        if self._last_sent is not None:
            _, topic, message = self._last_sent
            self.everest.publish(topic, message)

    async def _stop_open_session(self) -> None:
        """Stop the session that was open, and then "", as EVerest does at its start.

        A service restarts without EVerest, so that it gets a stop for "" only in some cases.
        """
        answered = {call.transaction_id for call in self.calls if call.command == "stop" and call.answer}
        open_ids = [
            call.transaction_id
            for call in self.calls
            if call.command == "start" and (call.ok or call.excused) and call.transaction_id not in answered
        ]
        if open_ids and (self.kind == MODULE or self._chance.random() < 0.8):
            self.stop(open_ids[-1])
            await self.answers()
        if self.kind == MODULE or self._chance.random() < 0.2:
            self.stop("")
            await self.answers()

    # --- the end ---

    async def finish(self) -> None:
        """Clear all faults, wait for the recovery, run one more session, and end the process."""
        self.end_faults()
        # A value shows that the service is connected again. The broker may have lost earlier commands.
        now_s = time.monotonic()
        await until(lambda: self.value_s > now_s, self.answer_timeout_s)
        self._broker_back_s = 0.0
        await self.answers()
        await asyncio.sleep(SETTLE_S)
        await until(self._is_calm, CALM_S)
        self.running_after_calm = self.meter.open_transaction
        await self.last_session()
        self.problems += await self.driver.terminate()

    def _is_calm(self) -> bool:
        """Return whether the recovery is complete: no unwanted transaction, and a correct clock if none runs."""
        running = self.meter.open_transaction
        if running is None:
            text = self.meter.state.time_text(time.monotonic())
            return text is not None and abs(meter_time.parse(text).instant - datetime.now(UTC)) < CLOCK_OFF
        if running.owner is not None and not running.process_is(self.processes[-1].number):
            return True  # the process that began it was killed, and only the next start ends it
        confirmed = [call.command for call in self.calls if call.transaction_id == running.transaction_id and call.ok]
        return confirmed[-1:] == ["start"]

    async def close(self) -> None:
        """Kill and reap the process, however the run ended."""
        self.driver.kill()
        await self.driver.reap()
