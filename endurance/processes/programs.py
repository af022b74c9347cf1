"""Programs as processes that end with the command that started them. The two that drive a meter can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from endurance.processes.wrapped_program import MODULE_PY
from tests.support.everest_bench import CommandRefused, EverestBench, ModuleDied, configuration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

    from endurance.processes.station import RealStation


ROOT: Final = Path(__file__).resolve().parents[2]
IEM_DCR: Final = (sys.executable, "-m", "iem_dcr")
END_TIMEOUT_S: Final = 10.0
WRAPPED_PROGRAM: Final = Path(__file__).with_name("wrapped_program.py")
SAFE_PATH: Final = {"PYTHONSAFEPATH": "1"}
"""Keeps the folder of the wrapped program out of the module path, where it would hide EVerest's framework."""


@contextlib.contextmanager
def running(line: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a process inside the block. It has its own process group, so that Ctrl-C does not reach it."""
    with subprocess.Popen(  # noqa: S603  our own programs
        line, stdin=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True, **options
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextlib.contextmanager
def prepared(keep: Path | None) -> Iterator[Path]:
    """Prepare a command that starts processes, so that SIGTERM ends them too. Yield a folder for logs and journals.

    Args:
        keep: a new folder that is kept; None for a temporary one.

    Raises:
        SystemExit: there is no broker, or the folder exists. Its old journals would count as those of this run.
    """
    if why := why_no_mosquitto():
        raise SystemExit(why)

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    with tempfile.TemporaryDirectory(prefix="iem-dcr-") as name:
        try:
            (keep or Path(name, "run")).mkdir(parents=True)
        except OSError as error:
            raise SystemExit(f"{keep}: {error.strerror}") from None
        yield keep or Path(name, "run")


def why_no_mosquitto() -> str:
    """Return why mosquitto is unavailable here, or ""."""
    folders = None, "/usr/local/sbin:/usr/sbin"  # not everybody has the latter in PATH
    return "" if any(shutil.which("mosquitto", path=each) for each in folders) else "mosquitto is not installed"


def waited_for_core_s(pid: int) -> float:
    """Return how many seconds the main thread of a process waited for a core; 0 if that is unknown."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text("utf-8").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class RealService:
    """`iem-dcr run`.

    Args:
        broker: host and port of its broker.
        prefix: a command that runs it elsewhere, such as in a namespace.
        environment: variables of `wrapped_program`. Without any the program runs unwrapped.
    """

    def __init__(
        self,
        folder: Path,
        stations: Sequence[RealStation],
        broker: tuple[str, int],
        journal: Path,
        *options: str,
        prefix: Sequence[str] = (),
        **environment: str,
    ) -> None:
        lines = [f'[mqtt]\nhost = "{broker[0]}"\nport = {broker[1]}']
        for station in stations:
            lines.append(f'\n[[meter]]\nmodule_id = "{station.name}"')
            lines += [f"{name} = {json.dumps(value)}" for name, value in station.settings(journal).items()]
        config = folder / f"{stations[0].name}.toml"
        config.write_text("\n".join(lines) + "\n", "utf-8")
        program = (sys.executable, str(WRAPPED_PROGRAM)) if environment else IEM_DCR
        self.log = config.with_suffix(".log")
        self._line = (*prefix, *program, *options, "run", str(config))
        self._environment = {**os.environ, **SAFE_PATH, **environment} if environment else None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    async def start(self) -> None:
        with self.log.open("a") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._line, stderr=log, cwd=ROOT, env=self._environment, start_new_session=True
            )

    def kill(self) -> str:
        """Kill it immediately. Return how it ended if it had ended before, or ""."""
        if self._process is None:
            return ""
        if self._process.returncode is not None:
            return f"the service ended by itself with {self._process.returncode}"
        self._process.kill()
        return ""

    async def reap(self) -> None:
        if self._process is not None:
            await self._process.wait()

    async def terminate(self) -> list[str]:
        """End it with SIGTERM. Return the problems at its end and in its log."""
        assert self._process is not None  # noqa: S101  it was started
        problems = []
        try:
            self._process.terminate()
            async with asyncio.timeout(END_TIMEOUT_S):
                if code := await self._process.wait():
                    problems.append(f"the service ended with {code}")
        except (TimeoutError, ProcessLookupError) as error:
            problems.append(f"the service does not end after SIGTERM: {error!r}")
        log = self.log.read_text("utf-8", "replace")
        if "Traceback" in log:
            problems.append(f"the service's log has a traceback: {log[log.index('Traceback') :][:3000]}")
        return problems

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()
        await self.reap()


