"""The picture that ``iem-dcr watch`` draws: a block for each meter, or a line for each if there are many.

It is drawn for the current size of the terminal. Everything that a colour shows is also shown by a word.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from rich.text import Text

from iem_dcr.cli.output import counted, kw, kwh
from iem_dcr.diagnostics.status import clock_difference, duration, measured, shown, troubles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from rich.console import Console, ConsoleOptions, RenderResult

    from iem_dcr.device.messages import MeterValue
    from iem_dcr.diagnostics.status import Status, Trouble

BARS: Final = "▁▂▃▄▅▆▇█"
SECONDS_PER_BAR: Final = (1, 2, 5, 10, 30, 60, 300)
FEWEST_BARS: Final = 8
WIDE_FROM: Final = 76
"""Width from which a block shows the range of its bars, and a line all values of its meter."""
_LABEL_WIDTH = 12
_VALUE_WIDTH = 12
_RANGE_WIDTH = 22

_STYLES = {"charging": "bold green", "idle": "", "fault": "bold red", "warning": "yellow", "old": "dim"}


@dataclass(frozen=True, slots=True)
class Picture:
    """All meters at one moment, in the order of the command line, drawn for the console's size.

    With ``stays`` it is the last picture, which stays on the terminal: it shows all meters, and no hint about Ctrl-C.
    """

    statuses: tuple[Status, ...]
    now: datetime
    stays: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it in the size of the options."""
        width, room = options.max_width, max(1, console.height - 2)
        chart_width = width - _LABEL_WIDTH - _VALUE_WIDTH - 2 - (_RANGE_WIDTH if width >= WIDE_FROM else 0)
        chart = Chart.of(self.statuses, max(FEWEST_BARS, chart_width))
        lines = [line for status in self.statuses[:room] for line in (Text(), *_block(status, chart, width))]
        if len(lines) > room or len(self.statuses) > room:
            chart = Chart.of(self.statuses, FEWEST_BARS)
            lines = list(_line_each(self.statuses, len(self.statuses) if self.stays else room, chart, width))
        charging = sum(status.transaction is not None for status in self.statuses)
        faulty = sum(_is_in_fault(status) for status in self.statuses)
        summary = f"{counted(len(self.statuses), 'meter')}, {charging} charging"
        heading = Text(f"{self.now:%H:%M:%S}  {summary}{f', {faulty} in trouble' if faulty else ''}", "bold")
        last = Text(f"a bar is {duration(chart.step_s)}{'' if self.stays else '   Ctrl-C ends'}", "dim")
        for line in (heading, *lines, last):
            line.no_wrap = True
            line.overflow = "ellipsis"
            yield line


@dataclass(frozen=True, slots=True)
class Chart:
    """Draws values of the last minutes as a number of bars of ``step_s`` seconds each, the newest on the right."""

    bars: int
    step_s: int

    @classmethod
    def of(cls, statuses: Sequence[Status], bars: int) -> Chart:
        """Return the chart in which all samples of the meters fit."""
        span_s = max((status.now_s - status.samples[0].at_s for status in statuses if status.samples), default=0.0)
        fitting = (step_s for step_s in SECONDS_PER_BAR if (bars - 1) * step_s > span_s)
        return cls(bars, next(fitting, SECONDS_PER_BAR[-1]))

    def draw(self, status: Status, name: str, *, least_span: float = 0.0) -> tuple[str, float, float]:
        """Draw the values of an attribute of `Sample`. A bar is the mean of its seconds; a space means no value.

        The bars reach from the least value to the greatest, and at least over ``least_span``; with 0 they start at
        zero.

        Returns:
            The bars, and the least and the greatest value; zeros if there are no values.
        """
        newest = math.floor(status.now_s / self.step_s)
        by_bar: dict[int, list[float]] = {}
        for sample in status.samples:
            value: float = getattr(sample, name)
            at = math.floor(sample.at_s / self.step_s) - newest + self.bars - 1
            if 0 <= at < self.bars and not math.isnan(value):
                by_bar.setdefault(at, []).append(value)
        values = [value for bar in by_bar.values() for value in bar] or [0.0]
        low, high = min(values), max(values)
        floor = low if least_span else min(low, 0.0)
        span = max(high - floor, -floor, least_span) or 1.0
        drawn = [" "] * self.bars
        for at, bar in by_bar.items():
            height = (sum(bar) / len(bar) - floor) / span
            drawn[at] = BARS[min(len(BARS) - 1, int(height * len(BARS)))]
        return "".join(drawn), low, high


# --- a block for a meter ---


def _block(status: Status, chart: Chart, width: int) -> Iterator[Text]:
    value, gateway = status.value, status.gateway
    state, style = _state(status)
    heading = Text.assemble(("● ", style), (status.address, "bold"), f"  {state}")
    if value is not None:
        heading.append(f"  {shown(value.MS)}")
    if gateway is not None and gateway.is_set:
        heading.append(f"  {shown(gateway.CT)} {shown(gateway.CI)}", "dim")
    yield heading
    if value is not None:
        old = _STYLES["old"] if status.silent_since is not None else ""
        yield from _charts(status, value, chart, width, old)
        for name, text, now_style in _facts(status, value):
            yield from _wrapped(f"  {name:<{_LABEL_WIDTH}}", text, old or now_style, width)
    for trouble in troubles(status):
        style = _STYLES["fault" if trouble.is_fault else "warning"]
        yield from _wrapped(f"  {_mark(trouble)} ", shown(trouble.text), style, width)
    if value is None and status.silent_since is None:
        yield Text("  no answer yet", "dim")


