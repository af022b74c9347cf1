"""What people see: numbers with their units, tables, the receipt. A meter's text is shown as text and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from iem_dcr.diagnostics.status import CLOCK_TOLERANCE_S, LONGEST_TEXT, clock_difference, measured, shown
from iem_dcr.errors import printable
from iem_dcr.ocmf import Outcome
from iem_dcr.ocmf.verdict import Judgement, energy_summary_of, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime, timedelta
    from decimal import Decimal

    from rich.console import Console

    from iem_dcr.diagnostics.snapshot import Snapshot
    from iem_dcr.ocmf import Reading, Receipt, Verification
    from iem_dcr.ocmf.verdict import Verdict
    from iem_dcr.powermeter import Powermeter

_VERDICTS = {
    Outcome.VALID: ("VALID", "bold green"),
    Outcome.INVALID: ("NOT VALID", "bold red"),
    Outcome.NOT_CHECKED: ("NOT CHECKED", "bold yellow"),
}
_ENDS = {"L": "locally", "R": "remotely", "A": "aborted", "P": "by a power failure"}
"""OCMF's TX of a last reading that is no ordinary end."""


def say(console: Console, text: str | Text) -> None:
    """Print a line that a terminal may wrap and a pipe gets whole."""
    console.print(Text(text) if isinstance(text, str) else text, soft_wrap=True)


def kwh(energy_wh: Decimal) -> str:
    """Write an energy given in Wh: ``0.104 kWh``."""
    return f"{energy_wh / 1000:.3f} kWh"


def kw(power_w: Decimal | None) -> str:
    """Write a power given in W: ``47.500 kW``; a dash where the meter gave none."""
    return "- kW" if power_w is None else f"{power_w / 1000:.3f} kW"


def value_line(value: Powermeter, charged_wh: Decimal | None = None) -> str:
    """Write a live value in one line, with the energy since the begin of the transaction if there is one."""
    energy = f"register {kwh(value.energy_wh_import)}" if charged_wh is None else f"charged {kwh(charged_wh)}"
    return f"{kw(value.power_w):>11}  {value.voltage_v:6.1f} V  {value.current_a:6.1f} A  {energy}"


