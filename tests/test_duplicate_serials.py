"""A serial at two addresses is a duplicate once it stays, and no longer than it lasts; pure, in time of the tests'."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.service.duplicate_serials import FRESH_S, GONE_AFTER_S, SHOWN_FOR_S, DuplicateSerials

if TYPE_CHECKING:
    from collections.abc import Mapping

ONE, TWO, THREE = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
EVERY_S = 2
LONG_S = 30


class Looks:
    """A look every two seconds."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._serials = DuplicateSerials()
        self.ever: set[str] = set()

    def for_s(self, seconds: float, **read: str) -> Mapping[str, frozenset[str]]:
        """Have every look within some time read the same, and return what the last one found."""
        found: Mapping[str, frozenset[str]] = {}
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            found = self._serials.update({ADDRESSES[name]: serial for name, serial in read.items()}, self.now_s)
            self.ever |= found.keys()
            self.now_s += EVERY_S
        return found


ADDRESSES = {"one": ONE, "two": TWO, "three": THREE}
BOTH = {"A": frozenset({ONE, TWO})}


def test_a_serial_that_stays_at_two_addresses_is_found_after_ten_seconds() -> None:
    looks = Looks()
    assert looks.for_s(SHOWN_FOR_S, one="A", two="A", three="B") == {}
    assert looks.for_s(EVERY_S, one="A", two="A", three="B") == BOTH
    assert looks.for_s(LONG_S, one="A", two="A", three="A") == {"A": frozenset({ONE, TWO, THREE})}


def test_different_serials_are_not() -> None:
    looks = Looks()
    looks.for_s(LONG_S, one="A", two="B")
    looks.for_s(LONG_S, one="", two="")
    assert not looks.ever


def test_an_odd_reading_is_not() -> None:
    looks = Looks()
    for _ in range(5):
        looks.for_s(LONG_S, one="A", two="B")
        looks.for_s(EVERY_S, one="A", two="A")
    assert not looks.ever


def test_a_meter_that_moves_to_another_address_is_not() -> None:
    looks = Looks()
    looks.for_s(LONG_S, one="A")
    looks.for_s(LONG_S, two="A")
    looks.for_s(LONG_S, one="A")
    looks.for_s(LONG_S, one="B", two="A")
    looks.for_s(LONG_S, one="A", two="B")
    assert not looks.ever


def test_it_ends_with_another_serial_at_one_of_them() -> None:
    looks = Looks()
    assert looks.for_s(LONG_S, one="A", two="A") == BOTH
    assert looks.for_s(EVERY_S, one="A", two="B") == {}
    assert looks.for_s(SHOWN_FOR_S, one="A", two="A") == {}, "and begins anew as it began"
    assert looks.for_s(EVERY_S, one="A", two="A") == BOTH


def test_it_ends_a_minute_after_one_of_them_is_gone() -> None:
    looks = Looks()
    assert looks.for_s(LONG_S, one="A", two="A") == BOTH
    assert looks.for_s(GONE_AFTER_S - EVERY_S, one="A") == BOTH
    assert looks.for_s(2 * EVERY_S, one="A") == {}


def test_a_power_cut_of_the_meter_does_not_end_it() -> None:
    looks = Looks()
    assert looks.for_s(LONG_S, one="A", two="A") == BOTH
    assert looks.for_s(LONG_S) == BOTH
    assert looks.for_s(EVERY_S, one="A", two="A") == BOTH


@given(
    st.lists(st.tuples(st.sampled_from(["one", "two", "three", ""]), st.floats(FRESH_S + EVERY_S, LONG_S)), max_size=12)
)
def test_one_meter_that_is_at_one_address_at_a_time_is_never_found(stays: list[tuple[str, float]]) -> None:
    looks = Looks()
    for name, stay_s in stays:
        looks.for_s(stay_s, **({name: "A"} if name else {}))
    assert not looks.ever


def test_who_moves_is_gone_from_the_old_address_before_it_is_known_at_the_new_one() -> None:
    assert FRESH_S + EVERY_S < SHOWN_FOR_S < GONE_AFTER_S
