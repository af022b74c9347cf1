"""Receipts on their way from the meter to the station: found, verified, remembered.

`Receipts` is the memory that keeps one transaction's receipt from being handed over as another's.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from iem_dcr import ocmf
from iem_dcr.driver.decisions import ID_OF_ANOTHER, Expected, Facts, Judgement, began_apart_s, judge
from iem_dcr.driver.keeping import REMEMBERED, digest_of, shown_PG, signed_value
from iem_dcr.driver.meter import seconds_since
from iem_dcr.driver.timing import Deadline, now_s
from iem_dcr.errors import MeterError, ReceiptError, printable
from iem_dcr.ocmf import Outcome
from iem_dcr.powermeter import TransactionReq

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from iem_dcr.driver.keeping import Keeping
    from iem_dcr.driver.meter import Meter
    from iem_dcr.ocmf import Receipt
    from iem_dcr.powermeter import SignedMeterValue

T = TypeVar("T")

FIRST_WAIT_S = 0.02
LONGEST_WAIT_S = 0.25
TRANSACTION_LOOK_EVERY_S = 2.0
"""How often /transaction is looked at beside /receipt, for a meter whose /receipt has nothing."""
SECOND_THOUGHTS_S = 1.0
"""How long a tuple whose PG is new but whose contents disagree is looked at again before it is believed."""
LONG_THOUGHTS_S = 15.0
"""The same where more than one thing disagrees, or its ID is somebody else's: the right one may still be signed."""
MISSED_FOR_S = 600.0
"""How long the receipt of a transaction that ended is looked for while no stop asks for it."""
TOLERANCE = timedelta(seconds=60)
EARLY = timedelta(seconds=2)
"""A transaction begins after its meter's clock was read for it, which shows whole seconds."""


@dataclass(slots=True)
class Begun:
    """A transaction this process began, or may have begun, and whose receipt it has not had.

    Attributes:
        request: the station's request.
        expected: what its receipt will show.
        doubtful: whether B was acted on is not known, and the station has not been told that it was begun.
        ended_s: when it ended, or is said to have, on the loop's clock; None while it runs.
        seen_over: it was seen not running any more.
        seen_before: digests of the tuples that had been seen when it was begun: none of them is its own.
    """

    request: TransactionReq
    expected: Expected
    doubtful: bool = False
    ended_s: float | None = None
    seen_over: bool = False
    seen_before: frozenset[bytes] = frozenset()

    @property
    def id(self) -> str:
        """The station's id of the transaction."""
        return self.request.transaction_id