class RealModule:
    """The EVerest module, under a double of EVerest's framework.

    Args:
        on_value: called with every live value and the time of its publication.
        environment: variables of `wrapped_program`. Without any the module runs unwrapped.
    """

    def __init__(
        self, settings: Mapping[str, Any], on_value: Callable[[dict[str, Any], float], None], **environment: str
    ) -> None:
        program, variables = (WRAPPED_PROGRAM, SAFE_PATH | environment) if environment else (MODULE_PY, {})
        self._make = partial(EverestBench, program, configuration(MODULE_PY, settings), environment=variables)
        self._on_value = on_value
        self._bench: EverestBench | None = None
        self._stack = contextlib.ExitStack()

    @property
    def pid(self) -> int:
        return 0 if self._bench is None else self._bench.pid

    @property
    def takes_commands(self) -> bool:
        bench = self._bench
        return bench is not None and bench.exit_code is None and bool(bench.events_of("init_done"))

    async def start(self) -> None:
        bench = self._make()
        await asyncio.to_thread(self._stack.enter_context, bench)
        self._bench = bench
        with contextlib.suppress(ModuleDied):  # it was killed meanwhile
            await asyncio.to_thread(bench.ready)
        self._watching = asyncio.create_task(self._watch(bench))

    def kill(self) -> str:
        """Kill it immediately. Return how it ended if it had ended before, or ""."""
        if self._bench is None:
            return ""
        if self._bench.exit_code is not None:
            return f"the module ended by itself with {self._bench.exit_code}: {self._bench.stderr[-3000:]}"
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._bench.pid, signal.SIGKILL)
        return ""

    async def reap(self) -> None:
        if self._bench is not None:
            await asyncio.to_thread(self._bench.wait_exit)
            self._bench = None
            await asyncio.to_thread(self._stack.close)
            await asyncio.wait({self._watching}, timeout=END_TIMEOUT_S)

    async def terminate(self) -> list[str]:
        """End it with SIGTERM. Return the problems at its end and its output on standard error."""
        assert self._bench is not None  # noqa: S101  it was started
        code = await asyncio.to_thread(self._bench.sigterm)
        stderr = self._bench.stderr
        await self.reap()
        problems = [f"the module ended with {code}"] if code else []
        return [*problems, f"the module wrote to standard error: {stderr[:3000]}"] if stderr else problems

    async def call(self, command: str, payload: Any) -> dict[str, Any] | None:
        """Call a command. Return its answer, or None if the module ended before."""
        bench = self._bench
        arguments = {"value": {"tariff_text": ""} | payload} if command == "start" else {"transaction_id": payload}
        with contextlib.suppress(ModuleDied, CommandRefused):
            if bench is not None:
                future = await asyncio.to_thread(bench.call_async, f"{command}_transaction", arguments)
                return await asyncio.wrap_future(future)
        return None

    async def _watch(self, bench: EverestBench) -> None:
        """Pass on all values of a process, up to the last one before its end."""
        passed_on, is_over = 0, False
        while not is_over:
            is_over = bench is not self._bench
            published = bench.published("powermeter")
            for each in published[passed_on:]:
                self._on_value(each.value, each.at)
            passed_on = len(published)
            await asyncio.sleep(0.02)
