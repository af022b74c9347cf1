"""The transitions of the ledger: what each piece of evidence does in every state, and what no sequence ever does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.driver.transitions import AWAITED, RUNNING, TABLE, Event, State, after

FINAL = (State.REFUSED, State.CLOSED)
"""What nothing changes any more."""
EVENTS = st.lists(st.sampled_from(list(Event)), max_size=30)


def states_that_change(event: Event) -> dict[State, State]:
    return {state: after(state, event) for state in State if after(state, event) is not state}


def test_a_receipt_closes_all_that_may_have_been_acted_on_and_a_lost_one_too() -> None:
    changed = states_that_change(Event.RECEIPT)
    assert set(changed) == set(State) - set(FINAL)
    assert set(changed.values()) == {State.CLOSED}


def test_an_accepted_b_opens_what_was_uncertain_only() -> None:
    assert states_that_change(Event.BEGIN_ACCEPTED) == {State.UNCERTAIN: State.OPEN}


def test_another_accepted_b_says_that_no_earlier_one_runs_and_nothing_of_what_was_ended() -> None:
    """The receipt of what was ended may still be on its way."""
    changed = states_that_change(Event.OTHER_BEGIN_ACCEPTED)
    assert set(changed) == set(RUNNING)
    assert set(changed.values()) == {State.LOST}


def test_an_accepted_e_ends_all_that_may_run() -> None:
    changed = states_that_change(Event.END_ACCEPTED)
    assert set(changed) == set(RUNNING)
    assert set(changed.values()) == {State.ENDED}


def test_a_value_makes_what_was_ended_uncertain_and_moves_nothing_else() -> None:
    assert states_that_change(Event.RUNS_AFTER_END) == {State.ENDED: State.UNCERTAIN}


def test_what_no_receipt_comes_for_any_more_is_lost() -> None:
    changed = states_that_change(Event.NO_RECEIPT_COMES)
    assert set(changed) == set(AWAITED)
    assert set(changed.values()) == {State.LOST}


def test_the_table_knows_every_state() -> None:
    assert set(TABLE) == set(State)


def test_what_may_run_is_awaited_and_nothing_final_is() -> None:
    assert set(RUNNING) < set(AWAITED)
    assert not set(AWAITED) & {*FINAL, State.LOST}


def walk(start: State, events: list[Event]) -> list[State]:
    states = [start]
    for event in events:
        states.append(after(states[-1], event))
    return states


@given(EVENTS)
def test_a_receipt_closes_whatever_may_have_been_acted_on_however_late_it_is(events: list[Event]) -> None:
    before = walk(State.UNCERTAIN, events)[-1]
    assert after(before, Event.RECEIPT) is State.CLOSED
    assert (before is State.CLOSED) is (Event.RECEIPT in events)


@given(EVENTS)
def test_after_another_b_was_accepted_an_earlier_one_never_runs_again(events: list[Event]) -> None:
    for state in (State.UNCERTAIN, State.OPEN):
        assert not set(walk(after(state, Event.OTHER_BEGIN_ACCEPTED), events)) & set(RUNNING)


@given(EVENTS)
def test_an_accepted_e_ends_what_runs_and_only_a_value_brings_it_back(events: list[Event]) -> None:
    for state in RUNNING:
        assert after(state, Event.END_ACCEPTED) is State.ENDED
    if Event.RUNS_AFTER_END not in events:
        assert not set(walk(State.ENDED, events)) & set(RUNNING)
