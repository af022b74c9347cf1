"""The checks can fail: every fault that is put into the driver on purpose is shown within its number of sessions."""

from __future__ import annotations

import pytest

from endurance.deliberate import FAULTS, SESSIONS_OF_A_RUN, Deliberate
from endurance.running import broken_promises

FIRST_SEED = 1000
ENDS_WITH = 1
"""Every run has one session more, in a calm, at its end."""


def test_there_are_enough_of_them() -> None:
    assert len(FAULTS) >= 16
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_is_shown(fault: Deliberate) -> None:
    seed = FIRST_SEED
    promises: list[str] = []
    for _ in range(fault.within // (SESSIONS_OF_A_RUN + ENDS_WITH)):
        with fault.applied():
            promises, _ = broken_promises(fault.run_of(seed))
        if promises:
            break
        seed += 1
    assert promises != [], f"{fault.breaks}: {fault.within} sessions do not show it"
    assert broken_promises(fault.run_of(seed))[0] == [], "the driver as it is breaks a promise here as well"
