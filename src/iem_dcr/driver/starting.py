"""Beginning a transaction: does what `iem_dcr.driver.decisions` decides, and tells it what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from iem_dcr.device.messages import User
from iem_dcr.driver import decisions
from iem_dcr.driver.decisions import Conversation, Do, Event, State
from iem_dcr.driver.ending import Attempt, MeterPart
from iem_dcr.driver.memory import Begun
from iem_dcr.driver.setup import changed_text
from iem_dcr.driver.texts import check_identification, signable_tariff
from iem_dcr.driver.whose import Expected
from iem_dcr.errors import MeterError, RequestError, printable, shortened
from iem_dcr.powermeter import IDENTIFICATION_ERROR_LEVELS, TransactionRequestStatus, TransactionStartResponse

if TYPE_CHECKING:
    from iem_dcr.driver.ending import Ending, Parts
    from iem_dcr.driver.timing import Deadline
    from iem_dcr.powermeter import TransactionReq

READY_WAIT_S = 5.0
"""How long a start waits for a meter that is not initialised or does not answer."""
READY_TRIES_EVERY_S = 1.0
SECOND_LOOK_S = 0.2
"""How long after the first look the second one is made before B is sent again."""
OTHER_RECEIPT_S = 15.0
"""How much of a start may go into ending a transaction that still runs and getting its receipt."""

_IN_DOUBT = (State.DOUBT, State.DOUBT_TWICE, State.DOUBT_LAST)


@dataclass(slots=True)
class _Start(Attempt):
    """One start under way.

    Attributes:
        request: the station's.
        user: what will be assigned.
        deadline: for all of it.
        conversation: where it stands.
        begun: the transaction, from the moment B goes out.
        looked_again: a reading before B that failed, or was strange, has been followed by another look.
    """

    request: TransactionReq = field(kw_only=True)
    user: User = field(kw_only=True)
    deadline: Deadline = field(kw_only=True)
    conversation: Conversation = field(kw_only=True)
    begun: Begun | None = None
    looked_again: bool = False


class Starting(MeterPart):
    """Begins the transactions of one meter."""

    def __init__(self, parts: Parts, ending: Ending) -> None:
        """``ending`` ends what runs."""
        super().__init__(parts)
        self._ending = ending

    async def start(self, request: TransactionReq, deadline: Deadline) -> TransactionStartResponse:
        """Begin a transaction. Never raises for anything a meter or a station can do."""
        begun = self._memory.begun
        if begun is not None and begun.request == request and not begun.doubtful and begun.ended_s is None:
            self._ending.watch = False
            again = self._meter.log.seldom("starts that come again")
            again.info("start of transaction %s again: it runs", printable(request.transaction_id))
            return TransactionStartResponse(TransactionRequestStatus.OK)
        try:
            user = self._user(request)
        except RequestError as error:
            return self._not_begun(request, TransactionRequestStatus.UNEXPECTED_ERROR, str(error))
        problem = await self._become_ready(deadline.within(READY_WAIT_S))
        if problem:
            return self._not_begun(request, TransactionRequestStatus.UNEXPECTED_ERROR, problem)
        state, why = await self._begin(request, user, deadline)
        if state is State.BEGUN:
            return TransactionStartResponse(TransactionRequestStatus.OK)
        if state is State.UNFIT and not self._settings.refuse_start_with_error:
            return self._not_begun(request, TransactionRequestStatus.NOT_SUPPORTED, why)
        return self._not_begun(request, TransactionRequestStatus.UNEXPECTED_ERROR, why)

    def _not_begun(
        self, request: TransactionReq, status: TransactionRequestStatus, why: str
    ) -> TransactionStartResponse:
        token = request.identification_data or request.transaction_id
        why = why.replace(token, shortened(token)) if token and token in why else why
        self._meter.log.seldom("starts that failed").warning(
            "transaction %s was not begun (%s): %s", printable(request.transaction_id), status.value, why
        )
        self._memory.refuse(request.transaction_id)
        return TransactionStartResponse(status, why)

    def _user(self, request: TransactionReq) -> User:
        """Make the assignment of a request: what will be signed as IS, IL, IF, IT, ID and TT.

        Raises:
            RequestError: the id cannot be signed.
        """
        meter, settings = self._meter, self._settings
        ID = request.identification_data or request.transaction_id
        check_identification(ID)
        level = request.identification_level or settings.IL_default
        if request.identification_level in IDENTIFICATION_ERROR_LEVELS:
            meter.log.seldom("identification levels").warning(
                "the station gave identification level %s, an error level: the receipt will not do for billing", level
            )
        tariff = None
        if request.tariff_text:
            tariff = signable_tariff(request.tariff_text)
            if tariff != request.tariff_text:
                changed = changed_text("tariff_text", request.tariff_text, tariff)
                meter.log.seldom("tariff texts").warning("%s", changed)
        return User(
            IS=request.identification_status == "ASSIGNED",
            IL=level,
            IF=request.identification_flags,
            IT=request.identification_type,
            ID=ID,
            US=settings.US,
            TT=tariff,
        )

    async def _become_ready(self, deadline: Deadline) -> str:
        """Wait for a meter that is not initialised or in fault. Returns why there is none, or ""."""
        meter = self._meter
        why = ""
        while True:
            if meter.wrong:
                return meter.wrong
            if self._setup.initialised and not (meter.in_fault or meter.doubted or meter.exchanged):
                return ""
            try:
                await self._receipts.adopt(await self._setup.initialise(deadline), deadline)
            except MeterError as error:
                why = f"the meter cannot be initialised: {error}"
            else:
                continue
            await self._pause(READY_TRIES_EVERY_S, deadline)
            if deadline.passed:
                return why

    async def _begin(self, request: TransactionReq, user: User, deadline: Deadline) -> tuple[State, str]:
        """Walk the conversation that begins a transaction. Returns where it ended, and why it did not begin."""
        start = _Start(
            self._settings.resilience_transaction_request_retries,
            request=request,
            user=user,
            deadline=deadline,
            conversation=Conversation(State.LOOKING),
        )
        do = Do.LOOK
        while do not in (Do.SAY_BEGUN, Do.SAY_NOT_BEGUN):
            event = Event.GIVE_UP if deadline.passed else await self._step(do, start)
            do = start.conversation.process(event)
            if do in (Do.INITIALISE, Do.END_OTHER):
                # A B in doubt and the next one are two transactions: what is known of the first stays as it is.
                start.begun = None
        state = start.conversation.state
        if state is State.BEGUN and start.begun is not None:
            self._memory.confirm(start.begun)
            self._ending.watch = False
            meter_log = self._meter.log
            meter_log.info("transaction %s begun for %s", printable(request.transaction_id), shortened(user.ID))
        elif state is not State.DOUBTFUL:
            self._forget(start)
        if state is not State.BEGUN and user.TT is not None:
            self._setup.tariff_was_changed()
        return state, start.why if state is State.UNFIT else start.reason

    def _forget(self, start: _Start) -> None:
        """Take back what was remembered for a B that was certainly not acted on."""
        if start.begun is not None:
            self._memory.withdraw(start.begun)
            self._ending.watch = False
            start.begun = None

    async def _step(self, do: Do, start: _Start) -> Event:
        match do:
            case Do.ASSIGN:
                return await self._assign(start)
            case Do.BEGIN:
                return await self._send_begin(start)
            case Do.END_OTHER:
                return await self._end_other(start)
            case Do.INITIALISE:
                return await self._set_up(start)
            case Do.PAUSE_AND_LOOK:
                await self._pause(self._retry_s, start.deadline)
            case Do.WAIT_AND_LOOK:
                await self._pause(SECOND_LOOK_S, start.deadline)
        return Event.GIVE_UP if start.deadline.passed else await self._look(start)

    async def _look(self, start: _Start) -> Event:
        """Look at the meter: GET /gw and GET /metervalue."""
        meter = self._meter
        try:
            gateway = await meter.client.gw(timeout_s=start.deadline.left_s)
            value = await meter.read(start.deadline)
        except MeterError as error:
            return self._no_look(start, error)
        start.saw(value)
        meter.gateway = gateway
        if meter.wrong or meter.exchanged:
            start.why = meter.wrong or "another meter answers than before"
            return Event.GIVE_UP
        CI = start.request.evse_id or self._settings.CI
        unfit = ""
        if gateway.is_set and gateway.CI != CI:
            unfit = f"the meter holds CI {printable(gateway.CI)}, the transaction is for {printable(CI)}"
        elif value.has_error:
            unfit = f"the meter is in error: XC is {printable(value.XC)}"
        event = decisions.look_to_begin(
            state=start.conversation.state, running=bool(value.XT), configured=gateway.is_set, fit=not unfit
        )
        if event is Event.UNFIT:
            start.why = unfit
        if event in (Event.IDLE, Event.RUNNING):
            start.troubled_s = None
        return event

    def _no_look(self, start: _Start, error: MeterError) -> Event:
        """Decide how long one goes on looking: until the deadline while B is in doubt, else for some seconds."""
        self._meter.doubted = True
        start.why = str(error)
        is_patient = start.conversation.state in _IN_DOUBT
        return Event.UNREADABLE if is_patient or start.trouble_s() < READY_WAIT_S else Event.GIVE_UP

    async def _assign(self, start: _Start) -> Event:
        if self._setup.tariff_due and start.user.TT is None:
            await self._setup.send_tariff(start.deadline)
        refusals = start.refusals
        event = await start.send(self._meter.client.set_user(start.user, timeout_s=start.deadline.left_s))
        if start.conversation.state is State.ASSIGNING_AGAIN and event is Event.ACCEPTED:
            # It is B that is tried so many times.
            start.refusals = refusals
        return event

    async def _send_begin(self, start: _Start) -> Event:
        meter, memory = self._meter, self._memory
        is_known = meter.last_PG is not None and memory.is_last_sure
        if not is_known or memory.begun is not None or memory.misses_another(start.begun):
            await self._receipts.adopt(await self._setup.ask_again_for_last_tuple(start.deadline), start.deadline)
        # The process may end the moment B is out: the one after it shall know whose transaction runs.
        noted = self._keeping.note(start.request.transaction_id, self._expected(start))
        note_stands = False
        try:
            await self._keeping.begun(noted)
            event = await self._look_before_begin(start)
            if event is None:
                self._remember(start)
                note_stands = True
                event = await start.send(meter.client.begin(timeout_s=start.deadline.left_s))
                # Where an earlier B of this transaction is in doubt, even a refusal proves nothing.
                is_in_doubt = start.conversation.state is not State.BEGINNING
                note_stands = is_in_doubt or event in (Event.ACCEPTED, Event.LOST)
                if not note_stands:
                    self._forget(start)
        finally:
            if not note_stands:
                self._keeping.withdraw(noted)
        return event

    async def _look_before_begin(self, start: _Start) -> Event | None:
        """Read a last value before B, and publish it. Returns why B must not go out now, or None."""
        meter = self._meter
        was_doubted = meter.doubted
        was_read = await meter.read_and_publish(start.deadline)
        if meter.wrong or meter.exchanged:
            start.why = meter.wrong or "another meter answers than before"
            return Event.GIVE_UP
        if not start.looked_again and not (was_read and meter.doubted == was_doubted):
            # A power cycle since the look would have taken CT and the user along.
            start.looked_again = True
            return Event.UNSENT
        if meter.value is not None:
            start.saw(meter.value)
        return None

    def _remember(self, start: _Start) -> None:
        """Remember the transaction before B goes out: whatever comes between, it is not left running unknown."""
        if start.begun is None:
            start.begun = Begun(start.request, self._expected(start), doubtful=True)
        else:
            # The one before it was not acted on: what the meter has signed since is another's.
            start.begun.expected = self._expected(start)
        self._memory.begin(start.begun)
        self._ending.watch = True

    def _expected(self, start: _Start) -> Expected:
        """Return what the receipt will show if B goes out now."""
        meter = self._meter
        shown = meter.value.TM if meter.value is not None else None
        began = shown.instant if shown is not None else None
        return Expected(PG_before=meter.last_PG, ID=start.user.ID, MS=meter.serial, began=began)

    async def _set_up(self, start: _Start) -> Event:
        """Initialise a meter whose CT is empty: it was power-cycled, or has never been set up."""
        waited_s = start.trouble_s()
        why = "the meter is not set up"
        try:
            if not self._setup.gw_due:
                await self._receipts.adopt(await self._setup.initialise(start.deadline), start.deadline)
            await self._setup.make_up(start.deadline)
        except MeterError as error:
            why = f"the meter cannot be set up: {error}"
        if self._setup.ready:
            return Event.DONE
        if self._setup.waits_for_clock:
            why = "the meter is not set up: it waits for the host's clock to be set"
        start.why = why
        return Event.GIVE_UP if waited_s >= READY_WAIT_S else Event.NOT_DONE

    async def _end_other(self, start: _Start) -> Event:
        """End a transaction that still runs, and get its receipt before another one takes its place in the meter."""
        self._memory.seen_running()
        begun = self._memory.begun_here()
        whose = printable(begun.id) if begun is not None else "not begun by this process"
        self._meter.log.warning("a transaction still runs (%s): it is ended first", whose)
        why, found = await self._ending.end(begun, start.deadline.within(OTHER_RECEIPT_S))
        if found is None:
            start.why, start.current = f"a transaction still ran: {why}", ""
            return Event.NOT_DONE
        await self._receipts.hand_over(found.receipt, None if found.is_another_s else begun, start.deadline)
        return Event.DONE
