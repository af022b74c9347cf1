"""Processes that end with whoever started them, and what the system says of one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

ROOT = Path(__file__).resolve().parents[2]
ENDS_WITHIN_S = 10.0


def command(*arguments: str) -> list[str]:
    """The command iem-dcr."""
    return [sys.executable, "-m", "iem_dcr.cli.main", *arguments]


def program(name: str, *arguments: object) -> list[str]:
    """A program of this package."""
    return [sys.executable, "-m", f"endurance.processes.{name}", *map(str, arguments)]


def start(line: Sequence[str], log: Path | None = None, **options: Any) -> subprocess.Popen[str]:
    """Start a process in a group of its own; what it writes to standard error is added to the log."""
    with contextlib.ExitStack() as stack:
        stderr = None if log is None else stack.enter_context(log.open("a", encoding="utf-8"))
        return subprocess.Popen(  # noqa: S603  our own programs
            line, stdin=subprocess.PIPE, text=True, stderr=stderr, cwd=ROOT, start_new_session=True, **options
        )


def end(process: subprocess.Popen[str], *, kill: bool = False) -> int:
    """End a process by SIGTERM, or SIGKILL where it does not end or is to be killed; return its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    return process.returncode


@contextlib.contextmanager
def running(line: Sequence[str], log: Path | None = None, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a process; it is ended at the end."""
    process = start(line, log, **options)
    try:
        yield process
    finally:
        end(process)


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the first line that a process writes.

    Raises:
        RuntimeError: it ended before.
    """
    assert process.stdout is not None  # noqa: S101  it was started so
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{' '.join(map(str, process.args))} ended with {process.wait()}")  # type: ignore[arg-type]
    return line.strip()


def need_mosquitto() -> None:
    """End the command where there is no broker.

    Raises:
        SystemExit: there is none.
    """
    if shutil.which("mosquitto") is None and shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin") is None:
        raise SystemExit("mosquitto is not installed")


def end_on_sigterm() -> None:
    """Have SIGTERM unwind this process, so that what it started ends too."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def resident_kib(pid: int) -> int:
    """Return a process's resident memory."""
    return _status(pid, "VmRSS")


def threads(pid: int) -> int:
    """Return how many threads a process has."""
    return _status(pid, "Threads")


def handles(pid: int) -> int:
    """Return how many file handles a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  names alone: one may be closed meanwhile


def waited_for_a_core_s(pid: int) -> float:
    """Return how long a process's first thread was ready to run and had no core, as far as the kernel tells."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text("utf-8").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
