"""Loads and the registers they drive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.simulator.energy import EnergyPath, Load, Registers, charging, kwh_text

amperes = st.floats(-2000, 2000)
volts = st.floats(0, 1500)


def summed_wh(load: Load, until_s: float, steps: int = 20_000) -> float:
    """The same integral by the midpoint rule."""
    step_s = until_s / steps
    powers = (load.at((index + 0.5) * step_s) for index in range(steps))
    return sum(current_a * voltage_v for current_a, voltage_v in powers) * step_s / 3600


@pytest.mark.parametrize("current_a", [125.0, -40.0])
@pytest.mark.parametrize("until_s", [0.3, 2.0, 6.5, 8.2, 60.0])
def test_energy_is_the_integral_of_power(current_a: float, until_s: float) -> None:
    load = charging(current_a, 400, 8, after_s=0.5)
    assert load.energy_wh(until_s) == pytest.approx(summed_wh(load, until_s), abs=0.02)


@given(
    load=st.builds(charging, amperes, volts, st.floats(0, 1e5), after_s=st.floats(0, 100)),
    cuts=st.lists(st.floats(0, 1e5), min_size=1, max_size=6),
    rest=st.builds(charging, amperes, volts),
)
def test_registers_do_not_depend_on_when_they_are_read(load: Load, cuts: list[float], rest: Load) -> None:
    moments = sorted(cuts)
    polled, unpolled = EnergyPath(Registers(), 5.0), EnergyPath(Registers(), 5.0)
    for path in (polled, unpolled):
        path.connect(load, 5.0)
    seen = [polled.registers(5.0 + moment) for moment in moments]
    for path in (polled, unpolled):
        path.connect(rest, 5.0 + moments[-1])
    assert polled.registers(2e5) == unpolled.registers(2e5)
    assert seen == sorted(seen)


def test_curve_has_three_phases_and_without_a_length_no_end() -> None:
    load = charging(100, 400, 100)
    assert load.at(0) == (100, 380)
    assert load.at(59.999) == pytest.approx((100, 400), rel=1e-4)
    assert load.at(72.5) == pytest.approx((75, 400))
    assert load.at(92.5) == pytest.approx((30, 400))
    assert load.at(100) == (0, 0)
    assert charging(100, 400, 1).at(1.1) == (0, 0)
    assert charging(100, 400, 0).at(1e6) == (100, 400)


@pytest.mark.parametrize(
    ("energy_wh", "text"),
    [(0, "00000000.000"), (446_540, "00000446.540"), (99_999_999_999, "99999999.999"), (10**11 + 7, "00000000.007")],
)
def test_register_is_written_with_eight_digits_and_three(energy_wh: int, text: str) -> None:
    assert kwh_text(energy_wh) == text
