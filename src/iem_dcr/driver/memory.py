"""The memory that keeps one transaction's receipt from being handed over as another's. It asks the meter nothing."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from iem_dcr.driver.keeping import REMEMBERED, digest_of
from iem_dcr.driver.meter import seconds_since
from iem_dcr.driver.timing import now_s
from iem_dcr.driver.whose import Expected, Facts, Judgement, began_apart_s, judge
from iem_dcr.powermeter import TransactionReq

if TYPE_CHECKING:
    from iem_dcr.driver.keeping import Keeping
    from iem_dcr.driver.meter import Meter
    from iem_dcr.driver.station import RecalledNotes
    from iem_dcr.ocmf import Receipt
    from iem_dcr.powermeter import SignedMeterValue

T = TypeVar("T")

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


class Memory:
    """What is known of the transactions of one meter, and of their receipts.

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
        self._handed: set[str] = set()
        self._runs_nobodys = False
        self._nobodys_over_s: float | None = None
        self._seen_by_then: frozenset[bytes] = frozenset()
        self._meter = meter
        self._keeping = keeping

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
        self._runs_nobodys = self.begun is None

    def seen_idle(self) -> None:
        """Take note that the meter has none: the one begun last, if there is one, is over."""
        if self._runs_nobodys:
            self._runs_nobodys = False
            self._nobodys_over_s, self._seen_by_then = now_s(), self._keeping.seen()
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

    def settle(self, begun: Begun, value: SignedMeterValue) -> None:
        """Remember the receipt of a transaction that was begun here."""
        self.remember(begun.id, value)
        self.withdraw(begun)
        if self.older.get(begun.id) is begun:
            del self.older[begun.id]

    def again(self, transaction_id: str) -> SignedMeterValue | None:
        """Return the receipt that is here for an id, unless a newer transaction of that id is under way."""
        if not transaction_id or (self.begun is not None and self.begun.id == transaction_id):
            return None
        return self.kept.get(transaction_id)

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

    def is_signing_nobodys(self, last: Receipt | None, within_s: float) -> bool:
        """Whether one that this process did not begin was seen over just now, and its tuple is still to come.

        Args:
            last: the meter's last tuple.
            within_s: how long the meter may take.
        """
        is_over = self._nobodys_over_s is not None and seconds_since(self._nobodys_over_s) < within_s
        return is_over and (last is None or digest_of(last) in self._seen_by_then)

    def is_begun(self, transaction_id: str) -> bool:
        """Whether a stop for this id is for the transaction that was begun last."""
        return self.begun is not None and transaction_id in ("", self.begun.id)

    def has_started(self, transaction_id: str) -> bool:
        """Whether a start under this id was asked of this process, and its receipt is not here."""
        return self.is_begun(transaction_id) or transaction_id in self.older or transaction_id in self.refused

    def is_orphaned(self, begun: Begun) -> bool:
        """Whether the meter that the transaction was begun on is not the one that answers."""
        return begun.expected.MS is not None and self._meter.serial not in ("", begun.expected.MS)

    def begun_here(self) -> Begun | None:
        """Return the transaction begun last if it was begun on the meter that answers."""
        return None if self.begun is None or self.is_orphaned(self.begun) else self.begun

    def recall(self, noted_before: RecalledNotes, last: Receipt | None) -> None:
        """Take over what an earlier process began and had no receipt of, and what it refused.

        Args:
            noted_before: what was noted.
            last: the meter's last tuple.
        """
        for noted in noted_before.awaited:
            if self._is_known(noted.transaction_id):
                continue
            request = TransactionReq("", noted.transaction_id, "", "", identification_data=noted.ID)
            expected = Expected(PG_before=noted.PG_before, ID=noted.ID, MS=noted.meter, began=noted.began)
            self._set_aside(Begun(request, expected))
        if self.begun is None and self._meter.running and self.older:
            # What runs is what was begun last, if that was noted and has no receipt yet; the others have ended.
            latest = next(reversed(self.older.values()))
            if last is None or judged(last, latest.expected)[0] is not Judgement.OURS:
                self.begun = self.older.pop(latest.id)
                self.begun.ended_s = None
        for transaction_id in noted_before.refused:
            if not self._is_known(transaction_id):
                _remember(self.refused, transaction_id, None)

    def _is_known(self, transaction_id: str) -> bool:
        """Whether something was begun under this id that has its receipt here, or may have one yet."""
        is_begun = self.begun is not None and self.begun.id == transaction_id
        return is_begun or transaction_id in self.older or transaction_id in self.kept

    def is_here(self, receipt: Receipt) -> bool:
        """Whether a tuple is kept under an id."""
        return any(value.signed_meter_data == receipt.text for value in self.kept.values())

    def owner(self, receipt: Receipt, awaited: Begun | None = None) -> Begun | None:
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
            if not self.is_orphaned(candidate) and judged(receipt, candidate.expected)[0] is Judgement.OURS
        ]
        return min(agreeing, key=lambda candidate: began_apart_s(facts, candidate.expected), default=None)


def judged(receipt: Receipt, expected: Expected) -> tuple[Judgement, tuple[str, ...]]:
    """Decide whether a tuple is the receipt that is looked for, and what disagrees: `iem_dcr.driver.whose.judge`."""
    return judge(facts_of(receipt), expected, tolerance=TOLERANCE, early=EARLY)


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
