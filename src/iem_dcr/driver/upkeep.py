"""The work between commands: scheduled readings, reading the journal, checks for receipts, the driver's own E.

A waiting command interrupts a question to the meter, and no other work begins while one waits.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Final

from iem_dcr import ocmf
from iem_dcr.config import PIN
from iem_dcr.driver.receipt_keeper import JOURNAL_WAIT_S
from iem_dcr.driver.timing import Deadline, now_s, seconds_since
from iem_dcr.errors import MeterError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from iem_dcr.driver.commands import Commands
    from iem_dcr.driver.meter import Meter
    from iem_dcr.driver.provisioning import Provisioning

LOOK_EVERY_S: Final = 2.0
END_EVERY_S: Final = 10.0
WORK_S: Final = 10.0
"""Limit of the driver's own work on a meter. A command waits for this work."""
RESTLESS: Final = 3
RESTLESS_S: Final = 60.0
"""A meter that needs more initialisations than this in this many seconds gets only this many."""
PIN_ASKED_EVERY_S: Final = 10.0
"""How often the journal is asked for a new pin while the wrong meter answers."""
PREPARED_WITHIN_S: Final = 0.5
"""How long `close` waits for an import in the worker thread."""


class Upkeep:
    """Does the periodic work on one meter.

    Attributes:
        next_reach_s: when the meter may be initialised next, on the loop's clock.
    """

    def __init__(self, meter: Meter, provisioning: Provisioning, commands: Commands) -> None:
        self.next_reach_s = 0.0
        self._meter = meter
        self._provisioning = provisioning
        self._commands = commands
        self._recalled_s = math.inf
        self._pin_asked_s: float | None = None
        self._looked_s: float | None = None
        self._ended_s: float | None = None
        self._initialised_s: deque[float] = deque(maxlen=RESTLESS)
        self._preparing: asyncio.Future[None] | None = None
        self._reading: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """End background work. Unfinished writes and imports get a last half second each."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
            self._reading = None
        await self._meter.keeper.close()
        if self._preparing is not None:
            await asyncio.wait({self._preparing}, timeout=PREPARED_WITHIN_S)

    def recall(self, serial: str) -> None:
        """Read the journal in the background."""
        self._recalled_s = min(self._recalled_s, now_s())
        self._read(lambda: self._meter.keeper.read(serial))

    async def read_journal(self) -> None:
        """Read the journal if it is not read yet. Wait for it half a second in all, then continue without it."""
        if not self._meter.keeper.is_read:
            self.recall("")
            await self._meter.keeper.wait_until_read(Deadline(self._recalled_s + JOURNAL_WAIT_S))

    def _read(self, ask: Callable[[], Awaitable[str]]) -> None:
        """Ask the journal a question that returns the pinned serial, unless another one is in progress."""

        async def read() -> None:
            self._meter.state.pin(await ask(), is_open=self._meter.is_open)

        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(read())

    async def poll(self, deadline: Deadline) -> bool:
        """Make a scheduled reading and publish it. Two that fail in a row are a communication fault."""
        meter = self._meter
        try:
            if await meter.read(deadline):
                meter.state.publish()
        except MeterError as error:
            meter.state.no_value(error.brief)
            meter.state.count_failure()
            return False
        if self._preparing is None and meter.settings.verify_receipts:
            self._preparing = asyncio.get_running_loop().run_in_executor(None, ocmf.prepare)
        self._meter.keeper.keep_found()
        if meter.state.serial and not meter.keeper.has_read(meter.state.serial):
            self.recall(meter.state.serial)
        if meter.settings.meter_serial == PIN and meter.state.serial and meter.keeper.is_read:
            self._pin(meter.state.serial)
        return True

    def _pin(self, serial: str) -> None:
        """Pin the first meter that answers. While another meter answers, ask the journal for a new pin."""
        keeper, state = self._meter.keeper, self._meter.state
        if not state.pinned:
            state.pin(serial, is_open=self._meter.is_open)
            keeper.pin(serial)
        elif state.wrong and seconds_since(self._pin_asked_s) >= PIN_ASKED_EVERY_S:
            self._pin_asked_s = now_s()
            self._read(keeper.pinned)

    async def do_what_is_due(self) -> None:
        """Do the work that is due after a good reading. Begin nothing while a command waits."""
        meter, provisioning = self._meter, self._provisioning
        if (not provisioning.initialised or meter.state.needs_reinit) and now_s() >= self.next_reach_s:
            await self.initialise()
        if self._commands:
            return
        await self._look_for_receipts()
        await self._end_unwanted()
        if self._commands:
            return
        if provisioning.key_wanted:
            await self._commands.preemptible(provisioning.ask_for_key)
        await self.send_due()

    async def initialise(self) -> bool:
        """Initialise the meter. Returns whether it answered."""
        meter = self._meter
        self.next_reach_s = now_s() + meter.settings.resilience_initial_connection_retry_delay / 1000
        try:
            await self._commands.preemptible(self._provisioning.initialise)
        except MeterError as error:
            meter.log.failure("the initialisation", "not initialised: %s", error.brief)
            if not meter.state.reached:
                self._meter.station.observe("reading_failed", error.brief)
            return False
        if not meter.state.needs_reinit:
            self._initialised_s.append(now_s())
            is_restless = len(self._initialised_s) == RESTLESS and seconds_since(self._initialised_s[0]) < RESTLESS_S
            self.next_reach_s = now_s() + (RESTLESS_S / RESTLESS if is_restless else 0.0)
        return True

    async def send_due(self) -> None:
        """Send what is due, unless a command waits. The journal comes first: it may show that the host's clock lags."""
        is_read = self._meter.keeper.is_read or now_s() >= self._recalled_s + JOURNAL_WAIT_S
        if is_read and not self._commands and self._provisioning.anything_due:
            await self._provisioning.send_due(Deadline.after(WORK_S))

    async def _look_for_receipts(self) -> None:
        """Check for receipts that are still to come, while XT is not true."""
        if self._meter.ledger.awaited and not self._meter.state.XT and seconds_since(self._looked_s) >= LOOK_EVERY_S:
            self._looked_s = now_s()
            await self._commands.preemptible(self._meter.new_receipt)
            self._meter.ledger.give_up(now_s())

    async def _end_unwanted(self) -> None:
        """Send E for unwanted entries: at once, then every 10 s, until E is accepted or the receipt is here."""
        meter = self._meter
        serials = {entry.serial for entry in self._meter.ledger.unwanted}
        if not serials:
            self._ended_s = None
        elif (
            meter.state.serial in serials and not meter.state.unaccepted and seconds_since(self._ended_s) >= END_EVERY_S
        ):
            self._ended_s = now_s()
            meter.log.info("a transaction that the station does not want may run: sending E")
            await meter.send_end(Deadline.after(WORK_S))
