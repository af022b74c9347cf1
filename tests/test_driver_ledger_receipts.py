"""The ledger: which receipt closes which entry, what is forgotten first, and what it recalls of past processes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from iem_dcr import ocmf
from iem_dcr.driver.ledger import Ledger
from iem_dcr.driver.transitions import State
from tests.support.bench import SERIAL
from tests.support.driving import OTHER_SERIAL
from tests.test_driver_ledger import (
    BEGUN,
    HOUR,
    SECOND,
    STRANGER,
    begin,
    begun,
    ledger,
    recalled,
    receipt,
    states,
    uncertain,
)

if TYPE_CHECKING:
    from iem_dcr.ocmf import Receipt


# --- receipts ---


def test_receipt_is_new_once_and_closes_its_entry() -> None:
    made = ledger()
    entry = begun(made)
    arrival = made.on_receipt(receipt(1), 0.0)
    assert (arrival.is_new, arrival.entry) == (True, made.get(entry))
    assert states(made, entry) == [State.CLOSED]
    assert made.get(entry).receipt == made.receipt_of("A") == receipt(1)
    assert made.owner_of(receipt(1)) == "A"
    assert not made.on_receipt(receipt(1), 0.0).is_new
    same: Receipt = ocmf.parse(receipt(1).text.replace('"SD":"30', '"SD":"31'))
    assert made.knows(same), "what is signed identifies it"
    assert not made.knows(receipt(2))


@pytest.mark.parametrize("why", ["another card", "seen before begin", "delivered for another id"])
def test_receipt_of_another_transaction_closes_nothing(why: str) -> None:
    made = ledger()
    found = receipt(1, STRANGER if why == "another card" else "04ABA")
    if why == "seen before begin":
        made.on_receipt(found, 0.0)
    if why == "delivered for another id":
        made.deliver("B", found)
    entry = begun(made)
    arrival = made.on_receipt(found, 0.0)
    assert (arrival.is_new, arrival.entry) == (why == "another card", None)
    assert states(made, entry) == [State.OPEN]
    assert made.receipt_of("A") is None
    assert made.owner_of(found) == ("B" if why == "delivered for another id" else "")
    assert (made.claim(found) is None) is (why != "seen before begin")


def test_receipt_is_claimed_when_a_leap_of_the_clock_is_noticed_unless_it_was_seen_before_begin() -> None:
    made = ledger()
    entry = begun(made, at_s=5.0)
    found = receipt(1, begun=BEGUN + HOUR)
    assert made.on_receipt(found, 6.0).entry is None
    assert made.on_clock(BEGUN + HOUR, BEGUN, 7.0)
    assert made.claim(found, seen_s=4.9) is None
    closed = made.claim(found, seen_s=5.0)
    assert closed is not None
    assert (closed.number, closed.state, closed.receipt) == (entry.number, State.CLOSED, found)
    assert recalled()[0].claim(receipt(1), seen_s=0.0) is not None


@pytest.mark.parametrize("name", ["A", "B"])
@pytest.mark.parametrize("serial", [SERIAL, OTHER_SERIAL])
def test_late_receipt_answers_its_id_unless_that_was_begun_again(name: str, serial: str) -> None:
    made = ledger()
    first = begun(made)
    made.on_serial(serial)
    begun(made, name, 3600.0, BEGUN + HOUR)
    made.on_receipt(receipt(1), 0.0)
    assert states(made, first) == [State.CLOSED]
    assert made.get(first).superseded is (name == "A")
    assert made.receipt_of("A") == (None if name == "A" else receipt(1))


def test_unanswered_begin_supersedes_nothing_and_a_superseded_entry_stays_so() -> None:
    made = ledger()
    begun(made)
    made.on_begin_unanswered(begin(made, at_s=3600.0, sent=BEGUN + HOUR), 3605.0)
    made.on_receipt(receipt(1), 0.0)
    assert made.receipt_of("A") == receipt(1)
    made = ledger()
    first = begun(made)
    made.on_end_accepted(1.0)
    begun(made, "A", 3600.0, BEGUN + HOUR)
    begun(made, "B", 7200.0, BEGUN + 2 * HOUR)
    for number in range(62):
        made.refuse(f"R-{number}", BEGUN)
    assert made.newest("A") == made.get(first), "the second is forgotten"
    made.on_receipt(receipt(1), 0.0)
    assert made.receipt_of("A") is None


def test_last_receipt_is_the_newest_known_although_a_node_lags() -> None:
    made = ledger()
    made.on_receipt(receipt(4), 0.0)
    made.recall_receipts([(receipt(number), "", True) for number in (1, 2, 3)])
    assert made.last == receipt(4)
    made.on_receipt(receipt(2), 0.0)
    assert made.last == receipt(4), "what this process saw is newer"
    made = ledger()
    made.recall_receipts([(receipt(number), "", True) for number in (1, 2, 3)])
    assert made.last is None
    for number, last in ((2, 2), (1, 2), (3, 3), (2, 3)):
        made.on_receipt(receipt(number), 0.0)
        assert made.last == receipt(last)


def test_pagination_is_unknown_until_the_meter_was_asked() -> None:
    made = ledger()
    assert (made.was_asked, made.PG_before, begin(made).PG_before) == (False, None, None)
    assert not made.on_receipt(None, 0.0).is_new
    assert (made.was_asked, made.PG_before) == (True, "")
    made.on_receipt(receipt(1, STRANGER), 0.0)
    assert begin(made).PG_before == "T1"
    for PG in ("", '"PG":"",'):
        made.on_receipt(ocmf.parse(receipt(2).text.replace('"PG":"T2",', PG)), 0.0)
        assert made.PG_before is None


# --- bounds ---


def test_64_entries_are_remembered_and_what_awaits_no_receipt_is_forgotten_first() -> None:
    made = ledger()
    first = uncertain(made, "first")
    for number in range(63):
        made.refuse(f"R-{number}", BEGUN)
    assert len(made.entries) == made.size == 64
    made.refuse("one more", BEGUN)
    assert [entry.transaction_id for entry in made.entries[:2]] == ["first", "R-1"]
    assert made.entries[0] == first
    for number in range(64):
        uncertain(made, f"B-{number}")
    assert [entry.transaction_id for entry in made.entries] == [f"B-{number}" for number in range(64)]


def test_64_receipts_answer_and_256_are_known() -> None:
    made = ledger()
    for number in range(257):
        made.deliver(f"D-{number}", receipt(number))
        assert made.size == min(number + 1, 64)
    assert [made.receipt_of(f"D-{number}") for number in (192, 193)] == [None, receipt(193)]
    assert [made.knows(receipt(number)) for number in (0, 1)] == [False, True]
    assert [made.owner_of(receipt(number)) for number in (0, 1)] == ["", "D-1"]
    made.deliver("D-193", receipt(193))
    made.deliver("new", receipt(257))
    assert made.receipt_of("D-193") == receipt(193), "it was delivered again"
    assert made.receipt_of("D-194") is None


# --- the journal, and the observer ---


@pytest.mark.parametrize(
    ("noted", "state", "is_answered", "reported"),
    [
        ("open", State.OPEN, True, True),
        ("ended", State.ENDED, True, False),
        ("uncertain", State.UNCERTAIN, False, False),
        ("lost", State.LOST, False, False),
        ("of a later version", State.LOST, False, False),
    ],
)
def test_entry_is_recalled_as_it_was_noted(noted: str, state: State, *, is_answered: bool, reported: bool) -> None:
    made, entry = recalled(noted)
    assert (entry.state, entry.is_answered, entry.reported) == (state, is_answered, reported)
    assert (entry.sent_s, entry.power_up, made.serial) == (None, False, SERIAL)
    before = begin(ledger())
    for name in ("transaction_id", "ID", "serial", "PG_before", "sent", "answered", "windows"):
        assert getattr(entry, name) == getattr(before, name)


@pytest.mark.parametrize(
    ("state", "noted"),
    [
        (State.OPEN, "open"), (State.ENDED, "ended"), (State.UNCERTAIN, "uncertain"), (State.LOST, "lost"),
        (State.CLOSED, "lost"),
    ],
)  # fmt: skip
def test_state_of_a_note(state: State, noted: str) -> None:
    note = replace(begin(ledger()), state=state).to_note("192.0.2.7:80")
    assert (note.state, note.address) == (noted, "192.0.2.7:80")


def test_entries_are_recalled_once_and_before_those_of_this_process() -> None:
    made = ledger()
    begun(made, "own", 1.0)
    made.on_power_up(5.0)
    notes = [replace(begin(ledger()).to_note("a:80"), noted=BEGUN + at * SECOND) for at in (1, 2)]
    for note in (*notes, *notes):
        made.recall(note)
    assert [(entry.transaction_id, entry.sent_s) for entry in made.entries] == [("A", None), ("A", None), ("own", 1.0)]
    assert made.entries[0].power_up, "it may have seen the power-up"
    made.on_receipt(receipt(1), 6.0)
    assert made.receipt_of("A") == receipt(1)


def test_recalled_receipt_is_not_new_and_answers_its_own_id_unless_superseded() -> None:
    made = ledger()
    made.on_receipt(receipt(3, STRANGER), 0.0)
    made.recall_receipts([(receipt(1), "A", True), (receipt(2), "B", False)])
    assert [made.receipt_of(name) for name in "AB"] == [receipt(1), None]
    assert [made.on_receipt(receipt(number), 0.0).is_new for number in (1, 2)] == [False, False]
    assert made.knows(receipt(3, STRANGER)), "although the journal does not have it"


def test_observer_hears_of_each_change_of_state_once() -> None:
    heard: list[tuple[State, State]] = []
    made = Ledger(lambda before, now: heard.append((before.state, now.state)))
    made.on_serial(SERIAL)
    begun(made)
    for at_s in (5.0, 6.0):
        made.on_end_accepted(at_s)
    made.on_receipt(receipt(1), 0.0)
    assert heard == [
        (State.UNCERTAIN, State.OPEN), (State.OPEN, State.ENDED), (State.ENDED, State.CLOSED),
    ]  # fmt: skip


# --- any evidence in any order ---


class AnyEvidence(RuleBasedStateMachine):
    """One meter and two ids. Transactions begin at least a minute apart."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = ledger()
        self.now_s = 0.0
        self.signed = 0
        self.last = receipt(0, STRANGER)
        self.closed: dict[int, Receipt] = {}

    def _pass(self, seconds: float = 60.0) -> None:
        self.now_s += seconds

    @rule(name=st.sampled_from("AB"), answer=st.sampled_from(["accepted", "refused", "unanswered"]))
    def begins(self, name: str, answer: str) -> None:
        self._pass()
        entry = begin(self.ledger, name, self.now_s, BEGUN + self.now_s * SECOND)
        if answer == "accepted":
            self.ledger.on_begin_accepted(entry, self.now_s)
            assert self.ledger.running == self.ledger.get(entry)
            assert [each.number for each in self.ledger.entries if each.state is State.OPEN] == [entry.number]
        elif answer == "refused":
            self.ledger.on_begin_refused(entry)
        else:
            self.ledger.on_begin_unanswered(entry, self.now_s)

    @rule(accepted=st.booleans())
    def ends(self, *, accepted: bool) -> None:
        if accepted:
            self.ledger.on_end_accepted(self.now_s)
            assert self.ledger.running is None
        else:
            self.ledger.on_end_refused(self.now_s)

    @rule(XT=st.booleans(), current_flows=st.booleans(), after_s=st.sampled_from([1.0, 30.0]))
    def shows(self, after_s: float, *, XT: bool, current_flows: bool) -> None:
        self._pass(after_s)
        self.ledger.on_live_value(XT=XT, current_flows=current_flows, at_s=self.now_s)
        self.ledger.give_up(self.now_s)

    @rule()
    def powers_up(self) -> None:
        self.ledger.on_power_up(self.now_s)

    @rule(back=st.integers(0, 3), shows=st.sampled_from(["its own", "its own", "a stranger's"]), again=st.booleans())
    def signs(self, back: int, shows: str, *, again: bool) -> None:
        begun = [entry for entry in self.ledger.entries if entry.sent is not None][-1 - back :][:1]
        if begun and begun[0].sent is not None and not again:
            self.signed += 1
            ID = begun[0].ID if shows == "its own" else STRANGER
            self.last = receipt(self.signed, ID, begun[0].sent)
        was_known = self.ledger.knows(self.last)
        arrival = self.ledger.on_receipt(self.last, self.now_s)
        assert arrival.is_new is not was_known
        if arrival.entry is not None:
            assert not was_known
            assert self.last.identification == arrival.entry.ID

    @rule(name=st.sampled_from("AB"))
    def refuses(self, name: str) -> None:
        self.ledger.refuse(name, BEGUN)

    @invariant()
    def closed_entry_keeps_its_receipt(self) -> None:
        for entry in self.ledger.entries:
            assert (entry.state is State.CLOSED) is (entry.receipt is not None)
            if entry.receipt is not None:
                assert self.closed.setdefault(entry.number, entry.receipt) == entry.receipt
                assert entry.receipt.identification == entry.ID

    @invariant()
    def no_receipt_closes_two_entries(self) -> None:
        texts = [receipt.text for receipt in self.closed.values()]
        assert len(texts) == len(set(texts))

    @invariant()
    def receipt_answers_the_id_of_its_card(self) -> None:
        for name in "AB":
            found = self.ledger.receipt_of(name)
            assert found is None or found.identification == f"04AB{name}"

    @invariant()
    def at_most_one_entry_is_open(self) -> None:
        assert sum(entry.state is State.OPEN for entry in self.ledger.entries) <= 1


AnyEvidence.TestCase.settings = settings(stateful_step_count=25)
test_any_evidence_in_any_order = AnyEvidence.TestCase
