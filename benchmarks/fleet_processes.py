"""Processes for benchmarks/fleet.py: starts them on their cores, runs a broker, and measures CPU time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
MEASURED_CORE = 0
_STARTS_WITHIN_S = 20.0
_ENDS_WITHIN_S = 10.0
_AMQTT = """
import asyncio, sys
from iem_dcr.cli.embedded_broker import embedded_broker
async def main():
    async with embedded_broker() as mqtt:
        print(mqtt.port, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""


def raise_limits() -> None:
    """Raise the limit of open files to the host's maximum, because each meter is a connection."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def cores() -> tuple[set[int], set[int]]:
    """Return the core of the measured process and those of all others. They are the same on a single core."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    measured = {allowed[MEASURED_CORE]}
    return measured, set(allowed) - measured or measured


@contextlib.contextmanager
def running(command: list[str], on: set[int], **options: Any) -> Iterator[subprocess.Popen[str]]:  # noqa: ANN401  as Popen's
    """Run a process on some cores. Terminate it at the end of the context, and kill it if it does not end."""

    def stay() -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, on)

    process = subprocess.Popen(command, text=True, preexec_fn=stay, **options)  # noqa: S603, PLW1509  our own programs; no threads here
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.terminate()
        try:
            process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


class Helper:
    """A program of this folder that answers each line of JSON with another one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, **question: object) -> dict[str, Any]:
        """Send a question and wait for the answer."""
        assert self.process.stdin is not None  # noqa: S101  it is a pipe
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = self.hear()
        return answer

    def hear(self) -> Any:  # noqa: ANN401  any JSON value
        """Wait for a line and decode it."""
        assert self.process.stdout is not None  # noqa: S101  as above
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args!r} ended with {self.process.wait()}")
        return json.loads(line)


@contextlib.contextmanager
def helper(program: str, *arguments: object, on: set[int]) -> Iterator[Helper]:
    """Run a program of this folder."""
    command = [sys.executable, str(HERE / program), *map(str, arguments)]
    with running(command, on, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Helper(process)


@contextlib.contextmanager
def broker(folder: Path, on: set[int]) -> Iterator[tuple[str, int, int]]:
    """Run mosquitto, or amqtt if it is not installed. Yield its name, port and process id."""
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin")
    if mosquitto is None:
        with running([sys.executable, "-c", _AMQTT], on, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            yield "amqtt", int(Helper(process).hear()), process.pid
        return
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    file = folder / "mosquitto.conf"
    file.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nlog_type error\n", "utf-8")
    with running([mosquitto, "-c", str(file)], on) as process:
        _await_port(port)
        yield "mosquitto", port, process.pid


def _await_port(port: int) -> None:
    until_s = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < until_s:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit("the broker did not start")


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used, in user mode and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy_s() -> float:
    """Return the CPU seconds that all programs of this machine have used (proc(5): all columns but idle and iowait)."""
    columns = Path("/proc/stat").read_text("utf-8").splitlines()[0].split()[1:9]
    return sum(int(ticks) for place, ticks in enumerate(columns) if place not in (3, 4)) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    line = next(
        line for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines() if line.startswith("VmRSS")
    )
    return int(line.split()[1]) * 1024
