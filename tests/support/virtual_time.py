"""An event loop whose time is virtual: it jumps to the next timer as soon as nothing else can happen.

Sockets of this host are real and so are worker threads: while one works, or bytes may be under way, time stands still.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")

_BYTES_UNDER_WAY_S = 0.0005
"""How long the host may take to carry bytes over its own loopback."""
_CONNECTION_UNDER_WAY_S = 0.05
"""How long it may take to make a connection, or to take bytes that a socket waits to write."""


class _VirtualSelector(selectors.DefaultSelector):
    """Waits for real events only, and tells the loop how far its time may jump."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.working_threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.working_threads or timeout is None:
            if timeout is None and not self.working_threads:
                events: list[tuple[selectors.SelectorKey, int]] = super().select(5.0)
                if not events:
                    raise RuntimeError("nothing will ever happen again: a test waits for what nobody does")
                return events
            real: list[tuple[selectors.SelectorKey, int]] = super().select(0.05)
            return real
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if ready or timeout <= 0:
            return ready
        is_writing = any(key.events & selectors.EVENT_WRITE for key in self.get_map().values())
        ready = super().select(_CONNECTION_UNDER_WAY_S if is_writing else _BYTES_UNDER_WAY_S)
        if not ready:
            self.now_s += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`loop.time()` is virtual; it starts at 0 s."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now_s

    def run_in_executor(  # type: ignore[override]  # the signature is asyncio's, without its type variables
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> Any:
        self._virtual.working_threads += 1
        future = super().run_in_executor(executor, func, *args)

        def done(_: object) -> None:
            self._virtual.working_threads -= 1

        future.add_done_callback(done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  asyncio's name
        """Join the workers: the thread that joins them is none of an executor's, and the time-out is real time."""
        self._virtual.working_threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._virtual.working_threads -= 1


class VirtualWall:
    """A host clock that runs with the loop. It can be set, as a host's clock is by NTP.

    Attributes:
        offset: what the host believes the time to be when the loop's time is 0.
    """

    def __init__(self, start: datetime = datetime(2026, 3, 1, 12, tzinfo=UTC)) -> None:
        self.offset = start

    def __call__(self) -> datetime:
        return self.offset + timedelta(seconds=asyncio.get_running_loop().time())

    def set(self, now: datetime) -> None:
        self.offset = now - timedelta(seconds=asyncio.get_running_loop().time())


def virtual(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Run an async test under virtual time. Tasks left behind are an error."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_virtual(test(*args, **kwargs))

    return run


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine under virtual time and see that it leaves no task behind."""

    async def checked() -> T:
        result = await main
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if left:
            raise AssertionError(f"tasks left behind: {left}")
        return result

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(checked())
