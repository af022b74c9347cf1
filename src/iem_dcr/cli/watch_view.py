"""The picture that ``iem-dcr watch`` draws: a block for each meter, or a line for each when they are many.

It is drawn anew for whatever size the terminal has at that moment. What a colour says, a word says too.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from rich.text import Text

from iem_dcr.bringup.sight import clock as clock_words
from iem_dcr.bringup.sight import duration, measured, shown, troubles
from iem_dcr.cli.output import kw, kwh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from rich.console import Console, ConsoleOptions, RenderResult

    from iem_dcr.bringup.sight import Sample, Sight
    from iem_dcr.device.messages import MeterValue

BARS: Final = "▁▂▃▄▅▆▇█"
BARS_ASCII: Final = "_.-=+*#@"
SECONDS_PER_BAR: Final = (1, 2, 5, 10, 30, 60, 300)
FEWEST_BARS: Final = 8
RANGE_FROM_WIDTH: Final = 64
"""In a window as wide as that the range of what the bars show stands beside them."""
LEAST_SPAN_V: Final = 10.0
"""Bars of a voltage span at least that: its last digit is no mountain range."""
ALL_VALUES_FROM_WIDTH: Final = 76
"""In a window as wide as that a line for a meter has more than its power."""
_LABEL_WIDTH = 12
_VALUE_WIDTH = 12
_RANGE_WIDTH = 22
_CELL_WIDTHS = (12, 10, 10, FEWEST_BARS + 2)

_STYLES = {"charging": "bold green", "idle": "", "fault": "bold red", "warning": "yellow", "old": "dim"}


@dataclass(frozen=True, slots=True)
class Picture:
    """All meters at a moment.

    Attributes:
        sights: of the meters, in the order in which they were given.
        now: the host's time.
        stays: it is the last one, which stays behind: nothing is left out of it, and no key is named in it.
    """

    sights: tuple[Sight, ...]
    now: datetime
    stays: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it in the size that the options give."""
        height = options.height or console.size.height
        for line in self._lines(options.max_width, height, ascii_only=options.ascii_only):
            line.no_wrap = True
            line.overflow = "crop" if options.ascii_only else "ellipsis"
            yield line

    def _lines(self, width: int, height: int, *, ascii_only: bool) -> Iterator[Text]:
        name = "iem-dcr watch  " if width >= RANGE_FROM_WIDTH else ""
        yield Text(f"{name}{self.now:%H:%M:%S}  {_summary(self.sights)}", "bold")
        left = max(1, height - 2)
        bars = _bars_in(width)
        step_s = _step_s(self.sights, bars)
        blocks = self._blocks(left, width, bars, step_s, ascii_only=ascii_only)
        if blocks is not None:
            yield from blocks
        else:
            step_s = _step_s(self.sights, FEWEST_BARS)
            room = len(self.sights) if self.stays else left
            yield from _lines_of_many(self.sights, width, room, step_s, ascii_only=ascii_only)
        yield Text(f"a bar is {duration(step_s)}{'' if self.stays else '   Ctrl-C ends'}", "dim")

    def _blocks(self, left: int, width: int, bars: int, step_s: int, *, ascii_only: bool) -> list[Text] | None:
        """Draw a block for each meter, or None as soon as they turn out not to fit."""
        lines: list[Text] = []
        for sight in self.sights:
            lines += [Text(), *_block(sight, width, bars, step_s, ascii_only=ascii_only)]
            if len(lines) > left:
                return None
        return lines


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
    """Draw values as bars, the newest on the right, one for the mean of so many seconds; no value is a space.

    Args:
        samples: oldest first.
        value: what is drawn of each.
        now_s: the moment on the right.
        bars: how many.
        step_s: seconds that a bar stands for.
        least_span: the bars reach from the least value to the greatest, and at least over so much; None has them stand
            on zero.
        ascii_only: draw without block characters.

    Returns:
        The bars, and the least and greatest of the values; zeros where there are none.
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
    """Return how many bars fit beside a value in a block."""
    rest = width - _LABEL_WIDTH - _VALUE_WIDTH - 2
    return max(FEWEST_BARS, rest - _RANGE_WIDTH if width >= RANGE_FROM_WIDTH else rest)


def _step_s(sights: Sequence[Sight], bars: int) -> int:
    """Return the seconds per bar at which all that is remembered fits."""
    span_s = max((sight.now_s - sight.samples[0].at_s for sight in sights if sight.samples), default=0.0)
    return next((step_s for step_s in SECONDS_PER_BAR if (bars - 1) * step_s > span_s), SECONDS_PER_BAR[-1])


# --- a block for a meter ---


def _block(sight: Sight, width: int, bars: int, step_s: int, *, ascii_only: bool) -> Iterator[Text]:
    yield _heading(sight, ascii_only=ascii_only)
    if sight.value is not None:
        yield from _charts(sight, sight.value, width, bars, step_s, ascii_only=ascii_only)
        yield from _facts(sight, sight.value, width)
    for trouble in troubles(sight):
        style = _STYLES["fault" if trouble.is_fault else "warning"]
        yield from _wrapped(f"  {'!' if trouble.is_fault else '?'} ", "", shown(trouble.text), style, width)
    if sight.value is None and sight.silent_since is None:
        yield Text("  asked, no answer yet", "dim")


def _heading(sight: Sight, *, ascii_only: bool) -> Text:
    state, style = _state(sight)
    line = Text.assemble(("* " if ascii_only else "● ", style), (sight.address, "bold"), f"  {state}")
    if sight.value is not None:
        line.append(f"  {shown(sight.value.MS)}")
    if sight.gateway is not None and sight.gateway.is_set:
        line.append(f"  {shown(sight.gateway.CT)} {shown(sight.gateway.CI)}", "dim")
    return line


def _charts(sight: Sight, value: MeterValue, width: int, bars: int, step_s: int, *, ascii_only: bool) -> Iterator[Text]:
    rows: tuple[tuple[str, str, Callable[[Sample], float], float | None, float, str], ...] = (
        ("Power", kw(value.P), lambda sample: sample.power_w, None, 1000.0, "kW"),
        ("Voltage", measured(value.U2, "V"), lambda sample: sample.voltage_v, LEAST_SPAN_V, 1.0, "V"),
        ("Current", measured(value.I, "A"), lambda sample: sample.current_a, None, 1.0, "A"),
    )
    style = _STYLES["old"] if sight.silent_since is not None else ""
    for name, text, pick, least_span, divisor, unit in rows:
        drawn, low, high = sparkline(
            sight.samples,
            pick,
            now_s=sight.now_s,
            bars=bars,
            step_s=step_s,
            least_span=least_span,
            ascii_only=ascii_only,
        )
        label = f"  {name:<{_LABEL_WIDTH - 2}}"
        line = Text.assemble((label, "dim"), (f"{text:>{_VALUE_WIDTH}}", style), (f"  {drawn}", "cyan"))
        if width >= RANGE_FROM_WIDTH and sight.samples:
            line.append(f"  {low / divisor:.1f} to {high / divisor:.1f} {unit}", "dim")
        yield line


def _facts(sight: Sight, value: MeterValue, width: int) -> Iterator[Text]:
    register = f"{kwh(value.import_wh)} import"
    if value.export_wh is not None:
        register += f", {kwh(value.export_wh)} export"
    facts = [
        ("Register", register, ""),
        ("Transaction", _transaction(sight), "bold" if sight.transaction is not None else ""),
    ]
    if sight.clock_off is not None:
        sync = f", flag {value.TM.sync}" if value.TM is not None and value.TM.sync else ""
        facts.append(("Clock", f"{clock_words(sight.clock_off)}{sync}", ""))
    for name, text, now_style in facts:
        style = _STYLES["old"] if sight.silent_since is not None else now_style
        yield from _wrapped("  ", f"{name:<{_LABEL_WIDTH}}", text, style, width)


def _transaction(sight: Sight) -> str:
    seen = sight.transaction
    if seen is not None:
        words = "runs since" if seen.begin_seen else "runs, seen since"
        return f"{words} {seen.since:%H:%M:%S}, charged {kwh(seen.charged_wh)}"
    last_wh = sight.value.transaction_wh if sight.value is not None else None
    return f"none; the last one charged {kwh(last_wh)}" if last_wh else "none"


# --- a line for a meter ---


def _lines_of_many(
    sights: Sequence[Sight], width: int, height: int, step_s: int, *, ascii_only: bool
) -> Iterator[Text]:
    """Draw a line for each meter; where they do not all fit, those in trouble are not the ones left out."""
    room = height if len(sights) <= height else max(1, height - 1)
    worst_first = sorted(range(len(sights)), key=lambda at: (not _is_in_fault(sights[at]), at))
    drawn = [sights[at] for at in sorted(worst_first[:room])]
    address_width = min(max(len(sight.address) for sight in drawn), max(12, width // 3))
    for sight in drawn:
        yield _row(sight, address_width, step_s, has_all=width >= ALL_VALUES_FROM_WIDTH, ascii_only=ascii_only)
    hidden = len(sights) - len(drawn)
    if hidden and height > 1:
        yield Text(f"and {hidden} more: a higher window shows them", "dim")


def _row(sight: Sight, address_width: int, step_s: int, *, has_all: bool, ascii_only: bool) -> Text:
    value = sight.value
    cells: list[str] = []
    if value is not None and sight.silent_since is None:
        bars, _, _ = sparkline(
            sight.samples,
            lambda sample: sample.power_w,
            now_s=sight.now_s,
            bars=FEWEST_BARS,
            step_s=step_s,
            ascii_only=ascii_only,
        )
        cells = [kw(value.P), measured(value.U2, "V"), measured(value.I, "A"), bars]
    state, style = _state(sight)
    line = Text(f"{_cut(sight.address, address_width):<{address_width}}", style="bold")
    for cell, width in list(zip(cells, _CELL_WIDTHS, strict=False))[: 4 if has_all else 1]:
        line.append(f"{cell:>{width}}", "not bold")
    return line.append(f"  {_short(sight, state)}", f"not bold {style}" if "bold" not in style else style)


def _cut(address: str, width: int) -> str:
    """Shorten an address in its middle: what tells meters apart is its end, or the begin of a name."""
    if len(address) <= width:
        return address
    begin = (width - 1) // 2
    return f"{address[:begin]}…{address[begin + 1 - width :]}"


def _short(sight: Sight, state: str) -> str:
    faults = troubles(sight)
    if faults and (faults[0].is_fault or sight.transaction is None):
        return shown(faults[0].text)
    return f"{state} {kwh(sight.transaction.charged_wh)}" if sight.transaction is not None else state


# --- all ---


def plain_line(sight: Sight) -> str:
    """Write one meter at a moment as a line, for pipes and files."""
    value, read_at = sight.value, sight.read_at
    faults = "".join(f"  {'!' if trouble.is_fault else '?'} {shown(trouble.text)}" for trouble in troubles(sight))
    if value is None or read_at is None or sight.silent_since is not None:
        since, silent_s = sight.silent_since, sight.silent_s or 0.0
        at = f"{since + timedelta(seconds=silent_s):%H:%M:%S}" if since is not None else "--:--:--"
        return f"{at}  {sight.address}{faults}"
    energy = f"register {kwh(value.import_wh)}"
    if sight.transaction is not None:
        energy += f"  charged {kwh(sight.transaction.charged_wh)}"
    values = f"{kw(value.P):>11}  {measured(value.U2, 'V'):>8}  {measured(value.I, 'A'):>8}"
    return f"{read_at:%H:%M:%S}  {sight.address}  {values}  {energy}{faults}"


def _summary(sights: Sequence[Sight]) -> str:
    charging = sum(sight.transaction is not None for sight in sights)
    faulty = sum(_is_in_fault(sight) for sight in sights)
    parts = ["1 meter" if len(sights) == 1 else f"{len(sights)} meters", f"{charging} charging"]
    return ", ".join(parts + ([f"{faulty} in trouble"] if faulty else []))


def _is_in_fault(sight: Sight) -> bool:
    return any(trouble.is_fault for trouble in troubles(sight))


def _state(sight: Sight) -> tuple[str, str]:
    """Return in a word how a meter is, and the style of that."""
    found = troubles(sight)
    if sight.silent_since is not None:
        return "no answer", _STYLES["fault"]
    if sight.value is None:
        return "asked", _STYLES["old"]
    word = "charging" if sight.transaction is not None else "idle"
    if found and found[0].is_fault:
        return f"{word}, in trouble", _STYLES["fault"]
    return word, _STYLES["warning"] if found and sight.transaction is None else _STYLES[word]


def _wrapped(before: str, label: str, text: str, style: str, width: int) -> Iterator[Text]:
    """Lay a text out in lines that begin behind its label."""
    indent = len(before) + len(label)
    lines = textwrap.wrap(text, max(8, width - indent)) or [""]
    yield Text.assemble((before, style), (label, "dim"), (lines[0], style))
    for line in lines[1:]:
        yield Text(" " * indent + line, style)
