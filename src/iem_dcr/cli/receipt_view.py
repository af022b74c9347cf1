"""Shows a receipt to a person: a panel with user, times, energy, and the result of the signature check.

Text from the meter is shown without control characters and shortened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from iem_dcr.cli.output import kwh, say
from iem_dcr.diagnostics.status import LONGEST_TEXT, shown
from iem_dcr.errors import printable
from iem_dcr.ocmf import Outcome
from iem_dcr.ocmf.verdict import Judgement, energy_summary_of, judge

if TYPE_CHECKING:
    from rich.console import Console

    from iem_dcr.ocmf import Reading, Receipt, Verification
    from iem_dcr.ocmf.verdict import Verdict

_OUTCOMES = {
    Outcome.VALID: ("VALID", "bold green"),
    Outcome.INVALID: ("NOT VALID", "bold red"),
    Outcome.NOT_CHECKED: ("NOT CHECKED", "bold yellow"),
}
_ENDS = {"L": "locally", "R": "remotely", "A": "aborted", "P": "by a power failure"}
"""OCMF's TX of a last reading, unless it is an ordinary end."""
_FLAGS = {"E": "energy is not reliable", "t": "the time is not reliable"}
"""OCMF's EF."""


def print_receipt(console: Console, receipt: Receipt, verification: Verification) -> None:
    """Print a receipt: its panel, and the unchanged tuple in one line."""
    console.print(_panel(receipt, verification))
    say(console, printable(receipt.text, limit=len(receipt.text)))


def verdict_text(verdict: Verdict) -> Text:
    """Format the verdict on a transaction; anything but a plain acceptance stands out."""
    if verdict.judgement is Judgement.REFUSED:
        loud = ("NOT ACCEPTED by the transparency software", "bold red")
        return Text.assemble(("VALID", "bold green"), ", but ", loud, f": {', '.join(verdict.errors)}")
    return Text.assemble(_OUTCOMES[verdict.outcome], f": {printable(verdict.reason, limit=LONGEST_TEXT)}")


def status_text(ST: str) -> str:
    """Format a meter's status, OCMF's ST."""
    return "G, good" if ST == "G" else shown(ST or "not given")


def flags_text(EF: str) -> str:
    """Format a meter's error flags, OCMF's EF."""
    return f"{shown(EF)}, " + " and ".join(_FLAGS.get(flag, "unknown") for flag in shown(EF)) if EF else "none"


def _panel(receipt: Receipt, verification: Verification) -> Panel:
    last = receipt.end or (receipt.readings[-1] if receipt.readings else None)
    rows = {
        "Charge point": _fields(receipt, "CT", "CI"),
        "Meter": _fields(receipt, "MM", "MS"),
        "User": f"{shown(receipt.identification or '')} ({_fields(receipt, 'IT')})",
        "Tariff": _fields(receipt, "TT"),
        "Begin": _reading_text(receipt.begin),
        "End": _reading_text(last),
        "Ended": _ENDS.get(last.TX, "") if last else "",
        "Energy": energy_summary_of(receipt) or "not in the receipt",
        "Remarks": _remarks(receipt.begin, last),
    }
    grid = Table.grid(padding=(0, 3))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, text in rows.items():
        if text:
            grid.add_row(name, Text(text))
    grid.add_row("Signature", verdict_text(judge([receipt], [verification])))
    return Panel(grid, title=Text(f"Receipt {shown(receipt.pagination or 'without PG')}"), expand=False)


def _fields(receipt: Receipt, *keys: str) -> str:
    return " ".join(shown(receipt.payload[key]) for key in keys if receipt.payload.get(key) not in (None, ""))


def _reading_text(reading: Reading | None) -> str:
    if reading is None:
        return "not in the receipt"
    time = f"{reading.TM.instant:%Y-%m-%d %H:%M:%S %z}" if reading.TM else "time not readable"
    return time if reading.energy_wh is None else f"{time}   register {kwh(reading.energy_wh)}"


def _remarks(*readings: Reading | None) -> str:
    remarks = []
    for reading in readings:
        if reading is not None and reading.ST not in ("G", ""):
            remarks.append(f"{status_text(reading.ST)} at {reading.TX}")
        if reading is not None and reading.EF:
            remarks.append(f"{flags_text(reading.EF)} at {reading.TX}")
    return shown("; ".join(remarks))
