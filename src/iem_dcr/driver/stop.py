"""A stop, from the id to the receipt.

Theory. What a stop gets is one row of the table in docs/architecture.md. `receipt_matching.entitlement` picks it.
If a transaction of ours may run, E is sent whatever XT says. The stop waits for the receipt as long as it may still
come: until the deadline if B and E were accepted, else until it is certain that none comes. An unknown id has no
influence: the running transaction is ended, and its receipt is the new one that does not end before E. If nothing
runs, the stop gets the meter's last receipt. Live values that stand still do not show that nothing runs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from iem_dcr.driver.meter import Reply
from iem_dcr.driver.receipt_matching import Entitlement, Right, ended_since, entitlement
from iem_dcr.driver.start import UNANSWERED_WAIT_S, receipt_delays
from iem_dcr.driver.timing import Deadline, now_s
from iem_dcr.driver.transitions import AWAITED, RUNNING, State
from iem_dcr.errors import MeterError, printable
from iem_dcr.ocmf import Outcome
from iem_dcr.powermeter import TransactionRequestStatus, TransactionStopResponse

if TYPE_CHECKING:
    from datetime import datetime

    from iem_dcr.driver.entry import Entry
    from iem_dcr.driver.meter import Meter
    from iem_dcr.driver.provisioning import Provisioning
    from iem_dcr.driver.start import Pause
    from iem_dcr.ocmf import Receipt

JOURNAL_WAIT_S: Final = 10.0
"""How long a stop for an id that this process does not know waits until the journal is read."""
STARTUP_WAIT_S: Final = 5.0
"""How long a stop for "" waits for a meter that has not answered this process yet. The charger waits for its answer."""
NOTHING_RAN_AFTER_S: Final = 15.0
FRESH_VALUE_S: Final = 0.5
ASKED_AGAIN_S: Final = 2.0
SERIAL_READINGS: Final = 3
SERIAL_READ_AGAIN_S: Final = 1.0


class Stop:
    """One stop on one meter.

    Args:
        pause: waits within a command while live values continue.
        transaction_id: the station's id; "" for any running transaction.
        deadline: the stop ends by this moment.
    """

    def __init__(
        self, meter: Meter, provisioning: Provisioning, pause: Pause, transaction_id: str, deadline: Deadline
    ) -> None:
        self._meter = meter
        self._provisioning = provisioning
        self._pause = pause
        self._id = transaction_id
        self._deadline = deadline

    async def run(self) -> TransactionStopResponse:
        """End the transaction and return its receipt. No behaviour of a meter or a station makes this raise."""
        keeper, ledger = self._meter.keeper, self._meter.ledger
        is_known = keeper.is_read or ledger.newest(self._id) is not None
        if not is_known and not await keeper.wait_until_read(self._deadline.within(JOURNAL_WAIT_S)):
            return self._failed("the journal of receipts does not answer: the owner of the last receipt is unknown")
        receipt = await self._receipt_here()
        if receipt is not None:
            return await self._deliver(receipt)
        return await self._answer(await self._entitlement())

    async def _answer(self, found: Entitlement) -> TransactionStopResponse:
        match found.right:
            case Right.RECEIPT if found.entry is not None and found.entry.receipt is not None:
                return await self._deliver(found.entry.receipt)
            case Right.REFUSED:
                await self._end_foreign_transaction()
                return self._failed("the start of this transaction was refused, and nothing was begun for it")
            case Right.ONE_LOOK if found.entry is not None:
                return await self._look_once(found.entry)
            case Right.END if found.entry is not None:
                return await self._end(found.entry)
            case _:
                return await self._end_whatever_runs()

    async def _receipt_here(self) -> Receipt | None:
        """Return the receipt that memory or the journal has for the id, or None."""
        ledger = self._meter.ledger
        newest = ledger.newest(self._id)
        if not self._id or (newest is not None and newest.state not in (State.CLOSED, State.REFUSED)):
            return None
        return ledger.receipt_of(self._id) or await self._meter.keeper.filed(self._id, self._meter.state.serial)

    async def _entitlement(self) -> Entitlement:
        """Return what the id is entitled to. Another meter's serial may be one odd reading, so it is read again."""
        meter = self._meter
        for _ in range(SERIAL_READINGS):
            found = entitlement(self._id, meter.ledger.entries, meter.state.serial)
            if found.right is not Right.ONE_LOOK or found.entry is None or found.entry.serial == meter.state.serial:
                break
            await self._pause(SERIAL_READ_AGAIN_S, self._deadline)
        return found

    async def _look(self, deadline: Deadline) -> bool:
        """Read /gw; post it if CI is empty, because that clock signs the end. Returns whether the meter answers."""
        meter = self._meter
        try:
            gateway = await meter.gw(deadline)
            if meter.state.value is None or meter.state.needs_reinit:
                await meter.read(deadline)
            self._provisioning.record_gateway(gateway)
            if self._provisioning.gw_due and await self._provisioning.send_gw(deadline):
                await meter.gw(deadline)
        except MeterError as error:
            meter.state.needs_reinit = True
            meter.why = f"the meter does not answer: {error}"
            return False
        return True

    # --- ours ---

    async def _end(self, entry: Entry) -> TransactionStopResponse:
        """End a transaction of ours and return its receipt, or an error once it is certain that none comes."""
        meter, ledger, deadline = self._meter, self._meter.ledger, self._deadline
        current_until = Deadline.after(meter.settings.stop_current_wait_ms / 1000)
        delays = receipt_delays()
        ledger.disown(entry.transaction_id)
        while not deadline.passed:
            entry = ledger.get(entry)
            if entry.receipt is not None:
                return await self._deliver(entry.receipt)
            if entry.state is State.LOST or entry.serial != meter.state.serial != "":
                return await self._look_once(entry)
            delay_s = UNANSWERED_WAIT_S
            if entry.state in RUNNING:
                reply = await self._send_end(entry)
                if reply is Reply.ACCEPTED:
                    delays = receipt_delays()
                    continue
                if reply is Reply.REFUSED:
                    await meter.new_receipt(deadline)
                    delay_s = meter.settings.resilience_transaction_request_retry_delay / 1000
                    if meter.state.current_flows and current_until.passed:
                        return self._failed(f"a current still flows: {meter.why}")
            else:
                arrival = await meter.new_receipt(deadline)
                delay_s = UNANSWERED_WAIT_S if arrival is None else next(delays)
            ledger.give_up(now_s())
            if ledger.get(entry).state in AWAITED:
                await self._pause(delay_s, deadline)
        return self._failed(meter.why or "the meter did not give the receipt in time")

    async def _send_end(self, entry: Entry) -> Reply | None:
        """Send E after GET /gw. Returns None, without E, if the receipt is here or the right meter does not answer."""
        meter = self._meter
        if not await self._look(self._deadline):
            return None
        if meter.state.unaccepted or meter.state.serial != entry.serial:
            meter.why = meter.state.unaccepted or "another meter answers than before"
            return None
        if meter.ledger.seen_idle_since(entry):
            await meter.last_receipt(self._deadline)
            if meter.ledger.get(entry).state not in RUNNING:
                return None
        return await meter.send_end(self._deadline)

    async def _look_once(self, entry: Entry) -> TransactionStopResponse:
        """Return the receipt of a lost transaction, or of one on another meter, if the meter shows it now."""
        meter = self._meter
        meter.ledger.disown(entry.transaction_id)
        await meter.new_receipt(self._deadline)
        entry = meter.ledger.get(entry)
        if entry.receipt is not None:
            return await self._deliver(entry.receipt)
        if entry.serial != meter.state.serial:
            return self._failed(f"it was begun on meter {printable(entry.serial)}, but another meter answers now")
        return self._failed("the meter has no receipt for this transaction: it is lost")

    # --- any running transaction ---

    async def _end_foreign_transaction(self) -> None:
        """End a running transaction that no start of ours can have begun."""
        meter = self._meter
        if meter.state.XT and not meter.ledger.awaited and await self._look(self._deadline):
            await meter.last_receipt(self._deadline)
            if not (meter.state.wrong or meter.state.unaccepted):
                await meter.send_end(self._deadline)

    async def _end_whatever_runs(self) -> TransactionStopResponse:
        """End any running transaction and return its receipt, or the meter's last receipt if nothing runs."""
        meter, deadline = self._meter, self._deadline
        why = await self._reach()
        ended_at: datetime | None = None
        end_unanswered = False
        while not why and not deadline.passed:
            await meter.last_receipt(deadline)
            moment = meter.time
            reply = await meter.send_end(deadline)
            is_idle = reply is Reply.REFUSED and not (meter.state.current_flows or meter.state.stands_still)
            if reply is Reply.ACCEPTED or (is_idle and end_unanswered):
                return await self._receipt_of_what_ran(ended_at if end_unanswered else moment)
            if is_idle and not meter.state.XT and not meter.ledger.expects_receipt(now_s()):
                return await self._deliver_last()
            if reply is Reply.UNANSWERED and not end_unanswered:
                ended_at, end_unanswered = moment, True
            await self._pause(UNANSWERED_WAIT_S, deadline)
            why = await self._reach()
        return self._failed(why or meter.why or "the meter did not end the transaction in time")

    async def _reach(self) -> str:
        """Wait until the meter answers and may be sent an E. Returns "", or the reason why not."""
        meter, deadline = self._meter, self._deadline
        limit = deadline
        if not meter.state.reached:
            wait_ms = meter.settings.initial_connection_wait_ms
            limit = deadline.within(STARTUP_WAIT_S if self._id == "" else wait_ms / 1000)
        while not (deadline if meter.state.reached else limit).passed:
            is_there = await self._look(limit)
            if is_there and (meter.state.wrong or not meter.state.unaccepted):
                return meter.state.wrong
            await self._pause(UNANSWERED_WAIT_S, deadline)
        return meter.state.unaccepted or meter.why or "the meter does not answer"

    async def _receipt_of_what_ran(self, ended_at: datetime | None) -> TransactionStopResponse:
        """Wait for the receipt of the transaction that an accepted E has ended, if anything ran."""
        meter, ran = self._meter, bool(self._meter.state.XT)
        began_s, delays = now_s(), receipt_delays()
        while not self._deadline.passed:
            arrival = await meter.new_receipt(self._deadline)
            last = meter.ledger.last
            if arrival is not None and arrival.is_new and last is not None and ended_since(last, ended_at):
                return await self._deliver(last)
            ran = ran or bool(meter.state.XT)
            if not (ran or meter.state.stands_still) and now_s() - began_s >= NOTHING_RAN_AFTER_S:
                return await self._deliver_last()
            await self._pause(next(delays), self._deadline)
        return self._failed("the running transaction was ended, but the meter has not given its receipt yet")

    # --- answers ---

    async def _deliver_last(self) -> TransactionStopResponse:
        """Return the last receipt of the meter, at which nothing runs."""
        ledger = self._meter.ledger
        if ledger.last is None:
            return self._failed("no transaction is in progress, and the meter has no receipt")
        is_strict = self._meter.settings.strict_transaction_ids and self._id != ""
        if is_strict and ledger.owner_of(ledger.last) not in ("", self._id):
            return self._failed("no receipt for this id: the last receipt belongs to another transaction")
        return await self._deliver(ledger.last)

    async def _deliver(self, receipt: Receipt) -> TransactionStopResponse:
        meter = self._meter
        owner = meter.ledger.owner_of(receipt) or self._id
        for entry in meter.ledger.entries:
            if entry.transaction_id in (owner, self._id) and entry.reported:
                meter.ledger.mark(entry, reported=False)
        meter.state.clear_interrupted()
        receipt = await self._undamaged(receipt)
        value = await meter.keeper.deliver(receipt, owner, meter.state, self._deadline)
        if meter.state.value is None or not meter.state.in_fault:
            await meter.publish_fresh(self._deadline.within(FRESH_VALUE_S))
        return TransactionStopResponse(TransactionRequestStatus.OK, value)

    async def _undamaged(self, receipt: Receipt) -> Receipt:
        """Read a receipt that does not verify once more: it may have been damaged in transit."""
        meter = self._meter
        if await meter.keeper.outcome(receipt, meter.state, self._deadline) is not Outcome.INVALID:
            return receipt
        try:
            again = await meter.client.transaction(timeout_s=self._deadline.within(ASKED_AGAIN_S).left_s)
        except MeterError:
            return receipt
        if again is None or again.text == receipt.text:
            return receipt
        if (again.pagination, again.identification) != (receipt.pagination, receipt.identification):
            return receipt
        is_whole = await meter.keeper.outcome(again, meter.state, self._deadline) is Outcome.VALID
        return again if is_whole else receipt

    def _failed(self, why: str) -> TransactionStopResponse:
        self._meter.log.limited("stops that failed").log(
            logging.WARNING, "no receipt was returned: %s", printable(why, limit=300)
        )
        return TransactionStopResponse(TransactionRequestStatus.UNEXPECTED_ERROR, error=why)
