"""The EVerest module as a process of the world: the real one, with its handlers on threads of their own.

Of its threads and the loop only one runs at a time, and the time that a handler waits is the loop's: so a run with
threads, too, is the same every time it is made.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import TYPE_CHECKING, Any

from endurance.model import MODULE
from endurance.process import Process, Surroundings
from iem_dcr.everest.module import LOOP_END_TIMEOUT_S, EverestModule

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

    from iem_dcr.driver import MeterDriver
    from iem_dcr.powermeter import Powermeter, StationError

_HANDLING: contextvars.ContextVar[_Handling] = contextvars.ContextVar("handling")


class _Handling:
    """A handler at work on its thread. It runs, or the loop does, never both.

    Args:
        handler, arguments: what is called with what.
        context: to call it in.
        over: called on the loop's thread when it has returned.
    """

    def __init__(
        self,
        handler: Callable[[dict[str, Any]], dict[str, object]],
        arguments: dict[str, Any],
        context: contextvars.Context,
        over: Callable[[_Handling], None],
    ) -> None:
        self.answer: dict[str, object] = {}
        self.error: BaseException | None = None
        self._handler = handler
        self._arguments = arguments
        self._context = context
        self._over = over
        self._is_over = False
        self._runs = False
        self._halted, self._goes_on = threading.Semaphore(0), threading.Semaphore(0)

    def begin(self) -> None:
        """Start the thread, and return when it waits for the loop or has returned."""
        self._runs = True
        threading.Thread(target=self._context.run, args=(self._run,), daemon=True).start()
        self.wait()

    def wait(self) -> None:
        """If it runs, let it run until it waits for the loop or has returned."""
        if not self._runs:
            return
        self._halted.acquire()
        self._runs = False
        if self._is_over:
            self._over(self)

    def go_on(self) -> None:
        """Have it wait for the loop no longer. Who calls this has `wait` called."""
        self._runs = True
        self._goes_on.release()

    def halt(self) -> None:
        """Wait for the loop; on its own thread."""
        self._halted.release()
        self._goes_on.acquire()

    def _run(self) -> None:
        _HANDLING.set(self)
        try:
            self.answer = self._handler(self._arguments)
        except BaseException as error:  # noqa: BLE001  none may leave a handler: it is looked at
            self.error = error
        self._is_over = True
        self._halted.release()


class _Waiting:
    """What a handler waits for: `concurrent.futures.Future`, whose waiting takes virtual time."""

    def __init__(self, future: Future[Any], loop: asyncio.AbstractEventLoop, handling: _Handling) -> None:
        self.at_once = True
        self._future = future
        self._loop = loop
        self._handling = handling
        self._waits = False
        future.add_done_callback(lambda _: self._wake())

    def result(self, timeout: float) -> Any:
        """Wait for the result.

        Raises:
            TimeoutError: there was none in time.
            CancelledError: there will be none.
        """
        if not self._future.done():
            self._waits = True
            timer = self._loop.call_later(timeout, self._wake)
            self._handling.halt()
            timer.cancel()
        return self._future.result(0)

    def cancel(self) -> bool:
        """Have there be none, as long as there is none."""
        return self._future.cancel()

    def _wake(self) -> None:
        if self._waits:
            self._waits = False
            self._handling.go_on()
            if self.at_once:
                self._handling.wait()


class _Module(EverestModule):
    """The module, of which nothing is replaced but what its handlers wait with."""

    def _submit(self, command: Coroutine[None, None, Any]) -> Future[Any]:
        waiting: Any = _Waiting(super()._submit(command), self._loop, _HANDLING.get())
        return waiting  # type: ignore[no-any-return]  # as much of a future as the module uses

    def say_that_it_is_over(self) -> None:
        """Answer what waits; the threads run on by themselves, for the module waits for them."""
        for waiting in tuple(self._waiting):
            waiting.at_once = False  # type: ignore[attr-defined]  # as above
        self.answer_what_waits()


class StandInFramework:
    """EVerest's framework as far as the module uses it. What it holds of errors outlives the process."""

    def __init__(self, process: ModuleProcess, around: Surroundings) -> None:
        self.handlers: dict[str, Callable[[dict[str, Any]], dict[str, object]]] = {}
        self._process = process
        self._around = around

    def implement(self, command: str, handler: Callable[[dict[str, Any]], dict[str, object]]) -> None:
        """Take note of a handler."""
        self.handlers[command] = handler

    def on_shutdown(self, stop: Callable[[], None]) -> None:
        """Signals end it here."""

    def publish_powermeter(self, value: Powermeter) -> None:
        """Take a live value."""
        if not self._process.killed:
            self._around.published(value.to_json())

    def publish_public_key(self, key: str) -> None:
        """Take a key."""

    def raise_error(self, error: StationError) -> None:
        """Take an error."""
        if not self._process.killed:
            self._around.raised(error.type, error.sub_type)

    def clear_error(self, error: StationError) -> None:
        """Take an error back."""
        if not self._process.killed:
            self._around.cleared(error.type, error.sub_type)

    def is_error_active(self, error: StationError) -> bool:
        """Tell whether an error is active."""
        return (error.type, error.sub_type) in self._around.errors


class ModuleProcess(Process):
    """The EVerest module's process."""

    kind = MODULE

    @property
    def driver(self) -> MeterDriver:
        """The driver of its meter."""
        return self._module._driver

    async def call(self, command: str, value: object) -> dict[str, object]:
        """Have a handler called on a thread of the framework's; returns its answer."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def is_over(handling: _Handling) -> None:
            self._handlings.remove(handling)
            if not over.done():
                over.set_result(None)

        name, argument = {
            "start": ("start_transaction", "value"), "stop": ("stop_transaction", "transaction_id"),
        }[command]  # fmt: skip
        handler = self._framework.handlers[name]
        handling = _Handling(handler, {argument: value}, self._context.copy(), is_over)
        self._handlings.append(handling)
        handling.begin()
        await over
        if handling.error is not None:
            self.failures.append(handling.error)
        return handling.answer

    async def end(self) -> None:
        """End in good order, as SIGTERM has it."""
        self._module.stop()
        await asyncio.wait({self._main}, timeout=LOOP_END_TIMEOUT_S)
        self._module.say_that_it_is_over()
        for handling in list(self._handlings):
            handling.wait()
        await asyncio.sleep(0.01)
        self.kill()

    def broker_comes(self) -> None:
        """It has no broker."""

    def broker_goes(self) -> None:
        """It has no broker."""

    def _make(self) -> None:
        around = self._around
        self._handlings: list[_Handling] = []
        self._framework = StandInFramework(self, around)
        framework: Any = self._framework
        loop = asyncio.get_running_loop()
        self._module = _Module(framework, around.settings, self.journal, loop, wall=around.host, connect=self.connect)

    async def _run(self) -> None:
        self._module.ready()
        await self._module.drive()
