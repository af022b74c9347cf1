"""A process of ours in a simulation: the service's part for one meter, or the EVerest module.

The module is the real one, with its handlers in their own threads. Only one of these threads or the loop runs at a
time, and handlers wait in the loop's time. A run with threads is therefore the same each time it is repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, cast
from unittest.mock import patch

from endurance.meter import Serving
from endurance.network import Sender
from iem_dcr.driver.start import Start
from iem_dcr.everest import module
from iem_dcr.everest.module import LOOP_END_TIMEOUT_S, EverestModule
from iem_dcr.everest_api.meter_api import MeterApi
from tests.support.fake_bus import FakeBus

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from concurrent.futures import Future

    from endurance.disk import SteppedJournal
    from endurance.world import World
    from iem_dcr.driver import MeterDriver
    from iem_dcr.everest.framework import Framework
    from iem_dcr.powermeter import Powermeter, StationError, TransactionStartResponse

    Handler = Callable[[dict[str, Any]], dict[str, object]]

RESTART_AFTER_S: Final = 1.0
ARGUMENTS: Final = {"start": "value", "stop": "transaction_id"}
PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
HANDLING: contextvars.ContextVar[_Handling] = contextvars.ContextVar("handling")


class Process(Sender, ABC):
    """One process, from its start to its end. After a kill it has no effect.

    Attributes:
        number: counts the processes of a run.
        failures: exceptions of its main task and its handlers.
    """

    def __init__(self, world: World, number: int, journal: SteppedJournal | None) -> None:
        self.number = number
        self.failures: list[BaseException] = []
        self.journal = journal
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._world = world
        self._context = contextvars.copy_context()
        self._context.run(PROCESS.set, self)
        self._context.run(self._make)
        self._main = self._context.run(asyncio.create_task, self._run())

    @property
    @abstractmethod
    def driver(self) -> MeterDriver:
        """The driver of its meter."""

    @abstractmethod
    async def end(self) -> None:
        """End in an orderly way, as after SIGTERM."""

    def kill(self) -> None:
        """Stop all effects immediately, as SIGKILL does."""
        self.killed = True
        if self.journal is not None:
            self.journal.kill()
        for task in list(self.tasks):
            task.cancel()

    async def connect(self, _host: str, _port: int) -> tuple[asyncio.StreamReader, Any]:
        return await self._world.network.connect(self)

    @abstractmethod
    def _make(self) -> None:
        """Create the objects of the process before it runs."""

    @abstractmethod
    async def _run(self) -> None:
        """Run the main task."""


def task_factory(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], *, context: contextvars.Context | None = None
) -> asyncio.Task[Any]:
    """Create a task and assign it to its process."""
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    process = PROCESS.get() if context is None else context.get(PROCESS)
    if process is not None:
        process.tasks.add(task)
        if process.killed:
            task.cancel()
    return task


@contextlib.contextmanager
def rigged() -> Iterator[None]:
    """Record in every process the start that it handles, and remove the module's sleep."""
    run = Start.run

    async def noted(self: Start) -> TransactionStartResponse:
        process = PROCESS.get()
        if process is None:
            return await run(self)
        process.serving = Serving(self.request.transaction_id, process.number)
        try:
            return await run(self)
        finally:
            process.serving = None

    with patch.object(Start, "run", noted), patch.object(module, "REPLIES_GO_OUT_S", 0.0):
        yield


# --- the service ---


class _Bus(FakeBus):
    """The broker as one process sees it. Messages are passed on and not stored."""

    def __init__(self, process: Process, on_message: Callable[[str, bytes], None], *, connected: bool) -> None:
        super().__init__(connected=connected)
        self.failures = cast("list[Exception]", process.failures)  # exceptions of its handlers are judged too
        self._process = process
        self._on_message = on_message

    def offer(self, topic: str, payload: bytes, *, good_for_s: float) -> None:
        if not self._process.killed:
            super().offer(topic, payload, good_for_s=good_for_s)

    async def deliver(self, topic: str, payload: bytes, *, within_s: float) -> bool:
        if self._process.killed:
            await asyncio.Event().wait()
        return await super().deliver(topic, payload, within_s=within_s)

    def _publish(self, topic: str, payload: bytes, *, qos: int) -> None:  # noqa: ARG002  the bus passes it
        if not self._process.killed:
            self._on_message(topic, payload)


class ServiceProcess(Process):
    """The service's part for one meter. ``bus`` is its connection to the broker."""

    @property
    def driver(self) -> MeterDriver:
        return self._api.driver

    async def end(self) -> None:
        self._main.cancel()
        await asyncio.wait({self._main})
        if self.journal is not None:
            await self._context.run(asyncio.create_task, self.journal.close())
        self.killed = True

    def _make(self) -> None:
        world = self._world
        self.bus = _Bus(self, world.on_message, connected=world.broker_is_up)
        self._api = MeterApi(
            world.name, world.settings, self.bus, journal=self.journal, wall=world.host, connect=self.connect
        )

    async def _run(self) -> None:
        while True:
            try:
                await self._api.run()
            except Exception as error:  # noqa: BLE001  the service does so too, and a promise checks the failures
                self.failures.append(error)
            await asyncio.sleep(RESTART_AFTER_S)


