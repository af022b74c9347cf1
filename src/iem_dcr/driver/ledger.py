"""The ledger: all that the driver knows of transactions, and the only place that changes it.

Theory. Evidence comes in three ranks: a new receipt of ours closes a transaction; the answer to a request that acts
says what was done; a live value is a picture of some moment ago, and XT false proves nothing. Every piece of evidence
comes in by one of the ``on_`` methods, which move entries by the table of `transitions`. Who owns a receipt is
decided by `receipt_matching`. The journal is this memory on disk: it is told of what `changed` and `receipts` hold.

Times ending in ``_s`` are the loop's; all others are the meter's own.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from iem_dcr.driver import receipt_matching
from iem_dcr.driver.entry import NO_LEAP, Entry
from iem_dcr.driver.transitions import AWAITED, RUNNING, Event, State, after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from iem_dcr.driver.ports import NotedEntry
    from iem_dcr.ocmf import Receipt
    from iem_dcr.powermeter import TransactionReq

MAX_ENTRIES: Final = 64
MAX_RECEIPTS: Final = 64
MAX_KNOWN: Final = 256
NO_RECEIPT_AFTER_S: Final = 15.0
"""XT false for so long, and no receipt: none comes."""
SHOWN_AFTER_END_S: Final = 10.5
"""A live value may be 5 s old, and an end may show 5 s late: XT true later than this after an accepted E means that a B
without an answer was acted on since, or that another meter, there for a moment, has answered E. Once XT false was seen
later than this, what runs then is another transaction."""
CLOCK_LEAP: Final = timedelta(seconds=5)
MAX_LEAPS: Final = 4


@dataclass(frozen=True, slots=True)
class Arrival:
    """What came of a receipt: whether it was new, and whose it is."""

    is_new: bool
    entry: Entry | None = None


class Ledger:
    """The ledger of one meter.

    Args:
        changed: is told of every entry whose state changed, and of what it was before.

    Attributes:
        serial: of the meter that answers; evidence is about its entries alone.
        last: the newest receipt that was seen of the meter.
        was_asked: the meter was asked for its last receipt, and answered.
    """

    def __init__(self, changed: Callable[[Entry, Entry], None] = lambda _before, _now: None) -> None:
        self.serial = ""
        self._changed = changed
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._next = 1
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._by_id: OrderedDict[str, Receipt] = OrderedDict()
        self._owners: OrderedDict[bytes, str] = OrderedDict()
        self.last: Receipt | None = None
        self.was_asked = False
        self._runs_s: float | None = None
        self._meters_clock: datetime | None = None
        self._current_s: float | None = None
        self._power_up_s: float | None = None
        self._idle_value_s: float | None = None
        self._end_accepted_s: float | None = None
        self._receipt_s: float | None = None

    # --- what is known ---

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries, in the order of their B."""
        return tuple(self._entries.values())

    @property
    def _here(self) -> list[Entry]:
        """The entries of the meter that answers."""
        return [entry for entry in self._entries.values() if entry.serial in (self.serial, "")]

    @property
    def size(self) -> int:
        """How much is remembered."""
        return len(self._entries) + len(self._by_id)

    @property
    def running(self) -> Entry | None:
        """The newest entry that may run."""
        return next((entry for entry in reversed(self._here) if entry.state in RUNNING), None)

    @property
    def awaited(self) -> tuple[Entry, ...]:
        """The entries whose receipt is still to come."""
        return tuple(entry for entry in self._here if entry.state in AWAITED)

    def expects_receipt(self, at_s: float) -> bool:
        """Tell whether a receipt is to come, now or at the end, unless another B overwrites it."""
        return any(self._will_be_signed(entry) for entry in self.awaited) or self._unknown_ran(at_s)

    @property
    def unwanted(self) -> tuple[Entry, ...]:
        """The entries that the driver ends by itself."""
        return tuple(entry for entry in self._here if entry.unwanted and entry.state in RUNNING)

    @property
    def PG_before(self) -> str | None:  # noqa: N802  OCMF's name
        """PG of the last receipt of the meter; "" where it has signed none; None where that is not known."""
        if self.last is not None:
            return self.last.pagination or None
        return "" if self.was_asked else None

    def get(self, entry: Entry) -> Entry:
        """Return an entry as it is now; one that was taken back, as it was."""
        return self._entries.get(entry.number, entry)

    def newest(self, transaction_id: str) -> Entry | None:
        """Return the newest entry of an id."""
        return next((entry for entry in reversed(self.entries) if entry.transaction_id == transaction_id), None)

    def receipt_of(self, transaction_id: str) -> Receipt | None:
        """Return the receipt that was delivered under an id, or closed it."""
        return self._by_id.get(transaction_id)

    def owner_of(self, receipt: Receipt) -> str:
        """Return the id that a known receipt belongs to, or ""."""
        return self._owners.get(digest_of(receipt), "")

    def knows(self, receipt: Receipt) -> bool:
        """Tell whether a receipt was seen before."""
        return digest_of(receipt) in self._known

    def is_certain_to_come(self, entry: Entry) -> bool:
        """Tell whether a receipt is certain to come: B and E were accepted, with no power-up and no other B since."""
        return entry.state is State.ENDED and self._will_be_signed(entry)

    # --- evidence: B ---

    def begin(
        self, request: TransactionReq, ID: str, serial: str, *, noted: datetime, sent: datetime | None, at_s: float
    ) -> Entry:
        """Make the entry of a B that goes out now."""
        entry = Entry(
            self._next, request.transaction_id, ID, serial, self.PG_before, State.UNCERTAIN, noted,
            sent_s=at_s, sent=sent, answered=sent, request=request,
        )  # fmt: skip
        self._add(entry)
        return entry

    def on_begin_accepted(self, entry: Entry, at_s: float) -> Entry:
        """B was answered 2xx: it runs, and nothing that was begun before it does."""
        entry = self._answered(entry, at_s, is_answered=True)
        for other in self._here:
            if other.number != entry.number:
                self._move(other, Event.OTHER_BEGIN_ACCEPTED)
                if other.transaction_id == entry.transaction_id:
                    self._put(replace(self.get(other), superseded=True))
        for other in self.entries:
            is_elsewhere = other.serial != entry.serial and other.state in AWAITED
            if is_elsewhere and other.transaction_id == entry.transaction_id:
                self._put(replace(other, unwanted=True, told=False))
        return self._move(entry, Event.BEGIN_ACCEPTED)

    def on_begin_refused(self, entry: Entry) -> None:
        """B was refused: it leaves no entry."""
        self._entries.pop(entry.number, None)

    def on_begin_unanswered(self, entry: Entry, at_s: float) -> Entry:
        """B had no answer: it may have been acted on."""
        return self._answered(entry, at_s, is_answered=False)

    def refuse(self, transaction_id: str, noted: datetime) -> None:
        """Remember a start that failed with none of its B possibly acted on."""
        if transaction_id and transaction_id not in self._by_id and self.newest(transaction_id) is None:
            self._add(Entry(self._next, transaction_id, "", "", None, State.REFUSED, noted))

    # --- evidence: E ---

    def on_end_accepted(self, at_s: float) -> None:
        """E was answered 2xx: nothing runs now."""
        self._end_accepted_s = at_s
        self._end_was_answered(at_s)
        for entry in self._here:
            self._move(entry, Event.END_ACCEPTED)

    def on_end_refused(self, at_s: float) -> None:
        """E was refused: it was not acted on, and says nothing of an earlier one."""
        self._end_was_answered(at_s)

    # --- evidence: values, power-ups, receipts ---

    def on_serial(self, serial: str) -> None:
        """Another meter answers: what values showed was another's."""
        if serial != self.serial:
            self.serial = serial
            self._runs_s = self._current_s = self._idle_value_s = self._receipt_s = self._meters_clock = None

    def on_live_value(self, *, XT: bool | None, current_flows: bool, at_s: float) -> None:
        """Take what a live value shows."""
        if current_flows:
            self._current_s = at_s
        if not XT:
            # A value without XT shows nothing: what runs at a meter that gives none must not be taken for lost.
            self._idle_value_s = at_s if XT is False else self._idle_value_s
            return
        self._runs_s = at_s
        if self._end_accepted_s is None:
            return
        shown_until_s = self._end_accepted_s + SHOWN_AFTER_END_S
        is_another = self._idle_value_s is not None and self._idle_value_s > shown_until_s
        if at_s > shown_until_s and not is_another:
            for entry in self._here:
                if not self._is_overwritten(entry):
                    self._move(entry, Event.RUNS_AFTER_END)

    def on_clock(self, meters: datetime, hosts: datetime, at_s: float) -> bool:
        """Take what the meter's clock says now: it may have leapt between the look at it and a B.

        How far is measured by the loop's clock, for a B of a process before by the host's. A clock that stands still,
        as that of frozen values does, says nothing. Returns whether an unowned receipt may belong to an entry now.
        """
        if meters == self._meters_clock:
            return False
        self._meters_clock = meters
        has_leapt = False
        for entry in self._here:
            if entry.sent is None or entry.state not in AWAITED:
                continue
            went_s = (hosts - entry.noted).total_seconds() if entry.sent_s is None else at_s - entry.sent_s
            leap = meters - entry.sent - timedelta(seconds=went_s)
            if all(abs(leap - known) > CLOCK_LEAP for known in (NO_LEAP, *entry.leaps)):
                self._put(replace(entry, leaps=(*entry.leaps, leap)[-MAX_LEAPS:]))
                has_leapt = True
        return has_leapt

    def on_power_up(self, at_s: float) -> None:
        """The meter was powered up: what was open may be over, or go on."""
        self._power_up_s = at_s
        for entry in self._here:
            if entry.state in AWAITED:
                self._put(replace(entry, power_up=True))

    def on_receipt(self, receipt: Receipt | None, at_s: float) -> Arrival:
        """Take a receipt that the meter shows; None where it has none."""
        is_first_look, self.was_asked = not self.was_asked, True
        if receipt is None:
            return Arrival(is_new=False)
        if self.knows(receipt):
            # One of a process before, maybe: /transaction may lag, so it never takes the place of a newer one.
            order = {digest: number for number, digest in enumerate(self._known)}
            if self.last is None or order[digest_of(receipt)] > order.get(digest_of(self.last), -1):
                self.last = receipt
            return Arrival(is_new=False)
        self._know(receipt)
        self.last = receipt
        if not is_first_look:
            self._receipt_s = at_s
        return Arrival(is_new=True, entry=self.claim(receipt))

    def claim(self, receipt: Receipt, seen_s: float = math.inf) -> Entry | None:
        """Return the entry that a receipt closes, if any; one whose B went out after the receipt was seen it cannot."""
        if self.owner_of(receipt):
            return None
        earlier = [entry for entry in self.entries if entry.sent_s is None or entry.sent_s <= seen_s]
        entry = receipt_matching.owner(receipt, earlier)
        if entry is None:
            return None
        newer_ids = {other.transaction_id for other in self._begun_since(entry)}
        superseded = entry.superseded or entry.transaction_id in newer_ids
        entry = self._put(replace(entry, receipt=receipt, superseded=superseded))
        self._own(receipt, entry.transaction_id, answers=not superseded)
        return self._move(entry, Event.RECEIPT)

    def give_up(self, at_s: float) -> None:
        """Move to LOST what no receipt comes for any more."""
        for entry in self._here:
            if entry.state in AWAITED and self.no_receipt_comes(entry, at_s):
                self._move(entry, Event.NO_RECEIPT_COMES)

    def no_receipt_comes(self, entry: Entry, at_s: float) -> bool:
        """Tell whether it is certain that no receipt of an entry comes."""
        if entry.end_answered_s is None or self.is_certain_to_come(entry):
            return False
        moments_s = entry.end_answered_s, self._power_up_s, self._runs_s, self._current_s
        since_s = max(each for each in moments_s if each is not None)
        is_watched = self._idle_value_s is not None and self._idle_value_s >= since_s + NO_RECEIPT_AFTER_S
        return is_watched and at_s - since_s >= NO_RECEIPT_AFTER_S

    def seen_idle_since(self, entry: Entry) -> bool:
        """Tell whether a live value showed XT false since B, or nothing is known of the time before this process."""
        return entry.sent_s is None or (self._idle_value_s is not None and self._idle_value_s > entry.sent_s)

    # --- what the driver notes itself ---

    def deliver(self, transaction_id: str, receipt: Receipt) -> None:
        """Remember a receipt under the id that it was delivered for."""
        self._know(receipt)
        self._own(receipt, transaction_id, answers=True)

    def mark(self, entry: Entry, *, unwanted: bool | None = None, told: bool | None = None) -> Entry:
        """Note that the driver ends an entry by itself, and what the station was told of it."""
        entry = self.get(entry)
        changes = {name: value for name, value in (("unwanted", unwanted), ("told", told)) if value is not None}
        return self._put(replace(entry, **changes)) if entry.number in self._entries else entry  # type: ignore[arg-type]

    def disown(self, transaction_id: str) -> bool:
        """Note that the station wants a transaction ended, on whichever meter any B of it was acted on.

        Returns whether any may run, or has a receipt still to come.
        """
        own = [each for each in self.entries if each.transaction_id == transaction_id and each.state in AWAITED]
        for entry in own:
            self._put(replace(entry, unwanted=True, told=False))
        return bool(own)

    def recall(self, noted: NotedEntry) -> None:
        """Take an entry of a process before, unless it is known."""
        known = {(entry.transaction_id, entry.noted) for entry in self.entries}
        if (noted.transaction_id, noted.noted) not in known:
            self._add(Entry.of_note(self._next, noted, power_up=self._power_up_s is not None))
            self._sort()

    def recall_receipts(self, filed: Iterable[tuple[Receipt, str, bool]]) -> None:
        """Take the receipts that the journal has, the oldest first, each with its id and whether it answers for it."""
        seen = self._known
        self._known = OrderedDict()
        for receipt, transaction_id, answers in filed:
            self._know(receipt)
            if transaction_id:
                self._own(receipt, transaction_id, answers=answers)
        for digest in seen:
            self._known.setdefault(digest)

    def recall_refused(self, transaction_id: str, noted: datetime) -> None:
        """Take a refused id that the journal has."""
        self.refuse(transaction_id, noted)

    # --- how ---

    def _answered(self, entry: Entry, at_s: float, *, is_answered: bool) -> Entry:
        took = timedelta(seconds=0.0 if entry.sent_s is None else at_s - entry.sent_s)
        answered = None if entry.sent is None else entry.sent + took
        return self._put(replace(self.get(entry), answered=answered, is_answered=is_answered))

    def _end_was_answered(self, at_s: float) -> None:
        for entry in self._here:
            if entry.state in AWAITED and entry.end_answered_s is None:
                self._put(replace(entry, end_answered_s=at_s))

    def _will_be_signed(self, entry: Entry) -> bool:
        return entry.is_answered and not entry.power_up and not self._is_overwritten(entry)

    def _unknown_ran(self, at_s: float) -> bool:
        """Tell whether XT was true a moment ago, later than the last end and the last receipt explain.

        Somebody else may have begun it, or a process before whose journal is not read yet.
        """
        if self._runs_s is None or at_s - self._runs_s >= NO_RECEIPT_AFTER_S:
            return False
        ends_s = (each for each in (self._end_accepted_s, self._receipt_s) if each is not None)
        return all(self._runs_s > end_s + SHOWN_AFTER_END_S for end_s in ends_s)

    def _is_overwritten(self, entry: Entry) -> bool:
        """Tell whether another B was accepted since: the meter runs that, and shows its receipt."""
        return any(other.serial in (self.serial, "") for other in self._begun_since(entry))

    def _begun_since(self, entry: Entry) -> list[Entry]:
        """Return the later entries whose B was accepted."""
        return [other for other in self._entries.values() if other.number > entry.number and other.is_answered]

    def _move(self, entry: Entry, event: Event) -> Entry:
        before = self.get(entry)
        now = replace(before, state=after(before.state, event))
        if now.state is not before.state:
            self._put(now)
            self._changed(before, now)
        return now

    def _put(self, entry: Entry) -> Entry:
        if entry.number in self._entries:
            self._entries[entry.number] = entry
        return entry

    def _add(self, entry: Entry) -> None:
        self._entries[entry.number] = entry
        self._next += 1
        while len(self._entries) > MAX_ENTRIES:
            done = next((each for each in self.entries if each.state not in AWAITED), self.entries[0])
            del self._entries[done.number]

    def _sort(self) -> None:
        """Have entries of a process before come before those of this one."""
        ordered = sorted(self.entries, key=lambda entry: (entry.sent_s is not None, entry.number))
        self._entries = OrderedDict((entry.number, entry) for entry in ordered)

    def _know(self, receipt: Receipt) -> None:
        self._known[digest_of(receipt)] = None
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def _own(self, receipt: Receipt, transaction_id: str, *, answers: bool) -> None:
        self._owners.setdefault(digest_of(receipt), transaction_id)
        while len(self._owners) > MAX_KNOWN:
            self._owners.popitem(last=False)
        if answers:
            self._by_id.pop(transaction_id, None)
            self._by_id[transaction_id] = receipt
            while len(self._by_id) > MAX_RECEIPTS:
                self._by_id.popitem(last=False)


def digest_of(receipt: Receipt) -> bytes:
    """Return what tells a receipt from every other: the digest of its signed payload."""
    return hashlib.sha256(receipt.signed).digest()
