"""The driver of one meter: one task owns it and does everything in turn, commands before ticks.

A command waits for what is under way, except for a question to the meter that has been in flight for half a second:
that gives way. One deadline covers a command from the call to the answer, and whatever happens there is an answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from iem_dcr import ocmf
from iem_dcr.device.client import MeterClient
from iem_dcr.driver.commands import GIVES_WAY_AFTER_S, Command, Commands, GaveWayError
from iem_dcr.driver.ending import Ending, Parts
from iem_dcr.driver.keeping import Keeping, MemorySink
from iem_dcr.driver.memory import Memory
from iem_dcr.driver.meter import Meter, seconds_since
from iem_dcr.driver.receipts import Receipts
from iem_dcr.driver.setup import TRIES_EVERY_S, Setup
from iem_dcr.driver.starting import Starting
from iem_dcr.driver.station import GuardedStation
from iem_dcr.driver.stopping import Stopping
from iem_dcr.driver.timing import Deadline, Schedule, now_s
from iem_dcr.errors import MeterError, RequestError
from iem_dcr.powermeter import (
    TransactionReq,
    TransactionRequestStatus,
    TransactionStartResponse,
    TransactionStopResponse,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from iem_dcr.config import Settings
    from iem_dcr.device.messages import Gateway, MeterValue
    from iem_dcr.device.transport import Connect
    from iem_dcr.driver.station import Observer, ReceiptJournal, ReceiptSink, Station

START_S = 30.0
STOP_S = 60.0
ANSWER_MARGIN_S = 0.5
"""How much earlier than its deadline a command's own work ends, so that its answer is the one that is given."""
LIVE_VALUE_EVERY_S = 1.0
UNWANTED_S = 10.0
"""How much time one try to end an unwanted transaction may take; a command waits for it."""

RESTLESS = 3
RESTLESS_S = 60.0
"""A meter that is in doubt more than so many times in so many seconds is initialised no more often than that."""
PREPARED_WITHIN_S = 0.5
"""How long an end waits for an import under way in the worker thread."""
R = TypeVar("R")


