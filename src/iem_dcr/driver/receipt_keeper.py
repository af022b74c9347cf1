"""Keeps receipts: verifies them, writes them to the journal before they are returned, and recalls them at a restart.

Nothing waits longer than 0.5 s for the journal. A slower write is completed later, and one error says what a kill
would lose now. The journal is read when the process starts, and asked again until it answers. Until then the ledger
does not know which transaction the meter's last receipt belongs to. Receipts that are found before the first live value
are kept after it, because their check would import ``cryptography``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from iem_dcr import ocmf
from iem_dcr.driver.ports import KeptReceipt
from iem_dcr.driver.receipt_memory import digest_of
from iem_dcr.driver.timing import Deadline, now_s
from iem_dcr.errors import JournalError, ReceiptError, printable
from iem_dcr.ocmf import Outcome, Verification
from iem_dcr.powermeter import SignedMeterValue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from iem_dcr.driver.entry import Entry
    from iem_dcr.driver.host_clock import HostClock
    from iem_dcr.driver.ledger import Ledger
    from iem_dcr.driver.meter_state import MeterState
    from iem_dcr.driver.ports import Journal, Recalled, ReceiptSink
    from iem_dcr.driver.rate_limited_log import MeterLog
    from iem_dcr.ocmf import Receipt

T = TypeVar("T")

JOURNAL_WAIT_S: Final = 0.5
READ_TIMEOUT_S: Final = 10.0
READ_AGAIN_AFTER_S: Final = 1.0
VERIFY_TIMEOUT_S: Final = 5.0
LAST_WAIT_S: Final = 0.2
"""How long a check or a write may still take after the deadline of a command."""
MAX_REMEMBERED: Final = 64
MOST_UNOWNED: Final = 8
"""How many receipts without an owner are matched again when the journal is read or the clock has leapt."""
JOURNAL: Final = "the journal of receipts"


class MemorySink:
    """Keeps the latest receipts in memory.

    Attributes:
        receipts: the kept receipts, the latest last.
    """

    def __init__(self) -> None:
        self.receipts: deque[KeptReceipt] = deque(maxlen=64)

    async def keep(self, kept: KeptReceipt) -> None:
        """Keep a receipt, and drop the oldest if there are more than 64."""
        self.receipts.append(kept)


class ReceiptKeeper:
    """Keeps the receipts of one meter.

    Attributes:
        is_read: the ledger has what the journal knows. True without a journal.
    """

    def __init__(
        self,
        address: str,
        ledger: Ledger,
        clock: HostClock,
        log: MeterLog,
        *,
        sink: ReceiptSink | None,
        journal: Journal | None,
        verifies: bool,
    ) -> None:
        self.is_read = journal is None
        self._address = address
        self._ledger = ledger
        self._clock = clock
        self._log = log
        self._journal = journal
        self._sink = sink or MemorySink()
        self._verifies = verifies
        self._keeps_found = journal is not None or sink is not None
        self._found: deque[tuple[KeptReceipt, Entry | None]] = deque()
        self._unowned: deque[tuple[Receipt, str, str, float]] = deque(maxlen=MOST_UNOWNED)
        self._signers: OrderedDict[bytes, tuple[str, str]] = OrderedDict()
        self._checks: OrderedDict[tuple[bytes, str], asyncio.Task[tuple[Outcome, bool]]] = OrderedDict()
        self._given_to_sink: OrderedDict[tuple[bytes, str], None] = OrderedDict()
        self._is_live = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._read = asyncio.Event()
        self._recalled_serials: set[str] = set()

    # --- reading the journal ---

    async def read(self, serial: str = "") -> str:
        """Read what the journal knows of this meter, and repeat that until it answers. Returns the pinned serial."""
        if self._journal is None or serial in self._recalled_serials:
            return ""
        recalled = await self._recalled(self._journal, serial)
        self._recalled_serials.add(serial)
        self._take_over(recalled)
        self.is_read = True
        self._read.set()
        return recalled.pinned

    async def pinned(self) -> str:
        """Return the serial that is now pinned for this address; "" if the journal does not answer."""
        if self._journal is None:
            return ""
        recalled = await self._answer(self._journal.recall(meter="", address=self._address))
        return "" if recalled is None else recalled.pinned

    async def _recalled(self, journal: Journal, serial: str) -> Recalled:
        while True:
            try:
                async with asyncio.timeout(READ_TIMEOUT_S):
                    recalled = await journal.recall(meter=serial, address=self._address)
            except (TimeoutError, JournalError) as error:
                what = "%s is not read yet: %s"
                self._log.failure(f"reading {JOURNAL}", what, JOURNAL, printable(error, limit=300) or "no answer")
            except Exception:  # noqa: BLE001  no fault of a journal may stop the driver
                self._log.exception("%s failed", JOURNAL)
            else:
                self._log.recovered(f"reading {JOURNAL}")
                return recalled
            await asyncio.sleep(READ_AGAIN_AFTER_S)

    def _take_over(self, recalled: Recalled) -> None:
        """Copy what the journal knows to the ledger, and match earlier receipts without an owner again."""
        receipts = []
        for filed in recalled.receipts:
            try:
                receipt = ocmf.parse(filed.text)
            except ReceiptError:
                continue
            self._signed_by(receipt, filed.public_key, receipt.meter_serial or "")
            receipts.append((receipt, filed.transaction_id, not filed.superseded))
        self._ledger.recall_receipts(receipts)
        for noted in recalled.entries:
            self._ledger.recall(noted)
        for transaction_id in recalled.refused:
            self._ledger.recall_refused(transaction_id, self._clock.now())
        self.match_again()
        if recalled.newest is not None:
            self._clock.newest = max(recalled.newest, self._clock.newest or recalled.newest)

    def has_read(self, serial: str) -> bool:
        """Return whether the ledger has what the journal knows of a serial."""
        return self._journal is None or serial in self._recalled_serials

    async def wait_until_read(self, deadline: Deadline) -> bool:
        """Wait until the journal is read. Returns False if the deadline passes first."""
        if not self.is_read:
            try:
                async with asyncio.timeout(deadline.left_s):
                    await self._read.wait()
            except TimeoutError:
                return False
        return True

    async def filed(self, transaction_id: str, serial: str) -> Receipt | None:
        """Return the receipt of an id from the journal, of any age; None if there is none, or no answer."""
        if self._journal is None or not transaction_id:
            return None
        found = await self._answer(self._journal.receipt_of(transaction_id, meter=serial, address=self._address))
        try:
            receipt = None if found is None else ocmf.parse(found.text)
        except ReceiptError:
            return None
        if receipt is not None and found is not None:
            self._signed_by(receipt, found.public_key, receipt.meter_serial or serial)
        return receipt

    # --- entries ---

    async def note(self, entry: Entry) -> None:
        """Write an entry before its B goes out."""
        if self._journal is not None:
            await self._answer(self._journal.note(entry.to_note(self._address)))

    def note_later(self, entry: Entry) -> None:
        """Write the new state of an entry, without waiting."""
        if self._journal is not None:
            self._start(self._answer(self._journal.note(entry.to_note(self._address))))

    def withdraw(self, entry: Entry) -> None:
        """Withdraw the entry of a B that was refused, without waiting."""
        if self._journal is not None:
            self._start(self._answer(self._journal.withdraw(entry.to_note(self._address))))

    def refused(self, transaction_id: str, serial: str) -> None:
        """Note the id of a start that failed, without waiting."""
        if self._journal is not None and transaction_id:
            self._start(self._answer(self._journal.refused(transaction_id, meter=serial, address=self._address)))

    def pin(self, serial: str) -> None:
        """Write the serial that is accepted at this address, without waiting."""
        if self._journal is not None:
            self._start(self._answer(self._journal.pin(self._address, serial)))

    # --- receipts ---

    def found(self, receipt: Receipt, entry: Entry | None, state: MeterState, *, is_news: bool = False) -> None:
        """Keep a new receipt, with its entry or without an owner; nothing waits for the journal.

        ``is_news``: it belongs to a transaction that the driver has just ended.
        """
        self._signed_by(receipt, state.public_key, state.serial)
        if entry is None:
            self._unowned.append((receipt, state.public_key, state.serial, now_s()))
        if self._keeps_found or entry is not None:
            self._enqueue(receipt, entry, state.public_key, state.serial, is_news=is_news)

    def match_again(self) -> None:
        """Match receipts without an owner again, after the journal was read or a leap of the meter's clock was seen."""
        for receipt, public_key, serial, seen_s in tuple(self._unowned):
            entry = self._ledger.claim(receipt, seen_s)
            if entry is not None:
                self._enqueue(receipt, entry, public_key, serial, is_news=True)

    def _enqueue(self, receipt: Receipt, entry: Entry | None, public_key: str, serial: str, *, is_news: bool) -> None:
        kept = KeptReceipt(
            receipt,
            "" if entry is None else entry.transaction_id,
            public_key,
            None,
            found=entry is None and not is_news,
            address=self._address,
            meter=serial,
        )
        self._found.append((kept, entry))
        if self._is_live:
            self.keep_found()

    def keep_found(self) -> None:
        """Keep the receipts that were found; called once there are live values."""
        self._is_live = True
        while self._found:
            self._start(self._keep_found(*self._found.popleft()))

    async def outcome(self, receipt: Receipt, state: MeterState, deadline: Deadline) -> Outcome | None:
        """Check a receipt with the key of its meter. Returns None if receipts are not checked."""
        self.keep_found()
        public_key, serial = self._signer(receipt, state)
        kept = KeptReceipt(receipt, "", public_key, None, address=self._address, meter=serial)
        return (await self._checked(kept, deadline)).outcome

    async def deliver(
        self, receipt: Receipt, transaction_id: str, state: MeterState, deadline: Deadline
    ) -> SignedMeterValue:
        """Verify and write a receipt, and return it for the station, byte for byte as the meter sent it."""
        self.keep_found()
        public_key, serial = self._signer(receipt, state)
        kept = KeptReceipt(receipt, transaction_id, public_key, None, address=self._address, meter=serial)
        kept = await self._checked(kept, deadline)
        self._ledger.deliver(transaction_id, receipt)
        tasks = {self._start(self._kept_by(keeper, kept)) for keeper in self._keepers}
        await asyncio.wait(tasks, timeout=max(deadline.within(JOURNAL_WAIT_S).left_s, LAST_WAIT_S))
        self._log.limited("receipts").log(logging.INFO, "receipt %s", shown_PG(receipt))
        return signed_value(receipt, public_key)

    def _signed_by(self, receipt: Receipt, public_key: str, serial: str) -> None:
        self._signers[digest_of(receipt)] = public_key, serial
        _limit(self._signers)

    def _signer(self, receipt: Receipt, state: MeterState) -> tuple[str, str]:
        """Return key and serial of the meter from which a receipt was read. Another meter may answer now."""
        public_key, serial = self._signers.get(digest_of(receipt), ("", state.serial))
        return public_key or (state.public_key if serial in ("", state.serial) else ""), serial or state.serial

    async def close(self) -> None:
        """Wait at most 0.5 s for unfinished writes, and cancel the rest."""
        self.keep_found()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=JOURNAL_WAIT_S)
            for task in late:
                task.cancel()

    @property
    def _keepers(self) -> tuple[ReceiptSink, ...]:
        return (self._sink,) if self._journal is None else (self._journal, self._sink)

    async def _keep_found(self, kept: KeptReceipt, entry: Entry | None) -> None:
        kept = await self._checked(kept, Deadline.after(VERIFY_TIMEOUT_S))
        superseded = entry is not None and self._ledger.get(entry).superseded
        for keeper in self._keepers:
            await self._kept_by(keeper, replace(kept, superseded=superseded))

    async def _checked(self, kept: KeptReceipt, deadline: Deadline) -> KeptReceipt:
        """Check a receipt's signature, and whether the transparency software accepts it."""
        if not self._verifies:
            return kept
        receipt, public_key = kept.receipt, kept.public_key
        which = digest_of(receipt), public_key
        if which not in self._checks:
            self._checks[which] = self._start(self._check(receipt, public_key))
            _limit(self._checks)
        check = self._checks[which]
        wait_s = max(deadline.within(VERIFY_TIMEOUT_S).left_s, LAST_WAIT_S)
        done, _ = await asyncio.wait({check}, timeout=wait_s)
        if not done:
            what = "receipt %s could not be verified: it took longer than %.1f s"
            self._log.error(what, shown_PG(receipt), wait_s)
            return replace(kept, outcome=Outcome.NOT_CHECKED)
        outcome, accepted = check.result()
        if outcome is Outcome.NOT_CHECKED:
            self._checks.pop(which, None)
        return replace(kept, outcome=outcome, accepted=accepted)

    async def _check(self, receipt: Receipt, public_key: str) -> tuple[Outcome, bool]:
        """Check a receipt. Returns the outcome, and False if the transparency software refuses a valid one."""
        try:
            verification = await asyncio.get_running_loop().run_in_executor(None, ocmf.verify, receipt, public_key)
        except Exception as error:  # noqa: BLE001  a failed check must not withhold the receipt from the station
            verification = Verification(Outcome.NOT_CHECKED, f"the check failed: {type(error).__name__}")
        if verification.outcome is Outcome.INVALID:
            what = "receipt %s does not verify: %s; it is returned unchanged unless a second reading verifies"
            self._log.error(what, shown_PG(receipt), printable(verification.reason))
        elif verification.outcome is Outcome.NOT_CHECKED:
            self._log.error("receipt %s could not be verified: %s", shown_PG(receipt), printable(verification.reason))
        else:
            from iem_dcr.ocmf.examination import examine  # noqa: PLC0415  not before the first live value
            from iem_dcr.ocmf.rules import Severity  # noqa: PLC0415  not before the first live value

            # The form of the signature is a property of the meter. A charger cannot change it.
            errors = (found for found in examine(receipt) if found.severity is Severity.ERROR)
            findings = [found.text for found in errors if found.code != "signature-form"]
            if findings:
                what = "receipt %s has a valid signature, but the transparency software refuses it: %s"
                self._log.error(what, shown_PG(receipt), printable("; ".join(findings), limit=300))
                return verification.outcome, False
        return verification.outcome, True

    # --- calls to the journal and the sink ---

    async def _kept_by(self, keeper: ReceiptSink, kept: KeptReceipt) -> None:
        if keeper is self._journal:
            await self._answer(keeper.keep(kept), f"receipt {shown_PG(kept.receipt)}")
            return
        shown = digest_of(kept.receipt), kept.transaction_id
        if shown in self._given_to_sink:
            return
        self._given_to_sink[shown] = None
        _limit(self._given_to_sink)
        try:
            await keeper.keep(kept)
        except Exception:  # noqa: BLE001  no fault of a sink may stop the driver
            self._log.exception("receipt %s was not kept", shown_PG(kept.receipt))

    async def _answer(self, question: Awaitable[T], what: str = "this write") -> T | None:
        """Wait at most 0.5 s for the journal. A slower write is completed later, and no calls pile up here."""
        try:
            async with asyncio.timeout(JOURNAL_WAIT_S):
                answer = await question
        except TimeoutError:
            late = "%s did not answer within %.1f s: a kill would lose %s"
            self._log.failure(JOURNAL, late, JOURNAL, JOURNAL_WAIT_S, what, level=logging.ERROR)
        except JournalError as error:
            self._log.failure(JOURNAL, "%s", printable(error, limit=300), level=logging.ERROR)
        except Exception:  # noqa: BLE001  no fault of a journal may stop the driver
            self._log.exception("%s failed", JOURNAL)
        else:
            self._log.recovered(JOURNAL)
            return answer
        return None

    def _start(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _limit(latest: OrderedDict[Any, Any]) -> None:
    while len(latest) > MAX_REMEMBERED:
        latest.popitem(last=False)


def signed_value(receipt: Receipt, public_key: str) -> SignedMeterValue:
    """Return a receipt in the form that the station expects."""
    end = receipt.end or (receipt.readings[-1] if receipt.readings else None)
    return SignedMeterValue(receipt.text, public_key, end.TM.instant if end and end.TM else None)


def shown_PG(receipt: Receipt) -> str:  # noqa: N802  PG is OCMF's name
    """Return a receipt's pagination for a log line."""
    return printable(receipt.pagination or "without PG", limit=40)
