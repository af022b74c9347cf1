"""The command iem-dcr, called here or as a process of its own, and simulated meters in a thread for it to talk to."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import pytest

from iem_dcr.cli.main import main
from iem_dcr.simulator import Fault, SimulatedMeter, SimulatorOptions, SimulatorServer
from tests.support.bench import CI, SECRET, SERIAL

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")

PATIENCE_S = 120.0
_NOT_PASSED_ON = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE")
"""Variables that would change what is printed."""


@dataclass(frozen=True)
class Done:
    """What a finished command left."""

    status: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The objects it wrote, one a line; anything else on standard output is an error."""
        return [json.loads(line) for line in self.out.splitlines()]

    def only(self, event: str) -> dict[str, Any]:
        """The one event of that name."""
        (found,) = [written for written in self.events if written["event"] == event]
        return found


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}


def begin(
    *arguments: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE, **variables: str
) -> subprocess.Popen[str]:
    """Start iem-dcr with its standard streams piped and some environment variables set."""
    return subprocess.Popen(
        [sys.executable, "-m", "iem_dcr", *arguments],
        stdout=stdout,
        stderr=stderr,
        stdin=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env=environment() | variables,
    )


def finish(process: subprocess.Popen[str], before: str = "") -> Done:
    """Wait for the end of a command; ``before`` is what was read of its output already."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in err
    return Done(process.returncode, before + (out or ""), err or "")


def run(*arguments: str, **variables: str) -> Done:
    """Call iem-dcr in this process, which starts none and so costs a tenth: with piped streams, to its end."""
    written, told = io.BytesIO(), io.BytesIO()
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in _NOT_PASSED_ON:
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(), "utf-8"))
        stack.enter_context(contextlib.redirect_stdout(io.TextIOWrapper(written, "utf-8", write_through=True)))
        stack.enter_context(contextlib.redirect_stderr(io.TextIOWrapper(told, "utf-8", write_through=True)))
        try:
            main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
        out, err = (stream.getvalue().decode().replace("\r\n", "\n") for stream in (written, told))
    assert "Traceback" not in err
    return Done(status, out, err)


def run_process(*arguments: str, **variables: Any) -> Done:
    """Run iem-dcr as a process to its end."""
    return finish(begin(*arguments, **variables))


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Read its output up to and with the line that holds a text."""
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if text in line:
            return read
    raise AssertionError(f"{text!r} never came; came {read!r}, {finish(process)}")


class Simulator:
    """A simulated meter on a loop in a thread of its own; made to sign without delay and to load for a moment only."""

    def __init__(self, host: str = "127.0.0.1", **options: Any) -> None:
        self._host = host
        quick: dict[str, Any] = {
            "MS": SERIAL,
            "private_key": SECRET,
            "load_delay_s": 0.0,
            "charge_s": 0.1,
            "signing_delay_s": 0.02,
            "signature_encoding": "der",  # without padding, one in 128 has a finding more
        }
        self._options = SimulatorOptions(**(quick | options))
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        async with SimulatorServer(self._options, self._host) as server:
            self.address = server.address
            self._meter = server.meter
            self._ready.set()
            await self._over.wait()

    def of(self, ask: Callable[[SimulatedMeter], T]) -> T:
        """Ask or change something of the meter, in its thread."""

        async def asked() -> T:
            return ask(self._meter)

        return asyncio.run_coroutine_threadsafe(asked(), self._loop).result(PATIENCE_S)

    def handle(self, method: str, path: str, body: dict[str, Any]) -> int:
        """Let the meter act on a request that is not counted among those that came by HTTP."""

        def act(meter: SimulatedMeter) -> int:
            status = meter.handle(method, f"/counter/v1/ocmf{path}", json.dumps(body).encode()).status
            meter.requests.clear()
            return status

        return self.of(act)

    def fault(self, **fields: Any) -> None:
        """Let something go wrong."""
        self.of(lambda meter: meter.faults.add(Fault(**fields)))

    def set_up(self, ci: str = CI) -> None:
        """Give it a charge point."""
        assert self.handle("POST", "/gw", {"CT": "EVSEID", "CI": ci, "TM": "2026-03-01T12:00:00,000+0100"}) == 200

    @property
    def methods(self) -> set[str]:
        """The methods it was asked with."""
        return self.of(lambda meter: {request.method for request in meter.requests})

    @property
    def posts(self) -> list[str]:
        """The nodes something was posted to, in order."""
        return self.of(lambda meter: [request.node for request in meter.requests if request.method == "POST"])

    @property
    def runs(self) -> bool:
        """Whether a transaction runs."""
        return self.of(lambda meter: meter.running)
