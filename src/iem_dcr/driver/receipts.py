"""Receipts on their way from the meter to the station: found, verified, kept, remembered.

`Receipts` is the memory that keeps one transaction's receipt from being handed over as another's.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from iem_dcr import ocmf
from iem_dcr.driver.decisions import Facts, Judgement, judge
from iem_dcr.driver.station import KeptReceipt
from iem_dcr.driver.timing import Deadline, now_s
from iem_dcr.errors import MeterError, ReceiptError, printable
from iem_dcr.ocmf import Outcome
from iem_dcr.powermeter import SignedMeterValue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from iem_dcr.driver.decisions import Expected
    from iem_dcr.driver.meter import Meter
    from iem_dcr.driver.station import ReceiptSink
    from iem_dcr.ocmf import Receipt, Verification
    from iem_dcr.powermeter import TransactionReq

T = TypeVar("T")

FIRST_WAIT_S = 0.02
LONGEST_WAIT_S = 0.25
TRANSACTION_LOOK_EVERY_S = 2.0
"""How often /transaction is looked at beside /receipt, for a meter whose /receipt has nothing."""
SECOND_THOUGHTS_S = 1.0
"""How long a tuple whose PG is new but whose contents disagree is looked at again before it is believed."""
TOLERANCE = timedelta(seconds=60)
REMEMBERED = 64


@dataclass(slots=True)
class Begun:
    """A transaction this process began, or may have begun, and whose receipt it has not had.

    Attributes:
        request: the station's request.
        expected: what its receipt will show.
        doubtful: whether B was acted on was not known when the start was answered, and the answer was an error.
        ended_s: when it was first seen not running any more, on the loop's clock; None while it runs.
    """

    request: TransactionReq
    expected: Expected
    doubtful: bool = False
    ended_s: float | None = None

    @property
    def id(self) -> str:
        """The station's id of the transaction."""
        return self.request.transaction_id


class MemorySink:
    """Keeps the latest receipts in memory.

    Attributes:
        receipts: the latest last.
    """

    def __init__(self) -> None:
        self.receipts: deque[KeptReceipt] = deque(maxlen=REMEMBERED)

    async def keep(self, kept: KeptReceipt) -> None:
        """Keep a receipt, and forget the oldest when there are too many."""
        self.receipts.append(kept)


