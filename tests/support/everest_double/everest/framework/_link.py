"""The connection to the test: JSON objects, one a line, and the setup the test has left in a file."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator


class Link:
    """The way to the test; any thread may send."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sending = threading.RLock()  # a signal handler may log while its thread is sending

    def send(self, event: str, **data: Any) -> None:
        """Tell the test what has happened: the order of the times is the order of the lines.

        Raises:
            TypeError: as everestpy's calls, for what is no JSON type (or ValueError: no JSON number, no UTF-8).
            OSError: the test has gone away.
        """
        with self._sending:
            said = {"event": event, "at": time.monotonic(), **data}
            self._socket.sendall(json.dumps(said, allow_nan=False, ensure_ascii=False).encode() + b"\n")

    def received(self) -> Iterator[dict[str, Any]]:
        """What the test asks for; ends when the test goes away."""
        with self._socket.makefile("rb") as lines, contextlib.suppress(ConnectionError):
            for line in lines:
                yield json.loads(line)


@cache
def link() -> Link:
    """The one connection of this process, which a test has started."""
    return Link(int(os.environ["EV_DOUBLE_PORT"]))


@cache
def setup() -> dict[str, Any]:
    """What the manager would answer: ``config``, ``interface`` and ``active_errors``; and how the double behaves."""
    with open(os.environ["EV_DOUBLE_SETUP"], encoding="utf-8") as file:  # noqa: PTH123  pathlib is no need of a module
        content = json.load(file)
    assert isinstance(content, dict)
    return content


def die(message: str) -> NoReturn:
    """End the process at once, as std::terminate does: nothing is closed, no handler of an exit runs."""
    sys.stderr.write(f"everest.framework: {message}\n")
    sys.stderr.flush()
    os._exit(1)
