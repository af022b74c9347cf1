"""Ctrl-C, SIGTERM and a terminal that closes.

What runs in a meter is brought to its end first; only who insists leaves it as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Self, TypeVar

import click

from iem_dcr.cli.exit_codes import EXIT_INTERRUPTED
from iem_dcr.cli.output import tell

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

T = TypeVar("T")

INSISTING = 3
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class LeftEarlyError(click.ClickException):
    """The person at the keyboard, or whoever sent SIGTERM, wanted the command to end."""

    exit_code = EXIT_INTERRUPTED

    def show(self, file: object = None) -> None:  # noqa: ARG002  the signature is click's
        """Say so on standard error."""
        tell(f"Interrupted: {self.format_message()}")


class Interruption:
    """Takes SIGINT, SIGTERM and SIGHUP while it is entered, within a running loop.

    The first one asks the command to end in good order; the second one gets a word of patience; the third one has it
    end at once. SIGHUP never insists: a terminal that closes sends it, and the shell in it once more. Whoever started
    the command so that it outlives its terminal (nohup) keeps that.
    """

    def __init__(self, patience: str = "") -> None:
        """``patience`` is said to the second interruption."""
        self._patience = patience
        self._count = 0
        self._takes_hangup = False
        self._asked = asyncio.Event()
        self._insisted = asyncio.Event()

    def __enter__(self) -> Self:
        """Take the signals."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.interrupt)
        self._takes_hangup = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        if self._takes_hangup:
            loop.add_signal_handler(signal.SIGHUP, self.ask_to_end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
        if self._takes_hangup:
            loop.remove_signal_handler(signal.SIGHUP)

    @property
    def came(self) -> bool:
        """Whether there was one."""
        return self._asked.is_set()

    def interrupt(self) -> None:
        """Take one."""
        self._count += 1
        self._asked.set()
        if self._count >= INSISTING:
            self._insisted.set()
        elif self._count > 1 and self._patience:
            tell(self._patience)

    def ask_to_end(self) -> None:
        """End in good order: there is nobody left to write for, or to wait for."""
        self._asked.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Wait for so long, or until the first one comes; None waits for that alone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()

    async def break_off(self, work: Coroutine[None, None, T], left: str) -> T:
        """Do something that may be broken off at any moment.

        Raises:
            LeftEarlyError: it was; ``left`` says how things were left.
        """
        return await _unless(self._asked, work, left)

    async def see_through(self, work: Coroutine[None, None, T], left: str) -> T:
        """Do something that has to be seen through, unless somebody insists.

        Raises:
            LeftEarlyError: somebody did; ``left`` says how things were left.
        """
        return await _unless(self._insisted, work, left)


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
