"""A start, from the request to the answer: one loop.

Theory. Each round reads /gw (and posts it if CI is empty) and the last receipt, sends E, assigns the user, notes the
entry, and sends B. Rounds repeat until B is accepted, B was refused too often, or the deadline passes.

E always goes first, whatever XT says: a running transaction is ended before a new one begins. After an accepted E the
start waits for a receipt. It waits long if one may be due: something may run, or that is unknown because the journal
is not read or the values stand still. Otherwise it waits briefly. After an E without an answer the next round begins,
and B is not sent. So no B is ever repeated blindly: E ends what the last B may have begun before the next B goes out.

A refused E means nothing, except if a receipt is still to come. Then the transaction has ended by itself, or this E
came too early, and B would overwrite the receipt. This includes the case that XT was true a moment ago and no receipt
has come since, no matter who began that transaction. The rounds then repeat until the receipt is here, at most 15 s.
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
"""How long a start waits for a receipt after an accepted E: if one may be due, and if none is."""
UNANSWERED_WAIT_S: Final = 1.0
MAX_CLOCK_OFF_S: Final = 60.0
"""A clock that is further off is an error, because it signs the session."""
WRITTEN_TO_S: Final = 1.0
"""Receipts may give their times in whole seconds."""
LOOK_HOLDS_S: Final = 0.3
"""How long the serial of a live value stays valid for sending B. A start without waits needs only one live value."""


class Start:
    """One start on one meter.

    Args:
        pause: waits within a command while live values continue.
        deadline: the start ends by this moment.

    Attributes:
        request: the station's request.
    """

    def __init__(
        self, meter: Meter, provisioning: Provisioning, pause: Pause, request: TransactionReq, deadline: Deadline
    ) -> None:
        self._meter = meter
        self._provisioning = provisioning
        self._pause = pause
        self.request = request
        self._deadline = deadline
        self._unanswered: Entry | None = None
        """The newest entry of this start whose B has no answer."""
        self._refusals_left = meter.settings.resilience_transaction_request_retries
        self._end_is_doubtful = False
        self._was_ended_again = False
        self._receipt_due: Deadline | None = None
        self._delay_s = UNANSWERED_WAIT_S
        self._serial = ""

    async def run(self) -> TransactionStartResponse:
        """Repeat rounds until there is an answer. No behaviour of a meter or a station makes this raise."""
        meter, deadline = self._meter, self._deadline
        newest = meter.ledger.newest(self.request.transaction_id)
        # An open entry keeps POST /gw, which proves a power-up, from going out: an empty CI and nothing running is one.
        is_cut = self._provisioning.gw_due and not (meter.state.XT or meter.state.current_flows)
        if newest is not None and newest.state is State.OPEN and newest.is_answered and not (newest.power_up or is_cut):
            meter.ledger.mark(newest, unwanted=False, reported=True)
            meter.log.limited("starts that come again").log(
                logging.INFO, "transaction %s was started again: it runs", printable(self.request.transaction_id)
            )
            return TransactionStartResponse(TransactionRequestStatus.OK)
        try:
            self._user = self._user_of_request()
        except RequestError as error:
            return self._failed(str(error))
        why = "the meter did not start the transaction in time"
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
        """Return the user assignment of the request: the values that are signed as IS, IL, IF, IT, ID and TT.

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
                "the station gave identification level %s, an error level: the receipt cannot be used for billing",
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
        """Return the answer of a failed start. The driver itself ends what the start may have begun."""
        meter, transaction_id = self._meter, self.request.transaction_id
        meter.log.limited("starts that failed").log(
            logging.WARNING, "transaction %s was not begun (%s): %s", printable(transaction_id), status, why
        )
        if self._unanswered is None:
            meter.ledger.refuse(transaction_id, meter.clock.now())
            meter.keeper.refused(transaction_id, meter.state.serial)
        meter.ledger.disown(transaction_id)
        return TransactionStartResponse(status, why)

    async def _round(self) -> TransactionStartResponse | None:
        """Do one round. Returns the answer, or None for another round."""
        meter = self._meter
        gateway = await self._look()
        if gateway is None:
            return None
        unfit = self._unfit(gateway.CI)
        if unfit and self._unanswered is None:
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
        """Read /gw and a live value, and send what the meter lacks. Returns None if the round ends here."""
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
            provisioning.record_gateway(gateway)
            if provisioning.gw_due:
                if not await provisioning.send_gw(deadline):
                    return None
                gateway = await meter.gw(deadline)
            if provisioning.is_clock_off(meter.time) and meter.may_be_configured:
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
        """Send E, and wait for the receipt of the ended transaction. Returns whether the round continues to B."""
        meter = self._meter
        is_all_known = meter.keeper.is_read and not meter.state.is_frozen
        was_due = bool(meter.ledger.awaited or meter.state.XT) or not is_all_known
        reply = await meter.send_end(self._deadline)
        if reply in (Reply.UNANSWERED, Reply.UNSENT):
            self._end_is_doubtful = self._end_is_doubtful or reply is Reply.UNANSWERED
            return False
        if reply is Reply.REFUSED:
            if meter.state.current_flows and meter.state.XT is not False:
                # The meter acts on neither E nor B while a current flows. The running transaction must end first.
                return False
            if meter.ledger.expects_receipt(now_s()):
                self._receipt_due = self._receipt_due or self._deadline.within(RECEIPT_WAIT_S)
                if not self._receipt_due.passed:
                    return False
            if not self._end_is_doubtful:
                return True
        self._end_is_doubtful = False
        last = meter.ledger.last
        meter.is_ending = was_due
        try:
            is_sure = await self._wait_for_receipt(RECEIPT_WAIT_S if was_due else SHORT_WAIT_S)
        finally:
            meter.is_ending = False
        if was_due and meter.ledger.last is last and meter.state.XT and not self._was_ended_again:
            # No receipt, and XT is still true: E may have come too early, whatever its answer was.
            self._was_ended_again = True
            return False
        return is_sure

    async def _wait_for_receipt(self, wait_s: float) -> bool:
        """Wait for a new receipt. Returns False if a request had no answer: a power cut may have gone unseen."""
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
            self._count_refusal()
        return reply is Reply.ACCEPTED

    def _count_refusal(self) -> None:
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
            # Cancelled in the middle: B may be out.
            if is_sent:
                ledger.mark(ledger.on_begin_unanswered(entry, now_s()), unwanted=True)
            else:
                ledger.on_begin_refused(entry)
            raise
        if reply is Reply.ACCEPTED:
            entry = ledger.mark(ledger.on_begin_accepted(entry, now_s()), reported=True)
            meter.keeper.note_later(entry)
            self._check_clock()
            meter.state.clear_interrupted()
            name = printable(self.request.transaction_id)
            meter.log.info("transaction %s begun for %s", name, shortened(self._user.ID))
            return TransactionStartResponse(TransactionRequestStatus.OK)
        if reply is Reply.UNANSWERED:
            self._unanswered = ledger.on_begin_unanswered(entry, now_s())
            meter.keeper.note_later(self._unanswered)
            return None
        ledger.on_begin_refused(entry)
        meter.keeper.withdraw(entry)
        if reply is Reply.REFUSED:
            self._count_refusal()
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
        """Return whether the same meter still answers. Reads a live value if the last one is too old."""
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

    def _check_clock(self) -> None:
        """Log an error if the meter's clock, which signs the session, is more than a minute off."""
        meter = self._meter
        now, meters = meter.clock.now(), meter.time
        if meters is not None and meter.clock.is_set and abs((meters - now).total_seconds()) > MAX_CLOCK_OFF_S:
            meter.log.error("the session is signed with a wrong clock: the meter's is %s, the host's %s", meters, now)


def receipt_delays() -> Iterator[float]:
    """Yield the pauses between checks for a receipt. It is found within 15 ms, or a tenth of the time that it takes."""
    waited_s = 0.0
    while True:
        delay_s = min(max(0.012, waited_s * 0.09), 1.0)
        waited_s += delay_s
        yield delay_s
