"""Receipts on their way from the meter to the station: found, verified, handed over. Whose is whose, `Memory` knows."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iem_dcr.driver.keeping import digest_of, shown_PG, signed_value
from iem_dcr.driver.memory import judged
from iem_dcr.driver.timing import Deadline, now_s
from iem_dcr.driver.whose import Expected, Judgement, is_anothers, is_strange
from iem_dcr.errors import MeterError, NotUnderstoodError, printable
from iem_dcr.ocmf import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from iem_dcr.driver.keeping import Keeping
    from iem_dcr.driver.memory import Begun, Memory
    from iem_dcr.driver.meter import Meter
    from iem_dcr.ocmf import Receipt
    from iem_dcr.powermeter import SignedMeterValue

FIRST_WAIT_S = 0.02
LONGEST_WAIT_S = 0.25
TRANSACTION_LOOK_EVERY_S = 2.0
"""How often /transaction is looked at beside /receipt, for a meter whose /receipt has nothing."""
SECOND_THOUGHTS_S = 1.0
"""How long a tuple whose PG is new but whose contents disagree is looked at again before it is believed."""
LONG_THOUGHTS_S = 15.0
"""The same where more than one thing disagrees, or its ID is somebody else's: the right one may still be signed."""


@dataclass(frozen=True, slots=True)
class Found:
    """What came of waiting for a receipt.

    Attributes:
        receipt: the tuple.
        is_another_s: it is that of a later transaction: the meter has the one that is waited for no more.
    """

    receipt: Receipt
    is_another_s: bool = False


