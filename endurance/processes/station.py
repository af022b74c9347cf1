"""One station of `killing`: its meter, the proxy before it, its process, and what it does until that is killed."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from endurance.plan import OPEN_AT_POWER_CUT
from endurance.processes.account import Account, Life
from endurance.processes.chargers import MODULE, SERVICE, Charger
from endurance.processes.everest import start_payload
from endurance.processes.proxy import Proxy, Trap
from endurance.processes.running import waited_for_a_core_s
from endurance.stage import Call
from iem_dcr.simulator.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

EVSE_ID: Final = "DE*KIL*E1"
LENGTH_S: Final = 2.5
"""Of a session; the process is killed within it."""
BACK_WITHIN_S: Final = 3.0
HEARD_WITHIN_S: Final = 30.0
MOST_WAIT_S: Final = 62.0
CALM_S: Final = 100.0
"""As long as the simulation gives what the network or a power cut has done."""
ANSWERS_NOT_BEFORE_S: Final = 0.2
"""No process answers so soon after its start: such an answer is that of the one before."""
WIRE_FAULTS: Final = ("refuse", "lose-request", "lose-answer", "stall", "reset", "server-error", "garbage",
                      "garbage-http", "wrong-length")  # fmt: skip
NODES: Final = (("*", "*"), ("POST", "/user"), ("POST", "/receipt"), ("GET", "/receipt"), ("GET", "/metervalue"),
                ("GET", "/transaction"), ("POST", "/gw"), ("POST", "/datetime"))  # fmt: skip
TRAPS: Final = (("POST", "/user"), ("POST", "/receipt"), ("POST", "/receipt"), ("POST", "/receipt"),
                ("GET", "/receipt"), ("GET", "/receipt"), ("GET", "/transaction"), ("POST", "/gw"),
                ("GET", "/metervalue"))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Restart:
    """How a process came back.

    Attributes:
        back_s: from its start to its first value.
        is_fair: nothing else was in its way: meter on, network whole, broker up.
    """

    back_s: float
    is_fair: bool


class Station:
    """One station.

    Args:
        name: of it; its power meter's module_id.
        kind: SERVICE or MODULE.
        account: of its run.
        proxy: before its meter.
        seed: of what it does.
        starting: is held while a process starts: several at once would wait for each other.

    Attributes:
        charger: what drives its meter.
        restarts: how its process came back each time.
        tasks: what goes on beside its sessions.
        broker_troubled_s: when its broker was down last, by `time.monotonic`.
        broker_back_s: when that was started again.
    """

    def __init__(
        self, name: str, kind: str, account: Account, meter_port: int, seed: str, starting: asyncio.Semaphore
    ) -> None:
        self.name = name
        self.kind = kind
        self.account = account
        self.proxy = Proxy(meter_port, self._acted)
        self.charger: Charger
        self.restarts: list[Restart] = []
        self.broker_troubled_s = 0.0
        self.broker_back_s = 0.0
        self._heard_s = 0.0
        self._chance = random.Random(seed)
        self._starting = starting
        self._ids = 0
        self._meter_troubled_s = 0.0
        self._struck = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    # --- what comes from the meter and the power meter ---

    def _acted(self, code: str, card: str, is_certain: bool) -> None:  # noqa: FBT001  the proxy's way of calling
        if code == "B":
            self.account.begun(card, time.monotonic(), self._process(), is_certain=is_certain)

    def value(self, value: dict[str, Any]) -> None:
        """Take a live value."""
        self._heard_s = time.monotonic()
        self.account.energies.append((value["meter_id"], value["energy_Wh_import"]["total"]))

    def check(self, payload: bytes) -> None:
        """Take a communication check."""
        self.account.checks.add(payload)

    def _process(self) -> int:
        life = self.account.processes[-1]
        is_just_begun = time.monotonic() - life.began_s < ANSWERS_NOT_BEFORE_S
        return life.number - 1 if is_just_begun and life.number else life.number

    # --- commands ---

    def start(self, transaction_id: str) -> Call:
        """Have a transaction begun, with a card of its own."""
        number = len(self.account.calls)
        request = start_payload(EVSE_ID, transaction_id, f"04{self.name.encode().hex()}{number:06}")
        return self._send(Call("start", transaction_id, number, request), request)

    def stop(self, transaction_id: str) -> Call:
        """Have a transaction ended."""
        call = Call("stop", transaction_id, len(self.account.calls))
        is_object = self.kind == SERVICE and call.number % 2
        return self._send(call, {"transaction_id": transaction_id} if is_object else transaction_id)

    def _send(self, call: Call, value: object) -> Call:
        self.account.calls.append(call)
        self.account.counts[call.command] += 1
        call.asked_s = time.monotonic()
        call.process = self._process()
        if not self.charger.ask(call.command, value, lambda answer: self._answered(call, answer)):
            call.excused = "no process was there"
        elif self.kind == SERVICE and (self._heard_s < self.broker_back_s or call.asked_s < self.broker_troubled_s):
            call.excused = "its broker was killed, and nothing was heard of it since"
        return call

    def _answered(self, call: Call, answer: dict[str, Any]) -> None:
        call.answers += 1
        if call.answer is None:
            call.answer, call.answered_s, call.process = answer, time.monotonic(), self._process()
            # One that waited in the broker was had when the process that answers it came.
            call.asked_s = max(call.asked_s or 0.0, self.account.processes[call.process].began_s)
            self.account.counts[f"{call.command}: {answer['status']}"] += 1
        elif call.answer["status"] == "OK" == answer["status"] and call.answer != answer:
            self.account.dead_letters.append(f"another answer to {call.command} {call.transaction_id}")

    def excuse(self, why: str) -> None:
        """Take note of why what is not answered now need not be."""
        for call in self.account.calls:
            if call.answer is None and not call.excused:
                call.excused = why

    async def answers(self) -> None:
        """Wait until everything is answered that has to be."""
        give_up_s = time.monotonic() + MOST_WAIT_S
        while time.monotonic() < give_up_s and self._waits:  # noqa: ASYNC110  answers come in many places
            await asyncio.sleep(0.02)

    @property
    def _waits(self) -> bool:
        return any(call.answer is None and not call.excused for call in self.account.calls)

    # --- the process ---

    async def begin(self) -> None:
        """Start the process, and wait until it publishes."""
        life = Life(len(self.account.processes), time.monotonic())
        self.account.processes.append(life)
        self._struck.clear()
        async with self._starting:
            life.began_s = time.monotonic()
            await self._start_and_wait(life)

    async def _start_and_wait(self, life: Life) -> None:
        await self.charger.start()
        give_up_s = life.began_s + MOST_WAIT_S
        while self.charger.has_value is None:
            if time.monotonic() > give_up_s:
                self.account.troubles.append(f"process {life.number} does not publish within {MOST_WAIT_S} s")
                return
            await asyncio.sleep(0.01)
        # What other programs took of the cores meanwhile says nothing of ours.
        took_s = self.charger.has_value - life.began_s
        life.back_s = took_s - min(waited_for_a_core_s(self.charger.pid), took_s)
        is_fair = life.began_s > max(self._meter_troubled_s, self.broker_troubled_s)
        self.restarts.append(Restart(life.back_s, is_fair))

    def strike(self, life: int) -> None:
        """Kill the process of this number in this very moment, if it lives."""
        if not self._struck.is_set() and life == self.account.processes[-1].number:
            self._struck.set()
            self.account.processes[-1].ended_s = time.monotonic()
            if why := self.charger.strike():
                self.account.troubles.append(f"process {life}: {why}")
            self.excuse("its process was killed")

    async def be_killed(self) -> None:
        """Have a session, in which the process is killed at some moment, and go on as EVerest does."""
        chance = self._chance
        strike = partial(self.strike, self.account.processes[-1].number)
        script = chance.choice(_SCRIPTS)(self, LENGTH_S)
        acting = asyncio.create_task(self._act(sorted(script)))
        if chance.random() < 0.4:
            self._spawn(self._trouble())
        if chance.random() < 0.5:
            method, node = chance.choice(TRAPS)
            self.proxy.trap = Trap(
                method, node, chance.random() < 0.6, chance.choice((0.0, 0.0, 0.002, 0.02, 0.15)), strike
            )
            self.account.counts["trap"] += 1
        else:
            asyncio.get_running_loop().call_later(chance.uniform(0.0, LENGTH_S), strike)
        await acting
        self.proxy.trap = None
        strike()
        await self.charger.bury()
        await asyncio.sleep(chance.choice((0.0, 0.2, 0.8)))
        await self.begin()
        await self._recover()
        await self.answers()

    async def _act(self, script: list[tuple[float, str, str]]) -> None:
        begins_s = time.monotonic()
        for at_s, what, transaction_id in script:
            with_timeout = max(0.0, begins_s + at_s - time.monotonic())
            try:
                async with asyncio.timeout(with_timeout):
                    await self._struck.wait()
            except TimeoutError:
                pass
            else:
                # A service that is away is asked all the same: the broker holds it.
                if self.kind == MODULE or self._chance.random() < 0.5:
                    return
            if what == "repeat":
                self.charger.repeat()
            else:
                getattr(self, what)(transaction_id)

    async def _recover(self) -> None:
        """Do what EVerest does when it starts: end the session that was open, and then whatever else runs.

        A service is restarted without EVerest, so that this comes now and then only; else it is asked for what is open.
        """
        chance = self._chance
        open_ids = [
            call.transaction_id
            for call in self.account.calls
            if call.command == "start" and (call.ok or call.excused) and not self._is_ended(call.transaction_id)
        ]
        if open_ids and (self.kind == MODULE or chance.random() < 0.8):
            self.stop(open_ids[-1])
            await self.answers()
        if self.kind == MODULE or chance.random() < 0.2:
            self.stop("")
            await self.answers()

    def _is_ended(self, transaction_id: str) -> bool:
        return any(
            call.command == "stop" and call.transaction_id == transaction_id and call.answer is not None
            for call in self.account.calls
        )

    # --- what goes wrong beside that ---

    async def _trouble(self) -> None:
        chance = self._chance
        await asyncio.sleep(chance.uniform(0.0, LENGTH_S))
        what = chance.choice(("wire", "wire", "power", "clock", "load", "error"))
        self.account.counts[f"trouble: {what}"] += 1
        self._meter_troubled_s = time.monotonic() + 6.0
        if what == "wire":
            method, node = chance.choice(NODES)
            kind: Any = chance.choice(WIRE_FAULTS)
            fields: dict[str, Any] = {"count": chance.choice((1, 1, 2, 4))}
            if kind == "stall":
                fields |= {"delay_s": chance.choice((0.5, 2.0)), "acts": chance.random() < 0.5}
            self.proxy.faults.add(Fault(kind, node, method, **fields))
        elif what == "power":
            await self._cut_power()
        elif what == "clock":
            await self.proxy.ask("POST", "/_sim/set", {"clock_skew_s": chance.choice((-7200.0, -30.0, 3600.0))})
        elif what == "load":
            await self.proxy.ask("POST", "/_sim/set", {"load": {"current_a": 20.0, "voltage_v": 400.0}})
            await asyncio.sleep(chance.uniform(0.5, 2.0))
            await self.proxy.ask("POST", "/_sim/set", {"load": None})
        else:
            await self.proxy.ask("POST", "/_sim/set", {"XC": "0x0001, 0x00000000, 0x00, 0x00"})
            await asyncio.sleep(chance.uniform(0.5, 2.0))
            await self.proxy.ask("POST", "/_sim/set", {"XC": "0x0000, 0x00000000, 0x00, 0x00"})

    async def _cut_power(self) -> None:
        chance = self._chance
        fate = chance.choice(OPEN_AT_POWER_CUT)
        await self.proxy.ask("POST", "/_sim/set", {"open_at_power_cut": fate, "late_close_s": 1.0})
        times = {"off_s": chance.choice((0.1, 0.5)), "boot_s": chance.choice((0.2, 1.0))}
        await self.proxy.ask("POST", "/_sim/power-cycle", times)
        await asyncio.sleep(sum(times.values()))
        state = await self.proxy.ask("GET", "/_sim/state")
        truths = self.account.unit.truths
        if fate == "lost" and truths and not state["running"] and not state["signing"]:
            signed: Any = state["signed"]
            last_card = str(json.loads(signed[-1]["text"].split("|")[1])["ID"]) if signed else None
            truths[-1].lost = truths[-1].card != last_card

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # --- the end ---

    async def finish(self) -> None:
        """Have nothing wrong any more, wait until it is calm, have one more session, and end the process."""
        if self.tasks:
            await asyncio.wait(set(self.tasks))
        self.proxy.faults.clear()
        await self._is_heard_again()
        begins_s = time.monotonic()
        await self.answers()
        await self._calm(begins_s + CALM_S)
        await self._last_session(begins_s + CALM_S)
        self.account.running_at_end = await self._running()
        self.account.troubles += await self.charger.end()
        self.account.learn(await self.proxy.ask("GET", "/_sim/state"))

    async def _is_heard_again(self) -> None:
        """Wait for a service to be back at its broker: one that keeps nothing loses what is asked before that."""
        if self.kind != SERVICE:
            return
        heard = len(self.account.energies)
        give_up_s = time.monotonic() + HEARD_WITHIN_S
        while len(self.account.energies) == heard and time.monotonic() < give_up_s:  # noqa: ASYNC110  as in `answers`
            await asyncio.sleep(0.05)

    async def _calm(self, give_up_s: float) -> None:
        """Wait until nothing runs that the station does not know of; what runs at the end is looked at."""
        while True:
            await asyncio.sleep(1.5)
            self.account.running_after_calm = running = await self._running()
            if running is None or time.monotonic() > give_up_s:
                return
            if self._is_known(running.transaction_id):
                return
            if running.owner is not None and not running.process_is(self.account.processes[-1].number):
                return  # the process cannot know; the last session ends it

    def _is_known(self, transaction_id: str | None) -> bool:
        """Whether the station was told that a transaction was begun, and not that it was ended."""
        calls = [call for call in self.account.calls if call.transaction_id == transaction_id and call.ok]
        return bool(calls) and calls[-1].command == "start"

    async def _last_session(self, give_up_s: float) -> None:
        while True:
            start = self.start(self.new_id())
            await self.answers()
            await asyncio.sleep(1.0)
            stop = self.stop(start.transaction_id)
            await self.answers()
            if (start.ok and stop.ok) or time.monotonic() > give_up_s:
                start.fresh = stop.fresh = True
                return

    async def _running(self) -> Any:
        return self.account.unit.running(await self.proxy.ask("GET", "/_sim/state"))

    # --- what the station does ---

    def new_id(self) -> str:
        """Return an id that was not there before."""
        self._ids += 1
        return f"{self.name}-{self._ids}"

    def plain(self, length_s: float) -> Iterator[tuple[float, str, str]]:
        """A session."""
        transaction_id = self.new_id()
        yield 0.0, "start", transaction_id
        yield self._chance.uniform(0.3, 0.9) * length_s, "stop", transaction_id

    def open_end(self, length_s: float) -> Iterator[tuple[float, str, str]]:
        """A session that is not ended before the kill."""
        del length_s
        yield 0.0, "start", self.new_id()

    def doubled(self, length_s: float) -> Iterator[tuple[float, str, str]]:
        """Requests that come twice, as a broker may hand them over."""
        transaction_id = self.new_id()
        at_s = self._chance.uniform(0.3, 0.8) * length_s
        yield from ((0.0, "start", transaction_id), (0.05, "repeat", ""))
        yield from ((at_s, "stop", transaction_id), (at_s + 0.05, "repeat", ""))

    def twice(self, length_s: float) -> Iterator[tuple[float, str, str]]:
        """A start and a stop too many."""
        first = self.new_id()
        second = self._chance.choice((first, self.new_id()))
        yield from ((0.0, "start", first), (0.4 * length_s, "start", second))
        yield from ((0.7 * length_s, "stop", second), (0.8 * length_s, "stop", first))

    def wrong_ids(self, length_s: float) -> Iterator[tuple[float, str, str]]:
        """Stops that mean nothing."""
        transaction_id = self.new_id()
        yield 0.0, "start", transaction_id
        yield 0.4 * length_s, "stop", self._chance.choice(("", f"{self.name}-never"))
        yield 0.8 * length_s, "stop", transaction_id

    def at_once(self, length_s: float) -> Iterator[tuple[float, str, str]]:
        """Start and stop in one moment."""
        transaction_id = self.new_id()
        yield from ((0.0, "start", transaction_id), (0.001, "stop", transaction_id))
        yield 0.7 * length_s, "stop", transaction_id


_SCRIPTS: Final[tuple[Callable[[Station, float], Iterator[tuple[float, str, str]]], ...]] = (
    Station.plain, Station.plain, Station.plain, Station.open_end, Station.open_end, Station.doubled, Station.twice,
    Station.wrong_ids, Station.at_once,
)  # fmt: skip
