"""What holds for all tests: Hypothesis does not time them, for on a busy computer it would time the neighbours."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
