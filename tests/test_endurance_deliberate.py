"""The promises can fail: the sessions of every deliberate fault detect it."""

from __future__ import annotations

import pytest

from endurance.deliberate import FAULTS, Deliberate
from endurance.running import outcome_of

MAX_RUNS = 75


def test_each_fault_has_a_name_and_says_what_it_breaks() -> None:
    assert len(FAULTS) == 33
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(fault.breaks and len(fault.seeds) <= MAX_RUNS for fault in FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_deliberate_fault_is_detected(fault: Deliberate) -> None:
    for seed in fault.seeds:
        with fault.applied():
            outcome = outcome_of(fault.run_of(seed))
        if outcome.broken:
            assert outcome_of(fault.run_of(seed)).broken == (), f"seed {seed}: the program without the fault fails too"
            return
    pytest.fail(f"{fault.breaks} {len(fault.seeds)} runs do not detect it")
