"""The command iem-dcr on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from tests.support.command_line import PATIENCE_S, environment

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A terminal with iem-dcr on it. ``stdout``: a descriptor that takes the place of the terminal."""

    def __init__(
        self, *arguments: str, columns: int = 100, rows: int = 30, term: str = "xterm-256color", stdout: int = -1
    ) -> None:
        self._ours, its = pty.openpty()
        self.resize(columns, rows)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "iem_dcr", *arguments],
            stdin=its,
            stdout=its if stdout < 0 else stdout,
            stderr=its,
            env=environment() | {"TERM": term},
            start_new_session=True,
        )
        os.close(its)
        self.written = ""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def until(self, text: str) -> None:
        """Read until a text comes that is not among what was read before."""
        began = len(self.written)
        while text not in self.written[began:]:
            self.written += os.read(self._ours, 65536).decode()

    def end(self) -> int:
        """Read to the end of the command; return its exit status."""
        while True:
            try:
                some = os.read(self._ours, 65536)
            except OSError:  # the last process of the terminal has ended
                break
            if not some:
                break
            self.written += some.decode()
        os.close(self._ours)
        return self.process.wait(PATIENCE_S)


def without_escapes(text: str) -> str:
    return _ESCAPE.sub("", text).replace("\r\n", "\n")