# --- the EVerest module ---


class _Handling:
    """A running handler in its thread. It is also the `concurrent.futures.Future` on which the handler waits.

    Waiting takes virtual time. Either the handler or the loop runs, never both.

    Attributes:
        answer: what the handler returned, or an empty answer if it raised.
        error: what it raised, or None.
        future: the future of its command.
        is_over: done when the handler has returned.
    """

    future: Future[Any]

    def __init__(self, work: Callable[[], dict[str, object]]) -> None:
        self.answer: dict[str, object] = {}
        self.error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self.is_over: asyncio.Future[None] = self._loop.create_future()
        self._work = work
        self._runs = self._waits = self._is_dropped = self._has_returned = False
        self._paused, self._resumed = threading.Semaphore(0), threading.Semaphore(0)

    def begin(self, context: contextvars.Context) -> None:
        """Start the thread. Return when the handler waits for the loop or has returned."""
        self._runs = True
        threading.Thread(target=context.run, args=(self._run,), daemon=True).start()
        self.wait()

    def wait(self) -> None:
        """Let a running handler continue until it waits for the loop or has returned."""
        if self._runs:
            self._paused.acquire()
            self._runs = False
            if self._has_returned and not self.is_over.done():
                self.is_over.set_result(None)

    def wake(self, _future: Any = None) -> None:
        """End its wait for the loop."""
        if self._waits:
            self._waits, self._runs = False, True
            self._resumed.release()
            if not self._is_dropped:
                self.wait()

    def _run(self) -> None:
        HANDLING.set(self)
        try:
            self.answer = self._work()
        except BaseException as error:  # noqa: BLE001  a handler must not raise; a promise checks this
            self.error = error
        self._has_returned = True
        self._paused.release()

    # --- the future ---

    def result(self, timeout: float) -> Any:
        """Wait for the result.

        Raises:
            TimeoutError: there was no result within ``timeout``.
            CancelledError: the command was cancelled.
        """
        if not self.future.done():
            self._waits = True
            timer = self._loop.call_later(timeout, self.wake)
            self._paused.release()
            self._resumed.acquire()
            timer.cancel()
        return self.future.result(0)

    def cancel(self) -> bool:
        """Cancel the command. An ending module does so and then waits for its threads, which continue alone."""
        self._is_dropped = True
        return self.future.cancel()


class _Module(EverestModule):
    """The module. Only the future on which its handlers wait is replaced."""

    def _submit(self, command: Coroutine[None, None, Any]) -> Future[Any]:
        handling = HANDLING.get()
        handling.future = super()._submit(command)
        handling.future.add_done_callback(handling.wake)
        return cast("Future[Any]", handling)  # it has the methods that the module uses


class ModuleProcess(Process):
    """The process of the EVerest module, and EVerest's framework for it. Active errors outlive the process."""

    @property
    def driver(self) -> MeterDriver:
        return self._module._driver

    async def call(self, command: str, value: object) -> dict[str, object]:
        """Call a handler in a thread of the framework. Return its answer, or an empty one if it raised."""
        handler = self._handlers[f"{command}_transaction"]
        handling = _Handling(lambda: handler({ARGUMENTS[command]: value}))
        self._handlings.append(handling)
        handling.begin(self._context.copy())
        await handling.is_over
        self._handlings.remove(handling)
        if handling.error is not None:
            self.failures.append(handling.error)
        return handling.answer

    async def end(self) -> None:
        self._module.stop()
        await asyncio.wait({self._main}, timeout=LOOP_END_TIMEOUT_S)
        self._module.answer_what_waits()
        for handling in self._handlings:
            handling.wait()
        await asyncio.sleep(0.01)
        self.kill()

    def _make(self) -> None:
        self._handlings: list[_Handling] = []
        self._handlers: dict[str, Handler] = {}
        framework, settings, loop = cast("Framework", self), self._world.settings, asyncio.get_running_loop()
        self._module = _Module(framework, settings, self.journal, loop, wall=self._world.host, connect=self.connect)

    async def _run(self) -> None:
        self._module.ready()
        await self._module.drive()

    # --- the framework ---

    def implement(self, command: str, handler: Handler) -> None:
        self._handlers[command] = handler

    def on_shutdown(self, stop: Callable[[], None]) -> None:
        """Ignore the callback: `end` stops the module."""

    def publish_powermeter(self, value: Powermeter) -> None:
        if not self.killed:
            self._world.on_value(value.to_json())

    def publish_public_key(self, key: str) -> None:
        """Ignore the key: no promise is about it."""

    def raise_error(self, error: StationError) -> None:
        self._change_error((error.type, error.sub_type), is_raised=True)

    def clear_error(self, error: StationError) -> None:
        self._change_error((error.type, error.sub_type), is_raised=False)

    def is_error_active(self, error: StationError) -> bool:
        return (error.type, error.sub_type) in self._world.errors

    def _change_error(self, error: tuple[str, str], *, is_raised: bool) -> None:
        errors = self._world.errors
        if not self.killed:
            if (error in errors) is is_raised:
                what = f"error {error} is {'raised' if is_raised else 'cleared'} a second time"
                self._world.dead_letters.append(what)
            (errors.add if is_raised else errors.discard)(error)