class Receipts:
    """Finds the receipts of one meter, and hands them over."""

    def __init__(self, meter: Meter, memory: Memory, keeping: Keeping) -> None:
        self._is_recalled = False
        self._told = ""
        self._meter = meter
        self._memory = memory
        self._keeping = keeping

    # --- what no stop waits for ---

    async def adopt(self, receipt: Receipt | None, deadline: Deadline) -> None:
        """Keep the meter's last tuple, read while no stop asked for it; as somebody's if it is one that is missing."""
        await self._recall(receipt)
        self._memory.unexamined = receipt is None and self._meter.last_PG is None
        if receipt is None or self._memory.is_here(receipt):
            return
        owner = self._memory.owner(receipt)
        begun = self._memory.begun_here()
        if owner is None and begun is not None and not self._meter.running:
            judgement, why = judged(receipt, begun.expected)
            # The clock may have been set since B, so a time that disagrees alone does not make it another's.
            if judgement is Judgement.DISAGREES and receipt.identification == begun.expected.ID:
                owner = begun
                self._report(receipt, why)
        if owner is not None:
            await self.hand_over(receipt, owner, deadline)
        else:
            self._keeping.found(receipt)

    async def _recall(self, last: Receipt | None) -> None:
        """Remember what an earlier process had noted; once, when it is known which meter answers."""
        if self._is_recalled or not self._meter.serial:
            return
        self._is_recalled = True
        recalled = await self._keeping.recall()
        if recalled is not None:
            self._memory.recall(recalled, last)

    async def filed(self, transaction_id: str) -> SignedMeterValue | None:
        """Return the receipt that an earlier process kept for an id, if this one knows nothing of the id."""
        if self._memory.has_started(transaction_id):
            return None
        value = await self._keeping.filed(transaction_id)
        if value is not None:
            self._memory.remember(transaction_id, value)
        return value

    async def is_of_another(self, receipt: Receipt, transaction_id: str, deadline: Deadline) -> bool:
        """Tell whether this process, or one before it, knows a receipt to be another transaction's than this one.

        One that is still missing here is kept for its own transaction.
        """
        owner = None if self._memory.is_here(receipt) else self._memory.owner(receipt)
        if owner is not None:
            await self.hand_over(receipt, owner, deadline)
        if not transaction_id:
            return False
        others = (value for known_id, value in self._memory.kept.items() if known_id != transaction_id)
        if any(value.signed_meter_data == receipt.text for value in others):
            return True
        return await self._keeping.is_of_another(receipt, transaction_id)

    # --- finding ---

    async def await_new(
        self,
        begun: Begun | None,
        expected: Expected,
        deadline: Deadline,
        pause: Callable[[float, Deadline], Awaitable[None]],
        *,
        ended_s: float | None,
    ) -> Found | None:
        """Wait for the tuple of a transaction that has ended: GET /receipt, now and then /transaction.

        Args:
            begun: the transaction, or None when this process did not begin it.
            expected: what is known of it.
            deadline: for all of it.
            pause: waits, and keeps the live values going meanwhile.
            ended_s: when E was accepted just now, on the loop's clock: /receipt will have the tuple first. None when
                that is long ago: /transaction is looked at from the start.

        Returns:
            The receipt, or that of a later transaction; None when the deadline came first. It is yet to be handed over.
        """
        look_at_s = now_s() if ended_s is None else ended_s + TRANSACTION_LOOK_EVERY_S
        disputed: tuple[Receipt, tuple[str, ...], Deadline] | None = None
        for wait_s in _waits(ended_s):
            await pause(wait_s, deadline)
            if deadline.passed:
                break
            receipt = await self._ask(self._meter.client.receipt, deadline)
            judgement, why = await self._sort_out(receipt, begun, expected, deadline)
            if judgement is Judgement.OTHER and now_s() >= look_at_s:
                look_at_s = now_s() + TRANSACTION_LOOK_EVERY_S
                receipt = await self._ask(self._meter.client.transaction, deadline)
                judgement, why = await self._sort_out(receipt, begun, expected, deadline)
            if receipt is None or judgement is Judgement.OTHER:
                continue
            if disputed is not None and disputed[0].text != receipt.text:
                self._keeping.found(disputed[0])
            if judgement is not Judgement.DISAGREES:
                self._memory.is_last_sure = True
                return Found(receipt, is_another_s=judgement is Judgement.LATER)
            if disputed is None or disputed[0].text != receipt.text:
                disputed = receipt, why, deadline.within(LONG_THOUGHTS_S if is_strange(why) else SECOND_THOUGHTS_S)
            elif disputed[2].passed:
                break
        if disputed is None:
            return None
        receipt, why, _ = disputed
        self._report(receipt, why)
        return Found(receipt, is_another_s=is_anothers(why))

    async def last(self, deadline: Deadline) -> Receipt | None:
        """Return the last tuple the meter signed (GET /transaction), None when it has signed none.

        Raises:
            MeterError: it could not be asked.
        """
        return await self._meter.client.transaction(timeout_s=deadline.left_s)

    async def _sort_out(
        self, receipt: Receipt | None, begun: Begun | None, expected: Expected, deadline: Deadline
    ) -> tuple[Judgement, tuple[str, ...]]:
        """Judge a tuple that came; one that is another transaction's of this process is kept for that one."""
        if receipt is None or self._memory.is_here(receipt):
            return Judgement.OTHER, ()
        judgement, why = judged(receipt, expected)
        if begun is not None or judgement is not Judgement.OURS:
            owner = self._memory.owner(receipt, begun)
            if owner is not None and owner is not begun:
                await self.hand_over(receipt, owner, deadline)
                return Judgement.OTHER, ()
        # A meter that once gave an older tuple for its last one makes a known one look new.
        if judgement is Judgement.DISAGREES and begun is not None and digest_of(receipt) in begun.seen_before:
            return Judgement.OTHER, ()
        # Pagination alone tells the last transaction's record from those before it, and nothing else.
        is_last = begun is None or (begun is self._memory.begun and not begun.doubtful)
        is_certain = judgement in (Judgement.OURS, Judgement.LATER)
        return (judgement, why) if is_certain or is_last else (Judgement.OTHER, ())

    def _report(self, receipt: Receipt, why: tuple[str, ...]) -> None:
        if why:
            self._meter.log.error("receipt %s is new by its PG, but %s", shown_PG(receipt), printable(", ".join(why)))

    async def _ask(self, node: Callable[..., Awaitable[Receipt | None]], deadline: Deadline) -> Receipt | None:
        try:
            return await node(timeout_s=deadline.left_s)
        except NotUnderstoodError as error:
            self._meter.log.failure("reading the receipt", "the meter's receipt cannot be read: %s", error.brief)
        except MeterError as error:
            self._meter.log.debug("no receipt yet: %s", error.brief)
        return None

    # --- handing over ---

    async def hand_over(
        self, receipt: Receipt, begun: Begun | None, deadline: Deadline, *, ended_as: str = ""
    ) -> SignedMeterValue:
        """Verify a receipt, keep it, remember it under its transaction, and return it for the station.

        The tuple is handed over as the meter gave it, also when it does not verify. ``ended_as`` is the id under which
        the station had a transaction ended that this process did not begin.
        """
        meter = self._meter
        meter.last_PG = receipt.pagination
        self._keeping.keep_found()
        receipt, outcome = await self._verified(receipt, deadline)
        await self._keeping.keep(receipt, begun.id if begun is not None else ended_as, outcome, deadline)
        value = signed_value(receipt, meter.public_key)
        if begun is not None:
            self._memory.settle(begun, value)
        if receipt.text != self._told:
            self._told = receipt.text
            meter.log.info("receipt %s", shown_PG(receipt))
        return value

    async def _verified(self, receipt: Receipt, deadline: Deadline) -> tuple[Receipt, Outcome | None]:
        """Verify a receipt; one that does not verify is fetched once more, in case it was damaged on its way.

        There may be no time left for it: a receipt that is not checked is better than one that comes too late.
        """
        meter = self._meter
        if not meter.settings.verify_receipts:
            return receipt, None
        verification = await self._keeping.verify(receipt, meter.public_key, deadline)
        if verification.outcome is Outcome.INVALID:
            again = await self._ask(meter.client.transaction, deadline.within(LONGEST_WAIT_S * 8))
            if again is not None and again.pagination == receipt.pagination and again.text != receipt.text:
                second = await self._keeping.verify(again, meter.public_key, deadline)
                if second.outcome is Outcome.VALID:
                    return again, second.outcome
        if verification.outcome is not Outcome.VALID:
            meter.log.log(
                logging.ERROR if receipt.text != self._told else logging.DEBUG,
                "receipt %s is handed over although it %s: %s",
                shown_PG(receipt),
                "does not verify" if verification.outcome is Outcome.INVALID else "could not be verified",
                printable(verification.reason),
            )
        return receipt, verification.outcome


def _waits(ended_s: float | None) -> Iterator[float]:
    """Yield the waits between looks for a receipt, seconds; the first one counts from E."""
    yield FIRST_WAIT_S if ended_s is None else max(0.0, ended_s + FIRST_WAIT_S - now_s())
    wait_s = FIRST_WAIT_S
    while True:
        wait_s = min(wait_s * 2, LONGEST_WAIT_S)
        yield wait_s
