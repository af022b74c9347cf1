"""The ledger: everything that the driver knows of transactions, and the only place that changes it.

Theory. Evidence has three ranks. A new receipt of ours closes a transaction. The answer to a request that acts says
whether the meter acted. A live value is a picture of some moment ago, and XT false proves nothing. All evidence
enters by the ``on_`` methods, which move entries by the table of `transitions`. `receipt_matching` decides which entry
owns a receipt. The journal is this memory on disk.

Times that end in ``_s`` are the loop's. All others are the meter's own, except `noted`, which is the host's.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from iem_dcr.driver import receipt_matching
from iem_dcr.driver.entry import NO_LEAP, Entry
from iem_dcr.driver.receipt_memory import ReceiptMemory
from iem_dcr.driver.transitions import AWAITED, RUNNING, Event, State, after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from iem_dcr.driver.ports import NotedEntry
    from iem_dcr.ocmf import Receipt
    from iem_dcr.powermeter import TransactionReq

MAX_ENTRIES: Final = 64
NO_RECEIPT_AFTER_S: Final = 15.0
"""If XT is false for this long and there is no receipt, none comes."""
SHOWN_AFTER_END_S: Final = 10.5
"""A live value may be 5 s old, and it may show an end 5 s late. XT true later than this after an accepted E has one of
two causes: the meter acted on an unanswered B since, or another meter was there for a moment and answered E. If XT
false was seen later than this, a transaction that runs afterwards is another one."""
CLOCK_LEAP: Final = timedelta(seconds=5)
MAX_LEAPS: Final = 4


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a receipt that the meter shows has changed: whether it is new, and the entry that it closed."""

    is_new: bool
    entry: Entry | None = None


