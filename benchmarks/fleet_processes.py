"""Processes for benchmarks/fleet.py: starts them on their cores, and measures their CPU time."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
END_TIMEOUT_S = 10.0


def raise_limits() -> None:
    """Raise the limit of open files to the host's maximum, because each meter is a connection."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def reserve_core() -> set[int]:
    """Keep this process, and those that it starts, off one core if there are several. Return that core."""
    allowed = os.sched_getaffinity(0)
    measured = {min(allowed)}
    os.sched_setaffinity(0, allowed - measured or measured)
    return measured


@contextlib.contextmanager
def running(command: list[str], on: set[int] | None = None, **options: Any) -> Iterator[subprocess.Popen[str]]:  # noqa: ANN401  as Popen's
    """Run a process, on these cores. Terminate it at the end of the context, and kill it if it does not end."""
    with subprocess.Popen(command, text=True, **options) as process:  # noqa: S603  our own programs
        os.sched_setaffinity(process.pid, on or os.sched_getaffinity(0))
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used, in user mode and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy_s() -> float:
    """Return the CPU seconds that all programs of this machine have used (proc(5): all columns but idle and iowait)."""
    columns = Path("/proc/stat").read_text("utf-8").splitlines()[0].split()[1:9]
    return sum(int(ticks) for place, ticks in enumerate(columns) if place not in (3, 4)) / os.sysconf("SC_CLK_TCK")
