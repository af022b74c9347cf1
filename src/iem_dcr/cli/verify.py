"""``iem-dcr verify``: whose receipts, when, how much, and whether they are genuine.

The exit status is about signatures: a receipt that the transparency software would refuse for what it says (a meter
in error, an identification of an error level) but whose signature is valid is exit 0, and said loudly.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

import click

from iem_dcr.cli.arguments import common
from iem_dcr.cli.atomic_write import write_atomically
from iem_dcr.cli.checked import Shown, condensed, json_line, status_of, summary
from iem_dcr.cli.output import Output, tell
from iem_dcr.cli.verifying import MANY, Checking
from iem_dcr.errors import ReceiptError, printable
from iem_dcr.ocmf import parse
from iem_dcr.ocmf.export import Format, Item, export
from iem_dcr.ocmf.import_formats import LARGEST, Found, begins_with_tuple, read_document, stream_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iem_dcr.ocmf.import_formats import Record

HowFar: TypeAlias = "tuple[int | None, Callable[[], int] | None]"
"""How much there is of a stream, and what says how much of that was taken."""

EXIT_UNREADABLE = 2
_LONGEST_KEY = 10_000
_DER = b"\x30"


@click.command(
    name="verify",
    short_help="Check receipts.",
    epilog=(
        "Exit status: 0 all signatures are valid, 1 any is not valid, 2 any receipt could not be checked or read. "
        "A receipt with a valid signature that the S.A.F.E. transparency software does not accept for what it says is "
        "shown as such, and does not change the exit status."
    ),
)
@click.argument("file", default="-", type=click.Path(dir_okay=False, allow_dash=True), metavar="[FILE|-]")
@click.option("--key", "key", metavar="KEY", help="The meter's public key; by default the one in the document.")
@click.option(
    "--key-file", type=click.Path(dir_okay=False), metavar="F", help="File with that key: as text, DER, PEM or JSON."
)
@click.option(
    "--all",
    "show_all",
    is_flag=True,
    help=f"Show findings that ask for nothing, and of more than {MANY:,} receipts the accepted ones too.",
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
    help="With --export, write signatures that the transparency software cannot read anew as DER.",
)
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N", help="Check in so many processes."
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object per transaction, and a summary.")
@common
def command(
    *,
    file: str,
    key: str | None,
    key_file: str | None,
    show_all: bool,
    export_to: str | None,
    reencode_signature: bool,
    jobs: int,
    as_json: bool,
) -> int:
    """Check receipts: who, when, how much, and the verdict on signature and content.

    FILE may be an OCMF tuple, a file of tuples, the transparency software's XML, JSON with signed meter values
    (EVerest, OCPP 1.6 and 2.x, OCPI, OICP) or a log of them, or CSV of "iem-dcr receipts export". Standard input is
    read without one.
    """
    used = _key(key, key_file)
    output = Output()
    counts: Counter[str] = Counter()
    problem = ""
    try:
        with _opened(file) as stream:
            pieces, how_far = _pieces(stream, file)
            if export_to is not None:
                pieces = iter(_exported(pieces, used, export_to, reencode=reencode_signature))
            checking = Checking(pieces, used, jobs, partial(condensed, as_json=as_json, show_all=show_all))
            problem = _verify(output, checking, how_far, counts, show_all=show_all, as_json=as_json)
    except OSError as error:
        problem = f"it cannot be read: {error.strerror or error}"
    except ReceiptError as error:
        problem = str(error)
    if problem:
        problem = f"{'standard input' if file == '-' else printable(file)}: {problem}"
        tell(f"Error: {problem}")
    status = status_of(counts)
    return output.status() or status or (EXIT_UNREADABLE if problem else 0)


def _verify(
    output: Output, checking: Checking, how_far: HowFar, counts: Counter[str], *, show_all: bool, as_json: bool
) -> str:
    """Check receipts, write what became of them, and count it; return why not all could be read, or ""."""
    problem = ""
    shown = Shown(output.console(), show_all=show_all)
    try:
        with _Progress(how_far) as progress:
            for batch in checking.results():
                if output.error is not None:
                    break  # nobody reads on
                counts.update(checked.word for checked in batch)
                with progress.moved(checking, len(batch)):
                    if as_json:
                        for checked in batch:
                            output.write((checked.line or json_line(checked)) + "\n")
                    else:
                        shown.take(batch, are_many=checking.are_many)
                    output.flush()
    except ReceiptError as error:
        problem = str(error)
        if not counts:
            return problem
    if as_json:
        output.line(summary(counts, checking.findings(), problem))
    else:
        shown.end(counts, checking.findings(), are_counted=checking.counters.are_all_counted)
        output.flush()
    return problem


def _pieces(stream: IO[bytes], file: str) -> tuple[Iterator[Found | Record], HowFar]:
    """Return the receipts of a stream, how much there is of it, and what says how much of that was taken.

    Raises:
        ReceiptError: there is none.
    """
    buffered = stream
    head = buffered.peek(1000) if hasattr(buffered, "peek") else b""
    if begins_with_tuple(head[:1000]):
        size = Path(stream.name).stat().st_size if isinstance(stream.name, str) and stream.seekable() else None
        return iter(stream_records(stream)), (size, stream.tell if size else None)
    notes: list[str] = []
    found = read_document(stream.read(LARGEST + 1), notes)
    for note in notes:
        tell(f"Note: {'standard input' if file == '-' else printable(file)}: {note}")
    return iter(found), (len(found), None)


def _exported(pieces: Iterator[Found | Record], key: str, file: str, *, reencode: bool) -> list[Found]:
    """Write receipts as the transparency software's XML; return them, to be checked."""
    found: list[Found] = []
    for piece in pieces:
        if isinstance(piece, Found):
            found.append(piece)
        else:
            found += [Found(text, source=f"line {line}") for text, line in piece.tuples()]
    items = []
    for one in found:
        with contextlib.suppress(ReceiptError):  # what cannot be read is told by the check
            items.append(Item(parse(one.text), key or one.key))
    exported = export(items, Format.TRANSPARENCY, reencode_signature=reencode)
    write_atomically(Path(file), exported.text.encode())
    for note in exported.notes:
        tell(f"Note: {note}.")
    tell(f"{exported.count} receipt{'' if exported.count == 1 else 's'} written to {printable(file)}.")
    return found


