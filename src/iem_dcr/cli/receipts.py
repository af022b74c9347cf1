"""``iem-dcr receipts``: lists, shows, exports and erases the receipts of a journal, and changes its pinned meters."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

import click

from iem_dcr.cli.arguments import Address, AddressType, common
from iem_dcr.cli.exit_codes import EXIT_FAILURE
from iem_dcr.cli.export_file import write_exported
from iem_dcr.cli.output import Output, counted, kwh, say, tell
from iem_dcr.cli.receipt_view import print_receipt
from iem_dcr.config import PIN, is_signable
from iem_dcr.diagnostics.status import shown
from iem_dcr.errors import ReceiptError, printable, shortened
from iem_dcr.journal import count_to_forget, forget, open_for_reading, pin, pins
from iem_dcr.journal.schema import SIDE_FILES
from iem_dcr.journaling import existing
from iem_dcr.ocmf import parse
from iem_dcr.ocmf.export import Format, Item, export
from iem_dcr.ocmf.verdict import energy_summary_of_text, verdict_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iem_dcr.journal import Entry
    from iem_dcr.ocmf import Receipt

F = TypeVar("F", bound="Callable[..., object]")

_DATE_LENGTH = len("2026-03-01")
_NEW_FILE = click.Path(dir_okay=False)
_FORMAT = click.Choice([form.value for form in Format])


class Which(TypedDict):
    """Which entries: see `iem_dcr.journal.JournalReader.entries`."""

    begin: datetime | None
    end: datetime | None
    transaction_id: str | None
    meter: str | None


def _time(_ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """Read a time in this host's zone, or with an offset. A date as the end of a period includes that day."""
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
        if len(value) <= _DATE_LENGTH and param.name == "end":
            time += timedelta(days=1)
        return time.astimezone()
    except (ValueError, OverflowError, OSError) as error:
        expected = "expected 2026-03-01 or 2026-03-01T12:00+01:00"
        raise click.BadParameter(f"{printable(value, limit=40)!r}: {expected}", param=param) from error


def _journal_or_default(ctx: click.Context, param: click.Parameter, path: str | None) -> str | None:
    """Return the given journal. Without one, return the first existing journal of ``journal_path`` auto and name it."""
    if path is not None or ctx.resilient_parsing:
        return path
    found = existing()
    if found is None:
        raise click.MissingParameter("There is none in the default folders.", ctx=ctx, param=param)
    tell(f"Journal: {printable(found, limit=300)}")
    return str(found)


_journal = click.option(
    "--journal",
    "path",
    callback=_journal_or_default,
    type=click.Path(exists=True, dir_okay=False),
    metavar="F",
    help="The journal (setting journal_path); by default the first that exists in the folders of journal_path auto.",
)


def _selection(command: F) -> F:
    """Add the options that choose a journal and, as the keys of `Which`, receipts in it."""
    for option in (
        click.option("--meter", metavar="SERIAL", help="Only receipts of the meter with this serial number (MS)."),
        click.option("--transaction", "transaction_id", metavar="ID", help="Only receipts of this transaction."),
        click.option(
            "--to", "end", metavar="TIME", callback=_time, help="Only those that ended before, or on that day."
        ),
        click.option("--from", "begin", metavar="TIME", callback=_time, help="Only receipts that ended then or later."),
        _journal,
    ):
        command = option(command)
    return command


@click.group(name="receipts")
@common
def command() -> None:
    """List, show, export or erase the receipts that a driver keeps in its journal (setting journal_path)."""


@command.command(name="list", short_help="List receipts.")
@_selection
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object per receipt.")
@common
def list_command(path: str, as_json: bool, **which: Unpack[Which]) -> int:
    """List the receipts of a journal, oldest first: when, how much, and whether the signature was valid."""
    output = Output()
    console = output.console()
    for entry in _entries(path, which):
        if as_json:
            output.line(_entry_json(entry))
        else:
            say(console, _entry_line(entry))
    return output.status()


