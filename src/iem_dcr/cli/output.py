"""Where the commands write: results to standard output, everything else with the log to standard error.

Standard output may lose its reader, or its disk may be full. A transaction that runs in a meter has to be ended all the
same, so writing never raises: `Output` remembers the error, tells whoever asked, and drops what follows.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from typing import IO, TYPE_CHECKING, cast

import click

from iem_dcr.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from decimal import Decimal
    from typing import TextIO

    from rich.console import Console
    from rich.text import Text

_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


class Output:
    """Standard output.

    Attributes:
        encoding: of the stream.
        error: what writing failed with, or None.
        when_lost: called once, when it cannot be written any more.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self.encoding = self._stream.encoding or "utf-8"
        self.error: OSError | None = None
        self.when_lost: Callable[[], None] = lambda: None

    def write(self, text: str) -> int:
        """Write a text."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Hand over what was written."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def line(self, value: Mapping[str, object]) -> None:
        """Write an object as one line of JSON, at once."""
        self.write(json.dumps(value, separators=(",", ":")) + "\n")
        self.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return its file descriptor."""
        return self._stream.fileno()

    def status(self) -> int:
        """Return the exit status as far as the output goes: 1 when its reader left before the end, else 0.

        Raises:
            click.ClickException: it could not be written for another reason.
        """
        if self.error is not None and not isinstance(self.error, BrokenPipeError):
            raise click.ClickException(f"standard output cannot be written: {self.error.strerror or self.error}")
        return 0 if self.error is None else 1

    def console(self) -> Console:
        """Return a console on it. It takes no markup, so text from a meter means nothing to it."""
        from rich.console import Console  # noqa: PLC0415  # the service draws nothing and does not load it

        return Console(file=cast("IO[str]", self), markup=False, emoji=False, highlight=False)

    def _lose(self, error: OSError) -> None:
        if self.error is not None:
            return
        self.error = error
        # What is still in the stream's buffer would fail once more when the interpreter ends.
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
        self.when_lost()


def open_closed_streams() -> None:
    """Put the null device in the place of each standard stream that whoever called has closed.

    Otherwise the next socket or file gets its number, a journal's for one, and with it what is written there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)  # noqa: FBT003  positional only
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  it stays open


class _LogHandler(logging.Handler):
    """Writes to whatever standard error is at that moment: a live display puts itself in between."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()


class _LogFormatter(logging.Formatter):
    """``warning: message``; of an exception only what it is, unless the log is at debug."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{record.levelname.lower()}: {record.getMessage()}"
        if not record.exc_info or record.exc_info[1] is None:
            return line
        if logging.getLogger("iem_dcr").isEnabledFor(logging.DEBUG):
            return f"{line}\n{self.formatException(record.exc_info)}"
        error = record.exc_info[1]
        return f"{line}: {type(error).__name__}: {printable(error)} (with -vv: where)"


@contextlib.contextmanager
def log_on_stderr() -> Iterator[None]:
    """Write the log to standard error, warnings and above, for as long as the context is entered."""
    handler = _LogHandler()
    handler.setFormatter(_LogFormatter())
    root, ours = logging.getLogger(), logging.getLogger("iem_dcr")
    before = ours.level
    root.addHandler(handler)
    set_verbosity(0)
    try:
        yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(before)


def set_verbosity(steps: int) -> None:
    """Choose what is logged: -1 errors, 0 warnings, 1 what the driver does, 2 everything."""
    logging.getLogger("iem_dcr").setLevel(_LEVELS[max(-1, min(steps, 2))])


def warnings_are_logged() -> bool:
    """Whether the person sees the driver's warnings."""
    return logging.getLogger("iem_dcr").isEnabledFor(logging.WARNING)


def tell(text: str) -> None:
    """Say something to the person at standard error, beside the log."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def say(console: Console, text: str | Text) -> None:
    """Print a line that a terminal may wrap and a pipe gets whole."""
    console.print(text, soft_wrap=True)


def kwh(energy_wh: Decimal) -> str:
    """Write an energy given in Wh: ``0.104 kWh``."""
    return f"{energy_wh / 1000:.3f} kWh"


def kw(power_w: Decimal | None) -> str:
    """Write a power given in W: ``47.500 kW``; a dash where the meter gave none."""
    return "- kW" if power_w is None else f"{power_w / 1000:.3f} kW"
