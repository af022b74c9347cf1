"""Whose a receipt is, and what a stop is entitled to: the pure functions over the entries of the ledger."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr import ocmf
from iem_dcr.driver.entry import Entry
from iem_dcr.driver.receipt_matching import Right, ended_since, entitlement, is_ours, owner
from iem_dcr.driver.transitions import State

if TYPE_CHECKING:
    from iem_dcr.ocmf import Receipt

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SERIAL = "1SIM0000000042"
ANOTHER_SERIAL = "1SIM0000000099"
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
MAY_HAVE_BEEN_ACTED_ON = (State.UNCERTAIN, State.OPEN, State.ENDED, State.LOST)


def receipt(
    ID: str | None = "04ABCDEF01",
    *,
    PG: str | None = "T5",
    MS: str = SERIAL,
    began: datetime | None = NOON,
    ended: datetime | None = NOON + timedelta(hours=1),
) -> Receipt:
    """Make a receipt as the meter signs it, without what is None."""
    readings: list[dict[str, Any]] = []
    for TX, moment in (("B", began), ("E", ended)):
        reading: dict[str, Any] = {"TX": TX, "ST": "G", "RV": "1.0", "RI": "1-b:1.8.e", "RU": "kWh"}
        if moment is not None:
            reading["TM"] = f"{moment:%Y-%m-%dT%H:%M:%S},{moment.microsecond // 1000:03}+0000 S"
        readings.append(reading)
    payload: dict[str, Any] = {"FV": "1.0", "MS": MS, "PG": PG, "ID": ID, "RD": readings}
    shown = {name: value for name, value in payload.items() if value is not None}
    return ocmf.parse(f'OCMF|{json.dumps(shown)}|{{"SD":"00"}}')


def entry(number: int = 1, **fields: Any) -> Entry:
    """Make an entry whose B went out at noon and was answered a second later."""
    made = Entry(
        number,
        f"T-{number}",
        "04ABCDEF01",
        SERIAL,
        "T4",
        State.OPEN,
        NOON,
        sent_s=0.0,
        sent=NOON,
        answered=NOON + SECOND,
        is_answered=True,
    )
    return replace(made, **fields)


# --- whose a receipt is ---


@pytest.mark.parametrize(
    ("late_s", "ours"), [(-5.001, False), (-5.0, True), (0.0, True), (1.0, True), (6.0, True), (6.001, False)]
)
def test_a_receipt_begins_between_five_seconds_before_b_and_five_after_its_answer(late_s: float, *, ours: bool) -> None:
    assert is_ours(receipt(began=NOON + late_s * SECOND), entry()) is ours


@pytest.mark.parametrize(
    ("ID", "ours"),
    [
        ("04ABCDEF01", True),
        ("04ABCDEF", True),
        ("04ABCDE", False),
        ("04ABCDEF0", True),
        ("04ABCDEF012", False),
        ("04XXCDEF01", False),
        ("", False),
    ],
)
def test_a_receipt_shows_the_id_that_was_assigned_or_a_cut_of_it(ID: str, *, ours: bool) -> None:
    assert is_ours(receipt(ID), entry()) is ours


def test_a_short_id_is_never_a_cut() -> None:
    assert is_ours(receipt("04AB"), entry(ID="04AB"))
    assert not is_ours(receipt("04A"), entry(ID="04AB"))


def without(TX: str) -> Receipt:
    """Make a receipt that lacks its begin or its end."""
    whole = receipt()
    head, rows, tail = re.split(r"(?<=\[)(.*)(?=\])", whole.text)
    (left,) = [row for row in json.loads(f"[{rows}]") if row["TX"] != TX]
    return ocmf.parse(head + json.dumps(left) + tail)


def test_a_receipt_without_a_begin_is_told_by_its_id_and_a_pagination_that_moved_on() -> None:
    assert is_ours(without("B"), entry())
    assert not is_ours(without("B"), entry(PG_before="T5"))


def test_a_receipt_of_another_serial_is_anothers() -> None:
    assert not is_ours(receipt(MS=ANOTHER_SERIAL), entry())


@pytest.mark.parametrize(
    ("shown", "PG_before", "ours"),
    [
        ({"ID": None}, "T4", True),
        ({"ID": None}, "T5", False),
        ({"ID": None}, None, False),
        ({"began": None}, "T4", True),
        ({"began": None}, "T5", False),
        ({"began": None}, "", True),
        ({"began": None, "PG": None}, "T4", False),
        ({"ID": None, "began": None}, "T4", False),
        ({"PG": None}, "T4", True),
        ({}, "T5", True),
        ({}, None, True),
    ],
)
def test_what_cannot_be_read_is_made_up_for_by_a_pagination_that_moved_on(
    shown: dict[str, Any], PG_before: str | None, *, ours: bool
) -> None:
    assert is_ours(receipt(**shown), entry(PG_before=PG_before)) is ours


def test_an_entry_of_which_no_time_is_known_is_known_by_its_id_and_the_pagination() -> None:
    timeless = entry(sent=None, answered=None)
    assert is_ours(receipt(), timeless)
    assert not is_ours(receipt(PG="T4"), timeless)
    assert not is_ours(receipt("04XX000000"), timeless)


def test_a_clock_that_leapt_gives_a_second_time_at_which_it_may_have_begun() -> None:
    leapt = entry(leaps=(timedelta(hours=1),))
    assert is_ours(receipt(), leapt)
    assert is_ours(receipt(began=NOON + timedelta(hours=1)), leapt)
    assert not is_ours(receipt(began=NOON + timedelta(minutes=30)), leapt)
    assert not is_ours(receipt(began=NOON + timedelta(hours=1)), entry())


@pytest.mark.parametrize("state", list(State))
def test_only_what_may_have_been_acted_on_and_has_no_receipt_can_get_one(state: State) -> None:
    assert is_ours(receipt(), entry(state=state)) is (state in MAY_HAVE_BEEN_ACTED_ON)


def test_of_several_that_fit_it_is_that_whose_b_went_out_nearest_to_the_begin() -> None:
    entries = [entry(1, sent=NOON - 3 * SECOND, answered=NOON), entry(2), entry(3, sent=NOON + 4 * SECOND)]
    for late_s, number in ((-3, 1), (0, 2), (3, 3)):
        found = owner(receipt(began=NOON + late_s * SECOND), entries)
        assert found is not None
        assert found.number == number


def test_of_several_that_fit_alike_it_is_the_newest() -> None:
    found = owner(receipt(), [entry(1), entry(2)])
    assert found is not None
    assert found.number == 2


def test_of_several_whose_distance_is_not_known_it_is_the_newest_and_a_known_one_comes_first() -> None:
    timeless = entry(3, sent=None, answered=None)
    for entries, number in (([entry(1), entry(2)], 2), ([entry(2), timeless], 3)):
        found = owner(receipt(began=None), entries)
        assert found is not None
        assert found.number == number
    found = owner(receipt(), [entry(1), timeless])
    assert found is not None
    assert found.number == 1


def test_of_two_times_at_which_it_may_have_begun_the_nearer_one_counts() -> None:
    leapt = entry(1, sent=NOON - HOUR, answered=NOON - HOUR, leaps=(HOUR,))
    found = owner(receipt(), [leapt, entry(2, sent=NOON - SECOND)])
    assert found is not None
    assert found.number == 1


def test_a_receipt_that_names_no_meter_is_told_by_the_rest() -> None:
    assert is_ours(receipt(MS=""), entry())
    assert not is_ours(receipt("04XX000000", MS=""), entry())


def test_where_there_is_none_that_fits_it_is_anothers() -> None:
    assert owner(receipt(), []) is None
    assert owner(receipt("04XX000000"), [entry(1), entry(2)]) is None


ENTRIES = st.lists(
    st.builds(
        lambda ID, serial, state, offset_s, took_s: {
            "ID": ID,
            "serial": serial,
            "state": state,
            "sent": NOON + offset_s * SECOND,
            "answered": NOON + (offset_s + took_s) * SECOND,
        },
        ID=st.sampled_from(["04ABCDEF01", "04ABCDEF02", "04ABCDEF"]),
        serial=st.sampled_from([SERIAL, ANOTHER_SERIAL]),
        state=st.sampled_from(list(State)),
        offset_s=st.integers(-60, 60),
        took_s=st.integers(0, 30),
    ),
    max_size=6,
)


@given(ENTRIES, st.sampled_from(["04ABCDEF01", "04ABCDEF02", "04ABCDEF", "04XX000000"]), st.integers(-60, 60))
def test_a_receipt_never_goes_to_an_entry_of_another_id_meter_or_time(
    entries: list[dict[str, Any]], ID: str, offset_s: int
) -> None:
    made = [entry(number, **fields) for number, fields in enumerate(entries, start=1)]
    begin = NOON + offset_s * SECOND
    found = owner(receipt(ID, began=begin), made)
    if found is not None:
        assert found.ID.startswith(ID)
        assert found.serial == SERIAL
        assert found.state in MAY_HAVE_BEEN_ACTED_ON
        assert found.sent is not None
        assert found.answered is not None
        assert found.sent - 5 * SECOND <= begin <= found.answered + 5 * SECOND


# --- of what an E ended ---


@pytest.mark.parametrize(("early_s", "since"), [(0, True), (2, True), (2.001, False), (60, False), (-60, True)])
def test_the_receipt_of_what_was_ended_ends_at_most_two_seconds_before_e(early_s: float, *, since: bool) -> None:
    assert ended_since(receipt(ended=NOON - early_s * SECOND), NOON) is since


def test_where_one_of_the_times_is_not_known_any_new_receipt_may_be_it() -> None:
    assert ended_since(receipt(began=None, ended=None), NOON)
    assert ended_since(without("E"), NOON)
    assert ended_since(receipt(), None)


# --- what a stop is entitled to ---


@pytest.mark.parametrize(
    ("state", "right"),
    [
        (State.UNCERTAIN, Right.END),
        (State.OPEN, Right.END),
        (State.ENDED, Right.END),
        (State.LOST, Right.ONE_LOOK),
        (State.CLOSED, Right.RECEIPT),
        (State.REFUSED, Right.REFUSED),
    ],
)
def test_a_stop_for_an_id_gets_what_the_state_of_its_entry_entitles_to(state: State, right: Right) -> None:
    own = entry(1, state=state)
    for others in ([], [entry(2)], [entry(2, state=State.LOST)]):
        found = entitlement("T-1", [own, *others], SERIAL)
        assert (found.right, found.entry) == (right, own)


@pytest.mark.parametrize("entries", [[], [entry(1)], [entry(1), entry(2, state=State.CLOSED)]])
def test_an_id_that_means_nothing_has_no_influence(entries: list[Entry]) -> None:
    found = entitlement("never heard of", entries, SERIAL)
    assert (found.right, found.entry) == (Right.WHATEVER_RUNS, None)


def test_an_empty_id_means_the_newest_that_is_awaited() -> None:
    entries = [entry(1, state=State.ENDED), entry(2, state=State.UNCERTAIN), entry(3, state=State.CLOSED)]
    found = entitlement("", entries, SERIAL)
    assert (found.right, found.entry) == (Right.END, entries[1])
    assert entitlement("", entries[2:], SERIAL).right is Right.WHATEVER_RUNS
    assert entitlement("", [entry(1, state=State.LOST), entry(2, state=State.REFUSED)], SERIAL).entry is None


def test_an_empty_id_does_not_mean_what_was_begun_on_another_meter() -> None:
    elsewhere = entry(1, serial=ANOTHER_SERIAL)
    assert entitlement("", [elsewhere], SERIAL).right is Right.WHATEVER_RUNS
    assert entitlement("", [elsewhere], "").entry == elsewhere, "no meter has answered yet: it may be that one"


def test_what_was_begun_on_a_meter_that_is_not_known_may_run_on_any() -> None:
    unknown = entry(1, serial="")
    assert entitlement("", [unknown], SERIAL).entry == unknown
    assert entitlement("T-1", [unknown], SERIAL).right is Right.END


def test_an_empty_id_means_the_newest_of_this_meter_or_of_any_where_none_has_answered() -> None:
    entries = [entry(1), entry(2), entry(3, serial=ANOTHER_SERIAL)]
    assert entitlement("", entries, SERIAL).entry == entries[1]
    assert entitlement("", entries, "").entry == entries[2]
    assert entitlement("", [*entries[1:], entry(4, state=State.LOST)], "").entry == entries[2]


def test_what_was_begun_on_another_meter_is_looked_for_and_ends_nothing_here() -> None:
    elsewhere = entry(1, serial=ANOTHER_SERIAL)
    assert entitlement("T-1", [elsewhere], SERIAL).right is Right.ONE_LOOK
    assert entitlement("T-1", [elsewhere], "").right is Right.END


def used_twice(newest: State, *, is_answered: bool) -> list[Entry]:
    return [entry(1, state=State.CLOSED), entry(2, transaction_id="T-1", state=newest, is_answered=is_answered)]


@pytest.mark.parametrize("newest", [State.UNCERTAIN, State.ENDED])
def test_an_id_used_again_means_its_newest_while_that_may_still_get_a_receipt(newest: State) -> None:
    entries = used_twice(newest, is_answered=False)
    assert entitlement("T-1", entries, SERIAL).entry == entries[1]


@pytest.mark.parametrize("newest", [State.LOST, State.REFUSED])
def test_an_earlier_receipt_answers_a_stop_only_if_the_newest_b_was_not_accepted(newest: State) -> None:
    entries = used_twice(newest, is_answered=False)
    found = entitlement("T-1", entries, SERIAL)
    assert (found.right, found.entry) == (Right.RECEIPT, entries[0])


def test_no_earlier_receipt_answers_a_stop_where_the_newest_b_was_accepted() -> None:
    for newest in (State.OPEN, State.ENDED, State.LOST):
        entries = used_twice(newest, is_answered=True)
        found = entitlement("T-1", entries, SERIAL)
        assert found.entry == entries[1]
        assert found.right is not Right.RECEIPT
