"""What a process holds, and whether that grows."""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def resident_kib(pid: int) -> int:
    """Return how much memory of a process is resident."""
    return _status(pid, "VmRSS")


def threads(pid: int) -> int:
    """Return how many threads a process has."""
    return _status(pid, "Threads")


def handles(pid: int) -> int:
    """Return how many file handles a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  names only: one may be closed meanwhile


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def grown(samples: Sequence[Mapping[str, float]], allowed: Mapping[str, float]) -> list[str]:
    """Say what grows: where the median of the last third of the samples is above that of the first by more than this.

    Args:
        samples: what there was, by name, in their order.
        allowed: what a moment's work is worth.
    """
    third = max(1, len(samples) // 3)
    by = {
        name: statistics.median(each[name] for each in samples[-third:])
        - statistics.median(each[name] for each in samples[:third])
        for name in (allowed if samples else ())
    }
    return [f"{name} grows by {by[name]:g}, more than {allowed[name]:g}" for name in by if by[name] > allowed[name]]