@command.command(name="show", short_help="Show receipts in full.")
@_selection
@common
def show_command(path: str, **which: Unpack[Which]) -> int:
    """Show receipts of a journal in full, and check their signatures again with the stored key."""
    output = Output()
    console = output.console()
    for entry in _entries(path, which):
        say(console, _entry_line(entry))
        try:
            receipt = _receipt(entry)
        except ReceiptError as error:
            say(console, f"  {error}")
        else:
            print_receipt(console, receipt, verdict_on([receipt], entry.public_key))
    return output.status()


@command.command(name="export", short_help="Export receipts.")
@_selection
@click.option(
    "--format",
    "form",
    type=_FORMAT,
    default="transparency",
    show_default=True,
    help="What to write: XML of the S.A.F.E. transparency software, tuples, CSV, or OCPP meter values.",
)
@click.option("-o", "--output", "file", type=_NEW_FILE, metavar="FILE", help="Write to this file.")
@click.option(
    "--reencode-signature",
    is_flag=True,
    help="Re-encode as DER the signatures that the transparency software cannot read.",
)
@common
def export_command(path: str, form: str, file: str | None, reencode_signature: bool, **which: Unpack[Which]) -> int:
    """Export receipts byte for byte as the meter signed them, with its key if the format has a place for it."""
    if file is not None and _is_of_journal(Path(file), Path(path)):
        raise click.BadParameter(f"{printable(file)} is the journal itself", param_hint="--output")
    items = []
    for entry in _entries(path, which):
        try:
            items.append(Item(_receipt(entry), entry.public_key, entry.transaction_id))
        except ReceiptError as error:
            tell(f"Note: entry {entry.id} ({shown(entry.pagination or 'without PG')}) is left out: {error}.")
    if not items:
        return EXIT_FAILURE
    return write_exported(export(items, Format(form), reencode_signature=reencode_signature), file)


@command.command(name="forget", short_help="Erase the receipts of a person or a transaction.")
@_journal
@click.option("--id", "person", default="", metavar="ID", help="Erase the receipts with this ID, exactly as signed.")
@click.option("--transaction", default="", metavar="ID", help="Erase the receipts of this transaction.")
@click.option("--yes", "is_confirmed", is_flag=True, help="Do not ask.")
@common
def forget_command(path: str, person: str, transaction: str, is_confirmed: bool) -> int:
    """Erase the receipts of a person or of a transaction.

    The tuple and all ids are erased; meter, times and energies stay. The signed tuple is the evidence of what was
    charged. The meter cannot supply it again.
    """
    if not person and not transaction:
        raise click.UsageError("give --id or --transaction")
    named = (("id", person), ("transaction", transaction))
    whose = " or ".join(f"{kind} {printable(text)!r}" for kind, text in named if text)
    receipts, notes = count_to_forget(path, identification=person, transaction_id=transaction)
    if receipts or notes:
        tell(f"To be erased from {printable(path)}: {_count_text(receipts, notes)} of {whose}.")
        if receipts:
            tell("A signed receipt is the evidence of what was charged. It cannot be restored.")
        if not is_confirmed and not _is_agreed():
            tell("Nothing was erased.")
            return EXIT_FAILURE
    # Even if there are none: the bytes that an earlier call erased may not be overwritten yet.
    erased = forget(path, identification=person, transaction_id=transaction)
    for kept_aside in erased.elsewhere:
        tell(f"Warning: {printable(kept_aside)} is a damaged journal, moved aside: the receipts may still be in it.")
    if not erased.is_overwritten:
        tell("Error: another program is reading the journal, so bytes are not overwritten yet. Run this again.")
    if not erased.receipts and not erased.notes:
        tell(f"No receipt and no note of {shortened(person or transaction)} was found.")
        return EXIT_FAILURE
    tell(f"{_count_text(erased.receipts, erased.notes)} erased.")
    return 0 if erased.is_overwritten else EXIT_FAILURE


def _is_agreed() -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError("this needs --yes, or a terminal for the confirmation")
    answer: str = click.prompt("Type 'erase' to continue", default="", show_default=False, err=True)
    return answer.strip() == "erase"


def _count_text(receipts: int, notes: int) -> str:
    return " and ".join(counted(count, noun) for count, noun in ((receipts, "receipt"), (notes, "note")) if count)