@contextlib.contextmanager
def _opened(file: str) -> Iterator[IO[bytes]]:
    if file != "-":
        with Path(file).open("rb") as stream:
            yield stream
        return
    if sys.stdin.isatty():
        tell("Reading a receipt from standard input; end it with Ctrl-D.")
    yield sys.stdin.buffer


class _Progress:
    """A bar on standard error, if that is a terminal and there are many."""

    def __init__(self, how_far: HowFar) -> None:
        self._total, self._taken = how_far
        self._stack = contextlib.ExitStack()
        self._count = 0
        self._bar: _Bar | None = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.hide()

    @contextlib.contextmanager
    def moved(self, checking: Checking, count: int) -> Iterator[None]:
        """Move on by some receipts; while the context is entered, the bar leaves the terminal to others."""
        self._count += count
        if self._bar is None and checking.are_many and sys.stderr.isatty():
            self._bar = _Bar(self._total)
        if self._bar is None:
            yield
            return
        self._bar.hide()
        yield
        self._bar.show(self._taken() if self._taken else self._count, self._count)


class _Bar:
    def __init__(self, total: int | None) -> None:
        from rich.console import Console  # noqa: PLC0415  only a terminal needs it
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

        self._progress = Progress(
            TextColumn("{task.fields[count]:,} receipts"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=total, count=0)

    def show(self, taken: int, count: int) -> None:
        self._progress.update(self._task, completed=taken, count=count)
        self._progress.start()

    def hide(self) -> None:
        self._progress.stop()


def _key(key: str | None, key_file: str | None) -> str:
    if key is not None and key_file is not None:
        raise click.UsageError("--key and --key-file name the same thing: give one of them")
    if key_file is None:
        if key is not None and not key.strip():
            raise click.BadParameter("the key is empty", param_hint="--key")
        return key or ""
    try:
        with Path(key_file).open("rb") as file:
            data = file.read(_LONGEST_KEY)
    except OSError as error:
        raise click.BadParameter(
            f"{printable(key_file)}: {error.strerror or error}", param_hint="--key-file"
        ) from error
    text = data.hex() if data[:1] == _DER and not data.isascii() else data.decode("utf-8-sig", "replace").strip()
    if text.startswith("{"):
        text = _key_in_json(text)
    if not text:
        raise click.BadParameter(f"{printable(key_file)} holds no key", param_hint="--key-file")
    return text


def _key_in_json(text: str) -> str:
    """Take the key out of the answer of GET /publickey, or of a signed meter value."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text)
        for name in ("PK", "public_key", "publicKey"):
            if isinstance(value.get(name), str):
                return str(value[name])
    return ""
