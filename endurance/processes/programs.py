"""Programs as processes that end with the command that started them, and what the kernel says about a process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

ROOT: Final = Path(__file__).resolve().parents[2]
END_TIMEOUT_S: Final = 10.0


def iem_dcr(*arguments: str) -> list[str]:
    """Return the command line of iem-dcr."""
    return [sys.executable, "-m", "iem_dcr.cli.main", *arguments]


def start(line: Sequence[str], log: Path | None = None, **options: Any) -> subprocess.Popen[str]:
    """Start a process in a group of its own, so that Ctrl-C does not reach it. The log gets its standard error."""
    with contextlib.ExitStack() as stack:
        stderr = None if log is None else stack.enter_context(log.open("a", encoding="utf-8"))
        return subprocess.Popen(  # noqa: S603  our own programs
            line, stdin=subprocess.PIPE, text=True, stderr=stderr, cwd=ROOT, start_new_session=True, **options
        )


def end(process: subprocess.Popen[str]) -> int:
    """End a process with SIGTERM, or with SIGKILL where that does not help. Returns its exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    return process.returncode


@contextlib.contextmanager
def running(line: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a process for as long as the block is entered."""
    process = start(line, **options)
    try:
        yield process
    finally:
        end(process)


def prepare() -> None:
    """Make a command fit to start processes: SIGTERM ends them with it.

    Raises:
        SystemExit: there is no broker.
    """
    if shutil.which("mosquitto") is None and shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin") is None:
        raise SystemExit("mosquitto is not installed")

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def new_folder(stack: contextlib.ExitStack, keep: Path | None) -> Path:
    """Make a folder for logs and journals, which goes with the stack unless it is to be kept.

    Raises:
        FileExistsError: what is to be kept is there already; its journals would be taken for those of this run.
    """
    if keep is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iem-dcr-")))
    keep.mkdir(parents=True)
    return keep


def resident_kib(pid: int) -> int:
    """Return how much memory of a process is resident."""
    return _status(pid, "VmRSS")


def threads(pid: int) -> int:
    """Return how many threads a process has."""
    return _status(pid, "Threads")


def handles(pid: int) -> int:
    """Return how many file handles a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  names only: one may be closed meanwhile


def waited_for_core_s(pid: int) -> float:
    """Return how long the first thread of a process was ready to run and had no core; 0 where that is not known."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text("utf-8").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
