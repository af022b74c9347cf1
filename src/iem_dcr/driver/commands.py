"""Carries a station's commands to the task that owns the meter, and the answers back to the callers."""

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

PREEMPTED_AFTER_S = 0.5
QUESTION_S = 60.0
"""Limits a question that takes several requests. Each request has its own, shorter limit."""


class PreemptedError(Exception):
    """A question to the meter was abandoned because a command is waiting."""


@dataclass(slots=True)
class Command(Generic[R]):
    """A command for the task that owns the meter.

    Attributes:
        work: executes the command within a deadline.
        deadline: the caller gets an answer by this moment, in every case.
        failed: makes the answer for a command that failed, from a reason.
        on_abandoned: called with None if the command was not completed, or with its result if the caller had already
            been answered otherwise.
        answer: the future that the caller waits for.
    """

    work: Callable[[Deadline], Coroutine[None, None, R]]
    deadline: Deadline
    failed: Callable[[str], R]
    on_abandoned: Callable[[R | None], None]
    answer: asyncio.Future[R] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def is_wanted(self) -> bool:
        """Whether the caller still waits."""
        return not self.answer.done()

    def give(self, result: R) -> None:
        """Answer the caller, unless it has an answer."""
        if self.answer.done():
            self.on_abandoned(result)
        else:
            self.answer.set_result(result)

    def refuse(self, why: str) -> None:
        """Answer the caller with a failure, unless it has an answer."""
        if self.is_wanted:
            self.answer.set_result(self.failed(why))

    def drop(self, why: str) -> None:
        """Refuse a command that is not executed, or not completed."""
        self.on_abandoned(None)
        self.refuse(why)


class Commands:
    """The queue of commands for the task that owns the meter."""

    def __init__(self) -> None:
        self._queue: deque[Command[Any]] = deque()
        self._arrived = asyncio.Event()
        self._is_refused = False

    def __len__(self) -> int:
        """Return the number of waiting commands."""
        return len(self._queue)

    def begin(self) -> None:
        """Accept commands again."""
        self._is_refused = False

    def end(self) -> None:
        """Refuse all waiting commands, and new ones until `begin` is called."""
        self._is_refused = True
        while self._queue:
            self._queue.popleft().drop("the driver is stopping")

    def take(self) -> Command[Any]:
        """Remove and return the oldest command."""
        return self._queue.popleft()

    async def do(self, command: Command[R]) -> R:
        """Queue a command and return its answer. Returns by the command's deadline in every case."""
        if self._is_refused:
            command.on_abandoned(None)
            return command.failed("the driver is not running")
        self._queue.append(command)
        self._arrived.set()
        try:
            done, _ = await asyncio.wait({command.answer}, timeout=command.deadline.left_s)
        except asyncio.CancelledError:
            if not command.answer.cancel():
                # The answer came at the moment when the caller gave up.
                command.on_abandoned(command.answer.result())
            raise
        if not done:
            command.refuse("the command was not completed in time")
        return command.answer.result()

    async def wait(self, delay_s: float) -> None:
        """Wait for the next command, at most `delay_s`."""
        self._arrived.clear()
        due = asyncio.get_running_loop().call_later(delay_s, self._arrived.set)
        try:
            await self._arrived.wait()
        finally:
            due.cancel()

    async def preemptible(self, ask: Callable[[Deadline], Coroutine[None, None, Q]]) -> Q:
        """Ask the meter a question that changes nothing. After half a second, a waiting command interrupts it.

        Raises:
            PreemptedError: a command interrupted the question.
        """
        task = asyncio.ensure_future(ask(Deadline.after(QUESTION_S)))
        try:
            done, _ = await asyncio.wait({task}, timeout=PREEMPTED_AFTER_S)
            if not done:
                await self._until_done_or_arrived(task)
            if not task.done():
                raise PreemptedError
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
