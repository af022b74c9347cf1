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

from iem_dcr.cli.output import kw, kwh
from iem_dcr.diagnostics.status import clock_difference, duration, measured, shown, troubles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from rich.console import Console, ConsoleOptions, RenderResult

    from iem_dcr.device.messages import MeterValue
    from iem_dcr.diagnostics.status import Sample, Status

BARS: Final = "▁▂▃▄▅▆▇█"
BARS_ASCII: Final = "_.-=+*#@"
SECONDS_PER_BAR: Final = (1, 2, 5, 10, 30, 60, 300)
FEWEST_BARS: Final = 8
RANGE_FROM_WIDTH: Final = 64
"""Width from which the range of the bars is shown beside them."""
LEAST_SPAN_V: Final = 10.0
"""Least range of the voltage bars, so that noise in the last digit does not fill the chart."""
ALL_VALUES_FROM_WIDTH: Final = 76
"""Width from which the line of a meter has more values than its power."""
_LABEL_WIDTH = 12
_VALUE_WIDTH = 12
_RANGE_WIDTH = 22
_CELL_WIDTHS = (12, 10, 10, FEWEST_BARS + 2)

_STYLES = {"charging": "bold green", "idle": "", "fault": "bold red", "warning": "yellow", "old": "dim"}


@dataclass(frozen=True, slots=True)
class Picture:
    """All meters at one moment.

    Attributes:
        statuses: of the meters, in the order of the command line.
        now: the host's time.
        stays: this is the last picture, which stays on the terminal. It shows all meters and no hint about Ctrl-C.
    """

    statuses: tuple[Status, ...]
    now: datetime
    stays: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it in the size of the options."""
        for line in self._lines(options.max_width, options.height or console.size.height, options.ascii_only):
            line.no_wrap = True
            line.overflow = "crop" if options.ascii_only else "ellipsis"
            yield line

    def _lines(self, width: int, height: int, ascii_only: bool) -> Iterator[Text]:
        name = "iem-dcr watch  " if width >= RANGE_FROM_WIDTH else ""
        yield Text(f"{name}{self.now:%H:%M:%S}  {_summary(self.statuses)}", "bold")
        room = max(1, height - 2)
        bars = _bars_in(width)
        layout = _Layout(width, bars, _step_s(self.statuses, bars), ascii_only)
        lines = [line for status in self.statuses[:room] for line in (Text(), *_block(status, layout))]
        if len(lines) > room or len(self.statuses) > room:
            layout = _Layout(width, FEWEST_BARS, _step_s(self.statuses, FEWEST_BARS), ascii_only)
            lines = [*_lines_of_many(self.statuses, len(self.statuses) if self.stays else room, layout)]
        yield from lines
        yield Text(f"a bar is {duration(layout.step_s)}{'' if self.stays else '   Ctrl-C ends'}", "dim")


@dataclass(frozen=True, slots=True)
class _Layout:
    """The layout that fits the window.

    Attributes:
        width: of the window, in characters.
        bars: number of bars of a chart.
        step_s: seconds per bar.
        ascii_only: the terminal shows only ASCII.
    """

    width: int
    bars: int
    step_s: int
    ascii_only: bool


def sparkline(
    samples: Sequence[Sample],
    value: Callable[[Sample], float],
    *,
    now_s: float,
    bars: int,
    step_s: int,
    least_span: float | None = None,
    ascii_only: bool = False,
) -> tuple[str, float, float]:
    """Draw values as bars, the newest on the right. A bar is the mean of its seconds; a space means no value.

    Args:
        samples: oldest first.
        value: returns the value of a sample.
        now_s: the time at the right end.
        bars: number of bars.
        step_s: seconds per bar.
        least_span: the bars reach from the least value to the greatest, and at least over this range; with None they
            start at zero.
        ascii_only: draw without block characters.

    Returns:
        The bars, and the least and the greatest value; zeros if there are no values.
    """
    newest = math.floor(now_s / step_s)
    sums: dict[int, tuple[float, int]] = {}
    for sample in samples:
        at = math.floor(sample.at_s / step_s) - newest + bars - 1
        if 0 <= at < bars and not math.isnan(value(sample)):
            total, count = sums.get(at, (0.0, 0))
            sums[at] = total + value(sample), count + 1
    means = {at: total / count for at, (total, count) in sums.items()}
    if not means:
        return " " * bars, 0.0, 0.0
    drawn_of = [value(each) for each in samples if math.floor(each.at_s / step_s) > newest - bars]
    drawn_of = [each for each in drawn_of if not math.isnan(each)]
    low, high = min(drawn_of), max(drawn_of)
    floor, ceiling = _scale(low, high, least_span)
    signs = BARS_ASCII if ascii_only else BARS
    drawn = [
        signs[min(len(signs) - 1, int((means[at] - floor) / (ceiling - floor) * len(signs)))] if at in means else " "
        for at in range(bars)
    ]
    return "".join(drawn), low, high


def _scale(low: float, high: float, least_span: float | None) -> tuple[float, float]:
    if least_span is None:
        floor, ceiling = min(low, 0.0), max(high, 0.0)
        return floor, ceiling if ceiling > floor else floor + 1.0
    lacking = max(0.0, least_span - (high - low)) / 2
    floor = max(0.0, low - lacking) if low >= 0 else low - lacking
    return floor, max(high, floor + least_span)


def _bars_in(width: int) -> int:
    """Return the number of bars that fit beside a value in a block."""
    rest = width - _LABEL_WIDTH - _VALUE_WIDTH - 2
    return max(FEWEST_BARS, rest - _RANGE_WIDTH if width >= RANGE_FROM_WIDTH else rest)


def _step_s(statuses: Sequence[Status], bars: int) -> int:
    """Return the seconds per bar with which all samples fit."""
    span_s = max((status.now_s - status.samples[0].at_s for status in statuses if status.samples), default=0.0)
    return next((step_s for step_s in SECONDS_PER_BAR if (bars - 1) * step_s > span_s), SECONDS_PER_BAR[-1])


def _chart(
    status: Status, value: Callable[[Sample], float], layout: _Layout, least_span: float | None = None
) -> tuple[str, float, float]:
    return sparkline(
        status.samples,
        value,
        now_s=status.now_s,
        bars=layout.bars,
        step_s=layout.step_s,
        least_span=least_span,
        ascii_only=layout.ascii_only,
    )


# --- a block for a meter ---


def _block(status: Status, layout: _Layout) -> Iterator[Text]:
    yield _heading(status, layout)
    if status.value is not None:
        yield from _charts(status, status.value, layout)
        yield from _facts(status, status.value, layout.width)
    for trouble in troubles(status):
        style = _STYLES["fault" if trouble.is_fault else "warning"]
        yield from _wrapped(f"  {'!' if trouble.is_fault else '?'} ", "", shown(trouble.text), style, layout.width)
    if status.value is None and status.silent_since is None:
        yield Text("  no answer yet", "dim")


def _heading(status: Status, layout: _Layout) -> Text:
    state, style = _state(status)
    line = Text.assemble(("* " if layout.ascii_only else "● ", style), (status.address, "bold"), f"  {state}")
    if status.value is not None:
        line.append(f"  {shown(status.value.MS)}")
    if status.gateway is not None and status.gateway.is_set:
        line.append(f"  {shown(status.gateway.CT)} {shown(status.gateway.CI)}", "dim")
    return line


def _charts(status: Status, value: MeterValue, layout: _Layout) -> Iterator[Text]:
    rows: tuple[tuple[str, str, Callable[[Sample], float], float | None, float, str], ...] = (
        ("Power", kw(value.P), lambda sample: sample.power_w, None, 1000.0, "kW"),
        ("Voltage", measured(value.U2, "V"), lambda sample: sample.voltage_v, LEAST_SPAN_V, 1.0, "V"),
        ("Current", measured(value.I, "A"), lambda sample: sample.current_a, None, 1.0, "A"),
    )
    style = _STYLES["old"] if status.silent_since is not None else ""
    for name, text, pick, least_span, divisor, unit in rows:
        drawn, low, high = _chart(status, pick, layout, least_span)
        label = f"  {name:<{_LABEL_WIDTH - 2}}"
        line = Text.assemble((label, "dim"), (f"{text:>{_VALUE_WIDTH}}", style), (f"  {drawn}", "cyan"))
        if layout.width >= RANGE_FROM_WIDTH and status.samples:
            line.append(f"  {low / divisor:.1f} to {high / divisor:.1f} {unit}", "dim")
        yield line


def _facts(status: Status, value: MeterValue, width: int) -> Iterator[Text]:
    register = f"{kwh(value.import_wh)} import"
    if value.export_wh is not None:
        register += f", {kwh(value.export_wh)} export"
    facts = [
        ("Register", register, ""),
        ("Transaction", _transaction(status), "bold" if status.transaction is not None else ""),
    ]
    if status.clock_offset is not None:
        sync = f", flag {value.TM.sync}" if value.TM is not None and value.TM.sync else ""
        facts.append(("Clock", f"{clock_difference(status.clock_offset)}{sync}", ""))
    for name, text, now_style in facts:
        style = _STYLES["old"] if status.silent_since is not None else now_style
        yield from _wrapped("  ", f"{name:<{_LABEL_WIDTH}}", text, style, width)


def _transaction(status: Status) -> str:
    seen = status.transaction
    if seen is not None:
        words = "runs since" if seen.begin_seen else "runs, seen since"
        return f"{words} {seen.since:%H:%M:%S}, charged {kwh(seen.charged_wh)}"
    last_wh = status.value.transaction_wh if status.value is not None else None
    return f"none; the last one charged {kwh(last_wh)}" if last_wh else "none"


# --- a line for a meter ---


def _lines_of_many(statuses: Sequence[Status], height: int, layout: _Layout) -> Iterator[Text]:
    """Draw a line for each meter. If not all fit, meters in trouble are left out last."""
    room = height if len(statuses) <= height else max(1, height - 1)
    worst_first = sorted(range(len(statuses)), key=lambda at: (not _is_in_fault(statuses[at]), at))
    drawn = [statuses[at] for at in sorted(worst_first[:room])]
    address_width = min(max(len(status.address) for status in drawn), max(12, layout.width // 3))
    for status in drawn:
        yield _row(status, address_width, layout)
    hidden = len(statuses) - len(drawn)
    if hidden and height > 1:
        yield Text(f"and {hidden} more: a taller window shows them", "dim")


def _row(status: Status, address_width: int, layout: _Layout) -> Text:
    value = status.value
    cells: list[str] = []
    if value is not None and status.silent_since is None:
        bars, _, _ = _chart(status, lambda sample: sample.power_w, layout)
        cells = [kw(value.P), measured(value.U2, "V"), measured(value.I, "A"), bars]
    state, style = _state(status)
    line = Text(f"{_cut(status.address, address_width):<{address_width}}", style="bold")
    for cell, width in list(zip(cells, _CELL_WIDTHS, strict=False))[
        : 4 if layout.width >= ALL_VALUES_FROM_WIDTH else 1
    ]:
        line.append(f"{cell:>{width}}", "not bold")
    return line.append(f"  {_short(status, state)}", f"not bold {style}" if "bold" not in style else style)


def _cut(address: str, width: int) -> str:
    """Shorten an address in its middle: its end, or the beginning of a name, distinguishes meters."""
    if len(address) <= width:
        return address
    begin = (width - 1) // 2
    return f"{address[:begin]}…{address[begin + 1 - width :]}"


def _short(status: Status, state: str) -> str:
    faults = troubles(status)
    if faults and (faults[0].is_fault or status.transaction is None):
        return shown(faults[0].text)
    return f"{state} {kwh(status.transaction.charged_wh)}" if status.transaction is not None else state


# --- one line, and the states ---


def plain_line(status: Status) -> str:
    """Format the status of a meter as a line, for pipes and files."""
    value, read_at = status.value, status.read_at
    faults = "".join(f"  {'!' if trouble.is_fault else '?'} {shown(trouble.text)}" for trouble in troubles(status))
    if value is None or read_at is None or status.silent_since is not None:
        since, silent_s = status.silent_since, status.silent_s or 0.0
        at = f"{since + timedelta(seconds=silent_s):%H:%M:%S}" if since is not None else "--:--:--"
        return f"{at}  {status.address}{faults}"
    energy = f"register {kwh(value.import_wh)}"
    if status.transaction is not None:
        energy += f"  charged {kwh(status.transaction.charged_wh)}"
    values = f"{kw(value.P):>11}  {measured(value.U2, 'V'):>8}  {measured(value.I, 'A'):>8}"
    return f"{read_at:%H:%M:%S}  {status.address}  {values}  {energy}{faults}"


def _summary(statuses: Sequence[Status]) -> str:
    charging = sum(status.transaction is not None for status in statuses)
    faulty = sum(_is_in_fault(status) for status in statuses)
    parts = ["1 meter" if len(statuses) == 1 else f"{len(statuses)} meters", f"{charging} charging"]
    return ", ".join(parts + ([f"{faulty} in trouble"] if faulty else []))


def _is_in_fault(status: Status) -> bool:
    return any(trouble.is_fault for trouble in troubles(status))


def _state(status: Status) -> tuple[str, str]:
    """Return a meter's state in a word, and its style."""
    found = troubles(status)
    if status.silent_since is not None:
        return "no answer", _STYLES["fault"]
    if status.value is None:
        return "asked", _STYLES["old"]
    word = "charging" if status.transaction is not None else "idle"
    if found and found[0].is_fault:
        return f"{word}, in trouble", _STYLES["fault"]
    return word, _STYLES["warning"] if found and status.transaction is None else _STYLES[word]


def _wrapped(before: str, label: str, text: str, style: str, width: int) -> Iterator[Text]:
    """Wrap a text into lines that begin after its label."""
    indent = len(before) + len(label)
    lines = textwrap.wrap(text, max(8, width - indent)) or [""]
    yield Text.assemble((before, style), (label, "dim"), (lines[0], style))
    for line in lines[1:]:
        yield Text(" " * indent + line, style)
