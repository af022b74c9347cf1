"""One thread for what would hold up the loop, apart from the threads in which the drivers' receipts are verified."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class OneThread:
    """Does one thing after the other. What nobody waits for any more is not begun.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._works_on: object = None
        self._hanging: object = None

    def close(self) -> None:
        """Let the thread end."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def do(self, work: Callable[[], T], within_s: float) -> T:
        """Have something done, for so long at most.

        Raises:
            TimeoutError: it takes longer, or what took too long before still goes on.
        """
        if self._hanging is not None and self._hanging is self._works_on:
            raise TimeoutError
        this = object()

        def tracked() -> T:
            self._works_on = this
            try:
                return work()
            finally:
                self._works_on = None

        future = asyncio.get_running_loop().run_in_executor(self._executor, tracked)
        try:
            done, _ = await asyncio.wait({future}, timeout=within_s)
        finally:
            future.cancel()
        if not done:
            self._hanging = this
            raise TimeoutError
        return future.result()
