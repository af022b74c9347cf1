"""The ledger: what requests, live values and the clock say about its entries, to the second."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from iem_dcr import ocmf
from iem_dcr.driver.ledger import Ledger
from iem_dcr.driver.transitions import State
from tests.support.bench import SERIAL, request
from tests.support.driving import OTHER_SERIAL
from tests.support.journals import tuple_text

if TYPE_CHECKING:
    from iem_dcr.driver.entry import Entry
    from iem_dcr.ocmf import Receipt

BEGUN = datetime(2026, 3, 1, 11, tzinfo=UTC)
"""When the transactions of `tuple_text` begin."""
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
STRANGER = "04STRANGER"


def receipt(number: int, ID: str = "04ABA", begun: datetime = BEGUN) -> Receipt:
    text = tuple_text(number, ID=ID, meter=SERIAL)
    return ocmf.parse(text.replace("2026-03-01T12:00:00,000", f"{begun + HOUR:%Y-%m-%dT%H:%M:%S},000", 1))


def ledger() -> Ledger:
    made = Ledger()
    made.on_serial(SERIAL)
    return made


def begin(made: Ledger, name: str = "A", at_s: float = 0.0, sent: datetime | None = BEGUN) -> Entry:
    """Send B to the meter that answers."""
    return made.begin(request(name), f"04AB{name}", made.serial, noted=BEGUN, sent=sent, at_s=at_s)


def begun(made: Ledger, name: str = "A", at_s: float = 0.0, sent: datetime | None = BEGUN) -> Entry:
    return made.on_begin_accepted(begin(made, name, at_s, sent), at_s)


def uncertain(made: Ledger, name: str = "A", at_s: float = 0.0) -> Entry:
    return made.on_begin_unanswered(begin(made, name, at_s), at_s)


def ended(made: Ledger) -> Entry:
    """Make an entry whose B had no answer and whose E was accepted at 10 s."""
    entry = uncertain(made)
    made.on_end_accepted(10.0)
    return entry


def shows(made: Ledger, at_s: float, *, XT: bool | None, current_flows: bool = False) -> None:
    made.on_live_value(XT=XT, current_flows=current_flows, at_s=at_s)


def recalled(state: str = "open", **fields: Any) -> tuple[Ledger, Entry]:
    """Make a ledger that knows one entry, of a previous process."""
    made = ledger()
    made.recall(replace(begin(ledger()).to_note("192.0.2.7:80"), state=state, **fields))
    return made, made.entries[0]


def running(made: Ledger) -> Entry | None:
    return made.running


def states(made: Ledger, *entries: Entry) -> list[State]:
    return [made.get(entry).state for entry in entries]


# --- B ---


def test_refused_begin_leaves_no_entry() -> None:
    made = ledger()
    entry = begin(made)
    made.on_begin_refused(entry)
    assert made.on_begin_unanswered(entry, 1.0).number == entry.number
    assert made.mark(entry, unwanted=True) == entry
    assert made.entries == ()


def test_unanswered_begin_stays_uncertain_and_may_run() -> None:
    made = ledger()
    assert running(made) is None
    first, second = uncertain(made), uncertain(made, "B")
    assert states(made, first, second) == [State.UNCERTAIN] * 2
    assert running(made) == second, "the newest"
    assert made.awaited == (first, second)
    made.on_end_accepted(1.0)
    assert running(made) is None
    assert [each.transaction_id for each in made.awaited] == ["A", "B"]


def test_accepted_begin_says_that_no_earlier_one_runs() -> None:
    made = ledger()
    first, second, third = begun(made), uncertain(made, "B"), begun(made)
    assert states(made, first, second, third) == [State.LOST, State.LOST, State.OPEN]
    assert [made.get(entry).superseded for entry in (first, second, third)] == [True, False, False]
    assert made.awaited == (third,)


def test_accepted_begin_on_another_meter_has_the_same_id_ended_where_it_may_run() -> None:
    made = ledger()
    closed = begun(made, "B")
    made.on_receipt(receipt(1, "04ABB"), 0.0)
    same, other = uncertain(made, "B"), uncertain(made)
    for entry in (closed, same, other):
        made.mark(entry, reported=True)
    made.on_serial(OTHER_SERIAL)
    there = begun(made, "B", 3600.0)
    marks = [(made.get(entry).unwanted, made.get(entry).reported) for entry in (closed, same, other, there)]
    assert marks == [(False, True), (True, False), (False, True), (False, False)]


def test_failed_start_is_remembered_unless_its_id_is_known() -> None:
    made = ledger()
    begun(made, "B")
    made.deliver("D", receipt(1))
    for name in ("", "A", "A", "B", "D"):
        made.recall_refused(name, BEGUN)
    known = [(each.transaction_id, each.ID, each.serial, each.state) for each in made.entries]
    assert known == [("B", "04ABB", SERIAL, State.OPEN), ("A", "", "", State.REFUSED)]


def test_mark_changes_what_it_names_and_a_stop_disowns_all_of_its_id() -> None:
    made = ledger()
    lost, entry = begun(made), begun(made, "B")
    assert not entry.reported
    made.mark(lost, reported=True)
    made.mark(entry, reported=True)
    assert [*made.unwanted] == []
    assert not made.disown("A"), "it is lost"
    assert not made.disown("never begun")
    made.on_serial(OTHER_SERIAL)
    assert made.disown("B"), "on whichever meter it runs"
    assert [(made.get(each).unwanted, made.get(each).reported) for each in (lost, entry)] == [
        (False, True),
        (True, False),
    ]
    assert [*made.unwanted] == [], "it is not on the meter that answers"
    made.on_serial(SERIAL)
    assert [*made.unwanted] == [made.get(entry)]
    made.on_end_accepted(1.0)
    assert [*made.unwanted] == [], "it cannot run"
    assert made.mark(entry, unwanted=False).reported is False


# --- E, and values after it ---


def test_accepted_end_ends_what_may_run_and_a_refused_one_says_nothing() -> None:
    made = ledger()
    entry = begun(made)
    made.on_end_refused(5.0)
    assert states(made, entry) == [State.OPEN]
    made.on_end_accepted(6.0)
    assert states(made, entry) == [State.ENDED]


def test_evidence_of_one_meter_says_nothing_of_another() -> None:
    made = ledger()
    entry = begun(made)
    made.on_serial(OTHER_SERIAL)
    made.on_end_accepted(5.0)
    shows(made, 100.0, XT=False)
    made.give_up(100.0)
    assert states(made, entry) == [State.OPEN]
    assert running(made) is None


def test_begin_before_any_meter_has_answered_may_be_on_the_one_that_answers() -> None:
    made = Ledger()
    assert made.serial == ""
    entry = begun(made)
    made.on_serial(SERIAL)
    made.on_end_accepted(5.0)
    assert states(made, entry) == [State.ENDED]


@pytest.mark.parametrize("accepted", [True, False])
def test_no_receipt_comes_fifteen_seconds_after_the_first_answer_to_end(*, accepted: bool) -> None:
    made = ledger()
    entry = uncertain(made)
    for at_s in (10.0, 20.0):
        (made.on_end_accepted if accepted else made.on_end_refused)(at_s)
    for at_s, is_lost in ((24.9, False), (25.0, True)):
        shows(made, at_s, XT=False)
        assert made.no_receipt_comes(made.get(entry), at_s) is is_lost
        assert not made.no_receipt_comes(made.get(entry), 24.9)
        made.give_up(at_s)
        assert (states(made, entry) == [State.LOST]) is is_lost


@pytest.mark.parametrize("seen", ["XT", "current", "power-up"])
def test_fifteen_seconds_begin_again(seen: str) -> None:
    made = ledger()
    entry = ended(made)
    if seen == "power-up":
        made.on_power_up(12.0)
    else:
        shows(made, 12.0, XT=seen == "XT", current_flows=seen == "current")
    for at_s, now in ((26.9, State.ENDED), (27.0, State.LOST)):
        shows(made, at_s, XT=False)
        made.give_up(at_s)
        assert states(made, entry) == [now]


@pytest.mark.parametrize("seen", ["no value", "an older value", "no XT", "an unanswered end", "another meter"])
def test_no_entry_is_lost_without_a_value_after_fifteen_seconds(seen: str) -> None:
    made = ledger()
    entry = ended(made) if seen != "an unanswered end" else uncertain(made)
    if seen == "another meter":
        made.on_serial(OTHER_SERIAL)
    if seen != "no value":
        shows(made, 12.0 if seen == "an older value" else 100.0, XT=None if seen == "no XT" else False)
    made.on_serial(SERIAL)
    made.give_up(100.0)
    assert states(made, entry) != [State.LOST]


def test_same_serial_again_and_a_value_without_xt_forget_nothing() -> None:
    made = ledger()
    entry = ended(made)
    shows(made, 20.0, XT=True)
    made.on_serial(SERIAL)
    shows(made, 30.0, XT=False)
    shows(made, 31.0, XT=None)
    assert not made.no_receipt_comes(made.get(entry), 30.0)
    assert made.seen_idle_since(entry)


def test_idle_is_seen_when_xt_is_false_after_begin() -> None:
    made = ledger()
    entry = begin(made, at_s=5.0)
    assert not made.seen_idle_since(entry)
    for at_s, seen in ((4.0, False), (5.0, False), (5.1, True)):
        shows(made, at_s, XT=False)
        assert made.seen_idle_since(entry) is seen
    assert Ledger().seen_idle_since(recalled()[1])


@pytest.mark.parametrize("serial", [SERIAL, "", OTHER_SERIAL, "power-up"])
def test_certain_receipt_is_awaited_until_a_power_up_or_another_begin_here(serial: str) -> None:
    made = ledger()
    entry = begun(made)
    assert made.expects_receipt(0.0)
    assert not made.is_certain_to_come(made.get(entry)), "it may still run"
    made.on_end_accepted(10.0)
    other = made.begin(request("B"), "04ABB", serial, noted=BEGUN, sent=BEGUN + HOUR, at_s=11.0)
    shows(made, 100.0, XT=False)
    made.give_up(100.0)
    assert made.is_certain_to_come(made.get(entry))
    if serial == "power-up":
        made.on_power_up(100.0)
    else:
        made.on_begin_accepted(other, 100.0)
    assert made.is_certain_to_come(made.get(entry)) is (serial == OTHER_SERIAL)
    shows(made, 115.0, XT=False)
    made.give_up(115.0)
    assert states(made, entry) == [State.ENDED if serial == OTHER_SERIAL else State.LOST]


def test_no_receipt_is_expected_of_an_unanswered_begin_or_after_a_power_up() -> None:
    made = ledger()
    uncertain(made)
    assert not made.expects_receipt(0.0)
    begun(made)
    assert made.expects_receipt(0.0)
    made.on_power_up(6.0)
    assert not made.expects_receipt(6.0)


@pytest.mark.parametrize(
    ("idle_s", "runs_s", "now"),
    [
        (None, 20.5, State.ENDED),
        (None, 20.6, State.UNCERTAIN),
        (20.5, 40.0, State.UNCERTAIN),
        (20.6, 40.0, State.ENDED),
    ],
)
def test_running_more_than_10_5_s_after_end_was_not_ended_unless_it_was_idle(
    idle_s: float | None, runs_s: float, now: State
) -> None:
    made = ledger()
    entry = ended(made)
    if idle_s is not None:
        shows(made, idle_s, XT=False)
    shows(made, runs_s, XT=True)
    assert states(made, entry) == [now]


def test_running_is_another_transaction_after_a_restart_or_another_begin() -> None:
    made, entry = recalled(state="ended")
    shows(made, 1000.0, XT=True)
    assert states(made, entry) == [State.ENDED]
    made = ledger()
    entry = ended(made)
    begun(made, "B", 11.0)
    shows(made, 100.0, XT=True)
    assert states(made, entry) == [State.ENDED]


@pytest.mark.parametrize("explained_by", ["an end", "a receipt"])
def test_a_receipt_is_expected_of_what_ran_in_the_last_fifteen_seconds(explained_by: str) -> None:
    made = ledger()
    made.on_receipt(receipt(1, STRANGER), 0.0)
    assert not made.expects_receipt(0.0)
    shows(made, 1.0, XT=True)
    assert made.expects_receipt(1.0), "the receipt of the first look explains nothing"
    shows(made, 20.0, XT=True)
    assert [made.expects_receipt(at_s) for at_s in (20.0, 34.0, 35.0)] == [True, True, False]
    if explained_by == "an end":
        made.on_end_accepted(21.0)
    else:
        made.on_receipt(receipt(2, STRANGER), 21.0)
    for at_s, is_expected in ((21.0, False), (31.5, False), (31.6, True)):
        shows(made, at_s, XT=True)
        assert made.expects_receipt(at_s) is is_expected
    made.on_serial(OTHER_SERIAL)
    assert not made.expects_receipt(31.6)


# --- the clock, and power-ups ---


@pytest.mark.parametrize(("leap_s", "has_leapt"), [(5.0, False), (5.1, True), (-5.0, False), (-5.1, True)])
def test_clock_leaps_by_more_than_five_seconds(leap_s: float, *, has_leapt: bool) -> None:
    made = ledger()
    entry = begun(made, at_s=100.0)
    assert made.on_clock(BEGUN + (60 + leap_s) * SECOND, BEGUN, 160.0) is has_leapt
    assert made.get(entry).leaps == ((leap_s * SECOND,) if has_leapt else ())


def test_last_four_leaps_are_known_once_each_and_a_frozen_clock_says_nothing() -> None:
    made = ledger()
    entry = begun(made)
    for hours in (1, 2, 3, 4, 5, 5):
        made.on_clock(BEGUN + hours * HOUR + hours * SECOND, BEGUN, float(hours))
    assert not made.on_clock(BEGUN + 5 * HOUR + 5 * SECOND, BEGUN, 5000.0)
    assert not made.on_clock(BEGUN + 4 * HOUR + 6 * SECOND, BEGUN, 6.0)
    assert made.get(entry).leaps == tuple(hours * HOUR for hours in (2, 3, 4, 5))


def test_leap_and_power_up_concern_entries_that_await_a_receipt() -> None:
    made = ledger()
    lost, opened, timeless = begun(made), begun(made, "B"), begin(made, "C", sent=None)
    assert made.on_clock(BEGUN + HOUR, BEGUN, 0.0)
    made.on_power_up(5.0)
    noticed = [(made.get(entry).leaps, made.get(entry).power_up) for entry in (lost, opened, timeless)]
    assert noticed == [((), False), ((HOUR,), True), ((), True)]
    assert made.on_begin_accepted(timeless, 9.0).answered is None


def test_times_of_a_previous_process_are_measured_by_the_hosts_clock() -> None:
    made, entry = recalled()
    assert made.on_clock(BEGUN + 2 * HOUR, BEGUN + HOUR, 7.0)
    assert made.get(entry).leaps == (HOUR,)
    assert made.on_begin_unanswered(entry, 104.0).answered == BEGUN
    made = ledger()
    assert made.on_begin_unanswered(begin(made, at_s=100.0), 104.0).answered == BEGUN + 4 * SECOND
