"""How much the tests try: little in profile `ci`, which everybody runs, and much in `nightly` (`make test-all`)."""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, settings

NIGHTLY: Final = os.environ.get("IEM_DCR_TESTS") == "nightly"


def load_profiles() -> None:
    """Register both profiles of Hypothesis and load the one that is asked for.

    Neither is timed: Hypothesis would time the neighbours on a busy computer. `ci` makes the same examples in every
    run, so that it never fails where nothing was changed; `nightly` makes others each time, and prints what failed.
    """
    patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    settings.register_profile("ci", patient, max_examples=25, derandomize=True, database=None)
    settings.register_profile("nightly", patient, max_examples=1000, print_blob=True)
    settings.load_profile("nightly" if NIGHTLY else "ci")


def times(ci: int, nightly: int) -> int:
    """Return how often a test repeats what it tries."""
    return nightly if NIGHTLY else ci
