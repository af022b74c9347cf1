"""The benchmark of a fleet: it runs, its meters behave like meters, and its judgement of punctuality is right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fleet_everest import judged
from tests.support.command_line import PATIENCE_S

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc, which only Linux has")
def test_the_benchmark_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "fleet.py"), "--quick"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    for word in ("values on time", "CPU per value", "KiB per meter", "communication_check"):
        assert word in done.stdout


PUNCTUAL = [100.0 + second for second in range(10)]


@pytest.mark.parametrize(
    ("arrivals", "meters", "on_time"),
    [
        ([PUNCTUAL], 1, 10),
        ([PUNCTUAL, [*PUNCTUAL[:9], 109.2]], 2, 19),
        ([[100.3, *PUNCTUAL[1:]]], 1, 9),
        ([PUNCTUAL[5:]], 1, 5),
        ([], 3, 0),
        ([[100.0 + second for second in range(20)]], 2, 10),
    ],
    ids=["punctual", "late once", "a late first value does not shift the grid", "missing", "none", "extra values"],
)
def test_values_at_most_100_ms_late_are_on_time(arrivals: list[list[float]], meters: int, on_time: int) -> None:
    found = judged(arrivals, meters, 10)
    assert (found["on_time"], found["due"]) == (on_time, 10 * meters)
    assert found["values"] == sum(map(len, arrivals))
