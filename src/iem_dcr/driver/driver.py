"""The driver of one meter. One task owns the meter and does one thing at a time, commands before ticks.

A command waits for the work in progress. The exception is a question to the meter that has been in flight for half a
second: it is abandoned. One deadline covers a command from the call to the answer, and every command gets an answer.
A tick reads a live value, checks for receipts that are due, ends transactions that the station does not want, and
sends what provisioning has due.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from iem_dcr.config import PIN
from iem_dcr.device.client import MeterClient
from iem_dcr.driver.commands import PREEMPTED_AFTER_S, Command, Commands, PreemptedError
from iem_dcr.driver.host_clock import HostClock
from iem_dcr.driver.ledger import Ledger
from iem_dcr.driver.meter import VALUE_TIMEOUT_S, Meter
from iem_dcr.driver.provisioning import Provisioning
from iem_dcr.driver.rate_limited_log import MeterLog
from iem_dcr.driver.receipt_keeper import ReceiptKeeper
from iem_dcr.driver.start import Start
from iem_dcr.driver.station import GuardedStation
from iem_dcr.driver.stop import Stop
from iem_dcr.driver.timing import Deadline, Schedule, now_s, seconds_since
from iem_dcr.driver.transitions import State
from iem_dcr.driver.upkeep import WORK_S, Upkeep
from iem_dcr.errors import RequestError, printable
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
    from iem_dcr.driver.entry import Entry
    from iem_dcr.driver.ports import Journal, Observer, ReceiptSink, Station

START_S: Final = 30.0
STOP_S: Final = 60.0
SILENT_STOP_S: Final = 110.0
"""Limit of a stop while the meter is silent. The callers of a stop wait for 120 s."""
ANSWER_MARGIN_S: Final = 0.5
"""A command's own work ends this much before the command's deadline, so that its own answer is the one returned."""
LIVE_VALUE_EVERY_S: Final = 1.0
R = TypeVar("R")


class MeterDriver:
    """Drives one meter for a station.

    `run` is the task that owns the meter. It runs until it is cancelled and may be started again.
    `start_transaction` and `stop_transaction` may be called from any task of the same loop. They never raise. A start
    answers within 30 s, a stop within 60 s (110 s while the meter is silent). Commands that arrive before `run` wait
    for it.

    Args:
        settings: settings of this meter.
        station: receives live values, the public key and errors. Its methods must not block.
        sink: receives every receipt before it is returned. Without a sink the latest receipts are kept in memory.
        journal: the ledger's memory on disk.
        phase: where in the second the meter is read, for a process with many meters (see `timing.Schedule`).
        observer: is notified of readings, requests, errors and answers.
        begins_after_s: how long `run` waits before it first contacts the meter, so that many meters start one by one.
            Commands do not wait for this.
        wall: the host's clock, for tests; returns aware datetimes.
        connect: opens the connections, for tests; see `iem_dcr.device.transport`.
    """

    def __init__(
        self,
        settings: Settings,
        station: Station,
        *,
        sink: ReceiptSink | None = None,
        journal: Journal | None = None,
        phase: float | None = None,
        observer: Observer | None = None,
        begins_after_s: float = 0.0,
        wall: Callable[[], datetime] | None = None,
        connect: Connect | None = None,
    ) -> None:
        limit_s = settings.command_timeout_ms / 1000
        client = MeterClient(settings.ip_address, settings.port_http, timeout_s=limit_s, connect=connect)
        log = MeterLog(client.address)
        self._station = GuardedStation(station, observer, log)
        if observer is not None:
            client.on_request = lambda *request: self._station.observe("request_made", *request)
        clock = HostClock(wall or partial(datetime.now, UTC))
        self._ledger = Ledger(self._changed)
        self._keeper = ReceiptKeeper(
            client.address, self._ledger, clock, log, sink=sink, journal=journal, verifies=settings.verify_receipts
        )
        self._meter = Meter(
            settings,
            client,
            ledger=self._ledger,
            keeper=self._keeper,
            station=self._station,
            clock=clock,
            log=log,
        )
        self._provisioning = Provisioning(self._meter)
        self._commands = Commands()
        self._upkeep = Upkeep(self._meter, self._provisioning, self._commands)
        self._working: str | None = None
        self._phase = phase
        self._begins_after_s = begins_after_s
        self._schedule: Schedule | None = None

    # --- status ---

    @property
    def address(self) -> str:
        """Address of the meter, ``host:port``."""
        return self._meter.client.address

    @property
    def last_response_s(self) -> float | None:
        """When the meter last answered any request, on the loop's clock; None before its first answer."""
        return self._meter.client.last_response_s

    @property
    def value(self) -> MeterValue | None:
        """The last live value, as the meter sent it."""
        return self._meter.state.value

    @property
    def gateway(self) -> Gateway | None:
        """Charge point type and id in the meter; None before the first GET /gw."""
        return self._meter.state.gateway

    @property
    def public_key(self) -> str:
        """Hex of the meter's DER key; "" before it is known."""
        return self._meter.state.public_key

    @property
    def request(self) -> TransactionReq | None:
        """The station's request for the running transaction, as far as the driver knows; else None."""
        running = self._ledger.running
        return None if running is None else running.request

    @property
    def expects_receipt(self) -> bool:
        """Whether a receipt may still come: a transaction may run, or its receipt has not been read yet."""
        return bool(self._ledger.awaited)

    @property
    def remembered(self) -> int:
        """Number of entries and receipts in memory; bounded."""
        return self._ledger.size

    @property
    def held_registers(self) -> int:
        """How often a register fell and the last published value was published again instead."""
        return self._meter.state.held_registers

    @property
    def frozen_values(self) -> int:
        """How many live values were not published because nothing in them changed."""
        return self._meter.state.frozen_values

    # --- the station's commands ---

    async def start_from_json(self, value: object) -> TransactionStartResponse:
        """Start a transaction from a station's JSON request. An unreadable request is refused."""
        try:
            request = TransactionReq.from_json(value)
        except RequestError as error:
            transaction_id = value.get("transaction_id") if isinstance(value, dict) else None
            if isinstance(transaction_id, str):
                self.refuse_start(transaction_id)
            return TransactionStartResponse(TransactionRequestStatus.UNEXPECTED_ERROR, str(error))
        return await self.start_transaction(request)

    def refuse_start(self, transaction_id: str) -> None:
        """Record a start that was refused before it reached the meter, so that its stop ends nothing."""
        self._ledger.refuse(transaction_id, self._meter.clock.now())
        self._keeper.refused(transaction_id, self._meter.state.serial)

    async def stop_from_json(self, transaction_id: object) -> TransactionStopResponse:
        """Stop a transaction from a station's JSON id."""
        if not isinstance(transaction_id, str):
            why = "transaction_id must be a string"
            return TransactionStopResponse(TransactionRequestStatus.UNEXPECTED_ERROR, error=why)
        return await self.stop_transaction(transaction_id)

    async def start_transaction(self, request: TransactionReq) -> TransactionStartResponse:
        """Start a transaction. Answers within 30 s and never raises."""

        def failed(why: str) -> TransactionStartResponse:
            return TransactionStartResponse(TransactionRequestStatus.UNEXPECTED_ERROR, why)

        def on_abandoned(response: TransactionStartResponse | None) -> None:
            if not self._ledger.disown(request.transaction_id) and response is None:
                self.refuse_start(request.transaction_id)

        async def work(deadline: Deadline) -> TransactionStartResponse:
            return await Start(self._meter, self._provisioning, self._pause, request, deadline).run()

        response = await self._commands.do(Command(work, Deadline.after(START_S), failed, on_abandoned))
        self._station.observe("start_answered", response)
        return response

    async def stop_transaction(self, transaction_id: str) -> TransactionStopResponse:
        """End a transaction and return its signed receipt. Answers within 60 s, or 110 s while the meter is silent."""

        def failed(why: str) -> TransactionStopResponse:
            return TransactionStopResponse(TransactionRequestStatus.UNEXPECTED_ERROR, error=why)

        def on_abandoned(_response: TransactionStopResponse | None) -> None:
            self._ledger.disown(transaction_id)

        async def work(deadline: Deadline) -> TransactionStopResponse:
            self._working = transaction_id
            try:
                return await self._stop(transaction_id, deadline)
            finally:
                self._working = None

        response = await self._commands.do(Command(work, Deadline.after(SILENT_STOP_S), failed, on_abandoned))
        self._station.observe("stop_answered", response)
        return response

    async def _stop(self, transaction_id: str, deadline: Deadline) -> TransactionStopResponse:
        """Stop within 60 s. Time during which the meter is silent is added, up to 110 s in all."""
        began_s = now_s()
        bounded = deadline.within(STOP_S - (SILENT_STOP_S - deadline.left_s) - 2 * ANSWER_MARGIN_S)
        while True:
            response = await Stop(self._meter, self._provisioning, self._pause, transaction_id, bounded).run()
            is_over = response.signed_meter_value is not None or deadline.passed or not bounded.passed
            if is_over or not self._is_silent(began_s):
                return response
            bounded = deadline.within(WORK_S)

    def _is_silent(self, since_s: float) -> bool:
        heard_s = self._meter.client.last_response_s
        return heard_s is None or heard_s < since_s or seconds_since(heard_s) > WORK_S

    # --- the task that owns the meter ---

    async def run(self) -> None:
        """Own the meter until cancelled. Cancelling it answers every waiting command.

        No behaviour of a meter makes it fail. After a failure it may be started again; waiting commands keep waiting.
        """
        self._commands.begin()
        self._upkeep.next_reach_s = max(self._upkeep.next_reach_s, now_s() + self._begins_after_s)
        self._begins_after_s = 0.0
        try:
            if self._meter.settings.meter_serial == PIN:
                await self._upkeep.read_journal()
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
            await self._upkeep.close()

    async def _serve(self, command: Command[R]) -> None:
        if not command.is_wanted:
            command.on_abandoned(None)
            return
        try:
            await self._upkeep.read_journal()
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
        """Wait for the next tick or the next command. Do the work of a tick that is due."""
        if self._schedule is None and self._meter.state.reached:
            self._upkeep.next_reach_s = now_s()
        next_s = self._schedule.next_s if self._schedule is not None else self._upkeep.next_reach_s
        if now_s() < next_s:
            await self._commands.wait(next_s - now_s())
            return
        try:
            if self._schedule is None:
                await self._reach()
            else:
                await self._tick(self._schedule)
        except PreemptedError:
            self._meter.log.debug("a question to the meter was abandoned because a command is waiting")
        except Exception:  # noqa: BLE001  live values continue after any failure
            self._meter.log.limited("periodic poll failed").log(logging.ERROR, "periodic poll failed", exc_info=True)
            await asyncio.sleep(LIVE_VALUE_EVERY_S)

    async def _reach(self) -> None:
        """Try to reach a meter that has not answered yet. If it answers, initialise it and publish a first value."""
        if not await self._upkeep.initialise() and not self._meter.state.reached:
            self._meter.state.count_failure()
            return
        self._schedule = Schedule(LIVE_VALUE_EVERY_S, self._phase)
        await self._upkeep.send_due()
        if await self._commands.preemptible(self._upkeep.poll):
            await self._upkeep.read_journal()
            await self._upkeep.do_what_is_due()

    async def _tick(self, schedule: Schedule) -> None:
        """Make the scheduled reading, and do the work that is due."""
        try:
            is_good = await self._commands.preemptible(self._upkeep.poll)
        finally:
            schedule.advance()
        if is_good:
            await self._upkeep.do_what_is_due()

    def _changed(self, before: Entry, now: Entry) -> None:
        """React to a state change of a ledger entry."""
        if now.reported and now.state in (State.CLOSED, State.LOST) and self._working is None:
            is_over = "it is lost" if now.state is State.LOST else "another client or a power failure has ended it"
            self._meter.state.raise_interrupted(f"transaction {printable(now.transaction_id)}: {is_over}")
        if before.state is not State.CLOSED and now.state is State.LOST:
            self._keeper.note_later(now)

    async def _pause(self, delay_s: float, deadline: Deadline) -> None:
        """Wait within a command. Scheduled readings continue, so that live values and faults are still published."""
        end = deadline.within(delay_s)
        while not end.passed:
            schedule = self._schedule
            to_tick_s = schedule.next_s - now_s() if schedule is not None else float("inf")
            if schedule is None or to_tick_s >= end.left_s:
                await asyncio.sleep(end.left_s)
                return
            await asyncio.sleep(max(0.0, to_tick_s))
            schedule.advance()
            if deadline.left_s < PREEMPTED_AFTER_S:
                continue
            try:
                async with asyncio.timeout(PREEMPTED_AFTER_S):
                    await self._upkeep.poll(deadline)
            except TimeoutError:
                limit_s = (
                    self._meter.settings.command_timeout_ms / 1000 if self._meter.state.is_slow else VALUE_TIMEOUT_S
                )
                if seconds_since(self._meter.client.last_response_s) >= limit_s:
                    self._meter.state.no_value(f"no answer within {limit_s:.0f} s")
                    self._meter.state.count_failure()