class Ledger:
    """The ledger of one meter.

    Args:
        changed: called with the old and the new entry when the state of an entry changed.

    Attributes:
        serial: serial number of the meter that answers. Evidence changes only the entries of this meter.
        was_asked: the meter has answered a request for its last receipt.
    """

    def __init__(self, changed: Callable[[Entry, Entry], None] = lambda _before, _now: None) -> None:
        self.serial = ""
        self._changed = changed
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._next = 1
        self._receipts = ReceiptMemory()
        self.was_asked = False
        self._last_running_s: float | None = None
        self._meter_time: datetime | None = None
        self._last_current_s: float | None = None
        self._last_power_up_s: float | None = None
        self._last_idle_s: float | None = None
        self._end_accepted_s: float | None = None
        self._receipt_s: float | None = None

    # --- knowledge ---

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
        """Number of entries and receipts in memory."""
        return len(self._entries) + len(self._receipts)

    @property
    def last(self) -> Receipt | None:
        """The newest receipt that the meter has shown, or None."""
        return self._receipts.last

    @property
    def running(self) -> Entry | None:
        """The newest entry whose transaction may run."""
        return next((entry for entry in reversed(self._here) if entry.state in RUNNING), None)

    @property
    def awaited(self) -> tuple[Entry, ...]:
        """The entries whose receipt is still to come."""
        return tuple(entry for entry in self._here if entry.state in AWAITED)

    def expects_receipt(self, at_s: float) -> bool:
        """Return whether a receipt will come, now or at the end, unless another B overwrites it."""
        return any(self._will_be_signed(entry) for entry in self.awaited) or self._unknown_ran(at_s)

    @property
    def unwanted(self) -> tuple[Entry, ...]:
        """The entries that the driver ends by itself."""
        return tuple(entry for entry in self._here if entry.unwanted and entry.state in RUNNING)

    @property
    def PG_before(self) -> str | None:  # noqa: N802  OCMF's name
        """PG of the last receipt of the meter; "" if it has signed none; None if that is unknown."""
        if self.last is not None:
            return self.last.pagination or None
        return "" if self.was_asked else None

    def get(self, entry: Entry) -> Entry:
        """Return the current state of an entry, or the entry itself if it was removed."""
        return self._entries.get(entry.number, entry)

    def newest(self, transaction_id: str) -> Entry | None:
        """Return the newest entry of an id."""
        return next((entry for entry in reversed(self.entries) if entry.transaction_id == transaction_id), None)

    def receipt_of(self, transaction_id: str) -> Receipt | None:
        """Return the receipt that was delivered under an id, or that closed its entry."""
        return self._receipts.of(transaction_id)

    def owner_of(self, receipt: Receipt) -> str:
        """Return the id that a known receipt belongs to, or ""."""
        return self._receipts.owner_of(receipt)

    def knows(self, receipt: Receipt) -> bool:
        """Return whether a receipt was seen before."""
        return self._receipts.knows(receipt)

    def is_certain_to_come(self, entry: Entry) -> bool:
        """Return whether a receipt is certain: B and E were accepted, with no power-up and no other B since."""
        return entry.state is State.ENDED and self._will_be_signed(entry)

    # --- evidence: B ---

    def begin(
        self, request: TransactionReq, ID: str, serial: str, *, noted: datetime, sent: datetime | None, at_s: float
    ) -> Entry:
        """Add the entry of a B that goes out now."""
        entry = Entry(
            self._next, request.transaction_id, ID, serial, self.PG_before, State.UNCERTAIN, noted,
            sent_s=at_s, sent=sent, answered=sent, request=request,
        )  # fmt: skip
        self._add(entry)
        return entry

    def on_begin_accepted(self, entry: Entry, at_s: float) -> Entry:
        """B was answered 2xx: its transaction runs, and no earlier one does."""
        entry = self._answered(entry, at_s, is_answered=True)
        for other in self._here:
            if other.number != entry.number:
                self._move(other, Event.OTHER_BEGIN_ACCEPTED)
                if other.transaction_id == entry.transaction_id:
                    self._put(replace(self.get(other), superseded=True))
        for other in self.entries:
            is_elsewhere = other.serial != entry.serial and other.state in AWAITED
            if is_elsewhere and other.transaction_id == entry.transaction_id:
                self._put(replace(other, unwanted=True, reported=False))
        return self._move(entry, Event.BEGIN_ACCEPTED)

    def on_begin_refused(self, entry: Entry) -> None:
        """B was refused: remove its entry."""
        self._entries.pop(entry.number, None)

    def on_begin_unanswered(self, entry: Entry, at_s: float) -> Entry:
        """B had no answer: the meter may have acted on it."""
        return self._answered(entry, at_s, is_answered=False)

    def refuse(self, transaction_id: str, noted: datetime) -> None:
        """Record a start that failed, where the meter cannot have acted on any B of it."""
        if transaction_id and self.receipt_of(transaction_id) is None and self.newest(transaction_id) is None:
            self._add(Entry(self._next, transaction_id, "", "", None, State.REFUSED, noted))

    # --- evidence: E ---

    def on_end_accepted(self, at_s: float) -> None:
        """E was answered 2xx: nothing runs now."""
        self._end_accepted_s = at_s
        self._end_was_answered(at_s)
        for entry in self._here:
            self._move(entry, Event.END_ACCEPTED)

    def on_end_refused(self, at_s: float) -> None:
        """E was refused: the meter did not act on it. This says nothing about an earlier E."""
        self._end_was_answered(at_s)

    # --- evidence: values, power-ups, receipts ---

    def on_serial(self, serial: str) -> None:
        """Set the serial of the meter that answers. If it is another one, forget what earlier values showed."""
        if serial != self.serial:
            self.serial = serial
            self._last_running_s = self._last_current_s = self._last_idle_s = self._receipt_s = self._meter_time = None

    def on_live_value(self, *, XT: bool | None, current_flows: bool, at_s: float) -> None:
        """Record what a live value shows."""
        if current_flows:
            self._last_current_s = at_s
        if not XT:
            # A value without XT proves nothing: a meter that never sends XT may run a transaction.
            self._last_idle_s = at_s if XT is False else self._last_idle_s
            return
        self._last_running_s = at_s
        if self._end_accepted_s is None:
            return
        shown_until_s = self._end_accepted_s + SHOWN_AFTER_END_S
        is_another = self._last_idle_s is not None and self._last_idle_s > shown_until_s
        if at_s > shown_until_s and not is_another:
            for entry in self._here:
                if not self._is_overwritten(entry):
                    self._move(entry, Event.RUNS_AFTER_END)

    def on_clock(self, meters: datetime, hosts: datetime, at_s: float) -> bool:
        """Record the meter's time. Its clock may have leapt between the last reading of it and a B.

        The leap is measured with the loop's clock; for a B of a previous process, with the host's. A clock that stands
        still (frozen values) says nothing. Returns whether an unowned receipt may belong to an entry now.
        """
        if meters == self._meter_time:
            return False
        self._meter_time = meters
        has_leapt = False
        for entry in self._here:
            if entry.sent is None or entry.state not in AWAITED:
                continue
            elapsed_s = (hosts - entry.noted).total_seconds() if entry.sent_s is None else at_s - entry.sent_s
            leap = meters - entry.sent - timedelta(seconds=elapsed_s)
            if all(abs(leap - known) > CLOCK_LEAP for known in (NO_LEAP, *entry.leaps)):
                self._put(replace(entry, leaps=(*entry.leaps, leap)[-MAX_LEAPS:]))
                has_leapt = True
        return has_leapt

    def on_power_up(self, at_s: float) -> None:
        """The meter was powered up: an open transaction may be over, or may continue."""
        self._last_power_up_s = at_s
        for entry in self._here:
            if entry.state in AWAITED:
                self._put(replace(entry, power_up=True))

    def on_receipt(self, receipt: Receipt | None, at_s: float) -> Arrival:
        """Record the receipt that the meter shows; None if it has none."""
        is_first_look, self.was_asked = not self.was_asked, True
        if receipt is None or not self._receipts.show(receipt):
            return Arrival(is_new=False)
        if not is_first_look:
            self._receipt_s = at_s
        return Arrival(is_new=True, entry=self.claim(receipt))

    def claim(self, receipt: Receipt, seen_s: float = math.inf) -> Entry | None:
        """Close the entry of a receipt and return it, or None. A B sent after the receipt was seen cannot own it."""
        if self.owner_of(receipt):
            return None
        earlier = [entry for entry in self.entries if entry.sent_s is None or entry.sent_s <= seen_s]
        entry = receipt_matching.owner(receipt, earlier)
        if entry is None:
            return None
        newer_ids = {other.transaction_id for other in self._begun_since(entry)}
        superseded = entry.superseded or entry.transaction_id in newer_ids
        entry = self._put(replace(entry, receipt=receipt, superseded=superseded))
        self._receipts.own(receipt, entry.transaction_id, answers=not superseded)
        return self._move(entry, Event.RECEIPT)

    def give_up(self, at_s: float) -> None:
        """Move entries to LOST if it is certain that no receipt comes for them."""
        for entry in self._here:
            if entry.state in AWAITED and self.no_receipt_comes(entry, at_s):
                self._move(entry, Event.NO_RECEIPT_COMES)

    def no_receipt_comes(self, entry: Entry, at_s: float) -> bool:
        """Return whether it is certain that no receipt comes for an entry."""
        if entry.end_answered_s is None or self.is_certain_to_come(entry):
            return False
        moments_s = entry.end_answered_s, self._last_power_up_s, self._last_running_s, self._last_current_s
        since_s = max(each for each in moments_s if each is not None)
        is_watched = self._last_idle_s is not None and self._last_idle_s >= since_s + NO_RECEIPT_AFTER_S
        return is_watched and at_s - since_s >= NO_RECEIPT_AFTER_S

    def seen_idle_since(self, entry: Entry) -> bool:
        """Return whether a live value showed XT false since B. True for a B of a previous process."""
        return entry.sent_s is None or (self._last_idle_s is not None and self._last_idle_s > entry.sent_s)

    # --- decisions of the driver, and the journal ---

    def deliver(self, transaction_id: str, receipt: Receipt) -> None:
        """Record a receipt under the id for which it is delivered."""
        self._receipts.add(receipt)
        self._receipts.own(receipt, transaction_id, answers=True)

    def mark(self, entry: Entry, *, unwanted: bool | None = None, reported: bool | None = None) -> Entry:
        """Set whether the driver ends an entry by itself, and whether the station was told that it began."""
        entry = self.get(entry)
        changes = {name: value for name, value in (("unwanted", unwanted), ("reported", reported)) if value is not None}
        return self._put(replace(entry, **changes)) if entry.number in self._entries else entry  # type: ignore[arg-type]

    def disown(self, transaction_id: str) -> bool:
        """Mark all entries of an id, on any meter, as unwanted: the station wants the transaction ended.

        Returns whether one of them may run or still awaits a receipt.
        """
        own = [each for each in self.entries if each.transaction_id == transaction_id and each.state in AWAITED]
        for entry in own:
            self._put(replace(entry, unwanted=True, reported=False))
        return bool(own)

    def recall(self, noted: NotedEntry) -> None:
        """Add an entry of a previous process, unless it is known."""
        known = {(entry.transaction_id, entry.noted) for entry in self.entries}
        if (noted.transaction_id, noted.noted) not in known:
            self._add(Entry.of_note(self._next, noted, power_up=self._last_power_up_s is not None))
            self._sort()

    def recall_receipts(self, filed: Iterable[tuple[Receipt, str, bool]]) -> None:
        """Add the journal's receipts, oldest first, each with its id and whether it answers a stop for that id."""
        self._receipts.recall(filed)

    def recall_refused(self, transaction_id: str, noted: datetime) -> None:
        """Add a refused id from the journal."""
        self.refuse(transaction_id, noted)

    # --- private ---

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
        """Return whether XT was true a moment ago, too late to be explained by the last end or the last receipt.

        Another client may have begun it, or a previous process whose journal is not read yet.
        """
        if self._last_running_s is None or at_s - self._last_running_s >= NO_RECEIPT_AFTER_S:
            return False
        ends_s = (each for each in (self._end_accepted_s, self._receipt_s) if each is not None)
        return all(self._last_running_s > end_s + SHOWN_AFTER_END_S for end_s in ends_s)

    def _is_overwritten(self, entry: Entry) -> bool:
        """Return whether a later B was accepted: the meter runs that transaction and shows its receipt."""
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
        """Put the entries of previous processes before those of this one."""
        ordered = sorted(self.entries, key=lambda entry: (entry.sent_s is not None, entry.number))
        self._entries = OrderedDict((entry.number, entry) for entry in ordered)
