"""Shows receipts to a person, in the same way in all commands.

Text from the meter is shown without control characters and shortened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from iem_dcr.cli.output import kwh, say
from iem_dcr.diagnostics.status import LONGEST_TEXT, shown
from iem_dcr.errors import printable
from iem_dcr.ocmf import Outcome
from iem_dcr.ocmf.codes import how_ended
from iem_dcr.ocmf.rules import Severity
from iem_dcr.ocmf.verdict import Judgement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal

    from rich.console import Console

    from iem_dcr.meter_time import MeterTime
    from iem_dcr.ocmf import Receipt
    from iem_dcr.ocmf.rules import Finding
    from iem_dcr.ocmf.verdict import Energy, Verdict

UNREADABLE = "unreadable"
_OUTCOMES = {
    Outcome.VALID: ("VALID", "bold green"),
    Outcome.INVALID: ("NOT VALID", "bold red"),
    Outcome.NOT_CHECKED: ("NOT CHECKED", "bold yellow"),
}
_SEVERITIES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "dim"}


@dataclass(frozen=True, slots=True)
class Transaction:
    """A checked transaction, or a receipt that could not be read.

    Attributes:
        receipts: one receipt, or a begin and an end; none if it could not be read.
        verdict: None if it could not be read.
        sources: where in the input its receipts are.
        key_from: "given", "document" or "none".
        problem: why it could not be read.
        notes: further remarks, a sentence each.
    """

    receipts: tuple[Receipt, ...] = ()
    verdict: Verdict | None = None
    sources: tuple[str, ...] = ()
    key_from: str = "none"
    problem: str = ""
    notes: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The judgement, or `UNREADABLE`."""
        return UNREADABLE if self.verdict is None else self.verdict.judgement.value


def print_receipt(console: Console, receipt: Receipt, verdict: Verdict) -> None:
    """Print a receipt in full, and the unchanged tuple in one line."""
    say(console, transaction_text(Transaction((receipt,), verdict)))
    say(console, printable(receipt.text, limit=len(receipt.text)))


def transaction_text(transaction: Transaction, *, show_all: bool = False) -> Text:
    """Format a transaction in lines. With ``show_all`` findings that need no action are included."""
    return Text("\n").join(_lines(transaction, show_all=show_all)).append("\n")


def finding_text(found: Finding, before: str) -> Text:
    """Format a finding."""
    reading = "" if found.reading is None else f"reading {found.reading + 1}"
    at = " ".join(word for word in (reading, found.field) if word)
    severity = f"{found.severity.value:<7}", _SEVERITIES[found.severity]
    return Text.assemble(
        (before, "dim"), severity, f" {found.code}", f" ({shown(at)})" if at else "", f": {found.text}"
    )


def times_of(verdict: Verdict) -> Energy | None:
    """Return the register whose begin and end are those of the transaction."""
    return verdict.deciding or (verdict.energies[0] if verdict.energies else None)


def _lines(transaction: Transaction, *, show_all: bool) -> Iterator[Text]:
    receipts, verdict, where = transaction.receipts, transaction.verdict, shown(", ".join(transaction.sources))
    if verdict is None:
        yield Text(f"Receipt at {where}", style="bold")
        yield _row("Verdict", Text.assemble(("NOT READABLE", "bold yellow"), f": {shown(transaction.problem)}"))
        return
    first, last, times = receipts[0], receipts[-1].end, times_of(verdict)
    names = " and ".join(shown(receipt.pagination or "without PG") for receipt in receipts)
    title = f"Receipt {names} of meter {shown(first.meter or 'without serial number')} {_fields(first, 'MM')}".rstrip()
    yield Text.assemble((title, "bold"), (f"   {where}" if where else "", "dim"))
    kind = _fields(first, "IT")
    for name, text in {
        "User": shown(first.identification or "none") + (f" ({kind})" if kind else ""),
        "Charge point": _fields(first, "CT", "CI"),
        "Tariff": _fields(first, "TT"),
        "Begin": _reading_text(times.begin, times.begin_wh) if times else "not in the receipt",
        "End": _reading_text(times.end, times.end_wh) if times else "not in the receipt",
        "Ended": how_ended(last.TX) if last is not None else "",
    }.items():
        if text:
            yield _row(name, text)
    for energy in verdict.energies:
        amount = "cannot be told" if energy.energy_wh is None else kwh(energy.energy_wh)
        beside = "" if energy.decides else ", not part of the verdict"
        yield _row("Energy", f"{amount}  {energy.direction or 'register'} {shown(energy.register)}{beside}")
    yield _row("Verdict", _verdict_text(verdict))
    for note in transaction.notes:
        yield _row("Note", Text(note, style="yellow"))
    for found in verdict.findings:
        if show_all or not found.asks_for_nothing:
            yield finding_text(found, f"  {'Finding':<12}  ")


def _row(name: str, text: str | Text) -> Text:
    return Text.assemble((f"  {name:<12}", "dim"), "  ", text)


def _fields(receipt: Receipt, *keys: str) -> str:
    return " ".join(shown(receipt.payload[key]) for key in keys if receipt.payload.get(key) not in (None, ""))


def _reading_text(time: MeterTime | None, value_wh: Decimal | None) -> str:
    written = f"{time.instant:%Y-%m-%d %H:%M:%S %z}" if time else "?"
    return written if value_wh is None else f"{written}   register {kwh(value_wh)}"


def _verdict_text(verdict: Verdict) -> Text:
    """Format the verdict on a transaction; anything but a plain acceptance stands out."""
    if verdict.judgement is Judgement.REFUSED:
        loud = ("NOT ACCEPTED by the transparency software", "bold red")
        return Text.assemble(_OUTCOMES[Outcome.VALID], ", but ", loud, f": {', '.join(verdict.errors)}")
    return Text.assemble(_OUTCOMES[verdict.outcome], f": {printable(verdict.reason, limit=LONGEST_TEXT)}")
