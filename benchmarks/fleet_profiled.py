"""``iem-dcr run`` under cProfile for benchmarks/fleet.py. SIGUSR1 starts the profile, SIGUSR2 ends and writes it.

Usage: python benchmarks/fleet_profiled.py STATS run CONFIG.toml
"""

from __future__ import annotations

import cProfile
import signal
import sys

from iem_dcr.cli.main import main

if __name__ == "__main__":
    stats = sys.argv.pop(1)
    profile = cProfile.Profile()

    def write(*_: object) -> None:
        """End the profile and write it."""
        profile.disable()
        profile.dump_stats(stats)

    signal.signal(signal.SIGUSR1, lambda *_: profile.enable())
    signal.signal(signal.SIGUSR2, write)
    main()
