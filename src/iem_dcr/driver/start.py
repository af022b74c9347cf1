"""A start, from the request to the answer: one loop.

Theory. Each round asks GET /gw (and posts it where CI is empty), the last receipt, sends E, assigns the user, notes the
entry, and sends B; again until B is accepted, was refused often enough, or the time is over. E goes first every time:
what runs is ended before something new is begun, whatever XT says. After an accepted one the start waits for a receipt,
long where one may be due (something may run, or that is not known: the journal is not read, the values stand still),
short where none is. E without an answer begins the loop again, and never B. So no B is ever repeated blindly: before
the next one E has ended what the last one may have begun. A refused E means nothing, except where a receipt is to come:
what ran has ended by itself, or this E came too early, and B would overwrite the receipt. So it is where XT was true a
moment ago, whoever began that, and no receipt has come since. Then the loop begins again until the receipt is here, for
15 s at most.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from iem_dcr.device.messages import User
from iem_dcr.driver.meter import Reply
from iem_dcr.driver.provisioning import changed_text
from iem_dcr.driver.texts import check_identification, signable_tariff
from iem_dcr.driver.timing import now_s, seconds_since
from iem_dcr.driver.transitions import State
from iem_dcr.errors import MeterError, RequestError, printable, shortened
from iem_dcr.powermeter import IDENTIFICATION_ERROR_LEVELS, TransactionRequestStatus, TransactionStartResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from iem_dcr.device.messages import Gateway
    from iem_dcr.driver.entry import Entry
    from iem_dcr.driver.meter import Meter
    from iem_dcr.driver.provisioning import Provisioning
    from iem_dcr.driver.timing import Deadline
    from iem_dcr.powermeter import TransactionReq

    Pause = Callable[[float, Deadline], Awaitable[None]]

RECEIPT_WAIT_S: Final = 15.0
SHORT_WAIT_S: Final = 0.25
"""How long a receipt is waited for after an accepted E: where one is due, and where none is."""
UNANSWERED_WAIT_S: Final = 1.0
WRITTEN_TO_S: Final = 1.0
"""Receipts may give their times in whole seconds."""
LOOK_HOLDS_S: Final = 0.3
"""How long a live value says which meter a B reaches: a start without waits never reads a second one."""


class Start:
    """One start on one meter.

    Args:
        pause: waits within a command, while live values go on.
        deadline: by which it is over.

    Attributes:
        request: the station's.
    """

    def __init__(
        self, meter: Meter, provisioning: Provisioning, pause: Pause, request: TransactionReq, deadline: Deadline
    ) -> None:
        self._meter = meter
        self._provisioning = provisioning
        self._pause = pause
        self.request = request
        self._deadline = deadline
        self._doubtful: Entry | None = None
        """The newest entry of this start whose B has no answer."""
        self._refusals_left = meter.settings.resilience_transaction_request_retries
        self._end_is_doubtful = False
        self._was_ended_again = False
        self._receipt_due: Deadline | None = None
        self._delay_s = UNANSWERED_WAIT_S
        self._serial = ""

    async def run(self) -> TransactionStartResponse:
        """Go through rounds until there is an answer. Never raises for anything a meter or a station can do."""
        meter, deadline = self._meter, self._deadline
        newest = meter.ledger.newest(self.request.transaction_id)
        if newest is not None and newest.state is State.OPEN and not newest.power_up and newest.is_answered:
            meter.ledger.mark(newest, unwanted=False, told=True)
            meter.log.limited("starts that come again").log(
                logging.INFO, "start of transaction %s again: it runs", printable(self.request.transaction_id)
            )
            return TransactionStartResponse(TransactionRequestStatus.OK)
        try:
            self._user = self._user_of_request()
        except RequestError as error:
            return self._failed(str(error))
        why = "the meter did not do it in time"
        while not deadline.passed:
            self._delay_s = UNANSWERED_WAIT_S
            response = await self._round()
            if response is not None:
                return response
            why = meter.why or why
            if self._refusals_left < 0:
                break
            await self._pause(self._delay_s, deadline)
        return self._failed(why)

    def _user_of_request(self) -> User:
        """Make the assignment of the request: what will be signed as IS, IL, IF, IT, ID and TT.

        Raises:
            RequestError: the id cannot be signed.
        """
        meter, request = self._meter, self.request
        ID = request.identification_data or request.transaction_id
        check_identification(ID)
        level = request.identification_level or meter.settings.IL_default
        if request.identification_level in IDENTIFICATION_ERROR_LEVELS:
            meter.log.limited("identification levels").log(
                logging.WARNING,
                "the station gave identification level %s, an error level: the receipt will not do for billing",
                level,
            )
        tariff = None
        if request.tariff_text:
            tariff = signable_tariff(request.tariff_text)
            if tariff != request.tariff_text:
                changed = changed_text("tariff_text", request.tariff_text, tariff)
                meter.log.limited("tariff texts").log(logging.WARNING, "%s", changed)
        return User(
            IS=request.identification_status == "ASSIGNED",
            IL=level,
            IF=request.identification_flags,
            IT=request.identification_type,
            ID=ID,
            US=meter.settings.US,
            TT=tariff,
        )

    def _failed(
        self, why: str, status: TransactionRequestStatus = TransactionRequestStatus.UNEXPECTED_ERROR
    ) -> TransactionStartResponse:
        """Answer that the start failed; what it may have begun is ended by the driver itself."""
        meter, transaction_id = self._meter, self.request.transaction_id
        meter.log.limited("starts that failed").log(
            logging.WARNING, "transaction %s was not begun (%s): %s", printable(transaction_id), status, why
        )
        if self._doubtful is None:
            meter.ledger.refuse(transaction_id, meter.clock.now())
            meter.keeper.refused(transaction_id, meter.state.serial)
        meter.ledger.disown(transaction_id)
        return TransactionStartResponse(status, why)

    async def _round(self) -> TransactionStartResponse | None:
        """Go through one round. Returns the answer, or None for another round."""
        meter = self._meter
        gateway = await self._look()
        if gateway is None:
            return None
        unfit = self._unfit(gateway.CI)
        if unfit and self._doubtful is None:
            refuses = meter.settings.refuse_start_with_error
            status = TransactionRequestStatus.UNEXPECTED_ERROR if refuses else TransactionRequestStatus.NOT_SUPPORTED
            return self._failed(unfit, status)
        await meter.last_receipt(self._deadline)
        if unfit:
            await meter.send_end(self._deadline)
            meter.why = unfit
            return None
        if await self._end_what_runs() and await self._assign():
            return await self._begin()
        return None

    async def _look(self) -> Gateway | None:
        """Ask GET /gw and a live value, and send what the meter lacks. Returns None where the round ends here."""
        meter, provisioning, deadline = self._meter, self._provisioning, self._deadline
        try:
            gateway = await meter.gw(deadline)
            if meter.state.value is None or meter.state.needs_reinit or not provisioning.initialised:
                await provisioning.initialise(deadline)
            else:
                await meter.read(deadline)
            self._serial = meter.state.serial
            if meter.state.unaccepted or meter.state.value is None:
                meter.why = meter.state.unaccepted or "the meter gives no live value"
                return None
            provisioning.take_up(gateway)
            if provisioning.gw_due:
                if not await provisioning.send_gw(deadline):
                    return None
                gateway = await meter.gw(deadline)
            if provisioning.is_clock_off(meter.time) and meter.may_be_told:
                await provisioning.send_clock(deadline)
                gateway = await meter.gw(deadline)
        except MeterError as error:
            meter.state.needs_reinit = True
            meter.why = f"the meter does not answer: {error}"
            return None
        return gateway

    def _unfit(self, held: str) -> str:
        CI = self.request.evse_id or self._meter.settings.CI
        if held != CI:
            return f"the meter holds CI {printable(held)}, the transaction is for {printable(CI)}"
        value = self._meter.state.value
        if value is not None and value.has_error:
            return f"the meter is in error: XC is {printable(value.XC)}"
        return ""

    async def _end_what_runs(self) -> bool:
        """Send E, and wait for the receipt of what it ended. Returns whether the round goes on to B."""
        meter = self._meter
        is_all_known = meter.keeper.is_read and not meter.state.is_frozen
        was_due = bool(meter.ledger.awaited or meter.state.XT) or not is_all_known
        reply = await meter.send_end(self._deadline)
        if reply in (Reply.UNANSWERED, Reply.UNSENT):
            self._end_is_doubtful = self._end_is_doubtful or reply is Reply.UNANSWERED
            return False
        if reply is Reply.REFUSED:
            if meter.state.current_flows and meter.state.XT is not False:
                # Neither E nor B is acted on at a current: what runs has to be ended first, and cannot be yet.
                return False
            if meter.ledger.expects_receipt(now_s()):
                self._receipt_due = self._receipt_due or self._deadline.within(RECEIPT_WAIT_S)
                if not self._receipt_due.passed:
                    return False
            if not self._end_is_doubtful:
                return True
        self._end_is_doubtful = False
        last = meter.ledger.last
        meter.awaits_end = was_due
        try:
            is_sure = await self._wait_for_receipt(RECEIPT_WAIT_S if was_due else SHORT_WAIT_S)
        finally:
            meter.awaits_end = False
        if was_due and meter.ledger.last is last and meter.state.XT and not self._was_ended_again:
            # No receipt, and a transaction is still shown: E may have come too early, whatever its answer said.
            self._was_ended_again = True
            return False
        return is_sure

    async def _wait_for_receipt(self, wait_s: float) -> bool:
        """Wait for a new receipt. Returns False where a question had no answer: a power cut may have gone unseen."""
        meter, end = self._meter, self._deadline.within(wait_s)
        delays = receipt_delays()
        all_answered = True
        while True:
            arrival = await meter.new_receipt(self._deadline)
            all_answered = all_answered and arrival is not None
            if end.passed or (arrival is not None and arrival.is_new):
                return all_answered and not self._deadline.passed
            await self._pause(min(next(delays), end.left_s), self._deadline)

    async def _assign(self) -> bool:
        meter = self._meter
        if self._provisioning.tariff_due and self._user.TT is None:
            await self._provisioning.send_tariff(self._deadline)
        reply = await meter.send(
            meter.client.set_user(self._user, timeout_s=self._deadline.left_s), secret=self._user.ID
        )
        if self._user.TT is not None and reply is not Reply.REFUSED:
            self._provisioning.tariff_was_changed()
        if reply is Reply.REFUSED:
            self._was_refused()
        return reply is Reply.ACCEPTED

    def _was_refused(self) -> None:
        self._refusals_left -= 1
        self._delay_s = self._meter.settings.resilience_transaction_request_retry_delay / 1000

    async def _begin(self) -> TransactionStartResponse | None:
        meter, ledger = self._meter, self._meter.ledger
        if meter.clock_leapt:
            try:
                await meter.gw(self._deadline)
            except MeterError as error:
                meter.why = f"the meter does not answer: {error}"
                return None
        await self._pause(self._same_second_s(), self._deadline)
        entry = ledger.begin(
            self.request, self._user.ID, self._serial, noted=meter.clock.now(), sent=meter.time, at_s=now_s()
        )
        is_sent = False
        try:
            await meter.keeper.note(entry)
            is_sent = await self._is_still_the_meter()
            reply = await meter.send(meter.client.begin(timeout_s=self._deadline.left_s)) if is_sent else Reply.UNSENT
        except BaseException:
            # Given up in the middle: B may be out.
            if is_sent:
                ledger.mark(ledger.on_begin_unanswered(entry, now_s()), unwanted=True)
            else:
                ledger.on_begin_refused(entry)
            raise
        if reply is Reply.ACCEPTED:
            entry = ledger.mark(ledger.on_begin_accepted(entry, now_s()), told=True)
            meter.keeper.note_later(entry)
            self._judge_clock()
            meter.state.is_told()
            name = printable(self.request.transaction_id)
            meter.log.info("transaction %s begun for %s", name, shortened(self._user.ID))
            return TransactionStartResponse(TransactionRequestStatus.OK)
        if reply is Reply.UNANSWERED:
            self._doubtful = ledger.on_begin_unanswered(entry, now_s())
            meter.keeper.note_later(self._doubtful)
            return None
        ledger.on_begin_refused(entry)
        meter.keeper.withdraw(entry)
        if reply is Reply.REFUSED:
            self._was_refused()
        return None

    def _same_second_s(self) -> float:
        """Return how long B has to wait so that it begins in another second than the last transaction.

        Without pagination nothing else tells two receipts of one user apart where no energy flowed.
        """
        last, now = self._meter.ledger.last, self._meter.time
        if last is None or last.pagination or last.begin is None or last.begin.TM is None or now is None:
            return 0.0
        wait_s = WRITTEN_TO_S - (now - last.begin.TM.instant).total_seconds()
        return wait_s if 0.0 < wait_s <= WRITTEN_TO_S else 0.0

    async def _is_still_the_meter(self) -> bool:
        """Tell whether the meter that was looked at still answers; asks it where that was a while ago."""
        meter = self._meter
        if seconds_since(meter.read_s) > LOOK_HOLDS_S:
            try:
                await meter.read(self._deadline)
            except MeterError as error:
                meter.why = f"the meter does not answer: {error}"
                return False
        if meter.state.unaccepted or meter.state.serial != self._serial:
            meter.why = meter.state.unaccepted or "another meter answers than before"
            return False
        return True

    def _judge_clock(self) -> None:
        """Say it once where a session is signed with a clock that is more than a minute off."""
        meter = self._meter
        now, meters = meter.clock.now(), meter.time
        if meters is not None and meter.clock.is_set and abs((meters - now).total_seconds()) > MAX_CLOCK_OFF_S:
            meter.log.error("the session is signed with a wrong clock: the meter's is %s, the host's %s", meters, now)


MAX_CLOCK_OFF_S: Final = 60.0


def receipt_delays() -> Iterator[float]:
    """Yield pauses between looks for a receipt: it is found within 15 ms or a tenth of the time that it takes."""
    waited_s = 0.0
    while True:
        delay_s = min(max(0.012, waited_s * 0.09), 1.0)
        waited_s += delay_s
        yield delay_s
