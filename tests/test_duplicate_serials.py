"""A serial at two addresses is a duplicate once it stays, and no longer than it lasts; pure, in time of the tests'."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.service.duplicate_serials import FRESH_S, GONE_AFTER_S, SHOWN_FOR_S, DuplicateSerials

EVERY_S = 2
LONG_S = 30
BOTH = {"A": frozenset({"one", "two"})}


class Looks:
    """A look every two seconds."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._serials = DuplicateSerials()

    def for_s(self, seconds: float, **read: str) -> dict[str, frozenset[str]]:
        """Have every look within some time read the same serials by address, and return all that was found."""
        found: dict[str, frozenset[str]] = {}
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            found |= self._serials.update(read, self.now_s)
            self.now_s += EVERY_S
        return found


def test_a_serial_that_stays_at_two_addresses_is_found_after_ten_seconds() -> None:
    looks = Looks()
    assert looks.for_s(SHOWN_FOR_S, one="A", two="A", three="B") == {}
    assert looks.for_s(EVERY_S, one="A", two="A", three="B") == BOTH
    assert looks.for_s(LONG_S, one="A", two="A", three="A") == {"A": frozenset({"one", "two", "three"})}


def test_an_odd_reading_is_no_duplicate() -> None:
    looks = Looks()
    for _ in range(5):
        assert looks.for_s(LONG_S, one="A", two="B") == looks.for_s(EVERY_S, one="A", two="A") == {}
    assert looks.for_s(LONG_S, one="", two="") == {}


def test_it_ends_with_another_serial_at_one_of_them_and_not_with_a_power_cut() -> None:
    looks = Looks()
    assert looks.for_s(LONG_S, one="A", two="A") == BOTH
    assert looks.for_s(LONG_S) == BOTH
    assert looks.for_s(EVERY_S, one="A", two="A") == BOTH
    assert looks.for_s(EVERY_S, one="A", two="B") == {}
    assert looks.for_s(SHOWN_FOR_S, one="A", two="A") == {}, "and begins anew as it began"
    assert looks.for_s(EVERY_S, one="A", two="A") == BOTH


def test_it_ends_a_minute_after_one_of_them_is_gone() -> None:
    looks = Looks()
    assert looks.for_s(LONG_S, one="A", two="A") == BOTH
    assert looks.for_s(GONE_AFTER_S - EVERY_S, one="A") == BOTH
    looks.for_s(EVERY_S, one="A")
    assert looks.for_s(EVERY_S, one="A") == {}


@given(st.lists(st.tuples(st.sampled_from(["one", "two", "three", ""]), st.floats(FRESH_S + EVERY_S, LONG_S))))
def test_one_meter_that_is_at_one_address_at_a_time_is_never_found(stays: list[tuple[str, float]]) -> None:
    looks = Looks()
    for name, stay_s in stays:
        assert looks.for_s(stay_s, **({name: "A"} if name else {})) == {}
