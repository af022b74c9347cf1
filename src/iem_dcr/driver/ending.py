"""Ending a transaction and getting its receipt; and what beginning and ending have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from iem_dcr.driver.decisions import Conversation, Do, Event, State
from iem_dcr.driver.keeping import shown_PG
from iem_dcr.driver.timing import now_s
from iem_dcr.driver.whose import Expected
from iem_dcr.errors import MeterError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from iem_dcr.device.messages import MeterValue
    from iem_dcr.driver.keeping import Keeping
    from iem_dcr.driver.memory import Begun, Memory
    from iem_dcr.driver.meter import Meter
    from iem_dcr.driver.receipts import Found, Receipts
    from iem_dcr.driver.setup import Setup
    from iem_dcr.driver.timing import Deadline


@dataclass(slots=True)
class Attempt:
    """One conversation's own counts.

    Attributes:
        retries: how many refusals in a row are met with another try.
        refusals: how many there were since something was last accepted.
        troubled_s: since when the meter does not answer, or cannot be set up; None while it does.
        why: the last thing that went wrong, for the answer.
        current: what flowed at the last look, amperes, for the answer; "" for none.
    """

    retries: int
    refusals: int = 0
    troubled_s: float | None = None
    why: str = ""
    current: str = ""

    async def send(self, request: Awaitable[None]) -> Event:
        """Make a request of a transaction and say what came of it."""
        try:
            await request
        except MeterError as error:
            self.why = str(error)
            if error.may_have_acted:
                return Event.LOST
            if not isinstance(error, RefusedError):
                return Event.UNSENT
            self.refusals += 1
            return Event.REFUSED if self.refusals <= self.retries else Event.REFUSED_LAST
        self.refusals = 0
        return Event.ACCEPTED

    def saw(self, value: MeterValue) -> None:
        """Take note of a look."""
        self.current = f"{value.I} A" if value.I else ""

    def trouble_s(self) -> float:
        """Take note that there is trouble, and return since how many seconds there is."""
        if self.troubled_s is None:
            self.troubled_s = now_s()
        return now_s() - self.troubled_s

    @property
    def reason(self) -> str:
        """What went wrong, with the current that was flowing if there was one."""
        flowing = f"; a current of {self.current} was flowing" if self.current else ""
        return (self.why or "the meter did not answer in time") + flowing


@dataclass(frozen=True, slots=True)
class Parts:
    """What beginning, ending and stopping work with.

    Attributes:
        meter: what is known of it.
        setup: brings it into the state in which it can charge.
        memory: whose receipt is whose.
        receipts: finds them and hands them over.
        keeping: has receipts kept, and noted what is begun.
        pause: ``pause(delay_s, deadline)`` waits, and keeps live values going meanwhile.
    """

    meter: Meter
    setup: Setup
    memory: Memory
    receipts: Receipts
    keeping: Keeping
    pause: Callable[[float, Deadline], Awaitable[None]]


class MeterPart:
    """What beginning, ending and stopping have in common."""

    def __init__(self, parts: Parts) -> None:
        self._meter = parts.meter
        self._setup = parts.setup
        self._memory = parts.memory
        self._receipts = parts.receipts
        self._keeping = parts.keeping
        self._pause = parts.pause
        self._settings = parts.meter.settings
        self._retry_s = parts.meter.settings.resilience_transaction_request_retry_delay / 1000


class Ending(MeterPart):
    """Ends the transactions of one meter.

    Attributes:
        watch: a transaction that is seen running is one the station does not know of, or wants ended: end it.
    """

    watch = False

    async def end(
        self, begun: Begun | None, deadline: Deadline, *, is_waited_for: bool = True
    ) -> tuple[str, Found | None]:
        """End the transaction that was just seen running, and get its receipt.

        Args:
            begun: what is known of it; None when this process did not begin it.
            deadline: for all of it.
            is_waited_for: a refused end is tried again; else that is for another time.

        Returns:
            Why there is no receipt, or "", and the receipt, or None. It is yet to be handed over.
        """
        meter = self._meter
        expected = await self._expect(begun, deadline)
        attempt = Attempt(self._settings.resilience_transaction_request_retries if is_waited_for else 0)
        if meter.value is not None:
            attempt.saw(meter.value)
        current_until = deadline.within(self._settings.stop_current_wait_ms / 1000 if is_waited_for else 0)
        conversation = Conversation(State.ENDING)
        do = Do.END
        while do not in (Do.FETCH, Do.SAY_NOT_ENDED):
            event = Event.GIVE_UP if deadline.passed else await self._step(do, attempt, current_until, deadline)
            do = conversation.process(event)
        self.watch = do is Do.SAY_NOT_ENDED
        if self.watch:
            return f"the transaction was not ended: {attempt.reason}", None
        meter.last_PG = None
        ended_s = now_s()
        if begun is not None and begun.ended_s is None:
            begun.ended_s = ended_s
        if begun is None or begun.request.tariff_text:
            self._setup.tariff_was_changed()
        if await meter.read_and_publish(deadline) and not meter.running:
            self._memory.seen_idle()
        found = await self._receipts.await_new(begun, expected, deadline, self._pause, ended_s=ended_s)
        if found is None:
            return "the transaction was ended, and the meter has not given its receipt yet", None
        return "", found

    async def end_unwanted(self, deadline: Deadline) -> None:
        """End a transaction that runs although the station was told that it does not, and keep its receipt."""
        self._memory.seen_running()
        begun = self._memory.begun_here()
        why, found = await self.end(begun, deadline, is_waited_for=False)
        if found is None:
            self._meter.log.failure("ending an unwanted transaction", "%s", why)
            return
        await self._receipts.hand_over(found.receipt, None if found.is_another_s else begun, deadline)
        self._meter.log.recovered("ending an unwanted transaction")
        self._meter.log.warning("ended a transaction that nobody waits for: receipt %s", shown_PG(found.receipt))

    async def _expect(self, begun: Begun | None, deadline: Deadline) -> Expected:
        """Return what the receipt of the running transaction will show; learn the last PG if it is not known."""
        meter, memory = self._meter, self._memory
        is_known = meter.last_PG is not None if begun is None else begun.expected.PG_before is not None
        if not is_known or memory.unexamined or memory.misses_another(begun):
            await self._receipts.adopt(await self._setup.ask_again_for_last_tuple(deadline), deadline)
        if begun is None:
            shown = meter.value.TM if meter.value is not None else None
            return Expected(PG_before=meter.last_PG, ended=shown.instant if shown is not None else None)
        if not is_known:
            begun.expected = replace(begun.expected, PG_before=meter.last_PG)
        return begun.expected

    async def _step(self, do: Do, attempt: Attempt, current_until: Deadline, deadline: Deadline) -> Event:
        if self._meter.wrong:
            attempt.why = self._meter.wrong
            return Event.GIVE_UP
        if do is Do.END:
            event = await attempt.send(self._meter.client.end(timeout_s=deadline.left_s))
            is_worth_it = event is Event.REFUSED_LAST and attempt.current and not current_until.passed
            return Event.REFUSED if is_worth_it else event
        if do is Do.PAUSE_AND_LOOK:
            await self._pause(self._retry_s, deadline)
        if deadline.passed:
            return Event.GIVE_UP
        try:
            value = await self._meter.read(deadline)
        except MeterError as error:
            self._meter.doubted = True
            attempt.why = str(error)
            return Event.UNREADABLE
        attempt.saw(value)
        return Event.RUNNING if value.XT else Event.IDLE
