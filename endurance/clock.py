"""Virtual time: an event loop without real input, so that a run is the same each time it is repeated."""

from __future__ import annotations

import asyncio
import selectors
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class NothingLeftError(Exception):
    """Every task waits for another one: a deadlock."""


class _Jump(selectors.SelectSelector):
    """A selector without files. Instead of waiting it advances the time."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeftError("all tasks wait, and no timer is left")
        self.now_s += max(0.0, timeout)
        return []


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop without sockets and threads. ``time()`` begins at 0 s. An executor's work is done by the caller."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now_s

    def call_soon_threadsafe(  # type: ignore[override]  # the signature is asyncio's, without its type variables
        self, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """Call it soon; there is only one thread."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]  # as above
        self, _executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Do the work immediately. A waiting task continues in the next iteration of the loop."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  the future raises it
            future.set_exception(error)
        return future


class HostClock:
    """The host's clock. It runs with the loop and can be stepped, as NTP or an administrator does.

    Args:
        start: its time when the loop's time is 0.

    Attributes:
        latest: the latest time that it showed before a step.
    """

    def __init__(self, start: datetime) -> None:
        self._start = self.latest = start

    def __call__(self) -> datetime:
        return self.at(asyncio.get_running_loop().time())

    def at(self, loop_s: float) -> datetime:
        """Return the clock's time, as it is set now, for a time of the loop."""
        return self._start + timedelta(seconds=loop_s)

    def step(self, by_s: float) -> None:
        """Step the clock by ``by_s`` seconds, limited to the years 1970 to 2099."""
        now = self()
        self.latest = max(self.latest, now)
        least, most = (datetime(year, 1, 1, tzinfo=UTC) - now for year in (1970, 2099))
        self._start += min(max(timedelta(seconds=max(-1e10, min(by_s, 1e10))), least), most)
