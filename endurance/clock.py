"""Time that jumps: an event loop on which nothing is real, so that a run is the same every time it is made."""

from __future__ import annotations

import asyncio
import selectors
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class NothingLeftError(Exception):
    """Every task waits for another: nothing would ever happen again."""


class _Jump(selectors.SelectSelector):
    """Selects nothing. Instead of waiting it moves the time on."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeftError("everything waits, and nothing will ever happen")
        self.now_s += max(0.0, timeout)
        return []


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop without sockets and threads. ``time()`` begins at 0 s; a worker's task is done where it is asked for."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now_s

    def call_soon_threadsafe(  # type: ignore[override]  # the signature is asyncio's, without its type variables
        self, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """There is one thread."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]  # as above
        self, _executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Do the work at once; who waits for it hears of it in the next round."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  it is raised to whoever waits
            future.set_exception(error)
        return future


class HostClock:
    """The host's clock: it runs with the loop and can be stepped, as NTP or somebody at a console does.

    Args:
        start: what it says when the loop's time is 0.

    Attributes:
        latest: the latest that it ever said before a step.
    """

    def __init__(self, start: datetime) -> None:
        self._start = self.latest = start

    def __call__(self) -> datetime:
        return self.at(asyncio.get_running_loop().time())

    def at(self, loop_s: float) -> datetime:
        """Return what it says, as it is set now, at a time of the loop's."""
        return self._start + timedelta(seconds=loop_s)

    def step(self, by_s: float) -> None:
        """Have it leap by so many seconds; not before 1970 nor beyond 2099."""
        now = self()
        self.latest = max(self.latest, now)
        least, most = (datetime(year, 1, 1, tzinfo=UTC) - now for year in (1970, 2099))
        self._start += min(max(timedelta(seconds=max(-1e10, min(by_s, 1e10))), least), most)
