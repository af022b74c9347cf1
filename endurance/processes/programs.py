"""Programs as processes that end with the command that started them."""

from __future__ import annotations

import contextlib
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
    process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
    with contextlib.suppress(OSError), process:  # closes its pipes and waits
        pass
    return process.returncode


@contextlib.contextmanager
def running(line: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a process for as long as the block is entered."""
    process = start(line, **options)
    try:
        yield process
    finally:
        end(process)


@contextlib.contextmanager
def prepared(keep: Path | None) -> Iterator[Path]:
    """Make a command fit to start processes: SIGTERM ends them with it. Returns a folder for logs and journals.

    Args:
        keep: a new folder that stays; None for one that goes.

    Raises:
        SystemExit: there is no broker, or the folder is there already; its journals would be taken for this run's.
    """
    if not any(shutil.which("mosquitto", path=path) for path in (None, "/usr/local/sbin:/usr/sbin")):
        raise SystemExit("mosquitto is not installed")

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="iem-dcr-") as name:
            yield Path(name)
        return
    try:
        keep.mkdir(parents=True)
    except OSError as error:
        raise SystemExit(f"{keep}: {error.strerror}") from None
    yield keep


def waited_for_core_s(pid: int) -> float:
    """Return how long the first thread of a process was ready to run and had no core; 0 where that is not known."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text("utf-8").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