def _serial(ctx: click.Context, param: click.Parameter, serial: str) -> str:
    if not ctx.resilient_parsing and (not is_signable(serial) or serial == PIN):
        raise click.BadParameter("expected the serial number as the meter gives it (MS)", param=param)
    return serial


@command.command(name="pin", short_help="Accept another meter instead of a pinned one.")
@_journal
@click.argument("serial", metavar="SERIAL", callback=_serial)
@click.option(
    "--address",
    "addresses",
    type=AddressType(),
    multiple=True,
    help="Address of the meter, as in the driver's settings; repeatable; not needed if one meter is pinned.",
)
@common
def pin_command(path: str, serial: str, addresses: tuple[Address, ...]) -> int:
    """Accept the meter with this serial number at an address for which another one is pinned (meter_serial pin).

    A running driver applies this within ten seconds, any other when it starts.
    """
    pinned = pins(path)
    shown_pins = ", ".join(f"{printable(meter)} for {printable(address)}" for address, meter in pinned.items())
    if not pinned:
        raise click.ClickException(
            f"no meter is pinned in {printable(path, limit=300)}: a driver with meter_serial pin pins its meter in "
            "its journal when the meter answers. Is this the driver's journal (--journal)?"
        )
    if not addresses and len(pinned) > 1:
        raise click.UsageError(f"give --address; pinned are {shown_pins}")
    chosen = [str(address) for address in addresses] or [*pinned]
    for address in chosen:
        if address not in pinned:
            problem = f"no meter is pinned for {printable(address)}; pinned are {shown_pins}"
            raise click.BadParameter(problem, param_hint="--address")
    pin(path, serial, chosen)
    for address in chosen:
        before = "already" if pinned[address] == serial else f"instead of {printable(pinned[address])}"
        tell(f"{printable(address)}: {serial} is accepted {before}.")
    for address, meter in pinned.items():
        if meter == serial and address not in chosen:
            tell(f"Note: it is pinned for {printable(address)} as well.")
    return 0


def _entries(path: str, which: Which) -> Iterator[Entry]:
    """Yield entries of a journal.

    Raises:
        click.ClickException: there is none.
    """
    entry = None
    with open_for_reading(path) as reader:
        for entry in reader.entries(**which):
            yield entry
    if entry is None:
        raise click.ClickException(f"No matching receipt in {printable(path)}.")


def _receipt(entry: Entry) -> Receipt:
    """Return the receipt of an entry.

    Raises:
        ReceiptError: the entry has none.
    """
    if entry.erased is not None:
        raise ReceiptError(f"it was erased on {entry.erased:%Y-%m-%d}")
    if not entry.is_whole:
        raise ReceiptError("the journal is damaged there: the tuple is not the one that was stored")
    return parse(entry.text)


def _is_of_journal(file: Path, journal: Path) -> bool:
    """Whether a file is the journal, under any name, or one of its side files."""
    journal = journal.resolve()
    own = (journal, *(journal.with_name(journal.name + suffix) for suffix in SIDE_FILES))
    return file.resolve() in own or any(file.exists() and one.exists() and file.samefile(one) for one in own)


def _entry_line(entry: Entry) -> str:
    words = [
        shown(entry.meter),
        shown(entry.pagination or "without PG"),
        shown(entry.transaction_id) or "-",
        shown(entry.identification) or "-",
        f"{shown(entry.begin_text) or '?'} to {shown(entry.end_text) or '?'}",
        energy_summary_of_text(entry.text) or ("?" if entry.energy_wh is None else kwh(entry.energy_wh)),
        entry.outcome.value if entry.outcome else "not checked",
    ]
    if not entry.is_whole:
        words.append("DAMAGED" if entry.erased is None else "ERASED")
    errors = [str(found.get("code")) for found in entry.findings if found.get("severity") == "error"]
    if errors:
        words.append(shown("not accepted by the transparency software: " + ", ".join(dict.fromkeys(errors))))
    return "  ".join(words)


def _entry_json(entry: Entry) -> dict[str, object]:
    values = asdict(entry)
    for name in ("id", "text", "begin_text", "end_text"):
        del values[name]
    return {"entry": entry.id, **values, "outcome": entry.outcome or "not checked", "ocmf": entry.text}
