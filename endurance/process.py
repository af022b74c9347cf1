"""A process of ours: the service's part for one meter, or (`everest`) the EVerest module. Ended in order, or killed."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import json
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from endurance.model import SERVICE, Serving
from iem_dcr.driver.start import Starting
from iem_dcr.everest import module as everest_module
from iem_dcr.everest_api.meter_api import MeterApi
from iem_dcr.everest_api.topics import Topics
from tests.support.fake_bus import FakeBus

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from endurance.clock import HostClock
    from endurance.disk import SteppedJournal
    from endurance.network import Network
    from iem_dcr.config import Settings
    from iem_dcr.driver import MeterDriver
    from iem_dcr.driver.timing import Deadline
    from iem_dcr.powermeter import TransactionReq, TransactionStartResponse

PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
TOPICS: Final = Topics("pm")
RESTART_AFTER_S: Final = 1.0


class Surroundings(Protocol):
    """What a process finds around it: its settings, the host, the broker, EVerest, its disk."""

    settings: Settings
    host: HostClock
    broker_is_up: bool
    errors: set[tuple[str, str]]
    network: Network

    def open_journal(self) -> SteppedJournal | None:
        """Open the journal."""

    def ready(self, process: Process) -> None:
        """Hear that a process has subscribed, or is about to within this round."""

    def heard(self, topic: str, payload: bytes) -> None:
        """Take what is published at the broker."""

    def published(self, value: dict[str, Any]) -> None:
        """Take a live value."""

    def raised(self, error_type: str, sub_type: str) -> None:
        """Take an error."""

    def cleared(self, error_type: str, sub_type: str) -> None:
        """Take the end of an error."""


class _Bus(FakeBus):
    """The broker as one process sees it; nothing is kept of what goes over it."""

    def __init__(self, heard: Callable[[str, bytes], None], *, connected: bool) -> None:
        super().__init__(connected=connected)
        self.killed = False
        self._heard = heard

    def offer(self, topic: str, payload: bytes, *, good_for_s: float) -> None:
        if not self.killed:
            super().offer(topic, payload, good_for_s=good_for_s)

    async def deliver(self, topic: str, payload: bytes, *, within_s: float) -> bool:
        if self.killed:
            await asyncio.Event().wait()
        return await super().deliver(topic, payload, within_s=within_s)

    def _publish(self, topic: str, payload: bytes, *, qos: int) -> None:
        del qos
        if not self.killed:
            self._heard(topic, payload)


class Process(ABC):
    """One process, from its start to its end. There are two kinds.

    Args:
        around: what it finds around it.
        number: counts the processes of a run.

    Attributes:
        killed: it does nothing any more.
        serving: the start it is working on.
        failures: what its main task failed with, what a handler raised.
        journal: that it writes.
        tasks: that work in its name.
    """

    kind: ClassVar[str]

    def __init__(self, around: Surroundings, number: int) -> None:
        self.number = number
        self.killed = False
        self.serving: Serving | None = None
        self.failures: list[BaseException] = []
        self.journal: SteppedJournal | None = around.open_journal()
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._around = around
        self._context = contextvars.copy_context()
        self._context.run(PROCESS.set, self)
        self._context.run(self._make)
        self._main = self._context.run(asyncio.create_task, self._run())
        around.ready(self)

    @property
    @abstractmethod
    def driver(self) -> MeterDriver:
        """The driver of its meter."""

    @abstractmethod
    async def end(self) -> None:
        """End in good order, as SIGTERM has it."""

    def kill(self) -> None:
        """Do nothing any more, from this very moment."""
        self.killed = True
        if self.journal is not None:
            self.journal.kill()
        for task in list(self.tasks):
            task.cancel()

    async def connect(self, _host: str, _port: int) -> tuple[asyncio.StreamReader, Any]:
        """Connect to the meter."""
        return await self._around.network.connect(self)

    def receive(self, topic: str, message: bytes) -> bool:
        """Have the broker hand over a message; returns whether it was taken."""
        del topic, message
        return False

    @abstractmethod
    def broker_comes(self) -> None:
        """Have the broker be there."""

    @abstractmethod
    def broker_goes(self) -> None:
        """Have the broker be away."""

    async def call(self, command: str, value: object) -> dict[str, object]:
        """Have EVerest call a command of a module; returns its answer."""
        raise TypeError(f"{self.kind} is asked by messages, not called: {command} {value!r}")

    @abstractmethod
    def _make(self) -> None:
        """Make what there is before it runs."""

    @abstractmethod
    async def _run(self) -> None:
        """Do what its main task does."""


class ServiceProcess(Process):
    """The service's part for one meter."""

    kind = SERVICE

    @property
    def driver(self) -> MeterDriver:
        """The driver of its meter."""
        return self._api.driver

    async def end(self) -> None:
        """End in good order, as SIGTERM has it."""
        self._main.cancel()
        await asyncio.wait({self._main})
        if self.journal is not None:
            await self._context.run(asyncio.create_task, self.journal.close())
        self.killed = self._bus.killed = True

    def kill(self) -> None:
        """Do nothing any more, from this very moment."""
        self._bus.killed = True
        super().kill()

    def receive(self, topic: str, message: bytes) -> bool:
        """Have the broker hand over a message; returns whether it was taken."""
        return self._bus.receive(topic, message)

    def broker_comes(self) -> None:
        """Have the broker be there."""
        self._bus.connect()

    def broker_goes(self) -> None:
        """Have the broker be away."""
        self._bus.disconnect()

    def _make(self) -> None:
        around = self._around
        self._bus = _Bus(around.heard, connected=around.broker_is_up)
        self._api = MeterApi(
            "pm", around.settings, self._bus, journal=self.journal, wall=around.host, connect=self.connect
        )

    async def _run(self) -> None:
        while True:
            try:
                await self._api.run()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001  as the service has it; and it is looked at
                self.failures.append(error)
            await asyncio.sleep(RESTART_AFTER_S)


def payload_of_start(request: object, reply_to: str) -> bytes:
    """Write a request as EVerest's API module does."""
    return json.dumps({"headers": {"replyTo": reply_to}, "payload": request}).encode()


def task_factory(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], *, context: contextvars.Context | None = None
) -> asyncio.Task[Any]:
    """Make a task, and note whose process it is of."""
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    process = PROCESS.get() if context is None else context.get(PROCESS)
    if process is not None:
        process.tasks.add(task)
        if process.killed:
            task.cancel()
    return task


class Rigged:
    """Has every start known, and no module sleep, while it is entered."""

    def __enter__(self) -> None:
        """Put them in place."""
        self._start = Starting.start
        self._sleep_s, everest_module.REPLIES_GO_OUT_S = everest_module.REPLIES_GO_OUT_S, 0.0
        start, numbers = self._start, itertools.count()

        async def noted(self: Starting, request: TransactionReq, deadline: Deadline) -> TransactionStartResponse:
            process = PROCESS.get()
            if process is None:
                return await start(self, request, deadline)
            process.serving = Serving(request.transaction_id, next(numbers), process.number)
            try:
                return await start(self, request, deadline)
            finally:
                process.serving = None

        Starting.start = noted  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        """Take them back."""
        Starting.start = self._start  # type: ignore[method-assign]
        everest_module.REPLIES_GO_OUT_S = self._sleep_s
