"""Whose a receipt is, and what a stop is entitled to: the pure functions over the entries of the ledger."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr import ocmf
from iem_dcr.driver.entry import Entry
from iem_dcr.driver.receipt_matching import Right, ended_since, entitlement, is_ours, owner
from iem_dcr.driver.transitions import AWAITED, State

if TYPE_CHECKING:
    from iem_dcr.ocmf import Receipt

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SERIAL, OTHER_SERIAL = "1SIM0000000042", "1SIM0000000099"
CARD = "04ABCDEF01"
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
MAY_BE_OURS = (*AWAITED, State.LOST)
TIMELESS: dict[str, Any] = {"sent": None, "answered": None}


def receipt(
    ID: str | None = CARD,
    *,
    PG: str | None = "T5",
    MS: str = SERIAL,
    began: datetime | None = NOON,
    ended: datetime | None = NOON + HOUR,
    TX: str = "BE",
) -> Receipt:
    """Make a receipt as the meter signs it, without what is None. ``TX`` names its readings."""
    readings: list[dict[str, Any]] = []
    for kind in TX:
        reading: dict[str, Any] = {"TX": kind, "ST": "G", "RV": "1.0", "RI": "1-b:1.8.e", "RU": "kWh"}
        moment = began if kind == "B" else ended
        if moment is not None:
            reading["TM"] = f"{moment:%Y-%m-%dT%H:%M:%S},{moment.microsecond // 1000:03}+0000 S"
        readings.append(reading)
    payload: dict[str, Any] = {"FV": "1.0", "MS": MS, "PG": PG, "ID": ID, "RD": readings}
    shown = {name: value for name, value in payload.items() if value is not None}
    return ocmf.parse(f'OCMF|{json.dumps(shown)}|{{"SD":"00"}}')


def entry(number: int = 1, **fields: Any) -> Entry:
    """Make an entry whose B went out at noon and was answered a second later."""
    made = Entry(number, f"T-{number}", CARD, SERIAL, "T4", State.OPEN, NOON)
    return replace(replace(made, sent_s=0.0, sent=NOON, answered=NOON + SECOND, is_answered=True), **fields)


# --- whose a receipt is ---


@pytest.mark.parametrize(
    ("late_s", "ours"), [(-5.001, False), (-5.0, True), (0.0, True), (1.0, True), (6.0, True), (6.001, False)]
)
def test_receipt_begins_between_five_seconds_before_begin_and_five_after_its_answer(
    late_s: float, *, ours: bool
) -> None:
    assert is_ours(receipt(began=NOON + late_s * SECOND), entry()) is ours


@pytest.mark.parametrize(
    ("shown", "assigned", "ours"),
    [
        (CARD, CARD, True),
        ("04ABCDEF", CARD, True),
        ("04ABCDE", CARD, False),
        ("04ABCDEF012", CARD, False),
        ("04XXCDEF01", CARD, False),
        ("", CARD, False),
        ("04AB", "04AB", True),
        ("04A", "04AB", False),
    ],
)
def test_receipt_shows_the_assigned_id_or_at_least_eight_characters_of_it(
    shown: str, assigned: str, *, ours: bool
) -> None:
    assert is_ours(receipt(shown), entry(ID=assigned)) is ours


@pytest.mark.parametrize(
    ("shown", "fields", "ours"),
    [
        ({"ID": None}, {}, True),
        ({"ID": None}, {"PG_before": "T5"}, False),
        ({"ID": None}, {"PG_before": None}, False),
        ({"TX": "E"}, {}, True),
        ({"TX": "E"}, {"PG_before": "T5"}, False),
        ({"began": None}, {}, True),
        ({"began": None}, {"PG_before": ""}, True),
        ({"began": None, "PG": None}, {}, False),
        ({"ID": None, "began": None}, {}, False),
        ({}, TIMELESS, True),
        ({"PG": "T4"}, TIMELESS, False),
        ({"ID": "04XX000000"}, TIMELESS, False),
        ({"PG": None}, {}, True),
        ({}, {"PG_before": "T5"}, True),
        ({}, {"PG_before": None}, True),
    ],
)
def test_changed_pagination_replaces_what_cannot_be_read(
    shown: dict[str, Any], fields: dict[str, Any], *, ours: bool
) -> None:
    assert is_ours(receipt(**shown), entry(**fields)) is ours


@pytest.mark.parametrize(
    ("ID", "MS", "ours"), [(CARD, OTHER_SERIAL, False), (CARD, "", True), ("04XX000000", "", False)]
)
def test_receipt_of_another_serial_is_not_ours(ID: str, MS: str, *, ours: bool) -> None:
    assert is_ours(receipt(ID, MS=MS), entry()) is ours


def test_leap_of_the_clock_gives_a_second_time_at_which_it_may_have_begun() -> None:
    leapt = entry(leaps=(HOUR,))
    assert [is_ours(receipt(began=NOON + late * HOUR), leapt) for late in (0, 0.5, 1)] == [True, False, True]
    assert not is_ours(receipt(began=NOON + HOUR), entry())


@pytest.mark.parametrize("state", list(State))
def test_only_an_entry_that_may_have_been_acted_on_and_has_no_receipt_gets_one(state: State) -> None:
    assert is_ours(receipt(), entry(state=state)) is (state in MAY_BE_OURS)


NEAR = [entry(1, sent=NOON - 3 * SECOND, answered=NOON), entry(2), entry(3, sent=NOON + 4 * SECOND)]
LEAPT = entry(1, sent=NOON - HOUR, answered=NOON - HOUR, leaps=(HOUR,))


@pytest.mark.parametrize(
    ("found", "entries", "number"),
    [
        (receipt(began=NOON - 3 * SECOND), NEAR, 1),
        (receipt(), NEAR, 2),
        (receipt(began=NOON + 3 * SECOND), NEAR, 3),
        (receipt(), [entry(1), entry(2)], 2),
        (receipt(began=None), [entry(1), entry(2)], 2),
        (receipt(began=None), [entry(2), entry(3, **TIMELESS)], 3),
        (receipt(), [entry(1), entry(3, **TIMELESS)], 1),
        (receipt(), [LEAPT, entry(2, sent=NOON - SECOND)], 1),
        (receipt("04XX000000"), [entry(1), entry(2)], None),
        (receipt(), [], None),
    ],
)
def test_receipt_belongs_to_the_nearest_begin_then_to_the_newest(
    found: Receipt, entries: list[Entry], number: int | None
) -> None:
    of = owner(found, entries)
    assert (of and of.number) == number


IDS = [CARD, "04ABCDEF02", "04ABCDEF"]
ENTRIES = st.lists(
    st.builds(
        lambda begins_s, took_s, **fields: {
            "sent": NOON + begins_s * SECOND, "answered": NOON + (begins_s + took_s) * SECOND, **fields,
        },
        ID=st.sampled_from(IDS),
        serial=st.sampled_from([SERIAL, OTHER_SERIAL]),
        state=st.sampled_from(list(State)),
        begins_s=st.integers(-60, 60),
        took_s=st.integers(0, 30),
    ),
    max_size=6,
)  # fmt: skip


@given(ENTRIES, st.sampled_from([*IDS, "04XX000000"]), st.integers(-60, 60))
def test_receipt_never_goes_to_an_entry_of_another_id_meter_or_time(
    entries: list[dict[str, Any]], ID: str, begins_s: int
) -> None:
    begin = NOON + begins_s * SECOND
    found = owner(receipt(ID, began=begin), [entry(number, **fields) for number, fields in enumerate(entries)])
    if found is not None:
        assert found.ID.startswith(ID)
        assert found.serial == SERIAL
        assert found.state in MAY_BE_OURS
        assert found.sent is not None
        assert found.answered is not None
        assert found.sent - 5 * SECOND <= begin <= found.answered + 5 * SECOND


@pytest.mark.parametrize(
    ("found", "moment", "since"),
    [
        *((receipt(ended=NOON - early_s * SECOND), NOON, early_s <= 2) for early_s in (-60, 0, 2, 2.001, 60)),
        (receipt(began=None, ended=None), NOON, True),
        (receipt(TX="B"), NOON, True),
        (receipt(), None, True),
    ],
)
def test_transaction_that_was_ended_ends_at_most_two_seconds_before_end_went_out(
    found: Receipt, moment: datetime | None, *, since: bool
) -> None:
    assert ended_since(found, moment) is since


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
def test_state_of_its_entry_decides_what_a_stop_gets(state: State, right: Right) -> None:
    own = entry(1, state=state)
    for others in ([], [entry(2)], [entry(2, state=State.LOST)]):
        found = entitlement("T-1", [own, *others], SERIAL)
        assert (found.right, found.entry) == (right, own)


def elsewhere(number: int) -> Entry:
    return entry(number, serial=OTHER_SERIAL)


@pytest.mark.parametrize(
    ("name", "entries", "serial", "right", "number"),
    [
        ("unknown", [], SERIAL, Right.WHATEVER_RUNS, None),
        ("unknown", [entry(1), entry(2, state=State.CLOSED)], SERIAL, Right.WHATEVER_RUNS, None),
        # "" means the newest entry that awaits its receipt on the meter that answers, or on any if none has answered.
        ("", [entry(1, state=State.ENDED), entry(2, state=State.UNCERTAIN), entry(3, state=State.CLOSED)],
         SERIAL, Right.END, 2),
        ("", [entry(1, state=State.LOST), entry(2, state=State.REFUSED)], SERIAL, Right.WHATEVER_RUNS, None),
        ("", [elsewhere(1)], SERIAL, Right.WHATEVER_RUNS, None),
        ("", [elsewhere(1)], "", Right.END, 1),
        ("", [entry(1), entry(2), elsewhere(3)], SERIAL, Right.END, 2),
        ("", [entry(1), elsewhere(2), entry(3, state=State.LOST)], "", Right.END, 2),
        ("", [entry(1, serial="")], SERIAL, Right.END, 1),
        ("T-1", [entry(1, serial="")], SERIAL, Right.END, 1),
        ("T-1", [elsewhere(1)], SERIAL, Right.ONE_LOOK, 1),
        ("T-1", [elsewhere(1)], "", Right.END, 1),
    ],
)  # fmt: skip
def test_id_and_meter_decide_what_a_stop_gets(
    name: str, entries: list[Entry], serial: str, right: Right, number: int | None
) -> None:
    found = entitlement(name, entries, serial)
    assert (found.right, found.entry and found.entry.number) == (right, number)


@pytest.mark.parametrize(
    ("newest", "is_answered", "right", "number"),
    [
        (State.UNCERTAIN, False, Right.END, 2),
        (State.ENDED, False, Right.END, 2),
        (State.LOST, False, Right.RECEIPT, 1),
        (State.REFUSED, False, Right.RECEIPT, 1),
        (State.OPEN, True, Right.END, 2),
        (State.ENDED, True, Right.END, 2),
        (State.LOST, True, Right.ONE_LOOK, 2),
    ],
)
def test_id_used_again_means_its_newest_begin_unless_that_was_not_accepted_and_is_over(
    newest: State, right: Right, number: int, *, is_answered: bool
) -> None:
    entries = [entry(1, state=State.CLOSED), entry(2, transaction_id="T-1", state=newest, is_answered=is_answered)]
    found = entitlement("T-1", entries, SERIAL)
    assert (found.right, found.entry) == (right, entries[number - 1])
