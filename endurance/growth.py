"""Resources of a process, and whether they grow."""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def resident_kib(pid: int) -> int:
    """Return the resident memory of a process in KiB."""
    return _status(pid, "VmRSS")


def threads(pid: int) -> int:
    """Return the number of threads of a process."""
    return _status(pid, "Threads")


def handles(pid: int) -> int:
    """Return the number of open file handles of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  names only, because a file may be closed meanwhile


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def grown(samples: Sequence[Mapping[str, float]], allowed: Mapping[str, float]) -> list[str]:
    """Return a sentence for each quantity that grows.

    A quantity grows if the median of the last third of the samples exceeds that of the first third by more than is
    allowed.

    Args:
        samples: the measurements in their order, by name.
        allowed: the difference that normal work can cause, by name.
    """
    third = max(1, len(samples) // 3)
    by = {
        name: statistics.median(each[name] for each in samples[-third:])
        - statistics.median(each[name] for each in samples[:third])
        for name in (allowed if samples else ())
    }
    return [f"{name} grows by {by[name]:g}, more than {allowed[name]:g}" for name in by if by[name] > allowed[name]]
