"""How a person sees the live values of a transaction: a line each, a progress bar, or a table that grows."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from typing import TYPE_CHECKING, Protocol

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from iem_dcr.cli import render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from decimal import Decimal

    from rich.console import Console, RenderableType

    from iem_dcr.powermeter import Powermeter

ROWS = 12
_BAR_WIDTH = 30


class Display(Protocol):
    """Shows the live values of one transaction."""

    def begin(self, import_wh: Decimal | None) -> None:
        """Take the register at the begin of the transaction, Wh."""

    def take(self, value: Powermeter) -> None:
        """Take a live value; before and behind the transaction nothing is shown."""

    def shown(self) -> AbstractContextManager[Callable[[float], None]]:
        """Enter while the transaction runs; gives what is to be told how many seconds have passed."""


class LineDisplay:
    """A line for each value: for pipes and files."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun_wh: Decimal | None = None
        self._is_shown = False

    def begin(self, import_wh: Decimal | None) -> None:
        """Take the register at the begin."""
        self._begun_wh = import_wh

    def take(self, value: Powermeter) -> None:
        """Print a line."""
        if self._is_shown:
            begun_wh = value.energy_wh_import if self._begun_wh is None else self._begun_wh
            line = render.value_line(value, value.energy_wh_import - begun_wh)
            render.say(self._console, f"  {value.timestamp:%H:%M:%S}  {line}")

    @contextlib.contextmanager
    def shown(self) -> Iterator[Callable[[float], None]]:
        """Print a line for each value from now on."""
        self._is_shown = True
        try:
            yield lambda _: None
        finally:
            self._is_shown = False


class LiveDisplay:
    """For terminals: a progress bar, drawn again and again in its place, with the last value or a table of them."""

    def __init__(self, console: Console, seconds: float, *, table: bool = False) -> None:
        """``seconds`` is how long the transaction is to run."""
        self._console = console
        self._seconds = seconds
        self._has_table = table
        self._begun_wh: Decimal | None = None
        self._values: deque[Powermeter] = deque(maxlen=ROWS)
        self._passed_s = 0.0
        self._live: Live | None = None

    def begin(self, import_wh: Decimal | None) -> None:
        """Take the register at the begin."""
        self._begun_wh = import_wh

    def take(self, value: Powermeter) -> None:
        """Draw it."""
        if self._live is not None:
            if self._begun_wh is None:
                self._begun_wh = value.energy_wh_import
            self._values.append(value)
            self._draw(self._live)

    @contextlib.contextmanager
    def shown(self) -> Iterator[Callable[[float], None]]:
        """Draw from now on."""
        live = Live(
            self._picture(),
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=sys.stderr.isatty(),
        )

        def passed(seconds: float) -> None:
            self._passed_s = seconds
            self._draw(live)

        with live:
            self._live = live
            try:
                yield passed
            finally:
                self._live = None

    def _draw(self, live: Live) -> None:
        live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        bar = Table.grid(padding=(0, 1))
        last = self._values[-1] if self._values else None
        line = ""
        if last is not None and self._begun_wh is not None and not self._has_table:
            line = render.value_line(last, last.energy_wh_import - self._begun_wh)
        bar.add_row(
            Text("Charging"),
            ProgressBar(total=max(self._seconds, 0.001), completed=self._passed_s, width=_BAR_WIDTH),
            Text(f"{self._passed_s:.0f}/{self._seconds:.0f} s"),
            Text(line),
        )
        if self._has_table and self._values and self._begun_wh is not None:
            return Group(render.live_table(self._values, self._begun_wh), bar)
        return bar
