"""Keeping the receipts of one meter, and finding again what was kept by an earlier process."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, deque
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from iem_dcr import ocmf
from iem_dcr.driver.station import KeptReceipt, NotedBegin
from iem_dcr.driver.timing import Deadline
from iem_dcr.errors import JournalError, ReceiptError, printable
from iem_dcr.ocmf import Outcome, Verification
from iem_dcr.powermeter import SignedMeterValue

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from iem_dcr.driver.meter import Meter
    from iem_dcr.driver.station import RecalledNotes, ReceiptJournal, ReceiptSink
    from iem_dcr.driver.whose import Expected
    from iem_dcr.ocmf import Receipt

T = TypeVar("T")

KEEPING_WAIT_S = 0.5
"""How long a stop waits for its receipt to be kept, and for what the journal knows of it."""
VERIFYING_WAIT_S = 5.0
LAST_WAIT_S = 0.2
"""How long each of both may still take where the time of a command is over; its answer is due half a second later."""
REMEMBERED = 64
JOURNAL = "the journal of receipts"


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


class Keeping:
    """Has the receipts of one meter kept, by a sink and by a journal where there is one.

    What is only found in the meter is kept in the background, and not before the first live value: its check would
    import ``cryptography``.
    """

    def __init__(self, meter: Meter, sink: ReceiptSink, journal: ReceiptJournal | None) -> None:
        self._meter = meter
        self._journal = journal
        self._keepers: tuple[ReceiptSink, ...] = (sink,) if journal is None else (journal, sink)
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._found: deque[KeptReceipt] = deque()
        self._is_live = False
        self._keeps_found = journal is not None or not isinstance(sink, MemorySink)

    # --- keeping ---

    async def keep(self, receipt: Receipt, transaction_id: str, outcome: Outcome | None, deadline: Deadline) -> None:
        """Have a receipt kept that is about to be handed over.

        A keeper that takes its time goes on; the station is not kept waiting.
        """
        self._saw(receipt)
        kept = replace(self._made(receipt), transaction_id=transaction_id, outcome=outcome, found=False)
        tasks = {self._start(self._kept_by(keeper, kept)) for keeper in self._keepers}
        wait_s = max(deadline.within(KEEPING_WAIT_S).left_s, LAST_WAIT_S)
        _, late = await asyncio.wait(tasks, timeout=wait_s)
        if late:
            self._meter.log.warning("receipt %s is still being kept when it is handed over", shown_PG(receipt))

    def found(self, receipt: Receipt) -> None:
        """Have a tuple kept that was found in the meter and is nobody's yet. One that was seen before is not again."""
        if self._saw(receipt) and self._keeps_found:
            self._found.append(self._made(receipt))
            if self._is_live:
                self.keep_found()

    def keep_found(self) -> None:
        """Take note that live values come, and have kept in the background what was found."""
        self._is_live = True
        while self._found:
            self._start(self._keep_found(self._found.popleft()))

    async def close(self) -> None:
        """Give what is still being kept a last moment."""
        while self._found:
            kept = self._found.popleft()
            for keeper in self._keepers:
                self._start(self._kept_by(keeper, kept))
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=KEEPING_WAIT_S)
            for task in late:
                task.cancel()

    async def verify(self, receipt: Receipt, public_key: str, deadline: Deadline) -> Verification:
        """Check a receipt's signature in a worker thread, for at most five seconds."""
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, ocmf.verify, receipt, public_key)
        wait_s = max(deadline.within(VERIFYING_WAIT_S).left_s, LAST_WAIT_S)
        done, _ = await asyncio.wait({work}, timeout=wait_s)
        if not done:
            return Verification(Outcome.NOT_CHECKED, f"it took longer than {wait_s:.1f} s")
        error = work.exception()
        if error is not None:
            return Verification(Outcome.NOT_CHECKED, f"the check failed: {type(error).__name__}")
        return work.result()

    def _made(self, receipt: Receipt) -> KeptReceipt:
        meter = self._meter
        return KeptReceipt(receipt, "", meter.public_key, None, meter.client.address, meter.serial, found=True)

    def seen(self) -> frozenset[bytes]:
        """Return the digests of the tuples that were seen lately."""
        return frozenset(self._seen)

    def _saw(self, receipt: Receipt) -> bool:
        """Remember a tuple that was seen. Returns whether it is new."""
        digest = digest_of(receipt)
        is_new = digest not in self._seen
        self._seen[digest] = None
        self._seen.move_to_end(digest)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return is_new

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep_found(self, kept: KeptReceipt) -> None:
        if self._meter.settings.verify_receipts:
            verification = await self.verify(kept.receipt, kept.public_key, Deadline.after(VERIFYING_WAIT_S))
            kept = replace(kept, outcome=verification.outcome)
            if verification.outcome is Outcome.INVALID:
                self._meter.log.error(
                    "receipt %s, found in the meter, does not verify: %s",
                    shown_PG(kept.receipt),
                    printable(verification.reason),
                )
        for keeper in self._keepers:
            await self._kept_by(keeper, kept)

    async def _kept_by(self, keeper: ReceiptSink, kept: KeptReceipt) -> None:
        log, PG = self._meter.log, shown_PG(kept.receipt)
        try:
            await keeper.keep(kept)
        except JournalError as error:
            log.failure(JOURNAL, "receipt %s is not in the journal yet: %s", PG, printable(error, limit=400))
        except Exception:
            log.exception("receipt %s was not kept", PG)
        else:
            if keeper is self._journal:
                log.recovered(JOURNAL)
            return
        if kept.found:
            self._seen.pop(digest_of(kept.receipt), None)

    # --- finding again ---

    async def filed(self, transaction_id: str) -> SignedMeterValue | None:
        """Return the receipt that the journal has of a transaction, or None. Takes at most half a second."""
        if self._journal is None or not transaction_id:
            return None
        meter = self._meter
        question = self._journal.receipt_of(transaction_id, meter=meter.serial, address=meter.client.address)
        filed = await self._answer(question, None)
        if filed is None:
            return None
        try:
            value = signed_value(ocmf.parse(filed.text), filed.public_key)
        except ReceiptError as error:
            meter.log.failure(JOURNAL, "a receipt in the journal cannot be read: %s", error)
            return None
        meter.log.info("the receipt of transaction %s was in the journal", printable(transaction_id))
        return value

    async def is_of_another(self, receipt: Receipt, transaction_id: str) -> bool:
        """Tell whether the journal knows a receipt to be another transaction's. Takes at most half a second."""
        if self._journal is None or not transaction_id:
            return False
        return await self._answer(
            self._journal.is_of_another(receipt, transaction_id, meter=self._meter.serial), otherwise=False
        )

    # --- for the process after this one ---

    def note(self, transaction_id: str, expected: Expected) -> NotedBegin:
        """Make the note of a transaction that is about to be begun."""
        meter = self._meter
        return NotedBegin(
            transaction_id,
            expected.ID or "",
            expected.MS or meter.serial,
            meter.client.address,
            expected.PG_before,
            expected.began,
            meter.wall(),
        )

    async def begun(self, noted: NotedBegin) -> None:
        """Have the journal note a transaction. One that takes longer than half a second makes the note when it can."""
        if self._journal is not None and noted.transaction_id:
            await self._answer(self._journal.begun(noted), None)

    def withdraw(self, noted: NotedBegin) -> None:
        """Have the journal take back a note, of a B that was certainly not acted on."""
        journal = self._journal
        if journal is not None and noted.transaction_id:
            self._tell(lambda: journal.withdraw(noted))

    def refused(self, transaction_id: str) -> None:
        """Have the journal note an id whose start was refused."""
        journal, meter = self._journal, self._meter
        if journal is not None:
            self._tell(lambda: journal.refused(transaction_id, meter=meter.serial, address=meter.client.address))

    async def recall(self) -> RecalledNotes | None:
        """Return what an earlier process had noted. Takes at most half a second."""
        if self._journal is None:
            return None
        meter = self._meter
        return await self._answer(self._journal.recall(meter=meter.serial, address=meter.client.address), None)

    def _tell(self, journal: Callable[[], None]) -> None:
        try:
            journal()
        except JournalError as error:
            self._meter.log.failure(JOURNAL, "%s", printable(error, limit=400))
        except Exception:
            self._meter.log.exception("the journal of receipts failed")

    async def _answer(self, question: Coroutine[None, None, T], otherwise: T) -> T:
        log = self._meter.log
        try:
            async with asyncio.timeout(KEEPING_WAIT_S):
                return await question
        except TimeoutError:
            log.warning("the journal of receipts did not answer within %.1f s", KEEPING_WAIT_S)
        except JournalError as error:
            log.failure(JOURNAL, "%s", printable(error, limit=400))
        except Exception:
            log.exception("the journal of receipts failed")
        return otherwise


def signed_value(receipt: Receipt, public_key: str) -> SignedMeterValue:
    """Return a receipt as the station takes it."""
    end = receipt.end or (receipt.readings[-1] if receipt.readings else None)
    return SignedMeterValue(receipt.text, public_key, end.TM.instant if end and end.TM else None)


def shown_PG(receipt: Receipt) -> str:  # noqa: N802  PG is OCMF's name
    """Return a receipt's pagination for a log line."""
    return printable(receipt.pagination or "without PG", limit=40)


def digest_of(receipt: Receipt) -> bytes:
    """Return what tells a tuple from every other."""
    return hashlib.sha256(receipt.text.encode()).digest()
