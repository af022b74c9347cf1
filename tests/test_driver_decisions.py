"""The decision table, transition by transition, and what no walk through it may ever do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.driver.decisions import TABLE, Conversation, Do, Event, ImpossibleEventError, State, look_to_begin
from iem_dcr.driver.whose import Claim, Expected, Facts, Judgement, claim, judge

TO_BEGIN = """
LOOKING          IDLE          -> ASSIGNING        ASSIGN
LOOKING          RUNNING       -> ENDING_OTHER     END_OTHER
LOOKING          RUNNING_BARE  -> ENDING_OTHER     END_OTHER
LOOKING          BARE          -> INITIALISING     INITIALISE
LOOKING          UNFIT         -> UNFIT            SAY_NOT_BEGUN
LOOKING          UNREADABLE    -> LOOKING          PAUSE_AND_LOOK
LOOKING          GIVE_UP       -> NOT_BEGUN        SAY_NOT_BEGUN
ENDING_OTHER     DONE          -> LOOKING          LOOK
ENDING_OTHER     NOT_DONE      -> NOT_BEGUN        SAY_NOT_BEGUN
ENDING_OTHER     GIVE_UP       -> NOT_BEGUN        SAY_NOT_BEGUN
INITIALISING     DONE          -> LOOKING          LOOK
INITIALISING     NOT_DONE      -> LOOKING          PAUSE_AND_LOOK
INITIALISING     GIVE_UP       -> NOT_BEGUN        SAY_NOT_BEGUN
ASSIGNING        ACCEPTED      -> BEGINNING        BEGIN
ASSIGNING        REFUSED       -> LOOKING          PAUSE_AND_LOOK
ASSIGNING        REFUSED_LAST  -> NOT_BEGUN        SAY_NOT_BEGUN
ASSIGNING        UNSENT        -> LOOKING          PAUSE_AND_LOOK
ASSIGNING        LOST          -> LOOKING          PAUSE_AND_LOOK
ASSIGNING        GIVE_UP       -> NOT_BEGUN        SAY_NOT_BEGUN
BEGINNING        ACCEPTED      -> BEGUN            SAY_BEGUN
BEGINNING        REFUSED       -> BEGIN_REFUSED    PAUSE_AND_LOOK
BEGINNING        REFUSED_LAST  -> NOT_BEGUN        SAY_NOT_BEGUN
BEGINNING        UNSENT        -> BEGIN_REFUSED    PAUSE_AND_LOOK
BEGINNING        LOST          -> DOUBT            PAUSE_AND_LOOK
BEGINNING        GIVE_UP       -> NOT_BEGUN        SAY_NOT_BEGUN
BEGIN_REFUSED    IDLE          -> BEGINNING        BEGIN
BEGIN_REFUSED    RUNNING       -> ENDING_OTHER     END_OTHER
BEGIN_REFUSED    RUNNING_BARE  -> ENDING_OTHER     END_OTHER
BEGIN_REFUSED    BARE          -> INITIALISING     INITIALISE
BEGIN_REFUSED    UNFIT         -> UNFIT            SAY_NOT_BEGUN
BEGIN_REFUSED    UNREADABLE    -> BEGIN_REFUSED    PAUSE_AND_LOOK
BEGIN_REFUSED    GIVE_UP       -> NOT_BEGUN        SAY_NOT_BEGUN
DOUBT            RUNNING       -> BEGUN            SAY_BEGUN
DOUBT            IDLE          -> DOUBT_TWICE      WAIT_AND_LOOK
DOUBT            RUNNING_BARE  -> ENDING_OTHER     END_OTHER
DOUBT            BARE          -> INITIALISING     INITIALISE
DOUBT            UNFIT         -> DOUBTFUL         SAY_NOT_BEGUN
DOUBT            UNREADABLE    -> DOUBT            PAUSE_AND_LOOK
DOUBT            GIVE_UP       -> DOUBTFUL         SAY_NOT_BEGUN
DOUBT_TWICE      RUNNING       -> BEGUN            SAY_BEGUN
DOUBT_TWICE      IDLE          -> ASSIGNING_AGAIN  ASSIGN
DOUBT_TWICE      RUNNING_BARE  -> ENDING_OTHER     END_OTHER
DOUBT_TWICE      BARE          -> INITIALISING     INITIALISE
DOUBT_TWICE      UNFIT         -> DOUBTFUL         SAY_NOT_BEGUN
DOUBT_TWICE      UNREADABLE    -> DOUBT            PAUSE_AND_LOOK
DOUBT_TWICE      GIVE_UP       -> DOUBTFUL         SAY_NOT_BEGUN
ASSIGNING_AGAIN  ACCEPTED      -> BEGINNING_AGAIN  BEGIN
ASSIGNING_AGAIN  REFUSED       -> DOUBT            PAUSE_AND_LOOK
ASSIGNING_AGAIN  REFUSED_LAST  -> DOUBT_LAST       LOOK
ASSIGNING_AGAIN  UNSENT        -> DOUBT            PAUSE_AND_LOOK
ASSIGNING_AGAIN  LOST          -> DOUBT            PAUSE_AND_LOOK
ASSIGNING_AGAIN  GIVE_UP       -> DOUBTFUL         SAY_NOT_BEGUN
BEGINNING_AGAIN  ACCEPTED      -> BEGUN            SAY_BEGUN
BEGINNING_AGAIN  REFUSED       -> DOUBT            PAUSE_AND_LOOK
BEGINNING_AGAIN  REFUSED_LAST  -> DOUBT_LAST       LOOK
BEGINNING_AGAIN  UNSENT        -> DOUBT            PAUSE_AND_LOOK
BEGINNING_AGAIN  LOST          -> DOUBT            PAUSE_AND_LOOK
BEGINNING_AGAIN  GIVE_UP       -> DOUBTFUL         SAY_NOT_BEGUN
DOUBT_LAST       RUNNING       -> BEGUN            SAY_BEGUN
DOUBT_LAST       RUNNING_BARE  -> ENDING_OTHER     END_OTHER
DOUBT_LAST       IDLE          -> DOUBTFUL         SAY_NOT_BEGUN
DOUBT_LAST       BARE          -> DOUBTFUL         SAY_NOT_BEGUN
DOUBT_LAST       UNFIT         -> DOUBTFUL         SAY_NOT_BEGUN
DOUBT_LAST       UNREADABLE    -> DOUBT_LAST       PAUSE_AND_LOOK
DOUBT_LAST       GIVE_UP       -> DOUBTFUL         SAY_NOT_BEGUN
"""
TO_END = """
ENDING           ACCEPTED      -> ENDED            FETCH
ENDING           REFUSED       -> END_UNSURE       PAUSE_AND_LOOK
ENDING           REFUSED_LAST  -> END_LAST_LOOK    LOOK
ENDING           UNSENT        -> END_UNSURE       PAUSE_AND_LOOK
ENDING           LOST          -> END_UNSURE       PAUSE_AND_LOOK
ENDING           GIVE_UP       -> NOT_ENDED        SAY_NOT_ENDED
END_UNSURE       RUNNING       -> ENDING           END
END_UNSURE       IDLE          -> ENDED            FETCH
END_UNSURE       UNREADABLE    -> END_UNSURE       PAUSE_AND_LOOK
END_UNSURE       GIVE_UP       -> NOT_ENDED        SAY_NOT_ENDED
END_LAST_LOOK    RUNNING       -> NOT_ENDED        SAY_NOT_ENDED
END_LAST_LOOK    IDLE          -> ENDED            FETCH
END_LAST_LOOK    UNREADABLE    -> END_LAST_LOOK    PAUSE_AND_LOOK
END_LAST_LOOK    GIVE_UP       -> NOT_ENDED        SAY_NOT_ENDED
"""


def rows(text: str) -> list[tuple[State, Event, State, Do]]:
    found = []
    for line in text.split("\n"):
        if line:
            state, event, _, then, do = line.split()
            found.append((State[state], Event[event], State[then], Do[do]))
    return found


WRITTEN = rows(TO_BEGIN) + rows(TO_END)
FINAL = {State.BEGUN, State.NOT_BEGUN, State.UNFIT, State.DOUBTFUL, State.ENDED, State.NOT_ENDED}
SAYS = {Do.SAY_BEGUN, Do.SAY_NOT_BEGUN, Do.FETCH, Do.SAY_NOT_ENDED}


@pytest.mark.parametrize(("state", "event", "then", "do"), WRITTEN)
def test_transition(state: State, event: Event, then: State, do: Do) -> None:
    conversation = Conversation(state)
    assert conversation.process(event) is do
    assert conversation.state is then


def test_the_table_has_no_transition_that_is_not_tested() -> None:
    assert {(state, event) for state, events in TABLE.items() for event in events} == {row[:2] for row in WRITTEN}
    assert set(TABLE) == set(State)


@pytest.mark.parametrize("state", State)
def test_an_impossible_event_raises_and_changes_nothing(state: State) -> None:
    for event in set(Event) - set(TABLE[state]):
        conversation = Conversation(state)
        with pytest.raises(ImpossibleEventError, match=event.name):
            conversation.process(event)
        assert conversation.state is state


def test_a_conversation_ends_where_it_says_something() -> None:
    assert {state for state, events in TABLE.items() if not events} == FINAL
    for events in TABLE.values():
        for then, do in events.values():
            assert (then in FINAL) == (do in SAYS)


def test_every_state_can_give_up() -> None:
    assert all(Event.GIVE_UP in events for state, events in TABLE.items() if state not in FINAL)


def walks(start: State, length: int) -> st.SearchStrategy[list[tuple[State, Event, Do]]]:
    @st.composite
    def walk(draw: st.DrawFn) -> list[tuple[State, Event, Do]]:
        conversation = Conversation(start)
        steps = []
        for _ in range(length):
            events = sorted(TABLE[conversation.state], key=lambda event: event.value)
            if not events:
                break
            state, event = conversation.state, draw(st.sampled_from(events))
            steps.append((state, event, conversation.process(event)))
        return steps

    return walk()


@given(walks(State.LOOKING, 25))
def test_b_goes_out_again_after_a_lost_answer_only_when_two_looks_showed_nothing(
    steps: list[tuple[State, Event, Do]],
) -> None:
    looks: list[Event] | None = None
    sent_begin = False
    for _, event, do in steps:
        if event is Event.LOST and sent_begin:
            looks = []
        elif looks is not None and event in (Event.IDLE, Event.UNREADABLE, Event.REFUSED):
            looks.append(event)
        elif event in (Event.BARE, Event.DONE, Event.NOT_DONE):
            looks = None
        sent_begin = do is Do.BEGIN
        if do is Do.BEGIN and looks is not None:
            assert looks[-2:] == [Event.IDLE, Event.IDLE]
            looks = []


@given(walks(State.LOOKING, 25), walks(State.ENDING, 25))
def test_what_may_have_been_acted_on_is_never_simply_sent_again(
    to_begin: list[tuple[State, Event, Do]], to_end: list[tuple[State, Event, Do]]
) -> None:
    for _, event, do in to_begin + to_end:
        if event in (Event.LOST, Event.UNREADABLE):
            assert do in (Do.LOOK, Do.PAUSE_AND_LOOK)


@given(walks(State.LOOKING, 25))
def test_a_start_that_fails_in_doubt_says_so(steps: list[tuple[State, Event, Do]]) -> None:
    in_doubt = False
    for state, event, do in steps:
        if state in (State.BEGINNING, State.BEGINNING_AGAIN) and event is Event.LOST:
            in_doubt = True
        if event in (Event.BARE, Event.RUNNING_BARE):
            in_doubt = False
        if do is Do.SAY_NOT_BEGUN and in_doubt and event is not Event.NOT_DONE:
            assert TABLE[state][event][0] is State.DOUBTFUL


# --- looks ---


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("configured", [False, True])
@pytest.mark.parametrize("fit", [False, True])
@pytest.mark.parametrize(
    "state", [State.LOOKING, State.BEGIN_REFUSED, State.DOUBT, State.DOUBT_TWICE, State.DOUBT_LAST]
)
def test_a_look(state: State, running: bool, configured: bool, fit: bool) -> None:  # noqa: FBT001
    event = look_to_begin(state=state, running=running, configured=configured, fit=fit)
    in_doubt = state not in (State.LOOKING, State.BEGIN_REFUSED)
    if running and (fit or in_doubt):
        assert event is (Event.RUNNING if configured else Event.RUNNING_BARE)
    elif not fit:
        assert event is Event.UNFIT
    else:
        assert event is (Event.IDLE if configured else Event.BARE)
    assert event in TABLE[state]


# --- whose receipt ---

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def facts(PG: str | None = "T5", ID: str | None = "A", MS: str = "M1", began: datetime | None = NOON) -> Facts:
    return Facts(PG, ID, MS, began, began)


def judged(tuple_facts: Facts, expected: Expected) -> Judgement:
    return judge(tuple_facts, expected, tolerance=MINUTE)[0]


def test_another_pagination_is_another_record_whatever_its_size() -> None:
    for before in ("T4", "T6", "", "F5"):
        assert judged(facts(), Expected(before, "A", "M1", NOON)) is Judgement.OURS
    assert judged(facts(), Expected("T5", "A", "M1", NOON)) is Judgement.OTHER


@pytest.mark.parametrize(
    ("before", "PG", "judgement"),
    [
        ("T4", "T5", Judgement.DISAGREES),
        ("T4", "T6", Judgement.LATER),
        ("T9", "T10", Judgement.DISAGREES),
        ("T9", "T11", Judgement.LATER),
        ("", "T1", Judgement.DISAGREES),
        ("", "T2", Judgement.LATER),
        ("T4", "T3", Judgement.DISAGREES),
        ("F4", "T6", Judgement.DISAGREES),
        ("T4", "T" + "9" * 5000, Judgement.DISAGREES),
        ("T4", "T٦", Judgement.DISAGREES),
        ("T4", "T-6", Judgement.DISAGREES),
        ("T4", "T", Judgement.DISAGREES),
    ],
)
def test_somebody_else_s_id_in_a_record_that_is_not_the_next_one_is_another_transaction_s(
    before: str, PG: str, judgement: Judgement
) -> None:
    expected = Expected(before, "A", "M1", NOON)
    assert judged(facts(PG=PG, ID="B"), expected) is judgement
    assert judged(facts(PG=PG, ID="A"), expected) is Judgement.OURS


@pytest.mark.parametrize(
    ("tuple_facts", "word"),
    [(facts(ID="B"), "ID"), (facts(MS="M2"), "MS"), (facts(began=NOON - timedelta(hours=1)), "began")],
)
def test_a_new_record_that_disagrees_is_told_apart(tuple_facts: Facts, word: str) -> None:
    judgement, why = judge(tuple_facts, Expected("T4", "A", "M1", NOON), tolerance=MINUTE)
    assert judgement is Judgement.DISAGREES
    assert any(word in reason for reason in why)


def test_a_new_record_that_began_before_the_clock_was_read_for_it_is_another_s() -> None:
    expected = Expected("T4", "A", "M1", NOON)
    second = timedelta(seconds=1)
    for earlier, judgement in ((0, Judgement.OURS), (2, Judgement.OURS), (3, Judgement.DISAGREES)):
        tuple_facts = facts(began=NOON - earlier * second)
        assert judge(tuple_facts, expected, tolerance=MINUTE, early=2 * second)[0] is judgement
    assert judge(facts(began=NOON + 59 * second), expected, tolerance=MINUTE, early=2 * second)[0] is Judgement.OURS


def test_without_an_earlier_pagination_id_and_beginning_decide() -> None:
    expected = Expected(None, "A", "M1", NOON)
    assert judged(facts(), expected) is Judgement.OURS
    assert judged(facts(ID="B"), expected) is Judgement.OTHER
    assert judged(facts(began=NOON - timedelta(hours=1)), expected) is Judgement.OTHER
    assert judged(facts(began=None), expected) is Judgement.OTHER
    for earlier_s, judgement in ((2, Judgement.OURS), (3, Judgement.OTHER)):
        tuple_facts = facts(began=NOON - timedelta(seconds=earlier_s))
        assert judge(tuple_facts, expected, tolerance=MINUTE, early=timedelta(seconds=2))[0] is judgement
    assert judged(facts(PG=None), Expected("T4", "A", "M1", NOON)) is Judgement.OURS


def test_of_somebody_elses_transaction_the_end_decides() -> None:
    expected = Expected(None, ended=NOON)
    assert judged(facts(), expected) is Judgement.OURS
    assert judged(facts(began=NOON - timedelta(hours=1)), expected) is Judgement.OTHER
    assert judged(facts(), replace(expected, ended=NOON + timedelta(seconds=0.9))) is Judgement.OURS
    assert judged(facts(), replace(expected, ended=NOON + timedelta(seconds=1))) is Judgement.OTHER
    assert judged(facts(), Expected(None)) is Judgement.OTHER
    assert judged(facts(), Expected("T4")) is Judgement.OURS


# --- what a stop gets ---


@pytest.mark.parametrize(
    ("transaction_id", "running", "begun", "expected"),
    [
        ("A", True, "A", Claim.END),
        ("", True, "A", Claim.END),
        ("B", True, "A", Claim.ANOTHER_RUNS),
        ("older", True, "A", Claim.AWAIT),
        ("refused", True, "A", Claim.NOTHING),
        ("A", False, "A", Claim.AWAIT),
        ("", False, "A", Claim.AWAIT),
        ("B", False, "A", Claim.NOTHING),
        ("older", False, "A", Claim.AWAIT),
        ("refused", False, "A", Claim.NOTHING),
        ("B", True, None, Claim.END),
        ("", True, None, Claim.END),
        ("older", True, None, Claim.AWAIT),
        ("refused", True, None, Claim.END_UNCLAIMED),
        ("B", False, None, Claim.LAST),
        ("", False, None, Claim.LAST),
        ("older", False, None, Claim.AWAIT),
        ("refused", False, None, Claim.NOTHING),
    ],
)
def test_claim(transaction_id: str, running: bool, begun: str | None, expected: Claim) -> None:  # noqa: FBT001
    assert claim(transaction_id, running=running, begun=begun, older={"older"}, refused={"refused"}) is expected
