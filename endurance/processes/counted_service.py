"""``iem-dcr run`` that says on SIGUSR1 how many tasks and objects it has.

Usage: python -m endurance.processes.counted_service FILE run CONFIG.toml

FILE is replaced by a JSON object each time.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from pathlib import Path

from iem_dcr.cli.main import main

if __name__ == "__main__":
    told = Path(sys.argv.pop(1))

    def tell(*_: object) -> None:
        """Write it down."""
        new = told.with_suffix(".new")
        # What the collector was told to leave alone is counted as well.
        objects = len(gc.get_objects()) + gc.get_freeze_count()
        new.write_text(json.dumps({"tasks": len(asyncio.all_tasks()), "objects": objects}), "utf-8")
        os.replace(new, told)  # noqa: PTH105  whole or not at all

    signal.signal(signal.SIGUSR1, tell)
    main()