def live_table(values: Iterable[Powermeter], begun_wh: Decimal) -> Table:
    """Make the table of a transaction's live values."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("Meter time", "Power", "Voltage", "Current", "Import register", "Charged"):
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for value in values:
        table.add_row(
            Text(f"{value.timestamp:%H:%M:%S}"),
            Text(kw(value.power_w)),
            Text(f"{value.voltage_v:.1f} V"),
            Text(f"{value.current_a:.1f} A"),
            Text(kwh(value.energy_wh_import)),
            Text(kwh(value.energy_wh_import - begun_wh), style="bold"),
        )
    return table


def receipt_panel(receipt: Receipt, verification: Verification) -> Panel:
    """Make the panel of a receipt: who, when, how much, and whether its signature is good."""
    begin, end = receipt.begin, receipt.end
    last = end or (receipt.readings[-1] if receipt.readings else None)
    rows = {
        "Charge point": _words(receipt.payload, "CT", "CI"),
        "Meter": _words(receipt.payload, "MM", "MS"),
        "User": f"{shown(receipt.identification or '')} ({_words(receipt.payload, 'IT')})",
        "Tariff": _words(receipt.payload, "TT"),
        "Begin": _reading(begin),
        "End": _reading(last),
        "Ended": _ENDS.get(last.TX, "") if last else "",
        "Energy": energy_summary_of(receipt) or "not in the receipt",
        "Remarks": _remarks(begin, last),
    }
    grid = _grid((name, Text(text)) for name, text in rows.items() if text)
    grid.add_row("Signature", verdict_text(judge([receipt], [verification])))
    return Panel(grid, title=Text(f"Receipt {shown(receipt.pagination or 'without PG')}"), expand=False)


def print_receipt(console: Console, receipt: Receipt, verification: Verification) -> None:
    """Print a receipt: its panel, and the tuple as it is, in one line."""
    console.print(receipt_panel(receipt, verification))
    say(console, printable(receipt.text, limit=len(receipt.text)))


def print_snapshot(console: Console, snapshot: Snapshot) -> None:
    """Print one reading of a meter."""
    value = snapshot.value
    live = {
        "Power": kw(value.P),
        "Voltage (U2)": measured(value.U2, "V"),
        "Current (I)": measured(value.I, "A"),
        "Import": kwh(value.import_wh),
        "Export": "no such register" if value.export_wh is None else kwh(value.export_wh),
    }
    health = {False: ("healthy", "green"), True: ("IN ERROR", "bold red"), None: ("not known", "yellow")}[
        value.has_error
    ]
    status = {
        "Transaction (XT)": Text("runs", style="bold") if value.XT else Text("none"),
        "Errors (XC)": Text.assemble(health, f"  {shown(value.XC)}"),
        "Status word (XS)": Text(shown(value.XS) or "not given"),
        "Status (ST)": Text(_status(value.ST)),
        "Flags (EF)": Text(_flags(value.EF)),
    }
    gateway = snapshot.gateway
    point: dict[str, Text] = {}
    if gateway is None:
        point["Gateway"] = _problem(snapshot.problems["gw"])
    else:
        not_set = Text("not set since the meter was powered up", style="yellow")
        point["Type (CT)"] = Text(shown(gateway.CT)) if gateway.CT else not_set
        point["Id (CI)"] = Text(shown(gateway.CI)) if gateway.CI else not_set
        point["Time (TM)"] = Text(_time(gateway.TM.instant) if gateway.TM else "not readable")
    offset, key = snapshot.clock_offset, snapshot.key
    point["Clock"] = Text("not readable", style="yellow") if offset is None else _clock(offset)
    point["Public key"] = Text(f"{key.form}, {shown(key.SA)}") if key else _problem(snapshot.problems["publickey"])
    say(console, Text(f"Meter {shown(value.MS)} at {snapshot.address}", style="bold"))
    _print_section(console, "Live values", {name: Text(text) for name, text in live.items()})
    _print_section(console, "Status", status)
    _print_section(console, "Charge point, clock and key", point)


def _print_section(console: Console, title: str, rows: Mapping[str, Text]) -> None:
    console.print(Text(f"\n{title}", style="cyan"))
    for name, text in rows.items():
        say(console, Text.assemble((f"  {name:<19}", "dim"), text))


def _grid(rows: Iterable[tuple[str, Text]]) -> Table:
    grid = Table.grid(padding=(0, 3))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, text in rows:
        grid.add_row(name, text)
    return grid


def _words(payload: Mapping[str, object], *keys: str) -> str:
    return " ".join(shown(payload[key]) for key in keys if payload.get(key) not in (None, ""))


def _time(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S %z}"


def _reading(reading: Reading | None) -> str:
    if reading is None:
        return "not in the receipt"
    time = _time(reading.TM.instant) if reading.TM else "time not readable"
    register = "" if reading.energy_wh is None else f"   register {kwh(reading.energy_wh)}"
    return time + register


def _remarks(*readings: Reading | None) -> str:
    remarks = []
    for reading in readings:
        if reading is not None and reading.ST not in ("G", ""):
            remarks.append(f"{_status(reading.ST)} at {reading.TX}")
        if reading is not None and reading.EF:
            remarks.append(f"{_flags(reading.EF)} at {reading.TX}")
    return shown("; ".join(remarks))


def _status(ST: str) -> str:
    return "G, good" if ST == "G" else shown(ST or "not given")


def _flags(EF: str) -> str:
    meanings = {"E": "energy is not reliable", "t": "the time is not reliable"}
    if not EF:
        return "none"
    return f"{shown(EF)}, " + " and ".join(meanings.get(flag, "unknown") for flag in shown(EF))


def verdict_text(verdict: Verdict) -> Text:
    """Write the verdict on a transaction, loudly where it is not plainly good."""
    if verdict.judgement is Judgement.REFUSED:
        return Text.assemble(
            ("VALID", "bold green"), ", but ", ("NOT ACCEPTED by the transparency software", "bold red"),
            f": {', '.join(verdict.errors)}",
        )  # fmt: skip
    word, style = _VERDICTS[verdict.outcome]
    return Text.assemble((word, style), f": {printable(verdict.reason, limit=LONGEST_TEXT)}")


def _clock(off: timedelta) -> Text:
    return Text(clock_difference(off), style="" if abs(off.total_seconds()) <= CLOCK_TOLERANCE_S else "yellow")


def _problem(text: str) -> Text:
    return Text(f"not had: {shown(text)}", style="yellow")