def _charts(status: Status, value: MeterValue, chart: Chart, width: int, style: str) -> Iterator[Text]:
    for name, text, sampled, least_span, divisor, unit in (
        ("Power", kw(value.P), "power_w", 0.0, 1000.0, "kW"),
        ("Voltage", measured(value.U2, "V"), "voltage_v", 10.0, 1.0, "V"),  # noise of a digit does not fill the chart
        ("Current", measured(value.I, "A"), "current_a", 0.0, 1.0, "A"),
    ):
        drawn, low, high = chart.draw(status, sampled, least_span=least_span)
        label = f"  {name:<{_LABEL_WIDTH - 2}}"
        line = Text.assemble((label, "dim"), (f"{text:>{_VALUE_WIDTH}}", style), (f"  {drawn}", "cyan"))
        if width >= WIDE_FROM and status.samples:
            line.append(f"  {low / divisor:.1f} to {high / divisor:.1f} {unit}", "dim")
        yield line


def _facts(status: Status, value: MeterValue) -> Iterator[tuple[str, str, str]]:
    export = "" if value.export_wh is None else f", {kwh(value.export_wh)} export"
    yield "Register", f"{kwh(value.import_wh)} import{export}", ""
    seen = status.transaction
    if seen is not None:
        since = f"{'' if seen.begin_seen else ', seen'} since {seen.since:%H:%M:%S}"
        yield "Transaction", f"runs{since}, charged {kwh(seen.charged_wh)}", "bold"
    else:
        last_wh = value.transaction_wh
        yield "Transaction", f"none; the last one charged {kwh(last_wh)}" if last_wh else "none", ""
    if status.clock_offset is not None:
        sync = f", flag {value.TM.sync}" if value.TM is not None and value.TM.sync else ""
        yield "Clock", f"{clock_difference(status.clock_offset)}{sync}", ""


def _wrapped(head: str, text: str, style: str, width: int) -> Iterator[Text]:
    """Wrap a text into lines that begin after its head."""
    for number, line in enumerate(textwrap.wrap(text, max(8, width - len(head)))):
        yield Text.assemble((" " * len(head) if number else head, "dim"), (line, style))


# --- a line for a meter ---


def _line_each(statuses: Sequence[Status], height: int, chart: Chart, width: int) -> Iterator[Text]:
    """Draw a line for each meter. If not all fit, meters in trouble come first."""
    drawn = statuses
    if len(statuses) > height:
        drawn = sorted(statuses, key=lambda status: not _is_in_fault(status))[: height - 1]
    address_width = max((len(status.address) for status in drawn), default=0)
    for status in drawn:
        yield _row(status, address_width, chart, width)
    if len(drawn) < len(statuses):
        yield Text(f"and {len(statuses) - len(drawn)} more: a taller window shows them", "dim")


def _row(status: Status, address_width: int, chart: Chart, width: int) -> Text:
    value, (state, style) = status.value, _state(status)
    line = Text.assemble((f"{status.address:<{address_width}}", "bold"))
    if value is not None and status.silent_since is None and width >= WIDE_FROM:
        bars, _, _ = chart.draw(status, "power_w")
        line.append(f"{kw(value.P):>12}{measured(value.U2, 'V'):>10}{measured(value.I, 'A'):>10}  {bars}")
    found = troubles(status)
    if found and (found[0].is_fault or status.transaction is None):
        state = shown(found[0].text)
    elif status.transaction is not None:
        state += f" {kwh(status.transaction.charged_wh)}"
    return line.append(f"  {state}", style)


# --- one line, and the states ---


def plain_line(status: Status) -> str:
    """Format the status of a meter as a line, for pipes and files."""
    value, read_at = status.value, status.read_at
    faults = "".join(f"  {_mark(trouble)} {shown(trouble.text)}" for trouble in troubles(status))
    if value is None or read_at is None or status.silent_since is not None:
        since, silent_s = status.silent_since, status.silent_s or 0.0
        at = f"{since + timedelta(seconds=silent_s):%H:%M:%S}" if since is not None else "--:--:--"
        return f"{at}  {status.address}{faults}"
    energy = f"register {kwh(value.import_wh)}"
    if status.transaction is not None:
        energy += f"  charged {kwh(status.transaction.charged_wh)}"
    values = f"{kw(value.P):>11}  {measured(value.U2, 'V'):>8}  {measured(value.I, 'A'):>8}"
    return f"{read_at:%H:%M:%S}  {status.address}  {values}  {energy}{faults}"


def _is_in_fault(status: Status) -> bool:
    return any(trouble.is_fault for trouble in troubles(status))


def _mark(trouble: Trouble) -> str:
    return "!" if trouble.is_fault else "?"


def _state(status: Status) -> tuple[str, str]:
    """Return a meter's state in a word, and its style."""
    if status.silent_since is not None:
        return "no answer", _STYLES["fault"]
    if status.value is None:
        return "asked", _STYLES["old"]
    word = "charging" if status.transaction is not None else "idle"
    if _is_in_fault(status):
        return f"{word}, in trouble", _STYLES["fault"]
    return word, _STYLES["warning" if word == "idle" and troubles(status) else word]
