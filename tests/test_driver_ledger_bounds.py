"""The ledger to the second and to the piece: where each of its bounds lies, and what each question answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from iem_dcr import ocmf
from iem_dcr.driver.ledger import MAX_ENTRIES, NO_RECEIPT_AFTER_S, SHOWN_AFTER_END_S, Ledger
from iem_dcr.driver.receipt_memory import MAX_KNOWN, MAX_RECEIPTS
from iem_dcr.driver.transitions import State
from tests.support.bench import SERIAL, request
from tests.test_driver_ledger import BEGUN, HOUR, begin, begun, idle, ledger, receipt

if TYPE_CHECKING:
    from iem_dcr.driver.entry import Entry
    from iem_dcr.ocmf import Receipt

ANOTHER_SERIAL = "1SIM0000000099"
SECOND = timedelta(seconds=1)
STRANGERS = "04STRANGER"


def shows(made: Ledger, at_s: float, *, current_flows: bool = False) -> None:
    made.on_live_value(XT=True, current_flows=current_flows, at_s=at_s)


def state(made: Ledger, entry: Entry) -> State:
    return made.get(entry).state


def recalled(name: str = "A", state: str = "open", serial: str = SERIAL) -> tuple[Ledger, Entry]:
    """Make a ledger that knows one entry, of a process before."""
    made = ledger()
    note = begin(ledger(), name).to_note("192.0.2.7:80")
    made.recall(replace(note, state=state, meter=serial))
    return made, made.entries[0]


def begin_on(made: Ledger, serial: str, name: str, *, at_s: float) -> Entry:
    return made.begin(request(name), f"04AB{name}", serial, noted=BEGUN, sent=BEGUN + HOUR, at_s=at_s)


def ended(made: Ledger, at_s: float = 10.0) -> Entry:
    """Make an entry whose B had no answer, and whose E was accepted."""
    entry = made.on_begin_unanswered(begin(made), 0.0)
    made.on_end_accepted(at_s)
    return made.get(entry)


# --- questions ---


def test_the_newest_that_may_run_is_the_one_that_runs() -> None:
    made = ledger()
    assert made.running is None
    for name in "AB":
        entry = made.on_begin_unanswered(begin(made, name), 0.0)
        assert made.running == entry
    made.on_end_accepted(1.0)
    assert made.running is None
    assert [each.transaction_id for each in made.awaited] == ["A", "B"]


def test_what_the_driver_ends_by_itself_may_run_here() -> None:
    made = ledger()
    begin(made)
    entry = begin(made, "B")
    assert not list(made.unwanted)
    marked = made.mark(entry, unwanted=True)
    assert list(made.unwanted) == [marked]
    made.on_serial(ANOTHER_SERIAL)
    assert not list(made.unwanted)
    made.on_serial(SERIAL)
    made.on_end_accepted(1.0)
    assert not list(made.unwanted)


def test_a_mark_changes_what_it_names_and_nothing_of_what_was_taken_back() -> None:
    made = ledger()
    entry = begin(made)
    assert (entry.unwanted, entry.told) == (False, False)
    assert made.mark(entry, told=True).told
    both = made.mark(entry, unwanted=True)
    assert (both.unwanted, both.told) == (True, True)
    assert made.get(entry) == both
    made.on_begin_refused(entry)
    assert made.mark(entry, unwanted=True) == entry
    assert not list(made.entries)


def test_an_answer_to_a_b_that_was_taken_back_leaves_no_entry() -> None:
    made = ledger()
    entry = begin(made)
    made.on_begin_refused(entry)
    assert made.on_begin_unanswered(entry, 1.0).number == entry.number
    assert not list(made.entries)


def test_the_last_pagination_is_unknown_until_the_meter_was_asked() -> None:
    made = ledger()
    assert (made.was_asked, made.PG_before) == (False, None)
    assert begin(made).PG_before is None
    assert not made.on_receipt(None, 0.0).is_new
    assert (made.was_asked, made.PG_before) == (True, "")
    made.on_receipt(receipt(1, STRANGERS), 0.0)
    assert begin(made).PG_before == "T1"
    made.on_receipt(ocmf.parse(receipt(2).text.replace('"PG":"T2",', "")), 0.0)
    assert made.PG_before is None


def test_a_receipt_is_expected_of_a_b_that_was_accepted_and_saw_no_power_up() -> None:
    made = ledger()
    made.on_begin_unanswered(begin(made), 0.0)
    assert not made.expects_receipt(0.0)
    made = ledger()
    entry = begun(made)
    assert made.expects_receipt(0.0)
    assert not made.is_certain_to_come(made.get(entry)), "it may run on"
    made.on_end_accepted(5.0)
    assert made.is_certain_to_come(made.get(entry))
    made.on_power_up(6.0)
    assert not made.expects_receipt(0.0)
    assert not made.is_certain_to_come(made.get(entry))


@pytest.mark.parametrize(("serial", "certain"), [(SERIAL, False), ("", False), (ANOTHER_SERIAL, True)])
def test_another_b_that_was_accepted_here_overwrites_the_receipt(serial: str, *, certain: bool) -> None:
    made = ledger()
    entry = begun(made)
    made.on_end_accepted(5.0)
    other = begin_on(made, serial, "B", at_s=6.0)
    assert made.is_certain_to_come(made.get(entry))
    made.on_begin_accepted(other, 7.0)
    assert made.is_certain_to_come(made.get(entry)) is certain


def test_xt_false_is_seen_since_b_when_it_came_after_it() -> None:
    made = ledger()
    entry = begin(made, at_s=5.0)
    for at_s, seen in ((None, False), (4.0, False), (5.0, False), (5.1, True)):
        if at_s is not None:
            idle(made, at_s)
        assert made.seen_idle_since(entry) is seen
    assert Ledger().seen_idle_since(recalled()[1])


# --- E, and what values show after it ---


@pytest.mark.parametrize("accepted", [True, False])
def test_the_first_answer_to_e_counts(*, accepted: bool) -> None:
    made = ledger()
    entry = made.on_begin_unanswered(begin(made), 0.0)
    for at_s in (10.0, 20.0):
        (made.on_end_accepted if accepted else made.on_end_refused)(at_s)
        assert made.get(entry).end_answered_s == 10.0
    lost_s = 10.0 + NO_RECEIPT_AFTER_S
    for at_s, is_lost in ((lost_s - 0.1, False), (lost_s, True)):
        idle(made, at_s)
        assert made.no_receipt_comes(made.get(entry), at_s) is is_lost
        assert not made.no_receipt_comes(made.get(entry), lost_s - 0.1)
        made.give_up(at_s)
        assert (state(made, entry) is State.LOST) is is_lost


def test_what_no_e_was_answered_for_is_not_given_up() -> None:
    made = ledger()
    entry = made.on_begin_unanswered(begin(made), 0.0)
    idle(made, 1000.0)
    made.give_up(1000.0)
    assert state(made, entry) is State.UNCERTAIN


@pytest.mark.parametrize("what", ["XT", "current", "power-up"])
def test_what_was_seen_last_begins_the_fifteen_seconds_anew(what: str) -> None:
    made = ledger()
    entry = ended(made)
    if what == "power-up":
        made.on_power_up(12.0)
    else:
        made.on_live_value(XT=what == "XT", current_flows=what == "current", at_s=12.0)
    for at_s, is_lost in ((11.9, False), (12.0, True)):
        idle(made, at_s + NO_RECEIPT_AFTER_S)
        made.give_up(at_s + NO_RECEIPT_AFTER_S)
        assert (state(made, entry) is State.LOST) is is_lost


def test_the_same_serial_again_forgets_nothing() -> None:
    made = ledger()
    entry = ended(made)
    shows(made, 20.0)
    made.on_serial(SERIAL)
    idle(made, 30.0)
    assert not made.no_receipt_comes(entry, 30.0)


def test_a_value_without_xt_leaves_what_was_seen_before() -> None:
    made = ledger()
    entry = begin(made, at_s=0.0)
    idle(made, 1.0)
    made.on_live_value(XT=None, current_flows=False, at_s=2.0)
    assert made.seen_idle_since(entry)


@pytest.mark.parametrize(
    ("idle_s", "runs_s", "now"),
    [
        (None, SHOWN_AFTER_END_S, State.ENDED),
        (None, SHOWN_AFTER_END_S + 0.1, State.UNCERTAIN),
        (SHOWN_AFTER_END_S, 30.0, State.UNCERTAIN),
        (SHOWN_AFTER_END_S + 0.1, 30.0, State.ENDED),
    ],
)
def test_what_runs_long_after_e_was_not_ended_unless_xt_was_false_so_long_after(
    idle_s: float | None, runs_s: float, now: State
) -> None:
    made = ledger()
    entry = ended(made)
    if idle_s is not None:
        idle(made, 10.0 + idle_s)
    shows(made, 10.0 + runs_s)
    assert state(made, entry) is now


def test_what_runs_is_not_what_a_process_before_has_ended() -> None:
    made, entry = recalled(state="ended")
    shows(made, 1000.0)
    assert state(made, entry) is State.ENDED


def test_what_another_b_has_overwritten_is_not_what_runs() -> None:
    made = ledger()
    entry = ended(made)
    begun(made, "B", at_s=11.0)
    shows(made, 100.0)
    assert state(made, entry) is State.ENDED


# --- the clock ---


@pytest.mark.parametrize(("leap_s", "leapt"), [(5.0, False), (5.1, True), (-5.0, False), (-5.1, True)])
def test_a_clock_leaps_by_more_than_five_seconds(leap_s: float, *, leapt: bool) -> None:
    made = ledger()
    entry = begun(made, at_s=100.0)
    assert made.on_clock(BEGUN + (60 + leap_s) * SECOND, BEGUN, 160.0) is leapt
    assert made.get(entry).leaps == ((leap_s * SECOND,) if leapt else ())


def test_the_last_four_leaps_are_known_each_once_and_a_clock_that_stands_still_says_nothing() -> None:
    made = ledger()
    entry = begun(made)
    for hours in (1, 2, 3, 4, 5, 5):
        made.on_clock(BEGUN + hours * HOUR + hours * SECOND, BEGUN, float(hours))
    assert not made.on_clock(BEGUN + 5 * HOUR + 5 * SECOND, BEGUN, 5000.0)
    assert not made.on_clock(BEGUN + 4 * HOUR + 6 * SECOND, BEGUN, 6.0)
    assert made.get(entry).leaps == tuple(hours * HOUR for hours in (2, 3, 4, 5))


def test_a_leap_is_measured_for_what_is_awaited_and_has_a_time() -> None:
    made = ledger()
    lost, open_ = begun(made), begun(made, "B")
    assert made.on_clock(BEGUN + HOUR, BEGUN, 0.0)
    assert (made.get(lost).leaps, made.get(open_).leaps) == ((), (HOUR,))
    made = ledger()
    timeless = begun(made, sent=None)
    later = begun(made, "B")
    assert timeless.answered is None
    made.on_clock(BEGUN + HOUR, BEGUN, 0.0)
    assert made.get(later).leaps == (HOUR,)


def test_a_leap_of_a_process_before_is_measured_by_the_hosts_clock() -> None:
    made, entry = recalled()
    assert made.on_clock(BEGUN + 2 * HOUR, BEGUN + HOUR, 7.0)
    assert made.get(entry).leaps == (HOUR,)


def test_an_answer_is_as_late_by_the_meters_clock_as_by_the_loops() -> None:
    made = ledger()
    assert made.on_begin_unanswered(begin(made, at_s=100.0), 104.0).answered == BEGUN + 4 * SECOND
    made, entry = recalled()
    assert made.on_begin_unanswered(entry, 104.0).answered == BEGUN


# --- power-ups ---


def test_a_power_up_is_noted_of_what_is_awaited_and_of_what_is_recalled_after_it() -> None:
    made = ledger()
    lost, open_ = begun(made), begun(made, "B")
    note = begin(ledger(), "C").to_note("192.0.2.7:80")
    made.on_power_up(5.0)
    assert (made.get(lost).power_up, made.get(open_).power_up) == (False, True)
    made.recall(note)
    assert made.entries[0].power_up
    assert not recalled()[1].power_up


# --- receipts ---


def test_a_receipt_that_has_an_owner_is_not_claimed_again() -> None:
    made = ledger()
    begun(made)
    first = receipt(1)
    made.deliver("B", first)
    assert made.claim(first) is None
    assert not made.on_receipt(first, 0.0).is_new
    assert made.receipt_of("B") == first


def test_a_b_that_went_out_when_a_receipt_was_seen_may_own_it() -> None:
    for seen_s, is_claimed in ((4.9, False), (5.0, True)):
        made = ledger()
        begun(made, at_s=5.0)
        assert (made.claim(receipt(1), seen_s=seen_s) is not None) is is_claimed
    made, _ = recalled()
    assert made.claim(receipt(1), seen_s=0.0) is not None


@pytest.mark.parametrize("name", ["A", "B"])
def test_a_receipt_answers_its_id_unless_another_b_under_it_was_accepted_elsewhere_since(name: str) -> None:
    made = ledger()
    first = begun(made)
    made.on_serial(ANOTHER_SERIAL)
    begun(made, name, at_s=3600.0, sent=BEGUN + HOUR)
    made.on_receipt(receipt(1), 0.0)
    assert state(made, first) is State.CLOSED
    assert made.get(first).superseded is (name == "A")
    assert made.receipt_of("A") == (None if name == "A" else receipt(1))


def test_an_unanswered_b_under_an_id_supersedes_nothing() -> None:
    made = ledger()
    first = begun(made)
    made.on_begin_unanswered(begin(made, at_s=3600.0, sent=BEGUN + HOUR), 3605.0)
    made.on_receipt(receipt(1), 0.0)
    assert not made.get(first).superseded
    assert made.receipt_of("A") == receipt(1)


def test_the_last_receipt_stays_the_newest_known() -> None:
    made = ledger()
    made.recall_receipts([(receipt(number), "", True) for number in (1, 2, 3)])
    assert made.last is None
    for number, last in ((2, 2), (1, 2), (2, 2), (3, 3)):
        made.on_receipt(receipt(number), 0.0)
        assert made.last == receipt(last)
    assert made.owner_of(receipt(1)) == ""


def test_what_was_seen_is_known_although_the_journal_does_not_have_it() -> None:
    made = ledger()
    made.on_receipt(receipt(3, STRANGERS), 0.0)
    made.recall_receipts([(receipt(1), "A", True)])
    assert made.knows(receipt(3, STRANGERS))
    assert made.knows(receipt(1))


# --- what the station wants, and what it was refused ---


def test_an_accepted_b_has_the_same_id_ended_on_another_meter_while_it_may_run_there() -> None:
    made = ledger()
    first, other = begun(made), made.on_begin_unanswered(begin(made, "B", at_s=1.0), 2.0)
    made.mark(other, told=True)
    assert state(made, first) is State.OPEN
    made.on_serial(ANOTHER_SERIAL)
    there = begin_on(made, ANOTHER_SERIAL, "B", at_s=3600.0)
    assert made.on_begin_accepted(there, 3601.0).state is State.OPEN
    assert (made.get(other).unwanted, made.get(other).told) == (True, False)
    assert not made.get(first).unwanted
    assert not made.get(there).unwanted


def test_only_the_same_id_is_superseded_by_an_accepted_b() -> None:
    made = ledger()
    first, second, third = begun(made), begun(made, "B"), begun(made)
    assert [made.get(entry).superseded for entry in (first, second, third)] == [True, False, False]


def test_a_stop_disowns_what_is_awaited_of_its_id() -> None:
    made = ledger()
    lost = begun(made, "A")
    entry = begun(made, "B")
    for each in (lost, entry):
        made.mark(each, told=True)
    assert not made.disown("A"), "it is lost"
    assert made.disown("B")
    assert (made.get(entry).unwanted, made.get(entry).told) == (True, False)
    assert (made.get(lost).unwanted, made.get(lost).told) == (False, True)


def test_a_start_that_failed_is_not_remembered_without_an_id_or_where_its_receipt_is_here() -> None:
    made = ledger()
    made.refuse("", BEGUN)
    made.deliver("D", receipt(1))
    made.refuse("D", BEGUN)
    assert not list(made.entries)
    for _ in range(2):
        made.recall_refused("A", BEGUN)
    (refused,) = made.entries
    assert (refused.state, refused.ID, refused.serial) == (State.REFUSED, "", "")


# --- bounds ---


def test_so_many_entries_are_remembered_and_what_is_done_goes_first() -> None:
    made = ledger()
    first = made.on_begin_unanswered(begin(made, "first"), 0.0)
    for number in range(MAX_ENTRIES - 1):
        made.refuse(f"R-{number}", BEGUN)
    assert len(made.entries) == made.size == MAX_ENTRIES
    made.refuse("one more", BEGUN)
    assert [entry.transaction_id for entry in made.entries[:2]] == ["first", "R-1"]
    assert made.entries[0] == first
    for number in range(MAX_ENTRIES):
        made.on_begin_unanswered(begin(made, f"B-{number}"), 0.0)
    assert [entry.transaction_id for entry in made.entries] == [f"B-{number}" for number in range(MAX_ENTRIES)]


def test_so_many_receipts_answer_and_so_many_are_known() -> None:
    made = ledger()
    for number in range(MAX_KNOWN + 1):
        made.deliver(f"D-{number}", receipt(number))
        assert made.size == min(number + 1, MAX_RECEIPTS)
    oldest = MAX_KNOWN + 1 - MAX_RECEIPTS
    assert made.receipt_of(f"D-{oldest - 1}") is None
    assert made.receipt_of(f"D-{oldest}") == receipt(oldest)
    assert [made.knows(receipt(number)) for number in (0, 1)] == [False, True]
    assert [made.owner_of(receipt(number)) for number in (0, 1)] == ["", "D-1"]


def test_a_receipt_delivered_again_is_forgotten_last() -> None:
    made = ledger()
    for number in [*range(MAX_RECEIPTS), 0, MAX_RECEIPTS]:
        made.deliver(f"D-{number}", receipt(number))
    assert made.receipt_of("D-0") == receipt(0)
    assert made.receipt_of("D-1") is None


# --- a process after another ---


def test_an_entry_is_recalled_once_and_before_those_of_this_process() -> None:
    made = ledger()
    begun(made, "own", at_s=1.0)
    notes = [
        replace(begin(ledger(), name).to_note("a:80"), noted=BEGUN + at * SECOND) for name, at in (("A", 1), ("A", 2))
    ]
    for note in (*notes, *notes):
        made.recall(note)
    assert [(entry.transaction_id, entry.sent_s) for entry in made.entries] == [("A", None), ("A", None), ("own", 1.0)]


@pytest.mark.parametrize(
    ("noted", "state", "is_answered", "told"),
    [
        ("open", State.OPEN, True, True),
        ("ended", State.ENDED, True, False),
        ("uncertain", State.UNCERTAIN, False, False),
        ("lost", State.LOST, False, False),
        ("of a later version", State.LOST, False, False),
    ],
)
def test_a_note_says_what_was_known(noted: str, state: State, *, is_answered: bool, told: bool) -> None:
    made, entry = recalled(state=noted)
    assert (entry.state, entry.is_answered, entry.told) == (state, is_answered, told)
    assert (entry.sent_s, made.serial) == (None, SERIAL)


def test_of_every_change_it_is_told_with_what_it_was_before() -> None:
    told: list[tuple[State, State]] = []
    made = Ledger(lambda before, now: told.append((before.state, now.state)))
    made.on_serial(SERIAL)
    begun(made)
    made.on_end_accepted(5.0)
    made.on_end_accepted(6.0)
    made.on_receipt(receipt(1), 0.0)
    assert told == [
        (State.UNCERTAIN, State.OPEN),
        (State.OPEN, State.ENDED),
        (State.ENDED, State.CLOSED),
    ]


def test_a_receipt_is_told_from_others_by_what_is_signed() -> None:
    made = ledger()
    made.on_receipt(receipt(1, STRANGERS), 0.0)
    again: Receipt = ocmf.parse(receipt(1, STRANGERS).text.replace('"SD":"30', '"SD":"31'))
    assert made.knows(again)
    assert not made.knows(receipt(2, STRANGERS))
