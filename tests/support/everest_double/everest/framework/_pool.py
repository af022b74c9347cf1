"""The framework's threads: calls of one command one after the other, different commands at the same time."""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS = 4


class Pool:
    """Runs work on whichever thread is free, work of one name in the order it came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        self._due: SimpleQueue[str] = SimpleQueue()
        for number in range(THREADS):
            threading.Thread(target=self._run, name=f"everest-{number}", daemon=True).start()

    def submit(self, name: str, work: Callable[[], None]) -> None:
        """Have work done that never raises."""
        with self._lock:
            waiting = self._waiting.setdefault(name, deque())
            waiting.append(work)
            if len(waiting) == 1:
                self._due.put(name)

    def _run(self) -> None:
        while True:
            name = self._due.get()
            self._waiting[name][0]()
            with self._lock:
                waiting = self._waiting[name]
                waiting.popleft()
                if waiting:
                    self._due.put(name)
