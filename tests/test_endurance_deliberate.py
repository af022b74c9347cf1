"""The checks can fail: every fault that is put into the driver on purpose is shown by its sessions."""

from __future__ import annotations

import pytest

from endurance.deliberate import FAULTS, Deliberate
from endurance.running import outcome_of

MOST_RUNS = 75


def test_there_are_enough_of_them() -> None:
    assert len(FAULTS) == 33
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(fault.breaks and len(fault.seeds) <= MOST_RUNS for fault in FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_is_shown(fault: Deliberate) -> None:
    for seed in fault.seeds:
        with fault.applied():
            outcome = outcome_of(fault.run_of(seed))
        if outcome.broken:
            assert outcome_of(fault.run_of(seed)).broken == (), f"seed {seed}: so does the driver as it is"
            return
    pytest.fail(f"{fault.breaks} {len(fault.seeds)} runs do not show it")
