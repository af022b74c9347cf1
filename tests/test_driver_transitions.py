"""The transitions of the ledger: what each piece of evidence does in every state, and what no sequence ever does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.driver.transitions import AWAITED, RUNNING, TABLE, Event, State, after

EVENTS = st.lists(st.sampled_from(list(Event)), max_size=30)


def test_states() -> None:
    assert set(TABLE) == set(State)
    assert set(RUNNING) == {State.UNCERTAIN, State.OPEN}
    assert set(AWAITED) == {State.UNCERTAIN, State.OPEN, State.ENDED}


@pytest.mark.parametrize(
    ("event", "before", "now"),
    [
        (Event.BEGIN_ACCEPTED, {State.UNCERTAIN}, State.OPEN),
        (Event.OTHER_BEGIN_ACCEPTED, RUNNING, State.LOST),
        (Event.END_ACCEPTED, RUNNING, State.ENDED),
        (Event.RUNS_AFTER_END, {State.ENDED}, State.UNCERTAIN),
        (Event.NO_RECEIPT_COMES, AWAITED, State.LOST),
        (Event.RECEIPT, {*AWAITED, State.LOST}, State.CLOSED),
    ],
)
def test_event_changes_these_states_only(event: Event, before: set[State], now: State) -> None:
    for state in State:
        assert after(state, event) is (now if state in before else state)


def walk(state: State, events: list[Event]) -> list[State]:
    return [state, *(state := after(state, event) for event in events)]


@given(EVENTS)
def test_no_sequence_of_events_hides_a_receipt_or_revives_a_transaction(events: list[Event]) -> None:
    last = walk(State.UNCERTAIN, events)[-1]
    assert after(last, Event.RECEIPT) is State.CLOSED
    assert (last is State.CLOSED) is (Event.RECEIPT in events)
    assert not set(walk(State.LOST, events)) & set(RUNNING)
    if Event.RUNS_AFTER_END not in events:
        assert not set(walk(State.ENDED, events)) & set(RUNNING)
