"""A station's command on its way to the task that owns the meter, and its answer on the way back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from iem_dcr.driver.timing import Deadline

R = TypeVar("R")


@dataclass(slots=True)
class Command(Generic[R]):
    """A command on its way to the task that owns the meter.

    Attributes:
        work: does it by the deadline.
        deadline: by which it is answered, whatever happens.
        failed: makes the answer for one that could not be done, from a reason.
        nobody_heard: called when it was done and its caller had got another answer meanwhile.
        answer: where its caller waits.
    """

    work: Callable[[Deadline], Coroutine[None, None, R]]
    deadline: Deadline
    failed: Callable[[str], R]
    nobody_heard: Callable[[R | None], None]
    answer: asyncio.Future[R] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def is_waited_for(self) -> bool:
        """Whether nobody has been given an answer yet."""
        return not self.answer.done()

    def give(self, result: R) -> None:
        """Answer, unless that was done."""
        if self.answer.done():
            self.nobody_heard(result)
        else:
            self.answer.set_result(result)

    def refuse(self, why: str) -> None:
        """Answer that it could not be done, unless it was answered."""
        if self.is_waited_for:
            self.answer.set_result(self.failed(why))

    def drop(self, why: str) -> None:
        """Refuse a command that is not done any more, or not to its end."""
        self.nobody_heard(None)
        self.refuse(why)
