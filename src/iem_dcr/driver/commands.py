"""A station's commands on their way to the task that owns the meter, and their answers on the way back."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from iem_dcr.driver.timing import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

R = TypeVar("R")
Q = TypeVar("Q")

GIVES_WAY_AFTER_S = 0.5
QUESTION_S = 60.0
"""Bound of a question of several requests; each of them has its own, shorter one."""


class GaveWayError(Exception):
    """A question to the meter was given up in favour of a command."""


@dataclass(slots=True)
class Command(Generic[R]):
    """A command on its way to the task that owns the meter.

    Attributes:
        work: does it by the deadline.
        deadline: by which it is answered, whatever happens.
        failed: makes the answer for one that could not be done, from a reason.
        on_abandoned: called when it was not done, or done after its caller had got another answer; with the result.
        answer: where its caller waits.
    """

    work: Callable[[Deadline], Coroutine[None, None, R]]
    deadline: Deadline
    failed: Callable[[str], R]
    on_abandoned: Callable[[R | None], None]
    answer: asyncio.Future[R] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def is_wanted(self) -> bool:
        """Whether its caller still waits."""
        return not self.answer.done()

    def give(self, result: R) -> None:
        """Answer, unless that was done."""
        if self.answer.done():
            self.on_abandoned(result)
        else:
            self.answer.set_result(result)

    def refuse(self, why: str) -> None:
        """Answer that it could not be done, unless it was answered."""
        if self.is_wanted:
            self.answer.set_result(self.failed(why))

    def drop(self, why: str) -> None:
        """Refuse a command that is not done any more, or not to its end."""
        self.on_abandoned(None)
        self.refuse(why)


class Commands:
    """The commands that wait for the task that owns the meter."""

    def __init__(self) -> None:
        self._queue: deque[Command[Any]] = deque()
        self._arrived = asyncio.Event()
        self._is_refused = False

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._queue)

    def begin(self) -> None:
        """Let commands in again."""
        self._is_refused = False

    def end(self) -> None:
        """Refuse those that wait, and all that come until `begin`."""
        self._is_refused = True
        while self._queue:
            self._queue.popleft().drop("the driver is stopping")

    def take(self) -> Command[Any]:
        """Take the one that came first."""
        return self._queue.popleft()

    async def do(self, command: Command[R]) -> R:
        """Have a command done, and return its answer; by its deadline there is one."""
        if self._is_refused:
            command.on_abandoned(None)
            return command.failed("the driver is not running")
        self._queue.append(command)
        self._arrived.set()
        try:
            done, _ = await asyncio.wait({command.answer}, timeout=command.deadline.left_s)
        except asyncio.CancelledError:
            if not command.answer.cancel():
                # It came in the very moment in which the caller gave up.
                command.on_abandoned(command.answer.result())
            raise
        if not done:
            command.refuse("the meter did not do it in time")
        return command.answer.result()

    async def wait(self, delay_s: float) -> None:
        """Wait for the next one, for so long at most."""
        self._arrived.clear()
        due = asyncio.get_running_loop().call_later(delay_s, self._arrived.set)
        try:
            await self._arrived.wait()
        finally:
            due.cancel()

    async def preemptible(self, ask: Callable[[Deadline], Coroutine[None, None, Q]]) -> Q:
        """Ask the meter something that changes nothing, and give way to a command after half a second.

        Raises:
            GaveWayError: it did.
        """
        task = asyncio.ensure_future(ask(Deadline.after(QUESTION_S)))
        try:
            done, _ = await asyncio.wait({task}, timeout=GIVES_WAY_AFTER_S)
            if not done:
                await self._until_done_or_arrived(task)
            if not task.done():
                raise GaveWayError
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def _until_done_or_arrived(self, task: asyncio.Future[Q]) -> None:
        if self._queue:
            return
        self._arrived.clear()
        arrival = asyncio.ensure_future(self._arrived.wait())
        either: set[asyncio.Future[Any]] = {task, arrival}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrival.cancel()
            await asyncio.wait({arrival})
