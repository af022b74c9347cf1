"""``iem-dcr verify``: shows the user, times and energy of receipts, and whether they are genuine.

The exit status is about signatures. A receipt may have a valid signature although the transparency software would
refuse its content (a meter in error, an identification of an error level). Then the exit status is 0, and the output
says clearly that the receipt is not accepted.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from dataclasses import asdict
from functools import partial
from itertools import chain, islice
from typing import IO, TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import TextColumn
from rich.text import Text

from iem_dcr.cli.arguments import common
from iem_dcr.cli.checking import check, found_in
from iem_dcr.cli.exit_codes import EXIT_FAILURE, EXIT_USAGE
from iem_dcr.cli.export_file import write_exported
from iem_dcr.cli.output import Output, counted, json_text, progress_bar, say, tell
from iem_dcr.cli.receipt_view import UNREADABLE, finding_text, times_of, transaction_text
from iem_dcr.errors import ReceiptError, printable
from iem_dcr.ocmf import parse
from iem_dcr.ocmf.export import Format, Item, export
from iem_dcr.ocmf.import_formats import LARGEST, Found, begins_with_tuple, read_document, stream_records
from iem_dcr.ocmf.sets import Counters
from iem_dcr.ocmf.verdict import Judgement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iem_dcr.cli.checking import View
    from iem_dcr.cli.receipt_view import Transaction
    from iem_dcr.ocmf.import_formats import Record

FEW = 20
"""Up to this number all receipts are shown; above it, only those that are not accepted."""
FINDINGS_SHOWN = 20
"""Findings across all receipts that are shown to a person. For the others only their number is shown."""
FINDINGS_LISTED = 10_000
"""The same in JSON."""
VERDICTS = {
    Judgement.ACCEPTED.value: "valid",
    Judgement.REFUSED.value: "valid, but not accepted by the transparency software",
    Judgement.INVALID.value: "NOT VALID",
    Judgement.NOT_CHECKED.value: "not checked",
    UNREADABLE: "not readable",
}
"""What is said to a person, by the word that a program gets."""
_LONGEST_KEY = 10_000
_DER = b"\x30"
_FILE = click.Path(dir_okay=False)
_STATUS = """Exit status: 0 all signatures are valid, 1 a signature is not valid, 2 a receipt could not be checked or
read. If the signature is valid but the S.A.F.E. transparency software does not accept the content, the receipt is
shown as such. This does not change the exit status."""


@click.command(name="verify", epilog=_STATUS)
@click.argument("file", default="-", type=click.File("rb"), metavar="[FILE|-]")
@click.option("--key", metavar="KEY", help="The meter's public key; by default the one in the document.")
@click.option("--key-file", type=click.File("rb"), metavar="F", help="File with that key: as text, DER, PEM or JSON.")
@click.option(
    "--all", "show_all", is_flag=True, help="Also show findings that need no action, and the accepted of many receipts."
)
@click.option(
    "--export",
    "export_to",
    type=_FILE,
    metavar="F",
    help="Also write the receipts to this file, for the transparency software.",
)
@click.option(
    "--reencode-signature",
    is_flag=True,
    help="With --export, re-encode as DER the signatures that the transparency software cannot read.",
)
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N", help="Worker processes.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object per transaction, and a summary.")
@common
def command(
    *,
    file: IO[bytes],
    key: str | None,
    key_file: IO[bytes] | None,
    show_all: bool,
    export_to: str | None,
    reencode_signature: bool,
    jobs: int,
    as_json: bool,
) -> int:
    """Check receipts: user, times, energy, and the verdict on signature and content.

    FILE may be an OCMF tuple, a file of tuples, the transparency software's XML, JSON with signed meter values
    (EVerest, OCPP 1.6 and 2.x, OCPI, OICP) or a log of them, or CSV of "iem-dcr receipts export". Without FILE,
    standard input is read.
    """
    given_key = _key(key, key_file)
    if file is sys.stdin.buffer and sys.stdin.isatty():
        tell("Reading a receipt from standard input; end it with Ctrl-D.")
    name = "standard input" if file is sys.stdin.buffer else printable(file.name)
    output = Output()
    report = _Report(output, as_json=as_json)
    try:
        pieces = _pieces(file, name)
        if export_to is not None:
            pieces = iter(_exported(pieces, given_key, export_to, reencode=reencode_signature))
        report.check(pieces, given_key, jobs, show_all=show_all)
    except ReceiptError as error:
        report.problem = str(error)
        tell(f"Error: {name}: {error}")
    if report.counts or not report.problem:
        report.summarize()
    return output.status() or report.exit_status


def _json_line(transaction: Transaction) -> str:
    """Format a transaction as a line of JSON. Energies are exact texts in Wh."""
    receipts, verdict = transaction.receipts, transaction.verdict
    written = {"event": "transaction", "sources": transaction.sources, "verdict": transaction.word}
    if verdict is None:
        return json_text(written | {"reason": transaction.problem})
    times, kind, reason = times_of(verdict), receipts[0].payload.get("IT"), verdict.reason
    if verdict.judgement is Judgement.REFUSED:
        reason = f"not accepted by the transparency software: {', '.join(verdict.errors)}"
    return json_text(
        written
        | {
            "reason": reason,
            "meter": receipts[0].meter,
            "paginations": [receipt.pagination or "" for receipt in receipts],
            "identification": receipts[0].identification or "",
            "identification_type": kind if isinstance(kind, str) else "",
            "begin": times and times.begin,
            "end": times and times.end,
            "energy_wh": verdict.energy_wh,
            "signatures": [verification.outcome for verification in verdict.verifications],
            "key_from": transaction.key_from,
            "energies": [energy._asdict() for energy in verdict.energies],
            "findings": [asdict(found) for found in verdict.findings],
            "notes": transaction.notes,
        }
    )


def _unless_accepted(transaction: Transaction) -> Text | None:
    is_accepted = transaction.word == Judgement.ACCEPTED.value and not transaction.notes
    return None if is_accepted else transaction_text(transaction)


class _Report:
    """Shows receipts as they are checked: a few, or of many those that are not accepted.

    Attributes:
        counts: the number of transactions by verdict.
        problem: why the rest of the input cannot be read.
    """

    def __init__(self, output: Output, *, as_json: bool) -> None:
        self._output = output
        self._console = output.console()
        self._as_json = as_json
        self._counters = Counters()
        self._hidden = 0
        self._has_document_key = False
        self.counts: Counter[str] = Counter()
        self.problem = ""

    @property
    def exit_status(self) -> int:
        """1 if a signature is not valid, else 2 if a receipt could not be checked or read, else 0."""
        if self.counts[Judgement.INVALID.value]:
            return EXIT_FAILURE
        has_unknown = self.problem or self.counts[Judgement.NOT_CHECKED.value] or self.counts[UNREADABLE]
        return EXIT_USAGE if has_unknown else 0

    def check(self, pieces: Iterator[Found | Record], key: str, jobs: int, *, show_all: bool) -> None:
        """Check receipts and show them.

        Raises:
            ReceiptError: the rest of the input cannot be read.
        """
        first = list(islice(pieces, FEW + 1))
        are_many = len(first) > FEW
        view: View = partial(transaction_text, show_all=show_all)
        if self._as_json:
            view = _json_line
        elif are_many and not show_all:
            view = _unless_accepted
        bar = progress_bar(
            self._console if self._output.isatty() else Console(stderr=True),
            TextColumn("{task.completed:,} receipts"),
            is_shown=are_many and not (self._as_json and self._output.isatty()),
        )
        task = bar.add_task("", total=None)
        with bar:
            for batch in check(chain(first, pieces), key, self._counters, view, jobs=jobs):
                for checked in batch:
                    self.counts[checked.word] += 1
                    self._has_document_key |= checked.has_document_key
                    self._show(checked.view)
                self._output.flush()
                bar.update(task, completed=self.counts.total(), refresh=True)
                if self._output.error is not None:
                    return  # the reader has left

    def summarize(self) -> None:
        """Show the findings across all receipts, and the number of transactions by verdict."""
        findings = self._counters.findings()
        if self._as_json:
            summary = {
                "event": "summary",
                "transactions": self.counts.total(),
                "verdicts": {word: self.counts[word] for word in VERDICTS},
                "findings": [asdict(found) for found in islice(findings, FINDINGS_LISTED)],
                "more_findings": sum(1 for _ in findings),
                "problem": self.problem,
            }
            self._output.line(summary)
            return
        lines: list[str | Text] = [finding_text(found, "Across all: ") for found in islice(findings, FINDINGS_SHOWN)]
        if more := sum(1 for _ in findings):
            lines.append(f"Across all: {more:,} more findings; --json lists them.")
        if not self._counters.are_all_counted:
            lines.append("There are too many receipts to compare all their counters (PG).")
        if self._hidden:
            lines.append(f"{self._hidden:,} accepted transactions are not shown; --all shows them.")
        if self._has_document_key:
            lines.append("Checked with the key in the document: compare it with the meter's key, or use --key.")
        said = ", ".join(f"{self.counts[word]:,} {text}" for word, text in VERDICTS.items() if self.counts[word])
        for line in (*lines, Text(f"{counted(self.counts.total(), 'transaction')}: {said}", style="bold")):
            say(self._console, line)

    def _show(self, view: str | Text | None) -> None:
        if view is None:
            self._hidden += 1
        elif isinstance(view, Text):
            say(self._console, view)
        else:
            self._output.write(view + "\n")


def _pieces(file: IO[bytes], name: str) -> Iterator[Found | Record]:
    """Return the receipts of a file.

    Raises:
        ReceiptError: there is none.
    """
    head = file.peek(1000) if hasattr(file, "peek") else b""
    if begins_with_tuple(head[:1000]):
        return iter(stream_records(file))
    notes: list[str] = []
    found = read_document(file.read(LARGEST + 1), notes)
    for note in notes:
        tell(f"Note: {name}: {note}")
    return iter(found)


def _exported(pieces: Iterable[Found | Record], key: str, file: str, *, reencode: bool) -> list[Found]:
    """Write receipts as the transparency software's XML, and return them for the check."""
    found = [one for piece in pieces for one in found_in(piece)]
    items = []
    for one in found:
        with contextlib.suppress(ReceiptError):  # the check reports what cannot be read
            items.append(Item(parse(one.text), key or one.key))
    write_exported(export(items, Format.TRANSPARENCY, reencode_signature=reencode), file)
    return found


def _key(key: str | None, key_file: IO[bytes] | None) -> str:
    if key is not None and key_file is not None:
        raise click.UsageError("--key and --key-file exclude each other: give one of them")
    if key is not None and not key.strip():
        raise click.BadParameter("the key is empty", param_hint="--key")
    if key_file is None:
        return key or ""
    data = key_file.read(_LONGEST_KEY)
    text = data.hex() if data[:1] == _DER and not data.isascii() else data.decode("utf-8-sig", "replace").strip()
    if text.startswith("{"):
        text = _key_in_json(text)
    if not text:
        raise click.BadParameter(f"{printable(key_file.name)} holds no key", param_hint="--key-file")
    return text


def _key_in_json(text: str) -> str:
    """Return the key in an answer of GET /publickey or in a signed meter value, or ""."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text)
        for name in ("PK", "public_key", "publicKey"):
            if isinstance(value.get(name), str):
                return str(value[name])
    return ""