class Receipts:
    """The receipts of one meter.

    Attributes:
        begun: the transaction whose receipt is still to come, or None.
        kept: receipts by transaction id, the latest last.
        refused: ids of starts that were refused.
    """

    def __init__(self, meter: Meter, sink: ReceiptSink) -> None:
        self.begun: Begun | None = None
        self.kept: OrderedDict[str, SignedMeterValue] = OrderedDict()
        self.refused: OrderedDict[str, None] = OrderedDict()
        self._meter = meter
        self._sink = sink
        self._noticed: Receipt | None = None

    # --- remembering ---

    def refuse(self, transaction_id: str) -> None:
        """Remember that a start was refused, so that its stop gets no other's receipt."""
        if transaction_id:
            _remember(self.refused, transaction_id, None)

    def begin(self, begun: Begun) -> None:
        """Remember a transaction that was begun."""
        self.begun = begun
        if not begun.doubtful:
            self.refused.pop(begun.id, None)
            self.kept.pop(begun.id, None)

    def remember(self, transaction_id: str, value: SignedMeterValue) -> None:
        """Remember a receipt under the id it was handed over for."""
        if transaction_id:
            _remember(self.kept, transaction_id, value)

    def notice(self, receipt: Receipt) -> None:
        """Take note of the last tuple, read while nothing asked for it; `adopt` looks at whose it is."""
        self._noticed = receipt

    async def adopt(self, deadline: Deadline) -> None:
        """Keep the noticed tuple if it is the receipt that is still to come."""
        receipt, self._noticed = self._noticed, None
        begun = self.begun
        if receipt is None or begun is None or self._meter.running or self.is_orphaned(begun):
            return
        if self._judge(receipt, begun.expected)[0] is Judgement.OURS:
            await self.hand_over(receipt, begun, deadline)

    def is_orphaned(self, begun: Begun) -> bool:
        """Whether the meter that the transaction was begun on is not the one that answers."""
        return begun.expected.MS is not None and self._meter.serial not in ("", begun.expected.MS)

    # --- finding ---

    async def await_new(
        self,
        expected: Expected,
        deadline: Deadline,
        pause: Callable[[float, Deadline], Awaitable[None]],
        *,
        ended_s: float | None,
    ) -> Receipt | None:
        """Wait for the tuple of a transaction that has ended: GET /receipt, now and then /transaction.

        Args:
            expected: what is known of the transaction.
            deadline: for all of it.
            pause: waits, and keeps the live values going meanwhile.
            ended_s: when E was accepted just now, on the loop's clock: /receipt will have the tuple first. None when
                that is long ago: /transaction is looked at from the start.

        Returns:
            The receipt, or None when the deadline came first.
        """
        look_at_s = now_s() if ended_s is None else ended_s + TRANSACTION_LOOK_EVERY_S
        disputed: tuple[Receipt, Deadline] | None = None
        for wait_s in _waits(ended_s):
            await pause(wait_s, deadline)
            if deadline.passed:
                break
            receipt = await self._ask(self._meter.client.receipt, deadline)
            judgement, why = self._judge(receipt, expected)
            if judgement is Judgement.OTHER and now_s() >= look_at_s:
                look_at_s = now_s() + TRANSACTION_LOOK_EVERY_S
                receipt = await self._ask(self._meter.client.transaction, deadline)
                judgement, why = self._judge(receipt, expected)
            if receipt is None or judgement is Judgement.OTHER:
                continue
            if judgement is Judgement.OURS:
                return receipt
            if disputed is None or disputed[0].text != receipt.text:
                disputed = receipt, deadline.within(SECOND_THOUGHTS_S)
            elif disputed[1].passed:
                self._meter.log.error("receipt %s is new by its PG, but %s", shown_PG(receipt), printable(why))
                return receipt
        return disputed[0] if disputed is not None else None

    async def last(self, deadline: Deadline) -> Receipt | None:
        """Return the last tuple the meter signed (GET /transaction), None when it has signed none.

        Raises:
            MeterError: it could not be asked.
            ReceiptError: what it has is no tuple.
        """
        text = await self._meter.client.transaction(timeout_s=deadline.left_s)
        return None if text is None else ocmf.parse(text)

    def _judge(self, receipt: Receipt | None, expected: Expected) -> tuple[Judgement, str]:
        if receipt is None:
            return Judgement.OTHER, ""
        return judge(facts_of(receipt), expected, tolerance=TOLERANCE)

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

    async def hand_over(self, receipt: Receipt, begun: Begun | None, deadline: Deadline) -> SignedMeterValue:
        """Verify a receipt, keep it, remember it under its transaction, and return it for the station.

        The tuple is handed over as the meter gave it, also when it does not verify.
        """
        meter = self._meter
        meter.last_PG = receipt.pagination
        receipt, outcome = await self._verified(receipt, deadline)
        transaction_id = begun.id if begun is not None else ""
        await self._keep(KeptReceipt(receipt, transaction_id, meter.public_key, outcome))
        end = receipt.end or (receipt.readings[-1] if receipt.readings else None)
        value = SignedMeterValue(receipt.text, meter.public_key, end.TM.instant if end and end.TM else None)
        if begun is not None:
            self.remember(begun.id, value)
            if self.begun is begun:
                self.begun = None
        meter.log.info("receipt %s", shown_PG(receipt))
        return value

    async def _keep(self, kept: KeptReceipt) -> None:
        try:
            await self._sink.keep(kept)
        except Exception:
            self._meter.log.exception("receipt %s was not kept", shown_PG(kept.receipt))

    async def _verified(self, receipt: Receipt, deadline: Deadline) -> tuple[Receipt, Outcome | None]:
        """Verify a receipt; one that does not verify is fetched once more, in case it was damaged on its way."""
        meter = self._meter
        if not meter.settings.verify_receipts:
            return receipt, None
        verification = await self._verify(receipt)
        if verification.outcome is Outcome.INVALID:
            again = await self._ask(meter.client.transaction, deadline.within(LONGEST_WAIT_S * 8))
            if again is not None and again.pagination == receipt.pagination and again.text != receipt.text:
                second = await self._verify(again)
                if second.outcome is Outcome.VALID:
                    return again, second.outcome
        if verification.outcome is not Outcome.VALID:
            meter.log.error(
                "receipt %s is handed over although it %s: %s",
                shown_PG(receipt),
                "does not verify" if verification.outcome is Outcome.INVALID else "could not be verified",
                printable(verification.reason),
            )
        return receipt, verification.outcome

    async def _verify(self, receipt: Receipt) -> Verification:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, ocmf.verify, receipt, self._meter.public_key)


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


def shown_PG(receipt: Receipt) -> str:  # noqa: N802  PG is OCMF's name
    """Return a receipt's pagination for a log line."""
    return printable(receipt.pagination or "without PG", limit=40)


def _remember(memory: OrderedDict[str, T], key: str, value: T) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)
