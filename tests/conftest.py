"""What holds for all tests: Hypothesis does not time them, for on a busy computer it would time the neighbours."""

from __future__ import annotations

import signal

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup; the processes that are tested take that over
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