class MeterDriver:
    """Drives one meter for a station.

    `run` is the task that owns the meter; it goes on until it is cancelled and may be started again.
    `start_transaction` and `stop_transaction` may be called from any task of the same loop; they never raise and always
    answer within 30 s and 60 s; what comes before `run` waits for it.

    Args:
        settings: of this meter.
        station: gets live values, key and errors. Its methods must not block.
        sink: is given every receipt before it is handed over; without one the latest are kept in memory.
        journal: is given them too, and is asked for the receipts of transactions that this process does not know.
        phase: where in the second the meter is read, for one of many meters (see `timing.Schedule`).
        observer: looks on.
        begins_after_s: how long `run` leaves the meter alone at first, so that many begin one by one; no command waits.
        wall: the host's clock, for tests; aware datetimes.
        connect: makes the connections, for tests: see `iem_dcr.device.transport`.
    """

    def __init__(
        self,
        settings: Settings,
        station: Station,
        *,
        sink: ReceiptSink | None = None,
        journal: ReceiptJournal | None = None,
        phase: float | None = None,
        observer: Observer | None = None,
        begins_after_s: float = 0.0,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        connect: Connect | None = None,
    ) -> None:
        limit_s = settings.command_timeout_ms / 1000
        client = MeterClient(settings.ip_address, settings.port_http, timeout_s=limit_s, connect=connect)
        self._station = GuardedStation(station, observer)
        client.on_request = self._station.on_request
        self._meter = Meter(settings, client, self._station, wall)
        self._keeping = Keeping(self._meter, sink or MemorySink(), journal)
        self._memory = Memory(self._meter, self._keeping)
        self._receipts = Receipts(self._meter, self._memory, self._keeping)
        self._setup = Setup(self._meter)
        parts = Parts(self._meter, self._setup, self._memory, self._receipts, self._keeping, self._pause)
        self._ending = Ending(parts)
        self._starting = Starting(parts, self._ending)
        self._stopping = Stopping(parts, self._ending)
        self._commands = Commands()
        self._phase = phase
        self._begins_after_s = begins_after_s
        self._schedule: Schedule | None = None
        self._next_reach_s = 0.0
        self._looked_s: float | None = None
        self._unwanted_s: float | None = None
        self._initialised_s: deque[float] = deque(maxlen=RESTLESS)
        self._preparing: asyncio.Future[None] | None = None

    @property
    def address(self) -> str:
        """Address of the meter, ``host:port``."""
        return self._meter.client.address

    @property
    def heard_s(self) -> float | None:
        """When the meter last answered anything at all, on the loop's clock; None before it did."""
        return self._meter.client.last_response_s

    @property
    def value(self) -> MeterValue | None:
        """The last live value, as the meter gave it."""
        return self._meter.value

    @property
    def gateway(self) -> Gateway | None:
        """Charge point type and id in the meter, or None before it was asked."""
        return self._meter.gateway

    @property
    def public_key(self) -> str:
        """Hex of the meter's DER key, or "" before it is known."""
        return self._meter.public_key

    @property
    def request(self) -> TransactionReq | None:
        """The station's request for the transaction begun last, while its receipt is still to come; else None."""
        return self._memory.begun.request if self._memory.begun is not None else None

    # --- the station's commands ---

    async def start_from_json(self, value: object) -> TransactionStartResponse:
        """Begin a transaction for a request as a station sends it; one that cannot be read is refused."""
        try:
            request = TransactionReq.from_json(value)
        except RequestError as error:
            transaction_id = value.get("transaction_id") if isinstance(value, dict) else None
            if isinstance(transaction_id, str):
                self.refuse_start(transaction_id)
            return TransactionStartResponse(TransactionRequestStatus.UNEXPECTED_ERROR, str(error))
        return await self.start_transaction(request)

    def refuse_start(self, transaction_id: str) -> None:
        """Take note of a start that the station was refused elsewhere, so that its stop gets no other's receipt."""
        self._memory.refuse(transaction_id)

    async def stop_from_json(self, transaction_id: object) -> TransactionStopResponse:
        """End a transaction whose id is given as a station sends it."""
        if not isinstance(transaction_id, str):
            why = "transaction_id has to be a text"
            return TransactionStopResponse(TransactionRequestStatus.UNEXPECTED_ERROR, error=why)
        return await self.stop_transaction(transaction_id)

    async def start_transaction(self, request: TransactionReq) -> TransactionStartResponse:
        """Begin a transaction; answers within 30 s. Never raises."""

        def failed(why: str) -> TransactionStartResponse:
            return TransactionStartResponse(TransactionRequestStatus.UNEXPECTED_ERROR, why)

        def nobody_heard(response: TransactionStartResponse | None) -> None:
            if response is None:
                self._memory.refuse(request.transaction_id)
            elif response.status is TransactionRequestStatus.OK:
                self._ending.watch = True

        async def work(deadline: Deadline) -> TransactionStartResponse:
            return await self._starting.start(request, deadline)

        response = await self._commands.do(Command(work, Deadline.after(START_S), failed, nobody_heard))
        self._station.start_answered(response)
        return response

    async def stop_transaction(self, transaction_id: str) -> TransactionStopResponse:
        """End a transaction and return its signed receipt; answers within 60 s. Never raises."""

        def failed(why: str) -> TransactionStopResponse:
            return TransactionStopResponse(TransactionRequestStatus.UNEXPECTED_ERROR, error=why)

        def nobody_heard(response: TransactionStopResponse | None) -> None:
            if response is None and self._memory.is_begun(transaction_id):
                self._ending.watch = True

        async def work(deadline: Deadline) -> TransactionStopResponse:
            return await self._stopping.stop(transaction_id, deadline)

        response = await self._commands.do(Command(work, Deadline.after(STOP_S), failed, nobody_heard))
        self._station.stop_answered(response)
        return response

    # --- the task that owns the meter ---

    async def run(self) -> None:
        """Own the meter until cancelled. Every command that then waits is answered, and connections are closed.

        Should it ever fail, which it does for no meter's sake, it may be started again: what waits, waits on.
        """
        self._commands.begin()
        self._next_reach_s = max(self._next_reach_s, now_s() + self._begins_after_s)
        self._begins_after_s = 0.0
        try:
            while True:
                if self._commands:
                    await self._serve(self._commands.take())
                else:
                    await self._idle()
        except asyncio.CancelledError:
            self._commands.end()
            raise
        finally:
            self._schedule = None
            await self._keeping.close()
            if self._preparing is not None:
                await asyncio.wait({self._preparing}, timeout=PREPARED_WITHIN_S)

    async def _serve(self, command: Command[R]) -> None:
        if not command.is_waited_for:
            command.nobody_heard(None)
            return
        try:
            result = await command.work(Deadline(command.deadline.at_s - ANSWER_MARGIN_S))
        except asyncio.CancelledError:
            command.drop("the driver is stopping")
            raise
        except Exception as error:
            self._meter.log.exception("a command failed")
            command.drop(f"internal error: {type(error).__name__}")
        else:
            command.give(result)

    async def _idle(self) -> None:
        """Wait for the next tick or the next command; do what is due at a tick."""
        if self._schedule is None and self._meter.reached:
            self._next_reach_s = now_s()
        next_s = self._schedule.next_s if self._schedule is not None else self._next_reach_s
        if now_s() < next_s:
            await self._commands.wait(next_s - now_s())
            return
        try:
            if self._schedule is None:
                await self._reach()
            else:
                await self._tick(self._schedule)
        except GaveWayError:
            self._meter.log.debug("a question to the meter gave way to a command")
        except Exception:
            self._meter.log.exception("what is done every second failed")
            await asyncio.sleep(LIVE_VALUE_EVERY_S)

    async def _reach(self) -> None:
        """Try to reach a meter that has not answered yet; when it does, initialise it and publish a first value."""
        if not await self._initialise() and not self._meter.reached:
            self._meter.count_failure()
            return
        self._schedule = Schedule(LIVE_VALUE_EVERY_S, self._phase)
        await self._make_up()
        if await self._commands.unless_waiting(self._poll):
            await self._keep_house()

    async def _tick(self, schedule: Schedule) -> None:
        """Make the scheduled reading, and do what is due."""
        try:
            is_good = await self._commands.unless_waiting(self._poll)
        finally:
            schedule.advance()
        if is_good:
            await self._keep_house()

    async def _poll(self, deadline: Deadline) -> bool:
        was_running = self._meter.running
        if not await self._meter.poll(deadline):
            return False
        if self._meter.running:
            self._memory.seen_running()
        begun = self._memory.begun
        if was_running and not self._meter.running and (begun is None or begun.request.tariff_text):
            self._setup.tariff_was_changed()
        if self._meter.running and begun is None:
            # Somebody else's: whatever it leaves as the last tuple is not known.
            self._meter.last_PG = None
        elif not self._meter.running:
            self._memory.seen_idle()
        if self._preparing is None and self._meter.settings.verify_receipts:
            self._preparing = asyncio.get_running_loop().run_in_executor(None, ocmf.prepare)
        self._keeping.keep_found()
        return True

    async def _keep_house(self) -> None:
        """Do what is due after a good reading; nothing as soon as a command waits."""
        meter, setup = self._meter, self._setup
        in_doubt = not setup.initialised or meter.doubted or meter.exchanged
        if in_doubt and now_s() >= self._next_reach_s:
            await self._initialise()
        if self._commands:
            return
        if self._memory.may_still_come:
            await self._look_for_receipt()
        if self._ending.watch and meter.running and not meter.wrong:
            await self._end_unwanted()
        if self._commands:
            return
        if setup.key_wanted:
            await self._commands.unless_waiting(setup.ask_for_key)
        await self._make_up()

    async def _initialise(self) -> bool:
        self._next_reach_s = now_s() + self._meter.settings.resilience_initial_connection_retry_delay / 1000
        try:
            last = await self._commands.unless_waiting(self._setup.initialise)
        except MeterError as error:
            self._meter.log.failure("the initialisation", "not initialised: %s", error.brief)
            if not self._meter.reached:
                self._meter.station.reading_failed(error.brief)
            return False
        if not self._meter.doubted:
            self._initialised_s.append(now_s())
            is_restless = len(self._initialised_s) == RESTLESS and seconds_since(self._initialised_s[0]) < RESTLESS_S
            self._next_reach_s = now_s() + (RESTLESS_S / RESTLESS if is_restless else 0.0)
        await self._receipts.adopt(last, Deadline.after(UNWANTED_S))
        return True

    async def _end_unwanted(self) -> None:
        if seconds_since(self._unwanted_s) >= TRIES_EVERY_S:
            self._unwanted_s = now_s()
            await self._ending.end_unwanted(Deadline.after(UNWANTED_S))
            if not self._ending.watch:
                self._unwanted_s = None

    async def _make_up(self) -> None:
        if self._commands or not self._setup.anything_due:
            return
        try:
            await self._setup.make_up(Deadline.after(UNWANTED_S))
        except MeterError as error:
            self._meter.log.failure("POST /gw", "not set up: %s", error.brief)

    async def _look_for_receipt(self) -> None:
        """Look now and then for the receipt of a transaction that ended and whose stop has not had it."""
        if seconds_since(self._looked_s) < TRIES_EVERY_S:
            return
        self._looked_s = now_s()
        last = await self._commands.unless_waiting(self._setup.ask_for_last_tuple)
        await self._receipts.adopt(last, Deadline.after(UNWANTED_S))

    async def _pause(self, delay_s: float, deadline: Deadline) -> None:
        """Wait within a command, and make the scheduled readings meanwhile, so that live values and faults go on."""
        end = deadline.within(delay_s)
        while not end.passed:
            schedule = self._schedule
            to_tick_s = schedule.next_s - now_s() if schedule is not None else float("inf")
            if schedule is None or to_tick_s >= end.left_s:
                await asyncio.sleep(end.left_s)
                return
            await asyncio.sleep(max(0.0, to_tick_s))
            schedule.advance()
            if deadline.left_s < GIVES_WAY_AFTER_S:
                continue
            try:
                async with asyncio.timeout(GIVES_WAY_AFTER_S):
                    await self._poll(deadline)
            except TimeoutError:
                self._meter.count_silence()
