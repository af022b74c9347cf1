"""Output of the commands: results go to standard output, everything else goes with the log to standard error.

Standard output may lose its reader, or its disk may be full. A transaction that runs in a meter must still be ended. So
writing never raises: `Output` stores the error, calls `Output.when_lost`, and drops all further output.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import traceback
from decimal import Decimal
from enum import Enum
from typing import IO, TYPE_CHECKING, cast

import click

from iem_dcr.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from typing import TextIO

    from rich.console import Console
    from rich.progress import Progress, ProgressColumn
    from rich.text import Text

_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


class Output:
    """Standard output.

    Attributes:
        encoding: of the stream.
        error: the error that made writing fail, or None.
        when_lost: called once, when writing fails for the first time.
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
        """Flush the stream."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def line(self, value: Mapping[str, object]) -> None:
        """Write an object as one line of JSON, at once."""
        self.write(json_text(value) + "\n")
        self.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return its file descriptor."""
        return self._stream.fileno()

    def status(self) -> int:
        """Return the exit status that results from the output: 1 if its reader left before the end, else 0.

        Raises:
            click.ClickException: writing failed for another reason.
        """
        if self.error is not None and not isinstance(self.error, BrokenPipeError):
            raise click.ClickException(f"cannot write to standard output: {self.error.strerror or self.error}")
        return 0 if self.error is None else 1

    def console(self) -> Console:
        """Return a console on it. The console interprets no markup, so text from a meter stays text."""
        from rich.console import Console  # noqa: PLC0415  # the service does not need it

        return Console(file=cast("IO[str]", self), markup=False, emoji=False, highlight=False)

    def _lose(self, error: OSError) -> None:
        if self.error is not None:
            return
        self.error = error
        # Otherwise flushing the stream's buffer would fail again when the interpreter ends.
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
        self.when_lost()


def open_closed_streams() -> None:
    """Open the null device for each standard stream that the calling program has closed.

    Otherwise the next socket or file, such as a journal, gets the stream's number, and the stream's text with it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)  # noqa: FBT003  positional only
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  stays open


class _LogHandler(logging.Handler):
    """Writes ``warning: message`` to standard error. An exception takes one line; a log at debug has its traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{record.levelname.lower()}: {record.getMessage()}"
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and logging.getLogger("iem_dcr").isEnabledFor(logging.DEBUG):
            line += "\n" + "".join(traceback.format_exception(error)).rstrip()
        elif error is not None:
            line += f": {type(error).__name__}: {printable(error)} (with -vv: where)"
        tell(line)


@contextlib.contextmanager
def log_on_stderr() -> Iterator[None]:
    """Write the log to standard error while the context is entered: at first warnings and above."""
    handler = _LogHandler()
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
    """Set the log level: -1 errors, 0 warnings, 1 the driver's actions, 2 everything."""
    logging.getLogger("iem_dcr").setLevel(_LEVELS[max(-1, min(steps, 2))])


def tell(text: str) -> None:
    """Print a message for the user on standard error, which a live display may have replaced."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def say(console: Console, text: str | Text) -> None:
    """Print a line. A terminal may wrap it; a pipe gets it whole."""
    console.print(text, soft_wrap=True)


def progress_bar(console: Console, *columns: ProgressColumn, is_shown: bool) -> Progress:
    """Return a progress bar on a terminal's last line, which is removed at its end. Output scrolls above it."""
    from rich.progress import Progress  # noqa: PLC0415  # the service does not need it

    return Progress(
        *columns,
        console=console,
        expand=True,
        transient=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=sys.stderr.isatty(),
        disable=not is_shown or not console.is_terminal or console.is_dumb_terminal,
    )


def json_text(value: Mapping[str, object]) -> str:
    """Format an object as JSON in one line: energies as exact texts, times in RFC 3339."""
    return json.dumps(value, separators=(",", ":"), default=_plain)


def _plain(value: object) -> object:
    from iem_dcr.meter_time import MeterTime, rfc3339  # noqa: PLC0415  only needed for JSON

    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, Enum):
        return value.value
    return rfc3339(value.instant if isinstance(value, MeterTime) else cast("datetime", value))


def counted(count: int, noun: str) -> str:
    """Format a number of things: ``1 receipt``, ``2,000 receipts``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def kwh(energy_wh: Decimal) -> str:
    """Format an energy given in Wh: ``0.104 kWh``."""
    return f"{energy_wh / 1000:.3f} kWh"


def kw(power_w: Decimal | None) -> str:
    """Format a power given in W: ``47.500 kW``, or a dash if the meter gave none."""
    return "- kW" if power_w is None else f"{power_w / 1000:.3f} kW"
