"""``iem-dcr verify``: shows the user, times and energy of receipts, and whether they are genuine.

The exit status is about signatures. A receipt may have a valid signature although the transparency software would
refuse its content (a meter in error, an identification of an error level). Then the exit status is 0, and the output
says clearly that the receipt is not accepted.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import Counter
from itertools import chain, islice
from operator import length_hint
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from iem_dcr.cli.arguments import common
from iem_dcr.cli.atomic_write import write_atomically
from iem_dcr.cli.checking import UNREADABLE, check
from iem_dcr.cli.exit_codes import EXIT_FAILURE, EXIT_USAGE
from iem_dcr.cli.output import Output, say, tell
from iem_dcr.cli.verify_view import (
    as_json_line,
    block,
    counts_text,
    line,
    print_findings,
    summary_json,
    unchanged,
    without_accepted,
)
from iem_dcr.errors import ReceiptError, printable
from iem_dcr.ocmf import parse
from iem_dcr.ocmf.export import Format, Item, export
from iem_dcr.ocmf.import_formats import LARGEST, Found, begins_with_tuple, read_document, stream_records
from iem_dcr.ocmf.sets import Counters
from iem_dcr.ocmf.verdict import Judgement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from iem_dcr.cli.checking import Checked
    from iem_dcr.ocmf.import_formats import Record

FEW = 20
"""Up to this number, receipts are shown in full; above it, in a line each."""
MANY = 2_000
"""Above this number, only receipts that are not accepted are shown."""
_LONGEST_KEY = 10_000
_DER = b"\x30"


@click.command(
    name="verify",
    epilog=(
        "Exit status: 0 all signatures are valid, 1 a signature is not valid, 2 a receipt could not be checked or "
        "read. If the signature is valid but the S.A.F.E. transparency software does not accept the content, the "
        "receipt is shown as such. This does not change the exit status."
    ),
)
@click.argument("file", default="-", type=click.File("rb"), metavar="[FILE|-]")
@click.option("--key", metavar="KEY", help="The meter's public key; by default the one in the document.")
@click.option("--key-file", type=click.File("rb"), metavar="F", help="File with that key: as text, DER, PEM or JSON.")
@click.option(
    "--all",
    "show_all",
    is_flag=True,
    help=f"Also show findings that need no action, and accepted receipts if there are more than {MANY:,}.",
)
@click.option(
    "--export",
    "export_to",
    type=click.Path(dir_okay=False),
    metavar="F",
    help="Write the receipts to a file that the transparency software opens.",
)
@click.option(
    "--reencode-signature",
    is_flag=True,
    help="With --export, re-encode signatures that the transparency software cannot read as DER.",
)
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N", help="Number of worker processes."
)
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
    checks = _Checks(output, as_json=as_json, show_all=show_all)
    try:
        pieces = _pieces(file, name)
        if export_to is not None:
            pieces = iter(_exported(pieces, given_key, export_to, reencode=reencode_signature))
        checks.run(file, pieces, given_key, jobs)
    except ReceiptError as error:
        checks.problem = str(error)
        tell(f"Error: {name}: {error}")
    if checks.counts or not checks.problem:
        checks.summarize()
    return output.status() or checks.exit_status


class _Checks:
    """Checks and shows receipts as they come: a few in full, more in a line each, of many only the not accepted."""

    def __init__(self, output: Output, *, as_json: bool, show_all: bool) -> None:
        self._output = output
        self._console = output.console()
        self._as_json = as_json
        self._show_all = show_all
        self._counters = Counters()
        self._hidden = 0
        self._has_key_from_document = False
        self.counts: Counter[str] = Counter()
        self.problem = ""

    @property
    def exit_status(self) -> int:
        """1 if a signature is not valid, else 2 if a receipt could not be checked or read, else 0."""
        if self.counts[Judgement.INVALID.value]:
            return EXIT_FAILURE
        has_unknown = self.problem or self.counts[Judgement.NOT_CHECKED.value] or self.counts[UNREADABLE]
        return EXIT_USAGE if has_unknown else 0

    def run(self, file: IO[bytes], pieces: Iterator[Found | Record], key: str, jobs: int) -> None:
        """Check receipts.

        Raises:
            ReceiptError: the rest of the input cannot be read.
        """
        in_document = length_hint(pieces)  # 0 for a file of tuples, which is read while it is checked
        first = list(islice(pieces, MANY + 1))
        are_many = len(first) > MANY
        finish: Callable[[Checked], Checked] = unchanged
        if self._as_json:
            finish = as_json_line
        elif are_many and not self._show_all:
            finish = without_accepted
        is_shown = are_many and not (self._as_json and self._output.isatty())
        size = os.fstat(file.fileno()).st_size if file.seekable() else None
        with _progress(self._console, total=in_document or size, is_shown=is_shown) as bar:
            for batch in check(chain(first, pieces), key, self._counters, jobs=jobs, finish=finish):
                for checked in batch:
                    self.counts[checked.word] += 1
                    self._show(checked, is_few=len(first) <= FEW)
                self._output.flush()
                count = self.counts.total()
                bar(count if in_document or size is None else file.tell(), count)
                if self._output.error is not None:
                    return  # the reader has left

    def _show(self, checked: Checked, *, is_few: bool) -> None:
        self._has_key_from_document |= checked.key_from == "document"
        if checked.line:
            self._output.write(checked.line + "\n")
        elif checked.is_accepted and checked.verdict is None:
            self._hidden += 1
        elif is_few:
            for text in block(checked, show_all=self._show_all):
                say(self._console, text)
            say(self._console, "")
        else:
            say(self._console, line(checked))

    def summarize(self) -> None:
        """Show the findings across all receipts, and the number of transactions by verdict."""
        if self._as_json:
            self._output.line(summary_json(self.counts, self._counters.findings(), self.problem))
            return
        print_findings(self._console, iter(self._counters.findings()))
        if not self._counters.are_all_counted:
            say(self._console, "There are too many receipts to compare all their counters (PG).")
        if self._hidden:
            say(self._console, f"{self._hidden:,} accepted transactions are not shown; --all shows them.")
        if self._has_key_from_document:
            advice = "compare it with the meter's key, or give that with --key"
            say(self._console, f"Checked with the key in the document: {advice}.")
        say(self._console, counts_text(self.counts))


@contextlib.contextmanager
def _progress(output: Console, *, total: int | None, is_shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on the terminal. Yields a function that takes the progress and the number of receipts."""
    console = output if output.is_terminal else Console(stderr=True)
    progress = Progress(
        TextColumn("{task.fields[count]:,} receipts"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        expand=True,
        disable=not (is_shown and console.is_terminal),
        redirect_stdout=False,
        redirect_stderr=False,
    )
    task = progress.add_task("", total=total, count=0)
    with progress:
        yield lambda completed, count: progress.update(task, completed=completed, count=count)


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
    found: list[Found] = []
    for piece in pieces:
        if isinstance(piece, Found):
            found.append(piece)
        else:
            found += [Found(text, source=f"line {number}") for text, number in piece.tuples()]
    items = []
    for one in found:
        with contextlib.suppress(ReceiptError):  # the check reports what cannot be read
            items.append(Item(parse(one.text), key or one.key))
    exported = export(items, Format.TRANSPARENCY, reencode_signature=reencode)
    try:
        write_atomically(Path(file), exported.text.encode())
    except OSError as error:
        raise click.ClickException(f"{printable(file)} cannot be written: {error.strerror or error}") from error
    for note in exported.notes:
        tell(f"Note: {note}.")
    tell(f"{exported.count} receipt{'' if exported.count == 1 else 's'} written to {printable(file)}.")
    return found


def _key(key: str | None, key_file: IO[bytes] | None) -> str:
    if key is not None and key_file is not None:
        raise click.UsageError("--key and --key-file exclude each other: give one of them")
    if key_file is None:
        if key is not None and not key.strip():
            raise click.BadParameter("the key is empty", param_hint="--key")
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