class Receipts:
    """The receipts of one meter: what keeps one transaction's from being handed over as another's.

    Attributes:
        begun: the transaction begun last, while its receipt is still to come, or None.
        older: those begun before it whose receipts never came, the latest last.
        kept: receipts by transaction id, the latest last.
        refused: ids of starts that were refused.
        unexamined: the meter's last tuple could not be read when it was last due, and may be one that is missing.
        is_last_sure: the last tuple that is known is that of a transaction which was ended here; one that was only
            found may have been followed by another that the meter was still signing.
    """

    def __init__(self, meter: Meter, keeping: Keeping) -> None:
        self.begun: Begun | None = None
        self.older: OrderedDict[str, Begun] = OrderedDict()
        self.kept: OrderedDict[str, SignedMeterValue] = OrderedDict()
        self.refused: OrderedDict[str, None] = OrderedDict()
        self.unexamined = False
        self.is_last_sure = False
        self._is_recalled = False
        self._handed: set[str] = set()
        self._told = ""
        self._meter = meter
        self._keeping = keeping

    # --- remembering ---

    def refuse(self, transaction_id: str) -> None:
        """Remember that a start was refused, so that its stop gets no other's receipt."""
        if transaction_id:
            _remember(self.refused, transaction_id, None)
            if transaction_id in self._handed:
                self._handed.discard(transaction_id)
                self.kept.pop(transaction_id, None)
            if not self._is_known(transaction_id):
                self._keeping.refused(transaction_id)

    def begin(self, begun: Begun) -> None:
        """Remember a transaction that is being begun, doubtful as yet, before anything says that it was."""
        if self.begun is not begun:
            begun.seen_before = self._keeping.seen()
            if self.begun is not None:
                self._set_aside(self.begun)
        self.begun = begun
        self.is_last_sure = False
        self._keeping.keep_found()

    def confirm(self, begun: Begun) -> None:
        """Take note that a transaction was begun and the station is told so."""
        begun.doubtful = False
        begun.ended_s, begun.seen_over = None, False
        self.begun = begun
        for memory in (self.refused, self.kept, self.older):
            memory.pop(begun.id, None)
        self._handed.discard(begun.id)

    def seen_running(self) -> None:
        """Take note that the meter has an active transaction: where the last one was seen over, it is another's."""
        begun = self.begun
        if begun is not None and begun.seen_over and not begun.doubtful:
            self._set_aside(begun)
            self.begun = None

    def seen_idle(self) -> None:
        """Take note that the meter has none: the one begun last, if there is one, is over."""
        if self.begun is not None:
            self.begun.seen_over = True
            if self.begun.ended_s is None:
                self.begun.ended_s = now_s()

    def _set_aside(self, begun: Begun) -> None:
        if begun.ended_s is None:
            begun.ended_s = now_s()
        _remember(self.older, begun.id, begun)

    def withdraw(self, begun: Begun) -> None:
        """Take note that a transaction was certainly not begun."""
        if self.begun is begun:
            self.begun = None

    def remember(self, transaction_id: str, value: SignedMeterValue) -> None:
        """Remember a receipt under the id it is for."""
        if transaction_id:
            _remember(self.kept, transaction_id, value)

    def again(self, transaction_id: str) -> SignedMeterValue | None:
        """Return the receipt that is here for an id, unless a newer transaction of that id is under way."""
        if not transaction_id or (self.begun is not None and self.begun.id == transaction_id):
            return None
        return self.kept.get(transaction_id)

    async def filed(self, transaction_id: str) -> SignedMeterValue | None:
        """Return the receipt that an earlier process kept for an id, if this one knows nothing of the id."""
        if self.is_begun(transaction_id) or transaction_id in self.older or transaction_id in self.refused:
            return None
        value = await self._keeping.filed(transaction_id)
        if value is not None:
            self.remember(transaction_id, value)
        return value

    def was_handed(self, value: SignedMeterValue) -> None:
        """Take note that the station was given a receipt."""
        self._handed.update(transaction_id for transaction_id, kept in self.kept.items() if kept is value)
        self._handed &= self.kept.keys()

    @property
    def may_still_come(self) -> bool:
        """Whether a receipt is missing of a transaction that ended not too long ago."""
        return self.misses_another(None)

    def misses_another(self, than: Begun | None) -> bool:
        """Whether one is missing of another transaction than this one: what the meter signs next would cover it."""
        missing = [*self.older.values(), *([self.begun] if self.begun is not None else [])]
        return any(
            begun is not than and begun.ended_s is not None and seconds_since(begun.ended_s) < MISSED_FOR_S
            for begun in missing
        )

    def is_begun(self, transaction_id: str) -> bool:
        """Whether a stop for this id is for the transaction that was begun last."""
        return self.begun is not None and transaction_id in ("", self.begun.id)

    def is_orphaned(self, begun: Begun) -> bool:
        """Whether the meter that the transaction was begun on is not the one that answers."""
        return begun.expected.MS is not None and self._meter.serial not in ("", begun.expected.MS)

    def begun_here(self) -> Begun | None:
        """Return the transaction begun last if it was begun on the meter that answers."""
        return None if self.begun is None or self.is_orphaned(self.begun) else self.begun

    async def adopt(self, receipt: Receipt | None, deadline: Deadline) -> None:
        """Keep the meter's last tuple, read while no stop asked for it; as somebody's if it is one that is missing."""
        await self._recall()
        self.unexamined = receipt is None and self._meter.last_PG is None
        if receipt is None or self._is_here(receipt):
            return
        owner = self._owner(receipt)
        begun = self.begun_here()
        if owner is None and begun is not None and not self._meter.running:
            judgement, why = self._judge(receipt, begun.expected)
            # The clock may have been set since B, so a time that disagrees alone does not make it another's.
            if judgement is Judgement.DISAGREES and receipt.identification == begun.expected.ID:
                owner = begun
                self._report(receipt, why)
        if owner is not None:
            await self.hand_over(receipt, owner, deadline)
        else:
            self._keeping.found(receipt)

    async def _recall(self) -> None:
        """Take over what an earlier process began and had no receipt of; once, when it is known which meter answers."""
        if self._is_recalled or not self._meter.serial:
            return
        self._is_recalled = True
        recalled = await self._keeping.recall()
        if recalled is None:
            return
        for noted in recalled.awaited:
            if self._is_known(noted.transaction_id) or noted.transaction_id in self.refused:
                continue
            request = TransactionReq("", noted.transaction_id, "", "", identification_data=noted.ID)
            expected = Expected(PG_before=noted.PG_before, ID=noted.ID, MS=noted.meter, began=noted.began)
            self._set_aside(Begun(request, expected))
        if self.begun is None and self._meter.running and self.older:
            # What runs is what was begun last; the others have ended.
            _, self.begun = self.older.popitem()
            self.begun.ended_s = None
        for transaction_id in recalled.refused:
            if not self._is_known(transaction_id):
                _remember(self.refused, transaction_id, None)

    def _is_known(self, transaction_id: str) -> bool:
        """Whether something was begun under this id that has its receipt here, or may have one yet."""
        is_begun = self.begun is not None and self.begun.id == transaction_id
        return is_begun or transaction_id in self.older or transaction_id in self.kept

    async def is_of_another(self, receipt: Receipt, transaction_id: str, deadline: Deadline) -> bool:
        """Tell whether this process, or one before it, knows a receipt to be another transaction's than this one.

        One that is still missing here is kept for its own transaction.
        """
        owner = None if self._is_here(receipt) else self._owner(receipt)
        if owner is not None:
            await self.hand_over(receipt, owner, deadline)
        if not transaction_id:
            return False
        others = (value for known_id, value in self.kept.items() if known_id != transaction_id)
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
    ) -> Receipt | None:
        """Wait for the tuple of a transaction that has ended: GET /receipt, now and then /transaction.

        Args:
            begun: the transaction, or None when this process did not begin it.
            expected: what is known of it.
            deadline: for all of it.
            pause: waits, and keeps the live values going meanwhile.
            ended_s: when E was accepted just now, on the loop's clock: /receipt will have the tuple first. None when
                that is long ago: /transaction is looked at from the start.

        Returns:
            The receipt, or None when the deadline came first.
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
            if judgement is Judgement.OURS:
                self.is_last_sure = True
                return receipt
            if disputed is None or disputed[0].text != receipt.text:
                is_strange = len(why) > 1 or ID_OF_ANOTHER in why
                disputed = receipt, why, deadline.within(LONG_THOUGHTS_S if is_strange else SECOND_THOUGHTS_S)
            elif disputed[2].passed:
                break
        if disputed is None:
            return None
        receipt, why, _ = disputed
        self._report(receipt, why)
        return receipt

    async def last(self, deadline: Deadline) -> Receipt | None:
        """Return the last tuple the meter signed (GET /transaction), None when it has signed none.

        Raises:
            MeterError: it could not be asked.
            ReceiptError: what it has is no tuple.
        """
        text = await self._meter.client.transaction(timeout_s=deadline.left_s)
        return None if text is None else ocmf.parse(text)

    async def _sort_out(
        self, receipt: Receipt | None, begun: Begun | None, expected: Expected, deadline: Deadline
    ) -> tuple[Judgement, tuple[str, ...]]:
        """Judge a tuple that came; one that is another transaction's of this process is kept for that one."""
        if receipt is None or self._is_here(receipt):
            return Judgement.OTHER, ()
        judgement, why = self._judge(receipt, expected)
        if begun is not None or judgement is not Judgement.OURS:
            owner = self._owner(receipt, begun)
            if owner is not None and owner is not begun:
                await self.hand_over(receipt, owner, deadline)
                return Judgement.OTHER, ()
        # A meter that once gave an older tuple for its last one makes a known one look new.
        if judgement is Judgement.DISAGREES and begun is not None and digest_of(receipt) in begun.seen_before:
            return Judgement.OTHER, ()
        # Pagination alone tells the last transaction's record from those before it, and nothing else.
        is_last = begun is None or (begun is self.begun and not begun.doubtful)
        return (judgement, why) if judgement is Judgement.OURS or is_last else (Judgement.OTHER, ())

    def _judge(self, receipt: Receipt, expected: Expected) -> tuple[Judgement, tuple[str, ...]]:
        return judge(facts_of(receipt), expected, tolerance=TOLERANCE, early=EARLY)

    def _is_here(self, receipt: Receipt) -> bool:
        return any(value.signed_meter_data == receipt.text for value in self.kept.values())

    def _owner(self, receipt: Receipt, awaited: Begun | None = None) -> Begun | None:
        """Return the transaction that a tuple agrees with in everything, if there is one.

        One card may have begun several within a minute: then it is that of the one that began nearest to it.
        ``awaited`` is known to have ended.
        """
        begun = self.begun_here()
        has_ended = begun is not None and (begun is awaited or not self._meter.running)
        candidates = [*([begun] if begun is not None and has_ended else []), *reversed(self.older.values())]
        facts = facts_of(receipt)
        agreeing = [
            candidate
            for candidate in candidates
            if not self.is_orphaned(candidate) and self._judge(receipt, candidate.expected)[0] is Judgement.OURS
        ]
        return min(agreeing, key=lambda candidate: began_apart_s(facts, candidate.expected), default=None)

    def _report(self, receipt: Receipt, why: tuple[str, ...]) -> None:
        if why:
            self._meter.log.error("receipt %s is new by its PG, but %s", shown_PG(receipt), printable(", ".join(why)))

    async def _ask(self, node: Callable[..., Awaitable[str | None]], deadline: Deadline) -> Receipt | None:
        try:
            text = await node(timeout_s=deadline.left_s)
            return None if text is None else ocmf.parse(text)
        except MeterError as error:
            self._meter.log.debug("no receipt yet: %s", error.brief)
        except ReceiptError as error:
            self._meter.log.failure("reading the receipt", "the meter's receipt cannot be read: %s", error)
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
            self.remember(begun.id, value)
            self.withdraw(begun)
            if self.older.get(begun.id) is begun:
                del self.older[begun.id]
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


def facts_of(receipt: Receipt) -> Facts:
    """Return what a tuple says of itself."""
    begin = receipt.begin
    last = receipt.readings[-1] if receipt.readings else None
    return Facts(
        PG=receipt.pagination,
        ID=receipt.identification,
        MS=receipt.meter_serial,
        began=begin.TM.instant if begin is not None and begin.TM is not None else None,
        ended=last.TM.instant if last is not None and last.TM is not None else None,
    )


def _remember(memory: OrderedDict[str, T], key: str, value: T) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)
