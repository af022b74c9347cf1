"""Stopping a transaction: whatever happened to it, its own receipt is handed over, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iem_dcr.driver import whose
from iem_dcr.driver.ending import MeterPart
from iem_dcr.driver.meter import seconds_since
from iem_dcr.driver.timing import now_s
from iem_dcr.driver.whose import Claim
from iem_dcr.errors import MeterError, ReceiptError, printable
from iem_dcr.powermeter import TransactionRequestStatus, TransactionStopResponse

if TYPE_CHECKING:
    from iem_dcr.driver.ending import Ending, Parts
    from iem_dcr.driver.memory import Begun
    from iem_dcr.driver.receipts import Found
    from iem_dcr.driver.timing import Deadline
    from iem_dcr.ocmf import Receipt
    from iem_dcr.powermeter import SignedMeterValue

TRIES_EVERY_S = 1.0
READ_WAIT_S = 10.0
"""How long a meter that runs nothing this process knows of is asked when it does not answer."""
LATE_RECEIPT_S = 15.0
"""How long a transaction that ended by itself may take to become a receipt."""


class Stopping(MeterPart):
    """Stops the transactions of one meter."""

    def __init__(self, parts: Parts, ending: Ending) -> None:
        """``ending`` ends what runs."""
        super().__init__(parts)
        self._ending = ending

    async def stop(self, transaction_id: str, deadline: Deadline) -> TransactionStopResponse:
        """End a transaction and return its receipt. Never raises for anything a meter or a station can do."""
        response = await self._stop(transaction_id, deadline)
        if response.signed_meter_value is not None:
            self._memory.was_handed(response.signed_meter_value)
        return response

    async def _stop(self, transaction_id: str, deadline: Deadline) -> TransactionStopResponse:
        memory = self._memory
        value = memory.again(transaction_id) or await self._receipts.filed(transaction_id)
        if value is not None:
            return _stopped(value)
        problem = await self._look_to_stop(deadline)
        if problem:
            if memory.is_begun(transaction_id):
                self._ending.watch = True
            return self._not_stopped(problem)
        value = memory.again(transaction_id)
        if value is not None:
            return _stopped(value)
        if memory.begun is not None and memory.is_begun(transaction_id) and memory.begun_here() is None:
            return await self._stop_on_another_meter(memory.begun, deadline)
        return await self._stop_as_claimed(transaction_id, deadline)

    async def _stop_as_claimed(self, transaction_id: str, deadline: Deadline) -> TransactionStopResponse:
        memory = self._memory
        if self._meter.running:
            memory.seen_running()
        else:
            memory.seen_idle()
        begun = memory.begun
        claim = whose.claim(
            transaction_id,
            running=self._meter.running,
            begun=begun.id if begun is not None else None,
            older=memory.older,
            refused=memory.refused,
        )
        if claim is Claim.END:
            return await self._stop_running(begun, transaction_id, deadline)
        if claim is Claim.AWAIT:
            awaited = begun if begun is not None and memory.is_begun(transaction_id) else memory.older[transaction_id]
            return await self._stop_ended(awaited, deadline)
        if claim is Claim.LAST:
            return await self._last(transaction_id, deadline)
        if claim is Claim.ANOTHER_RUNS:
            return self._not_stopped("another transaction runs, which was begun under another id; it goes on")
        if claim is Claim.END_UNCLAIMED:
            await self._stop_running(None, "", deadline)
        return self._not_stopped("no signed transaction for this id")

    async def _look_to_stop(self, deadline: Deadline) -> str:
        """Read the meter's state, waiting for a meter that does not answer. Returns why it could not be, or ""."""
        meter = self._meter
        patience = deadline
        if not meter.reached:
            patience = deadline.within(self._settings.initial_connection_wait_ms / 1000)
        elif self._memory.begun is None and not meter.running:
            patience = deadline.within(READ_WAIT_S)
        while True:
            try:
                if not meter.reached:
                    await self._receipts.adopt(await self._setup.initialise(patience), deadline)
                else:
                    await meter.read(deadline)
            except MeterError as error:
                meter.doubted = True
                why = f"the meter does not answer: {error}"
            else:
                return meter.wrong
            await self._pause(TRIES_EVERY_S if not meter.reached else self._retry_s, patience)
            if patience.passed:
                return why

    async def _stop_running(
        self, begun: Begun | None, transaction_id: str, deadline: Deadline
    ) -> TransactionStopResponse:
        why, found = await self._ending.end(begun, deadline)
        if found is None:
            return self._not_stopped(why)
        if found.is_another_s:
            return await self._superseded(found, deadline)
        value = await self._receipts.hand_over(found.receipt, begun, deadline, ended_as=transaction_id)
        if begun is None:
            self._memory.remember(transaction_id, value)
        return _stopped(value)

    async def _stop_ended(self, begun: Begun, deadline: Deadline) -> TransactionStopResponse:
        """Find the receipt of a transaction that does not run any more: only one with a new PG will do."""
        if begun.ended_s is None:
            begun.ended_s = now_s()
        left_s = max(0.0, begun.ended_s + LATE_RECEIPT_S - now_s())
        found = await self._receipts.await_new(
            begun, begun.expected, deadline.within(max(left_s, TRIES_EVERY_S)), self._pause, ended_s=None
        )
        value = self._memory.again(begun.id)
        if found is None and value is not None:
            return _stopped(value)
        if found is None:
            return self._not_stopped("the meter has no receipt for this transaction")
        if found.is_another_s:
            return await self._superseded(found, deadline)
        if self._memory.begun is begun:
            self._ending.watch = False
        return _stopped(await self._receipts.hand_over(found.receipt, begun, deadline))

    async def _superseded(self, found: Found, deadline: Deadline) -> TransactionStopResponse:
        """Keep what came, and refuse it to this stop, whose own receipt the meter has no more."""
        await self._receipts.hand_over(found.receipt, None, deadline)
        return self._not_stopped("the meter has signed another transaction instead, and keeps only one receipt")

    async def _stop_on_another_meter(self, begun: Begun, deadline: Deadline) -> TransactionStopResponse:
        if self._meter.running:
            await self._stop_running(None, "", deadline)
        return self._not_stopped(
            f"the meter was exchanged: serial {printable(begun.expected.MS)} has the receipt of this transaction, "
            f"serial {printable(self._meter.serial)} answers"
        )

    async def _last(self, transaction_id: str, deadline: Deadline) -> TransactionStopResponse:
        """Return the last tuple the meter signed. Nothing runs, and this process began nothing that is still open."""
        patience = deadline.within(READ_WAIT_S)
        while True:
            try:
                receipt = await self._receipts.last(deadline)
            except (MeterError, ReceiptError) as error:
                receipt, why, is_final = None, f"the last receipt cannot be read: {error}", patience.passed
            else:
                why = "the meter has never signed a transaction"
                if receipt is not None and await self._receipts.is_of_another(receipt, transaction_id, deadline):
                    receipt, why = None, "the meter's last receipt is that of another transaction"
                is_final = not self._may_come_late(transaction_id, receipt)
            if is_final or deadline.passed:
                break
            await self._pause(TRIES_EVERY_S, deadline)
        if receipt is None:
            return self._not_stopped(why)
        value = await self._receipts.hand_over(receipt, None, deadline)
        self._memory.remember(transaction_id, value)
        return _stopped(value)

    def _may_come_late(self, transaction_id: str, receipt: Receipt | None) -> bool:
        """Whether the meter may still be closing or signing the transaction this stop is for.

        The last tuple would then be an older session's. After a power-up the meter closes it by itself; a tuple that
        was ended by a power failure is the one itself.
        """
        if self._memory.is_signing_nobodys(receipt, LATE_RECEIPT_S):
            return True
        powered_up_s = self._setup.found_powered_up_s
        if not transaction_id or seconds_since(powered_up_s) >= LATE_RECEIPT_S:
            return False
        return receipt is None or not receipt.readings or receipt.readings[-1].TX != "P"

    def _not_stopped(self, why: str) -> TransactionStopResponse:
        self._meter.log.seldom("stops that failed").warning("no receipt for the stop: %s", why)
        return TransactionStopResponse(TransactionRequestStatus.UNEXPECTED_ERROR, error=why)


def _stopped(value: SignedMeterValue) -> TransactionStopResponse:
    return TransactionStopResponse(TransactionRequestStatus.OK, value)
