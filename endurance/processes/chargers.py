"""The two programs that drive a meter, as real processes that can be killed: the service, and the EVerest module."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import iem_dcr.everest
from endurance.processes import running
from iem_dcr.everest_api.topics import Topics
from tests.support.everest_bench import CommandRefused, EverestBench, ModuleDied

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from endurance.processes.everest import Everest

SERVICE: Final = "service"
MODULE: Final = "module"
MODULE_PY: Final = Path(iem_dcr.everest.__file__).parent / "IsabellenhuetteIemDcr" / "module.py"


class Charger(Protocol):
    """What drives a meter, and how a station reaches it.

    Attributes:
        lives: whether its process runs.
        has_value: when a value of this process came, by `time.monotonic`; None before.
    """

    lives: bool
    has_value: float | None

    @property
    def pid(self) -> int:
        """Of its process; 0 where there is none."""

    async def start(self) -> None:
        """Start its process."""

    def strike(self) -> str:
        """Kill its process in this very moment; returns how it ended where it had ended before, or ""."""

    async def bury(self) -> None:
        """Wait for the end of a process that was struck, and take what it left."""

    async def end(self) -> list[str]:
        """End its process in good order; returns what is wrong with how it ended or with what it wrote."""

    def ask(self, command: str, value: Any, answered: Callable[[dict[str, Any]], None]) -> bool:
        """Send a command; False where nobody is there to have it."""

    def repeat(self) -> None:
        """Send the last command again, where the way there may do so."""


class ServiceCharger:
    """`iem-dcr run` with one meter, at a broker.

    Args:
        everest: the station's side of the broker.
        module_id: of the power meter.
        file: of the configuration.
        log: of what it writes.
        value: gets every live value.
        check: gets every communication check.
    """

    def __init__(
        self,
        everest: Everest,
        module_id: str,
        file: Path,
        log: Path,
        value: Callable[[dict[str, Any]], None],
        check: Callable[[bytes], None],
    ) -> None:
        self.lives = False
        self.has_value: float | None = None
        self._everest = everest
        self._topics = Topics(module_id)
        self._file = file
        self._log = log
        self._value = value
        self._check = check
        self._process: subprocess.Popen[str] | None = None
        self._last: tuple[str, bytes] | None = None

    @property
    def pid(self) -> int:
        """Of its process."""
        return 0 if self._process is None else self._process.pid

    def hear(self, topic: str, payload: bytes) -> None:
        """Take what the power meter publishes."""
        if topic == self._topics.check:
            self._check(payload)
        elif topic == self._topics.values:
            if self.lives and self.has_value is None:
                self.has_value = time.monotonic()
            self._value(json.loads(payload))

    async def start(self) -> None:
        """Start it."""
        self.has_value = None
        self._process = running.start(running.command("run", str(self._file)), self._log)
        self.lives = True

    def strike(self) -> str:
        """Kill it now."""
        self.lives = False
        if self._process is None:
            return ""
        code = self._process.poll()
        self._process.kill()
        return "" if code is None else f"the service ended by itself with {code}"

    async def bury(self) -> None:
        """Wait for its end."""
        if self._process is not None:
            running.end(self._process, kill=True)

    async def end(self) -> list[str]:
        """End it."""
        self.lives = False
        assert self._process is not None  # noqa: S101  it was started
        code = await asyncio.to_thread(running.end, self._process)
        said = self._log.read_text("utf-8", "replace")
        troubles = [f"the service ended with {code}"] if code else []
        if "Traceback" in said:
            troubles.append(f"the service's log has a traceback: {said[said.index('Traceback') :][:3000]}")
        return troubles

    def ask(self, command: str, value: Any, answered: Callable[[dict[str, Any]], None]) -> bool:
        """Publish a request; the broker holds it where nobody is there."""
        topic = self._topics.start if command == "start" else self._topics.stop
        self._last = topic, self._everest.ask(topic, value, answered)
        return True

    def repeat(self) -> None:
        """Publish the last request again: a broker may hand over what it got no acknowledgement for."""
        if self._last is not None:
            self._everest.repeat(*self._last)


class ModuleCharger:
    """The EVerest module, under a double of EVerest's framework.

    Args:
        config: of the charger.
        value: gets every live value.
    """

    def __init__(self, config: dict[str, Any], value: Callable[[dict[str, Any]], None]) -> None:
        self.lives = False
        self.has_value: float | None = None
        self._config = config
        self._value = value
        self._bench: EverestBench | None = None
        self._stack = contextlib.ExitStack()
        self._calls: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int:
        """Of its process."""
        return 0 if self._bench is None else self._bench.pid

    async def start(self) -> None:
        """Start it, and tell it that all modules are ready."""
        self.has_value = None
        bench = EverestBench(MODULE_PY, self._config)
        await asyncio.to_thread(self._stack.enter_context, bench)
        self._bench, self.lives = bench, True
        with contextlib.suppress(ModuleDied):  # it was killed in the very moment
            await asyncio.to_thread(bench.ready)
            self._calls.add(asyncio.create_task(self._look_for_a_value(bench)))

    def strike(self) -> str:
        """Kill it now."""
        self.lives = False
        if self._bench is None:
            return ""
        code = self._bench.exit_code
        if code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._bench.pid, signal.SIGKILL)
            return ""
        return f"the module ended by itself with {code}: {self._bench.stderr[-3000:]}"

    async def bury(self) -> None:
        """Wait for its end."""
        if self._bench is not None:
            await asyncio.to_thread(self._bench.wait_exit)
            await self._over()

    async def end(self) -> list[str]:
        """End it."""
        self.lives = False
        assert self._bench is not None  # noqa: S101  it was started
        code, _ = await asyncio.to_thread(self._bench.sigterm)
        troubles = [f"the module ended with {code}"] if code else []
        if self._bench.stderr:
            troubles.append(f"the module wrote to standard error: {self._bench.stderr[:3000]}")
        await self._over()
        return troubles

    def ask(self, command: str, value: Any, answered: Callable[[dict[str, Any]], None]) -> bool:
        """Call a command."""
        bench = self._bench
        if bench is None or not self.lives or not bench.events_of("init_done"):
            return False
        args = {"value": value | {"tariff_text": ""}} if command == "start" else {"transaction_id": value}
        task = asyncio.create_task(self._call(bench, f"{command}_transaction", args, answered))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return True

    def repeat(self) -> None:
        """EVerest calls a command once."""

    async def _call(
        self, bench: EverestBench, name: str, args: dict[str, Any], answered: Callable[[dict[str, Any]], None]
    ) -> None:
        with contextlib.suppress(ModuleDied, CommandRefused):  # who asked sees that no answer came
            future = await asyncio.to_thread(bench.call_async, name, args)
            answered(await asyncio.wrap_future(future))

    async def _look_for_a_value(self, bench: EverestBench) -> None:
        while self.lives and bench is self._bench:
            if published := bench.published("powermeter"):
                self.has_value = published[0].at
                return
            await asyncio.sleep(0.02)

    async def _over(self) -> None:
        bench, self._bench = self._bench, None
        assert bench is not None  # noqa: S101  it has just ended
        for published in bench.published("powermeter"):
            self._value(published.value)
        await asyncio.to_thread(self._stack.close)
        if self._calls:
            await asyncio.wait(set(self._calls), timeout=5)
