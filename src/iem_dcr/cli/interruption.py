"""Ctrl-C, SIGTERM and a closing terminal while a command runs.

The first signal asks the command to end in good order: a transaction that runs in the meter is ended, and its receipt
shown. The second one prints a message, the third one ends the command at once. A closing terminal sends SIGHUP, and its
shell sends it again, so SIGHUP only asks. If it is ignored (nohup), it stays ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Self, TypeVar

import click

from iem_dcr.cli.exit_codes import EXIT_FAILURE, EXIT_INTERRUPTED
from iem_dcr.cli.output import tell

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from iem_dcr.cli.output import Output

T = TypeVar("T")


class LeftEarlyError(click.ClickException):
    """The user, or the sender of a SIGTERM, asked the command to end."""

    exit_code = EXIT_INTERRUPTED

    def show(self, file: object = None) -> None:  # noqa: ARG002  the signature is click's
        """Say so on standard error."""
        tell(f"Interrupted: {self.format_message()}")


class Interruption:
    """Handles signals while it is entered, within a running loop."""

    def __init__(self) -> None:
        self._count = 0
        self._asked = asyncio.Event()
        self._insisted = asyncio.Event()
        self._handlers = {signal.SIGINT: self._interrupt, signal.SIGTERM: self._interrupt}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self._handlers[signal.SIGHUP] = self.ask_to_end

    def __enter__(self) -> Self:
        """Install the signal handlers."""
        for number, handler in self._handlers.items():
            asyncio.get_running_loop().add_signal_handler(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the signal handlers."""
        for number in self._handlers:
            asyncio.get_running_loop().remove_signal_handler(number)

    @property
    def came(self) -> bool:
        """Whether the command is asked to end."""
        return self._asked.is_set()

    def ask_to_end(self) -> None:
        """Ask the command to end in good order, as the first signal does."""
        self._asked.set()

    def _interrupt(self) -> None:
        self._count += 1
        self.ask_to_end()
        if self._count == 2:
            tell("Still ending; interrupt once more to leave everything as it is.")
        elif self._count > 2:
            self._insisted.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Wait for that time, or until the command is asked to end. With None there is no time limit."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()

    async def break_off(self, work: Coroutine[None, None, T], left: str) -> T:
        """Do work that may be cancelled at any moment.

        Raises:
            LeftEarlyError: the command is asked to end. Its message is ``left``, which says what was left undone.
        """
        return await _unless(self._asked, work, left)

    async def see_through(self, work: Coroutine[None, None, T], left: str) -> T:
        """Do work to its end, unless the third signal comes.

        Raises:
            LeftEarlyError: the third signal came. Its message is ``left``, which says what was left undone.
        """
        return await _unless(self._insisted, work, left)


def run_interruptible(work: Callable[[Interruption], Coroutine[None, None, int]], output: Output) -> int:
    """Run a command that a signal ends, or the loss of its standard output. Returns its exit status.

    Raises:
        click.ClickException: the command was interrupted, or its output cannot be written.
    """

    async def run() -> int:
        with Interruption() as interruption:
            output.when_lost = interruption.ask_to_end
            return await work(interruption)

    try:
        status = asyncio.run(run())
    except LeftEarlyError:
        if output.error is None:
            raise
        status = EXIT_FAILURE
    return output.status() or status


async def _unless(event: asyncio.Event, work: Coroutine[None, None, T], left: str) -> T:
    task = asyncio.ensure_future(work)
    signalled = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise LeftEarlyError(left)
    finally:
        task.cancel()
        signalled.cancel()
        await asyncio.gather(task, signalled, return_exceptions=True)
