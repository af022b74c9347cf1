"""Formats checked receipts for people and for programs."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from rich.text import Text

from iem_dcr.cli.checking import UNREADABLE
from iem_dcr.cli.output import kwh, say
from iem_dcr.cli.receipt_view import verdict_text
from iem_dcr.diagnostics.status import shown
from iem_dcr.meter_time import rfc3339
from iem_dcr.ocmf.rules import Severity
from iem_dcr.ocmf.verdict import Judgement, energy_summary

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator
    from decimal import Decimal

    from rich.console import Console

    from iem_dcr.cli.checking import Checked
    from iem_dcr.meter_time import MeterTime
    from iem_dcr.ocmf.rules import Finding
    from iem_dcr.ocmf.verdict import Energy, Verdict

FINDINGS_SHOWN = 20
"""Findings across all receipts that are shown to a person. For the others only their number is shown."""
FINDINGS_LISTED = 10_000
"""The same in JSON."""
_STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "dim"}
_WORDS = {
    Judgement.ACCEPTED.value: "valid",
    Judgement.REFUSED.value: "valid, but not accepted by the transparency software",
    Judgement.INVALID.value: "NOT VALID",
    Judgement.NOT_CHECKED.value: "not checked",
    UNREADABLE: "not readable",
}


# --- what a worker process returns of a checked transaction ---


def unchanged(checked: Checked) -> Checked:
    """Return everything."""
    return checked


def as_json_line(checked: Checked) -> Checked:
    """Return a line of JSON instead of the verdict."""
    return replace(checked, verdict=None, line=json_line(checked))


def without_accepted(checked: Checked) -> Checked:
    """Drop the verdict of an accepted transaction."""
    return replace(checked, verdict=None) if checked.is_accepted else checked


# --- for people ---


def block(checked: Checked, *, show_all: bool) -> Iterator[Text]:
    """Format a transaction in full."""
    verdict, where = checked.verdict, shown(", ".join(checked.sources))
    if verdict is None:
        yield Text(f"Receipt at {where}", style="bold")
        yield _row("Verdict", Text.assemble(("NOT READABLE", "bold yellow"), f": {shown(checked.problem)}"))
        return
    names = " and ".join(shown(pagination or "without PG") for pagination in checked.paginations)
    title = f"Receipt {names} of meter {shown(checked.meter or 'without serial number')}"
    yield Text.assemble((title, "bold"), (f"   {where}" if where else "", "dim"))
    kind = f" ({shown(checked.identification_type)})" if checked.identification_type else ""
    yield _row("User", shown(checked.identification or "none") + kind)
    times = _times(verdict)
    yield _row("Begin", _time_text(times.begin, times.begin_wh) if times else "not in the receipt")
    yield _row("End", _time_text(times.end, times.end_wh) if times else "not in the receipt")
    for energy in verdict.energies:
        yield _row("Energy", _energy_text(energy))
    yield _row("Verdict", verdict_text(verdict))
    for note in checked.notes:
        yield _row("Note", Text(note, style="yellow"))
    for found in verdict.findings:
        if show_all or not found.asks_for_nothing:
            yield _finding_text(found, "  Finding    ")


def line(checked: Checked) -> Text:
    """Format a transaction in one line."""
    verdict, where = checked.verdict, shown(", ".join(checked.sources))
    if verdict is None:
        return Text.assemble(f"{where}: ", ("NOT READABLE", "bold yellow"), f": {shown(checked.problem)}")
    times = _times(verdict)
    words = (
        shown(checked.meter),
        " ".join(shown(pagination) for pagination in checked.paginations),
        shown(checked.identification),
        _time_text(times.begin if times else None),
        _time_text(times.end if times else None),
        energy_summary(verdict.energies) or "?",
    )
    is_plain = verdict.judgement is Judgement.ACCEPTED
    said = Text("VALID", style="bold green") if is_plain else verdict_text(verdict)
    return Text.assemble(f"{where}: ", "  ".join(words), "  ", said)


def print_findings(console: Console, findings: Iterator[Finding]) -> None:
    """Print the findings across all receipts."""
    for found in islice(findings, FINDINGS_SHOWN):
        say(console, _finding_text(found, "Across all: "))
    if more := sum(1 for _ in findings):
        say(console, f"Across all: {more:,} more findings; --json lists them.")


def counts_text(counts: Counter[str]) -> Text:
    """Format the number of transactions by verdict."""
    total = counts.total()
    words = ", ".join(f"{counts[word]:,} {said}" for word, said in _WORDS.items() if counts[word])
    return Text(f"{total:,} transaction{'' if total == 1 else 's'}: {words}", style="bold")


def _row(name: str, text: str | Text) -> Text:
    return Text.assemble((f"  {name:<9}", "dim"), "  ", text)


def _finding_text(found: Finding, before: str) -> Text:
    reading = "" if found.reading is None else f"reading {found.reading + 1}"
    at = " ".join(word for word in (reading, found.field) if word)
    severity = f"{found.severity.value:<7}", _STYLES[found.severity]
    return Text.assemble(
        (before, "dim"), severity, f" {found.code}", f" ({shown(at)})" if at else "", f": {found.text}"
    )


def _energy_text(energy: Energy) -> str:
    counted = "cannot be told" if energy.energy_wh is None else kwh(energy.energy_wh)
    beside = "" if energy.decides else ", not part of the verdict"
    return f"{counted}  {energy.direction or 'register'} {shown(energy.register)}{beside}"


def _time_text(time: MeterTime | None, value_wh: Decimal | None = None) -> str:
    written = f"{time.instant:%Y-%m-%d %H:%M:%S %z}" if time else "?"
    return written if value_wh is None else f"{written}   register {kwh(value_wh)}"


def _times(verdict: Verdict) -> Energy | None:
    return verdict.deciding or (verdict.energies[0] if verdict.energies else None)


# --- for programs ---


def json_line(checked: Checked) -> str:
    """Format a transaction as a line of JSON. Energies are exact texts in Wh."""
    verdict = checked.verdict
    written: dict[str, object] = {
        "event": "transaction",
        "sources": checked.sources,
        "verdict": checked.word,
        "reason": checked.problem if verdict is None else _reason(verdict),
    }
    if verdict is not None:
        times = _times(verdict)
        written |= {
            "meter": checked.meter,
            "paginations": checked.paginations,
            "identification": checked.identification,
            "identification_type": checked.identification_type,
            "begin": _instant(times.begin if times else None),
            "end": _instant(times.end if times else None),
            "energy_wh": _exact(verdict.energy_wh),
            "signatures": [verification.outcome.value for verification in verdict.verifications],
            "key_from": checked.key_from,
            "energies": [_energy_json(energy) for energy in verdict.energies],
            "findings": [_finding_json(found) for found in verdict.findings],
            "notes": checked.notes,
        }
    return json.dumps(written, separators=(",", ":"))


def summary_json(counts: Counter[str], findings: Iterable[Finding], problem: str) -> dict[str, object]:
    """Return the number of transactions by verdict, and the findings across all receipts, as JSON types."""
    findings = iter(findings)
    listed = [_finding_json(found) for found in islice(findings, FINDINGS_LISTED)]
    return {
        "event": "summary",
        "transactions": counts.total(),
        "verdicts": {word: counts[word] for word in _WORDS},
        "findings": listed,
        "more_findings": sum(1 for _ in findings),
        "problem": problem,
    }


def _reason(verdict: Verdict) -> str:
    if verdict.judgement is Judgement.REFUSED:
        return f"not accepted by the transparency software: {', '.join(verdict.errors)}"
    return verdict.reason


def _energy_json(energy: Energy) -> dict[str, object]:
    return {
        "register": energy.register,
        "direction": energy.direction,
        "begin_wh": _exact(energy.begin_wh),
        "end_wh": _exact(energy.end_wh),
        "energy_wh": _exact(energy.energy_wh),
        "decides": energy.decides,
    }


def _finding_json(found: Finding) -> dict[str, object]:
    return {
        "code": found.code,
        "severity": found.severity.value,
        "receipt": found.receipt,
        "reading": found.reading,
        "field": found.field,
        "text": found.text,
    }


def _instant(time: MeterTime | None) -> str | None:
    return None if time is None else rfc3339(time.instant)


def _exact(energy_wh: Decimal | None) -> str | None:
    return None if energy_wh is None else f"{energy_wh:f}"
