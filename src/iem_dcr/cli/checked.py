"""What people and programs see of checked receipts."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from rich.text import Text

from iem_dcr.bringup.sight import shown
from iem_dcr.cli.output import kwh, say
from iem_dcr.cli.receipt_view import verdict_text
from iem_dcr.cli.verifying import UNREADABLE
from iem_dcr.meter_time import rfc3339
from iem_dcr.ocmf.rules import Severity
from iem_dcr.ocmf.verdict import Judgement, energy_summary

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator
    from decimal import Decimal

    from rich.console import Console

    from iem_dcr.cli.verifying import Checked
    from iem_dcr.meter_time import MeterTime
    from iem_dcr.ocmf.rules import Finding
    from iem_dcr.ocmf.verdict import Energy, Verdict

FEW = 20
"""So many transactions are shown with all there is to say; more with a line each."""
MOST_LISTED = 10_000
"""Findings across all that are listed in JSON; of more, their number is told."""
_STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "dim"}
_WORDS = {
    Judgement.ACCEPTED.value: "valid",
    Judgement.REFUSED.value: "valid, but not accepted by the transparency software",
    Judgement.INVALID.value: "NOT VALID",
    Judgement.NOT_CHECKED.value: "not checked",
    UNREADABLE: "not readable",
}


def status_of(counts: Counter[str]) -> int:
    """Return the exit status for transactions counted by judgement: 1 any is invalid, 2 any was not checked."""
    if counts[Judgement.INVALID.value]:
        return 1
    return 2 if counts[Judgement.NOT_CHECKED.value] or counts[UNREADABLE] else 0


def to_json(checked: Checked) -> dict[str, object]:
    """Return a transaction as JSON types; energies are exact text in Wh."""
    verdict = checked.verdict
    written: dict[str, object] = {
        "event": "transaction",
        "sources": checked.sources,
        "verdict": verdict.judgement.value if verdict else UNREADABLE,
        "reason": checked.problem if verdict is None else _reason(verdict),
    }
    if verdict is None:
        return written
    deciding = _times_of(verdict)
    return written | {
        "meter": checked.meter,
        "paginations": checked.paginations,
        "identification": checked.identification,
        "identification_type": checked.identification_type,
        "begin": _instant(deciding.begin if deciding else None),
        "end": _instant(deciding.end if deciding else None),
        "energy_wh": _exact(verdict.energy_wh),
        "signatures": [verification.outcome.value for verification in verdict.verifications],
        "key_from": checked.key_from,
        "energies": [
            {
                "register": energy.register,
                "direction": energy.direction,
                "begin_wh": _exact(energy.begin_wh),
                "end_wh": _exact(energy.end_wh),
                "energy_wh": _exact(energy.energy_wh),
                "decides": energy.decides,
            }
            for energy in verdict.energies
        ],
        "findings": [finding_json(found) for found in verdict.findings],
        "notes": checked.notes,
    }


def json_line(checked: Checked) -> str:
    """Write a transaction as a line of JSON."""
    return json.dumps(to_json(checked), separators=(",", ":"))


def condensed(checked: Checked, *, as_json: bool, show_all: bool) -> Checked:
    """Leave only what will be shown: handing a whole verdict from process to process costs more than the check."""
    if as_json:
        return replace(checked, verdict=None, line=json_line(checked))
    return replace(checked, verdict=None) if _is_accepted(checked) and not show_all else checked


def finding_json(found: Finding) -> dict[str, object]:
    """Return a finding as JSON types."""
    return {
        "code": found.code,
        "severity": found.severity.value,
        "receipt": found.receipt,
        "reading": found.reading,
        "field": found.field,
        "text": found.text,
    }


def summary(counts: Counter[str], across: Iterable[Finding], problem: str) -> dict[str, object]:
    """Return how many transactions there were of each verdict, and what was found across all, as JSON types."""
    across = iter(across)
    findings = [finding_json(found) for found in islice(across, MOST_LISTED)]
    return {
        "event": "summary",
        "transactions": counts.total(),
        "verdicts": {word: counts[word] for word in _WORDS},
        "findings": findings,
        "more_findings": sum(1 for _ in across),
        "problem": problem,
    }


class Shown:
    """Shows transactions as they come: few in full, more in a line each, of many only those to be looked at."""

    def __init__(self, console: Console, *, show_all: bool) -> None:
        self._console = console
        self._all = show_all
        self._held: list[Checked] = []
        self._is_long = False
        self._hidden = 0
        self._keys_from_document = False

    def take(self, batch: Iterable[Checked], *, are_many: bool) -> None:
        """Show some; the first few are held until it is known whether there are more."""
        for checked in batch:
            self._keys_from_document |= checked.key_from == "document"
            if are_many and not self._all and _is_accepted(checked):
                self._hidden += 1
                continue
            if self._is_long:
                say(self._console, _line(checked))
                continue
            self._held.append(checked)
            if len(self._held) > FEW or are_many:
                self._is_long = True
                for held in self._held:
                    say(self._console, _line(held))
                self._held = []

    def end(self, counts: Counter[str], across: Iterable[Finding], *, are_counted: bool) -> None:
        """Show what is held, what was found across all, and how many there were of each verdict."""
        for checked in self._held:
            for line in _block(checked, show_all=self._all):
                say(self._console, line)
            say(self._console, "")
        across = iter(across)
        for found in islice(across, FEW):
            say(self._console, _finding(found, "Across all: "))
        if more := sum(1 for _ in across):
            say(self._console, f"Across all: {more:,} more of the kind; --json lists them.")
        if not are_counted:
            say(self._console, "The counters (PG) of so many receipts were not all compared.")
        if self._hidden:
            say(self._console, f"{self._hidden:,} accepted transactions are not shown; --all shows them.")
        if self._keys_from_document:
            say(
                self._console,
                "Checked with the key in the document: compare it with the meter's, or give it with --key.",
            )
        total = counts.total()
        words = ", ".join(f"{counts[word]:,} {said}" for word, said in _WORDS.items() if counts[word])
        say(self._console, Text(f"{total:,} transaction{'' if total == 1 else 's'}: {words}", style="bold"))


def _block(checked: Checked, *, show_all: bool) -> Iterator[Text]:
    verdict = checked.verdict
    where = ", ".join(checked.sources)
    if verdict is None:
        yield Text(f"Receipt at {shown(where)}", style="bold")
        yield _row("Verdict", Text.assemble(("NOT READABLE", "bold yellow"), f": {shown(checked.problem)}"))
        return
    names = " and ".join(shown(pagination or "without PG") for pagination in checked.paginations)
    title = f"Receipt {names} of meter {shown(checked.meter or 'without serial number')}"
    yield Text.assemble((title, "bold"), (f"   {shown(where)}" if where else "", "dim"))
    kind = f" ({shown(checked.identification_type)})" if checked.identification_type else ""
    yield _row("User", Text(shown(checked.identification or "none") + kind))
    times = _times_of(verdict)
    yield _row("Begin", Text(_end(times.begin, times.begin_wh) if times else "not in the receipt"))
    yield _row("End", Text(_end(times.end, times.end_wh) if times else "not in the receipt"))
    for energy in verdict.energies:
        yield _row("Energy", Text(_energy(energy)))
    yield _row("Verdict", verdict_text(verdict))
    for note in checked.notes:
        yield _row("Note", Text(note, style="yellow"))
    for found in verdict.findings:
        if show_all or not found.asks_for_nothing:
            yield _finding(found, "  Finding    ")


def _line(checked: Checked) -> Text:
    where = shown(", ".join(checked.sources))
    verdict = checked.verdict
    if verdict is None:
        return Text.assemble(f"{where}: ", ("NOT READABLE", "bold yellow"), f": {shown(checked.problem)}")
    times = _times_of(verdict)
    words = (
        shown(checked.meter),
        " ".join(shown(pagination) for pagination in checked.paginations),
        shown(checked.identification),
        _end(times.begin if times else None, None),
        _end(times.end if times else None, None),
        energy_summary(verdict.energies) or "?",
    )
    said = Text("VALID", style="bold green") if verdict.judgement is Judgement.ACCEPTED else verdict_text(verdict)
    return Text.assemble(f"{where}: ", "  ".join(words), "  ", said)


def _row(name: str, text: Text) -> Text:
    return Text.assemble((f"  {name:<9}", "dim"), "  ", text)


def _finding(found: Finding, before: str) -> Text:
    at = " ".join(
        word for word in ("" if found.reading is None else f"reading {found.reading + 1}", found.field) if word
    )
    return Text.assemble(
        (before, "dim"), (f"{found.severity.value:<7}", _STYLES[found.severity]), f" {found.code}",
        f" ({shown(at)})" if at else "", f": {found.text}",
    )  # fmt: skip


def _energy(energy: Energy) -> str:
    counted = "cannot be told" if energy.energy_wh is None else kwh(energy.energy_wh)
    beside = "" if energy.decides else ", beside the verdict"
    return f"{counted}  {energy.direction or 'register'} {shown(energy.register)}{beside}"


def _end(time: MeterTime | None, value_wh: Decimal | None) -> str:
    written = f"{time.instant:%Y-%m-%d %H:%M:%S %z}" if time else "?"
    return written if value_wh is None else f"{written}   register {kwh(value_wh)}"


def _times_of(verdict: Verdict) -> Energy | None:
    return verdict.deciding or (verdict.energies[0] if verdict.energies else None)


def _reason(verdict: Verdict) -> str:
    if verdict.judgement is Judgement.REFUSED:
        return f"not accepted by the transparency software: {', '.join(verdict.errors)}"
    return verdict.reason


def _is_accepted(checked: Checked) -> bool:
    return checked.word == Judgement.ACCEPTED.value and not checked.notes


def _instant(time: MeterTime | None) -> str | None:
    return None if time is None else rfc3339(time.instant)


def _exact(energy_wh: Decimal | None) -> str | None:
    return None if energy_wh is None else f"{energy_wh:f}"
