"""The ledger: what evidence does to its entries, and what it recalls of the process before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from iem_dcr import ocmf
from iem_dcr.driver.ledger import NO_RECEIPT_AFTER_S, SHOWN_AFTER_END_S, Ledger
from iem_dcr.driver.transitions import AWAITED, State
from tests.support.bench import SERIAL, request
from tests.support.driving import OTHER_SERIAL
from tests.support.journals import tuple_text

if TYPE_CHECKING:
    from iem_dcr.driver.entry import Entry
    from iem_dcr.ocmf import Receipt

BEGUN = datetime(2026, 3, 1, 11, tzinfo=UTC)
"""When what `tuple_text` makes began."""
HOUR = timedelta(hours=1)
ADDRESS = "192.0.2.7:80"


def receipt(number: int, ID: str = "04ABA", begun: datetime = BEGUN) -> Receipt:
    text = tuple_text(number, ID=ID, meter=SERIAL)
    stamp = f"{begun + HOUR:%Y-%m-%dT%H:%M:%S},000"
    return ocmf.parse(text.replace("2026-03-01T12:00:00,000", stamp, 1))


def ledger() -> Ledger:
    made = Ledger()
    made.on_serial(SERIAL)
    return made


def begin(made: Ledger, name: str = "A", *, at_s: float = 0.0, sent: datetime | None = BEGUN) -> Entry:
    return made.begin(request(name), f"04AB{name}", SERIAL, noted=BEGUN, sent=sent, at_s=at_s)


def begun(made: Ledger, name: str = "A", *, at_s: float = 0.0, sent: datetime | None = BEGUN) -> Entry:
    return made.on_begin_accepted(begin(made, name, at_s=at_s, sent=sent), at_s)


def idle(made: Ledger, at_s: float) -> None:
    made.on_live_value(XT=False, current_flows=False, at_s=at_s)


# --- evidence ---


def test_a_refused_b_leaves_no_entry_and_a_refused_e_says_nothing() -> None:
    made = ledger()
    made.on_begin_refused(begin(made))
    assert made.entries == ()
    entry = begun(made)
    made.on_end_refused(5.0)
    assert made.get(entry).state is State.OPEN


def test_a_b_without_an_answer_stays_uncertain_and_an_accepted_e_ends_it() -> None:
    made = ledger()
    entry = made.on_begin_unanswered(begin(made), 5.0)
    assert made.get(entry).state is State.UNCERTAIN
    made.on_end_accepted(6.0)
    assert made.get(entry).state is State.ENDED
    assert not made.is_certain_to_come(made.get(entry)), "nothing may have run"


def test_evidence_of_a_meter_is_not_about_what_was_begun_on_another() -> None:
    made = ledger()
    entry = begun(made)
    made.on_serial("1SIM0000000099")
    made.on_end_accepted(5.0)
    idle(made, 6.0)
    idle(made, 100.0)
    made.give_up(100.0)
    assert made.get(entry).state is State.OPEN
    assert made.running is None


def test_a_receipt_is_new_once() -> None:
    made = ledger()
    entry = begun(made)
    first = made.on_receipt(receipt(1))
    assert first.is_new
    assert first.entry is not None
    assert made.get(entry).state is State.CLOSED
    assert not made.on_receipt(receipt(1)).is_new
    assert made.receipt_of("A") == receipt(1)
    assert made.owner_of(receipt(1)) == "A"


def test_anothers_receipt_closes_nothing_and_belongs_to_no_one() -> None:
    made = ledger()
    entry = begun(made)
    arrival = made.on_receipt(receipt(1, ID="04STRANGER"))
    assert (arrival.is_new, arrival.entry) == (True, None)
    assert made.get(entry).state is State.OPEN
    assert made.receipt_of("A") is None
    assert made.owner_of(receipt(1, ID="04STRANGER")) == ""


def test_a_receipt_of_before_is_never_that_of_a_later_b() -> None:
    """A node that lags still shows it, whatever it has in common with the next one."""
    made = ledger()
    made.on_receipt(receipt(1))
    entry = begun(made)
    assert not made.on_receipt(receipt(1)).is_new
    assert made.get(entry).state is State.OPEN


def test_a_clock_that_leapt_before_b_is_measured_when_it_is_seen_however_late() -> None:
    """Live values that stand still in between make the leap look neither longer nor like one."""
    made = ledger()
    entry = begun(made)
    made.on_end_accepted(3.0)
    found = receipt(1, begun=BEGUN + HOUR)
    assert made.on_receipt(found).entry is None
    for at_s in (4.0, 12.0, 20.0):
        made.on_clock(BEGUN + timedelta(seconds=4), BEGUN, at_s)
    assert made.get(entry).leaps == ()
    assert made.on_clock(BEGUN + HOUR + timedelta(seconds=30), BEGUN, 30.0)
    closed = made.claim(found, seen_s=3.5)
    assert closed is not None
    assert closed.state is State.CLOSED
    assert closed.receipt == found


def test_a_receipt_that_was_seen_before_b_is_not_claimed_by_a_clock_that_leapt() -> None:
    made = ledger()
    found = receipt(1, begun=BEGUN + HOUR)
    assert made.on_receipt(found).entry is None
    begun(made, at_s=5.0)
    made.on_clock(BEGUN + HOUR, BEGUN, 5.0)
    assert made.claim(found, seen_s=4.0) is None


def test_a_lost_transaction_whose_receipt_comes_late_has_it() -> None:
    made = ledger()
    first = begun(made)
    begun(made, "B", at_s=3600.0, sent=BEGUN + HOUR)
    assert made.get(first).state is State.LOST
    made.on_receipt(receipt(1))
    assert made.get(first).state is State.CLOSED
    assert made.receipt_of("A") == receipt(1)


def test_the_receipt_of_an_earlier_b_under_an_id_that_was_begun_again_answers_no_stop() -> None:
    made = ledger()
    first = begun(made)
    begun(made, at_s=3600.0, sent=BEGUN + HOUR)
    made.on_receipt(receipt(1))
    assert made.get(first).state is State.CLOSED
    assert made.get(first).superseded
    assert made.receipt_of("A") is None


@pytest.mark.parametrize("what", ["nothing", "XT", "current", "power-up", "no values", "no XT"])
def test_no_receipt_comes_when_nothing_has_run_for_fifteen_seconds_after_e(what: str) -> None:
    made = ledger()
    entry = made.on_begin_unanswered(begin(made), 0.0)
    made.on_end_accepted(10.0)
    if what in ("XT", "current"):
        made.on_live_value(XT=what == "XT", current_flows=what == "current", at_s=15.0)
    if what == "power-up":
        made.on_power_up(15.0)
    if what == "no XT":
        made.on_live_value(XT=None, current_flows=False, at_s=10.0 + NO_RECEIPT_AFTER_S)
    elif what != "no values":
        idle(made, 10.0 + NO_RECEIPT_AFTER_S)
    made.give_up(10.0 + NO_RECEIPT_AFTER_S)
    assert made.get(entry).state is (State.LOST if what == "nothing" else State.ENDED)


@pytest.mark.parametrize("what", ["power-up", "another B"])
def test_a_receipt_that_is_certain_to_come_is_waited_for_until_a_power_up_or_another_b(what: str) -> None:
    made = ledger()
    entry = begun(made)
    made.on_end_accepted(10.0)
    idle(made, 1000.0)
    made.give_up(1000.0)
    assert made.is_certain_to_come(made.get(entry))
    assert made.get(entry).state is State.ENDED
    if what == "power-up":
        made.on_power_up(1000.0)
    else:
        begun(made, "B", at_s=1000.0, sent=BEGUN + HOUR)
    assert not made.is_certain_to_come(made.get(entry))
    idle(made, 1000.0 + NO_RECEIPT_AFTER_S)
    made.give_up(1000.0 + NO_RECEIPT_AFTER_S)
    assert made.get(entry).state is State.LOST


def test_a_start_that_failed_is_remembered_unless_an_entry_stands_under_its_id() -> None:
    made = ledger()
    made.refuse("A", BEGUN)
    entry = begun(made, "B")
    made.refuse("B", BEGUN)
    assert [(each.transaction_id, each.state) for each in made.entries] == [("A", State.REFUSED), ("B", State.OPEN)]
    assert made.newest("B") == made.get(entry)


def test_what_is_remembered_is_bounded_and_what_is_awaited_is_forgotten_last() -> None:
    made = ledger()
    entry = made.on_begin_unanswered(begin(made), 0.0)
    for number in range(500):
        made.refuse(f"R-{number}", BEGUN)
        made.deliver(f"D-{number}", receipt(number))
    assert made.size <= 2 * 64
    assert made.get(entry) in made.entries


def test_what_another_meter_showed_meanwhile_says_nothing_of_this_one() -> None:
    made = ledger()
    entry = made.on_begin_unanswered(begin(made), 0.0)
    made.on_end_accepted(10.0)
    made.on_serial(OTHER_SERIAL)
    idle(made, 10.0 + NO_RECEIPT_AFTER_S)
    made.on_serial(SERIAL)
    made.give_up(10.0 + NO_RECEIPT_AFTER_S)
    assert made.get(entry).state is State.ENDED


@pytest.mark.parametrize("another", ["none", "began in between", "was accepted since"])
def test_what_is_shown_long_after_an_accepted_e_was_not_ended_unless_another_runs(another: str) -> None:
    made = ledger()
    entry = made.on_begin_unanswered(begin(made), 0.0)
    made.on_end_accepted(10.0)
    if another == "began in between":
        idle(made, 10.0 + SHOWN_AFTER_END_S + 1.0)
    if another == "was accepted since":
        begun(made, "B", at_s=12.0, sent=BEGUN + HOUR)
    made.on_live_value(XT=True, current_flows=False, at_s=10.0 + SHOWN_AFTER_END_S + 2.0)
    assert made.get(entry).state is (State.UNCERTAIN if another == "none" else State.ENDED)


def test_a_clock_that_leapt_twice_gives_two_more_times_at_which_it_may_have_begun() -> None:
    made = ledger()
    entry = begun(made)
    assert made.on_clock(BEGUN + HOUR, BEGUN, 0.0)
    assert made.on_clock(BEGUN - HOUR, BEGUN, 1.0)
    assert not made.on_clock(BEGUN + HOUR, BEGUN, 0.0), "it is known"
    assert len(made.get(entry).leaps) == 2
    assert made.on_receipt(receipt(1, begun=BEGUN + HOUR)).entry is not None


def test_the_receipt_of_a_b_on_another_meter_under_an_id_that_was_begun_here_answers_no_stop() -> None:
    made = ledger()
    before = begun(made)
    made.on_serial(OTHER_SERIAL)
    again = made.begin(request("A"), "04ABA", OTHER_SERIAL, noted=BEGUN + HOUR, sent=BEGUN + HOUR, at_s=3600.0)
    made.on_begin_accepted(again, 3600.0)
    assert (made.get(before).unwanted, made.get(before).told) == (True, False)
    assert made.on_receipt(receipt(1)).entry == made.get(before)
    assert made.get(before).superseded
    assert made.receipt_of("A") is None


def test_a_stop_has_every_b_of_its_id_ended_on_whichever_meter_it_was_acted_on() -> None:
    made = ledger()
    entry = made.mark(made.on_begin_unanswered(begin(made), 5.0), told=True)
    made.on_serial(OTHER_SERIAL)
    assert made.disown("A")
    assert (made.get(entry).unwanted, made.get(entry).told) == (True, False)
    assert not made.unwanted, "it is not on the meter that answers"
    made.on_serial(SERIAL)
    assert made.unwanted == (made.get(entry),)
    assert not made.disown("never begun")


# --- a process after another ---


@pytest.mark.parametrize("state", ["uncertain", "open", "ended", "lost"])
def test_an_entry_comes_back_from_its_note_as_it_was(state: str) -> None:
    before, after = ledger(), ledger()
    entry = begun(before)
    if state == "uncertain":
        entry = before.on_begin_unanswered(begin(before, "B"), 5.0)
    elif state == "ended":
        before.on_end_accepted(5.0)
    elif state == "lost":
        begun(before, "B", at_s=3600.0, sent=BEGUN + HOUR)
    entry = before.get(entry)
    note = entry.to_note(ADDRESS)
    assert (note.state, note.address) == (state, ADDRESS)
    after.recall(note)
    after.recall(note)
    (recalled,) = after.entries
    for name in ("transaction_id", "ID", "serial", "PG_before", "state", "sent", "answered", "windows"):
        assert getattr(recalled, name) == getattr(entry, name)


def test_a_recalled_entry_gets_its_receipt_and_is_older_than_what_this_process_begins() -> None:
    before, after = ledger(), ledger()
    note = begun(before).to_note(ADDRESS)
    begun(after, "B", at_s=3600.0, sent=BEGUN + HOUR)
    after.recall(note)
    assert [entry.transaction_id for entry in after.entries] == ["A", "B"]
    after.on_receipt(receipt(1))
    assert after.receipt_of("A") == receipt(1)


def test_a_recalled_receipt_is_not_new_and_answers_its_own_id() -> None:
    made = ledger()
    made.recall_receipts([(receipt(1), "A", True), (receipt(2), "B", False)])
    assert made.receipt_of("A") == receipt(1)
    assert made.receipt_of("B") is None
    assert not made.on_receipt(receipt(1)).is_new
    assert not made.on_receipt(receipt(2)).is_new


def test_the_last_receipt_is_the_newer_of_two_that_the_journal_knows_whichever_is_shown_first() -> None:
    made = ledger()
    made.on_receipt(receipt(1))
    made.recall_receipts([(receipt(1), "A", True), (receipt(2), "B", True)])
    made.on_receipt(receipt(2))
    assert made.last == receipt(2)
    made.on_receipt(receipt(1))
    assert made.last == receipt(2), "a node that lags"


def test_what_this_process_has_seen_is_newer_than_what_the_journal_knows() -> None:
    made = ledger()
    made.on_receipt(receipt(3))
    made.recall_receipts([(receipt(1), "A", True), (receipt(2), "B", True)])
    made.on_receipt(receipt(2))
    assert made.last == receipt(3)


# --- whatever comes in whatever order ---


class AnyEvidence(RuleBasedStateMachine):
    """One meter, two ids, and evidence in any order; the receipts are of begins a minute apart."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = ledger()
        self.now_s = 0.0
        self.signed = 0
        self.last = receipt(0, "04STRANGER")
        self.closed: dict[int, Receipt] = {}

    def _pass(self, seconds: float = 60.0) -> None:
        self.now_s += seconds

    @rule(name=st.sampled_from("AB"), answer=st.sampled_from(["accepted", "refused", "unanswered"]))
    def begins(self, name: str, answer: str) -> None:
        self._pass()
        entry = begin(self.ledger, name, at_s=self.now_s, sent=BEGUN + timedelta(seconds=self.now_s))
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
            ID = begun[0].ID if shows == "its own" else "04STRANGER"
            self.last = receipt(self.signed, ID, begun[0].sent)
        was_known = self.ledger.knows(self.last)
        arrival = self.ledger.on_receipt(self.last)
        assert arrival.is_new is not was_known
        if arrival.entry is not None:
            assert not was_known
            assert self.last.identification == arrival.entry.ID

    @rule(name=st.sampled_from("AB"))
    def refuses(self, name: str) -> None:
        self.ledger.refuse(name, BEGUN)

    @invariant()
    def a_closed_entry_has_its_receipt_and_never_another(self) -> None:
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
    def a_receipt_answers_the_id_whose_card_it_shows(self) -> None:
        for name in "AB":
            found = self.ledger.receipt_of(name)
            assert found is None or found.identification == f"04AB{name}"

    @invariant()
    def one_entry_at_most_was_begun_for_certain_and_not_ended(self) -> None:
        assert sum(entry.state is State.OPEN for entry in self.ledger.entries) <= 1
        assert all(entry.state in AWAITED for entry in self.ledger.awaited)


AnyEvidence.TestCase.settings = settings(stateful_step_count=25)
test_any_evidence_in_any_order = AnyEvidence.TestCase
