"""Formats checked receipts for programs: a line of JSON for each transaction, and a summary."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING

from iem_dcr.cli.output import exact
from iem_dcr.cli.receipt_view import times_of
from iem_dcr.meter_time import rfc3339
from iem_dcr.ocmf.verdict import Judgement

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from iem_dcr.cli.receipt_view import Transaction
    from iem_dcr.meter_time import MeterTime
    from iem_dcr.ocmf.rules import Finding
    from iem_dcr.ocmf.verdict import Energy, Verdict

UNREADABLE = "unreadable"
"""The word for a receipt that could not be read, beside the judgements."""
VERDICTS = {
    Judgement.ACCEPTED.value: "valid",
    Judgement.REFUSED.value: "valid, but not accepted by the transparency software",
    Judgement.INVALID.value: "NOT VALID",
    Judgement.NOT_CHECKED.value: "not checked",
    UNREADABLE: "not readable",
}
"""What is said to a person, by the word that a program gets."""
FINDINGS_LISTED = 10_000
"""Findings across all receipts in the summary. For the others there is only their number."""


def verdict_word(transaction: Transaction) -> str:
    """Return the key of `VERDICTS`."""
    return UNREADABLE if transaction.verdict is None else transaction.verdict.judgement.value


def json_line(transaction: Transaction) -> str:
    """Format a transaction as a line of JSON. Energies are exact texts in Wh."""
    receipts, verdict = transaction.receipts, transaction.verdict
    written: dict[str, object] = {
        "event": "transaction",
        "sources": transaction.sources,
        "verdict": verdict_word(transaction),
        "reason": transaction.problem if verdict is None else _reason(verdict),
    }
    if verdict is not None:
        times, kind = times_of(verdict), receipts[0].payload.get("IT")
        written |= {
            "meter": receipts[0].meter,
            "paginations": [receipt.pagination or "" for receipt in receipts],
            "identification": receipts[0].identification or "",
            "identification_type": kind if isinstance(kind, str) else "",
            "begin": _instant(times and times.begin),
            "end": _instant(times and times.end),
            "energy_wh": exact(verdict.energy_wh),
            "signatures": [verification.outcome.value for verification in verdict.verifications],
            "key_from": transaction.key_from,
            "energies": [_energy_json(energy) for energy in verdict.energies],
            "findings": [_finding_json(found) for found in verdict.findings],
            "notes": transaction.notes,
        }
    return json.dumps(written, separators=(",", ":"))


def summary_json(counts: Counter[str], findings: Iterator[Finding], problem: str) -> dict[str, object]:
    """Return the number of transactions by verdict, and the findings across all receipts, as JSON types."""
    return {
        "event": "summary",
        "transactions": counts.total(),
        "verdicts": {word: counts[word] for word in VERDICTS},
        "findings": [_finding_json(found) for found in islice(findings, FINDINGS_LISTED)],
        "more_findings": sum(1 for _ in findings),
        "problem": problem,
    }


def _reason(verdict: Verdict) -> str:
    if verdict.judgement is Judgement.REFUSED:
        return f"not accepted by the transparency software: {', '.join(verdict.errors)}"
    return verdict.reason


def _energy_json(energy: Energy) -> dict[str, object]:
    energies = {name: exact(getattr(energy, name)) for name in ("begin_wh", "end_wh", "energy_wh")}
    return {"register": energy.register, "direction": energy.direction, **energies, "decides": energy.decides}


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
