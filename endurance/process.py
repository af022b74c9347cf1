"""A process of ours: the service's part for one meter, or the EVerest module. It can be ended, and it can be killed."""

from __future__ import annotations

import asyncio
import contextvars
import json
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from endurance.wire import Session
from iem_dcr.device import client as device_client
from iem_dcr.driver import MeterDriver
from iem_dcr.driver.driver import START_S, STOP_S
from iem_dcr.driver.starting import Starting
from iem_dcr.everest.station import EverestStation
from iem_dcr.everest_api.meter_api import MeterApi
from tests.support.fake_bus import FakeBus

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from endurance.disk import SteppedJournal
    from endurance.station import Station
    from endurance.wire import Socket
    from iem_dcr.driver.timing import Deadline
    from iem_dcr.powermeter import StationError, TransactionReq, TransactionStartResponse

PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)

SERVICE: Final = "service"
MODULE: Final = "module"
HANDLER_MARGIN_S: Final = 1.0
"""As `everest.module` has it."""
RESTART_AFTER_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Serving:
    """A start that a process is working on.

    Attributes:
        transaction_id: the station's.
        number: counts the starts of a world.
        process: number of the process.
    """

    transaction_id: str
    number: int
    process: int


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


class _Framework:
    """EVerest's framework, as far as the module's station uses it."""

    def __init__(self, process: Process, world: Station) -> None:
        self._process = process
        self._world = world

    def publish(self, variable: str, value: Any) -> None:
        if not self._process.killed and variable == "powermeter":
            self._world.published(value)

    def raise_error(self, error: StationError) -> None:
        """Nothing is made of it here."""

    def clear_error(self, error_type: str, sub_type: str) -> None:
        """Nothing is made of it here."""


class Process:
    """One process, from its start to its end.

    Attributes:
        number: counts the processes of a world.
        kind: SERVICE or MODULE.
        killed: it does nothing any more.
        serving: the start it is working on.
        failures: what its main task failed with; it is started again, as the service does it.
        bus: the service's connection to the broker.
        driver: of the meter.
    """

    def __init__(self, world: Station, number: int, kind: str) -> None:
        self.number = number
        self.kind = kind
        self.killed = False
        self.serving: Serving | None = None
        self.failures: list[BaseException] = []
        self.journal: SteppedJournal | None = world.open_journal()
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self.bus = _Bus(world.heard, connected=world.broker_is_up)
        self._world = world
        context = contextvars.copy_context()
        context.run(PROCESS.set, self)
        self._context = context
        self._main = context.run(asyncio.create_task, self._run())

    @property
    def driver(self) -> MeterDriver:
        """The driver of its meter."""
        return self._driver

    async def call(self, command: str, value: object) -> dict[str, object]:
        """Have the module carry out a command, as its handler does."""
        work: Coroutine[Any, Any, Any]
        answer: Any
        if command == "start":
            work, within_s = self._driver.start_from_json(value), START_S
        else:
            work, within_s = self._driver.stop_from_json(value), STOP_S
        task = self._context.run(asyncio.create_task, work)
        try:
            async with asyncio.timeout(within_s + HANDLER_MARGIN_S):
                answer = await task
        except TimeoutError:
            return {"status": "UNEXPECTED_ERROR", "error": "the meter did not do it in time"}
        result: dict[str, object] = answer.to_json()
        return result

    async def end(self) -> None:
        """End in good order, as SIGTERM has it."""
        self._main.cancel()
        await asyncio.wait({self._main})
        if self.journal is not None:
            await self._context.run(asyncio.create_task, self.journal.close())
        self.killed = self.bus.killed = True

    def kill(self) -> None:
        """Do nothing any more, from this very moment."""
        self.killed = self.bus.killed = True
        if self.journal is not None:
            self.journal.kill()
        for task in list(self.tasks):
            task.cancel()

    async def _run(self) -> None:
        world = self._world
        station: Any = None
        if self.kind == SERVICE:
            api = MeterApi("pm", world.settings, self.bus, journal=self.journal, wall=world.host)
            self._driver, work = api.driver, api.run
        else:
            station = EverestStation(_Framework(self, world))  # type: ignore[arg-type]  # all that it uses of it
            self._driver = MeterDriver(world.settings, station, journal=self.journal, wall=world.host)
            work = self._driver.run
        world.ready(self)
        while True:
            try:
                await work()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001  as the service has it; and it is looked at
                self.failures.append(error)
            await asyncio.sleep(RESTART_AFTER_S)


def payload_of_start(request: dict[str, object], reply_to: str) -> bytes:
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
    """Has every client speak over a socket in memory, and every start known, while it is entered."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    def __enter__(self) -> None:
        """Put them in place."""
        module: Any = device_client
        self._new_session, self._start = module._new_session, Starting.start
        socket, start, numbers = self._socket, self._start, _numbers()

        async def noted(self: Starting, request: TransactionReq, deadline: Deadline) -> TransactionStartResponse:
            process = PROCESS.get()
            if process is None:
                return await start(self, request, deadline)
            process.serving = Serving(request.transaction_id, next(numbers), process.number)
            try:
                return await start(self, request, deadline)
            finally:
                process.serving = None

        module._new_session = lambda: Session(socket, PROCESS.get())
        Starting.start = noted  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        """Take them back."""
        module: Any = device_client
        module._new_session, Starting.start = self._new_session, self._start  # type: ignore[method-assign]


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1
