"""``iem-dcr receipts``: lists, shows, exports and erases the receipts of a journal, and changes its pinned meters."""

from __future__ import annotations

import io
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

import click

from iem_dcr.cli.arguments import DEFAULT_PORT, common
from iem_dcr.cli.atomic_write import write_atomically
from iem_dcr.cli.exit_codes import EXIT_FAILURE
from iem_dcr.cli.output import Output, kwh, say, tell
from iem_dcr.cli.receipt_view import print_receipt
from iem_dcr.config import PIN, is_signable
from iem_dcr.diagnostics.status import shown
from iem_dcr.errors import ReceiptError, printable, shortened
from iem_dcr.journal import count_to_forget, forget, open_for_reading, pin, pins
from iem_dcr.journal.schema import SIDE_FILES
from iem_dcr.journaling import existing
from iem_dcr.meter_time import rfc3339
from iem_dcr.ocmf import parse, verify
from iem_dcr.ocmf.export import Exported, Format, Item, export
from iem_dcr.ocmf.verdict import energy_summary_of_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from iem_dcr.journal import Entry, Erased
    from iem_dcr.ocmf import Receipt

F = TypeVar("F", bound="Callable[..., object]")

_DATE_LENGTH = len("2026-03-01")


class Which(TypedDict):
    """Which entries: see `iem_dcr.journal.JournalReader.entries`."""

    begin: datetime | None
    end: datetime | None
    transaction_id: str | None
    meter: str | None


class TimeType(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """``2026-03-01`` or ``2026-03-01T12:00[:00][+01:00]``. Without an offset the time is in this host's zone."""

    name = "TIME"

    def __init__(self, *, is_end: bool) -> None:
        self._is_end = is_end

    def convert(self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Convert a word to an instant. For the end of a period, a date alone means the end of that day."""
        if isinstance(value, datetime):
            return value
        try:
            time = datetime.fromisoformat(value)
            if len(value) <= _DATE_LENGTH and self._is_end:
                time += timedelta(days=1)
            return time.astimezone()
        except (ValueError, OverflowError, OSError):
            self.fail(f"{printable(value, limit=40)!r}: expected 2026-03-01 or 2026-03-01T12:00+01:00", param, ctx)


def _journal_or_default(ctx: click.Context, param: click.Parameter, path: str | None) -> str | None:
    """Return the given journal. Without one, return the first existing journal of ``journal_path`` auto and name it."""
    if path is not None or ctx.resilient_parsing:
        return path
    found = existing()
    if found is None:
        raise click.MissingParameter("there is none in the default folders", ctx=ctx, param=param)
    tell(f"Journal: {printable(found, limit=300)}")
    return str(found)


_journal = click.option(
    "--journal",
    "path",
    callback=_journal_or_default,
    type=click.Path(exists=True, dir_okay=False),
    metavar="F",
    help="The journal: the file that the setting journal_path names. By default the first existing journal "
    "in the folders of journal_path auto; its name is written to standard error.",
)


def _selection(command: F) -> F:
    """Add the options that choose receipts: the keys of `Which`."""
    for option in (
        click.option("--meter", metavar="SERIAL", help="Only receipts of the meter with this serial number (MS)."),
        click.option("--transaction", "transaction_id", metavar="ID", help="Only receipts of this transaction."),
        click.option(
            "--to", "end", type=TimeType(is_end=True), help="Only receipts that ended before; a date includes that day."
        ),
        click.option("--from", "begin", type=TimeType(is_end=False), help="Only receipts that ended then or later."),
    ):
        command = option(command)
    return command


@click.group(name="receipts")
@common
def command() -> None:
    """List, show, export or erase the receipts that a driver keeps in its journal (setting journal_path)."""


@command.command(name="list", short_help="List receipts.")
@_journal
@_selection
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object per receipt.")
@common
def list_command(path: str, as_json: bool, **which: Unpack[Which]) -> int:
    """List the receipts of a journal, oldest first: when, how much, and whether the signature was valid."""
    output = Output()
    console = output.console()
    count = 0
    with open_for_reading(path) as reader:
        for entry in reader.entries(**which):
            count += 1
            if as_json:
                output.line(_entry_json(entry))
            else:
                say(console, _entry_line(entry))
    return output.status() or _exit_status(path, count)


@command.command(name="show", short_help="Show receipts in full.")
@_journal
@_selection
@common
def show_command(path: str, **which: Unpack[Which]) -> int:
    """Show receipts of a journal in full, and check their signatures again with the stored key."""
    output = Output()
    console = output.console()
    count = 0
    with open_for_reading(path) as reader:
        for entry in reader.entries(**which):
            count += 1
            receipt = _receipt(entry)
            say(console, _entry_line(entry))
            if isinstance(receipt, str):
                say(console, f"  {receipt}")
            else:
                print_receipt(console, receipt, verify(receipt, entry.public_key))
    return output.status() or _exit_status(path, count)


@command.command(name="export", short_help="Export receipts.")
@_journal
@_selection
@click.option(
    "--format",
    "form",
    type=click.Choice([form.value for form in Format]),
    default=Format.TRANSPARENCY.value,
    show_default=True,
    help="What to write: XML of the S.A.F.E. transparency software, tuples, CSV, or OCPP meter values.",
)
@click.option("-o", "--output", "file", type=click.Path(dir_okay=False), metavar="FILE", help="Write to this file.")
@click.option(
    "--reencode-signature",
    is_flag=True,
    help="Re-encode signatures that the transparency software cannot read (raw r‖s) as DER.",
)
@common
def export_command(path: str, form: str, file: str | None, reencode_signature: bool, **which: Unpack[Which]) -> int:
    """Export receipts byte for byte as the meter signed them, with its key if the format has a place for it."""
    if file is not None and _is_of_journal(Path(file), Path(path)):
        raise click.BadParameter(f"{printable(file)} is the journal itself", param_hint="--output")
    items = []
    with open_for_reading(path) as reader:
        for entry in reader.entries(**which):
            receipt = _receipt(entry)
            if isinstance(receipt, str):
                tell(f"Note: entry {entry.id} ({shown(entry.pagination or 'without PG')}) is left out: {receipt}.")
            else:
                items.append(Item(receipt, entry.public_key, entry.transaction_id))
    if not items:
        return _exit_status(path, 0)
    exported = export(items, Format(form), reencode_signature=reencode_signature)
    for note in exported.notes:
        tell(f"Note: {note}.")
    return _write(exported, file)


@command.command(name="forget", short_help="Erase the receipts of a person or a transaction.")
@_journal
@click.option("--id", "identification", metavar="ID", help="Erase the receipts with this ID, exactly as it was signed.")
@click.option("--transaction", "transaction_id", metavar="ID", help="Erase the receipts of this transaction.")
@click.option("--yes", "is_confirmed", is_flag=True, help="Do not ask.")
@common
def forget_command(path: str, identification: str | None, transaction_id: str | None, is_confirmed: bool) -> int:
    """Erase the receipts of a person or of a transaction.

    The tuple and all ids are erased; meter, times and energies stay. The signed tuple is the evidence of what was
    charged. The meter cannot supply it again.
    """
    if not identification and not transaction_id:
        raise click.UsageError("give --id or --transaction")
    person, transaction = identification or "", transaction_id or ""
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
    return _show_erased(erased, shortened(person or transaction))


def _is_agreed() -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError("this needs --yes, or a terminal for the confirmation")
    answer: str = click.prompt("Type 'erase' to continue", default="", show_default=False, err=True)
    return answer.strip() == "erase"


def _show_erased(erased: Erased, whose: str) -> int:
    for kept_aside in erased.elsewhere:
        tell(f"Warning: {printable(kept_aside)} is a damaged journal, moved aside: the receipts may still be in it.")
    if not erased.is_overwritten:
        tell("Error: another program is reading the journal, so bytes are not overwritten yet. Run this again.")
    if not erased.entries and not erased.notes:
        tell(f"No receipt and no note of {whose} was found.")
        return EXIT_FAILURE
    tell(f"{_count_text(len(erased.entries), erased.notes)} erased.")
    return 0 if erased.is_overwritten else EXIT_FAILURE


def _count_text(receipts: int, notes: int) -> str:
    counts = (receipts, "receipt"), (notes, "note")
    return " and ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts if count)


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
    multiple=True,
    metavar="HOST[:PORT]",
    help="Address of the meter, as in the driver's settings. May be given more than once. Optional if the journal has "
    "one pinned meter.",
)
@common
def pin_command(path: str, serial: str, addresses: tuple[str, ...]) -> int:
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
    whole = {address.removesuffix(f":{DEFAULT_PORT}"): address for address in pinned}
    chosen = [whole.get(address, address) for address in addresses] or [*pinned]
    for address in chosen:
        if address not in pinned:
            raise click.BadParameter(
                f"no meter is pinned for {printable(address)}; pinned are {shown_pins}", param_hint="--address"
            )
    pin(path, serial, chosen)
    for address in chosen:
        before = "already" if pinned[address] == serial else f"instead of {printable(pinned[address])}"
        tell(f"{printable(address)}: {serial} is accepted {before}.")
    for address, meter in pinned.items():
        if meter == serial and address not in chosen:
            tell(f"Note: it is pinned for {printable(address)} as well.")
    return 0


def _receipt(entry: Entry) -> Receipt | str:
    """Return the receipt of an entry, or the reason why it has none."""
    if entry.erased is not None:
        return f"it was erased on {entry.erased:%Y-%m-%d}"
    if not entry.is_whole:
        return "the journal is damaged there: the tuple is not the one that was stored"
    try:
        return parse(entry.text)
    except ReceiptError as error:
        return f"it cannot be read: {error}"


def _is_of_journal(file: Path, journal: Path) -> bool:
    """Whether a file is the journal, under any name, or one of its side files."""
    journal = journal.resolve()
    own = (journal, *(journal.with_name(journal.name + suffix) for suffix in SIDE_FILES))
    return file.resolve() in own or any(file.exists() and one.exists() and file.samefile(one) for one in own)


def _write(exported: Exported, file: str | None) -> int:
    if file is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", newline="")  # in every locale: these are the meter's bytes
        output = Output()
        output.write(exported.text)
        output.flush()
        return output.status()
    try:
        write_atomically(Path(file), exported.text.encode())
    except OSError as error:
        raise click.ClickException(f"{printable(file)} cannot be written: {error.strerror or error}") from error
    tell(f"{exported.count} receipt{'' if exported.count == 1 else 's'} written to {printable(file)}.")
    return 0


def _exit_status(path: str, count: int) -> int:
    if count:
        return 0
    tell(f"No matching receipt in {printable(path)}.")
    return EXIT_FAILURE


def _entry_line(entry: Entry) -> str:
    begin = shown(entry.begin_text) or "?"
    end = shown(entry.end_text) or "?"
    words = [
        shown(entry.meter),
        shown(entry.pagination or "without PG"),
        shown(entry.transaction_id) or "-",
        shown(entry.identification) or "-",
        f"{begin} to {end}",
        energy_summary_of_text(entry.text) or ("?" if entry.energy_wh is None else kwh(entry.energy_wh)),
        entry.outcome.value if entry.outcome else "not checked",
    ]
    if entry.erased is not None:
        words.append("ERASED")
    elif not entry.is_whole:
        words.append("DAMAGED")
    errors = [str(found.get("code")) for found in entry.findings if found.get("severity") == "error"]
    if errors:
        words.append(shown("not accepted by the transparency software: " + ", ".join(dict.fromkeys(errors))))
    return "  ".join(words)


def _entry_json(entry: Entry) -> dict[str, object]:
    return {
        "entry": entry.id,
        "meter": entry.meter,
        "address": entry.address,
        "pagination": entry.pagination,
        "transaction_id": entry.transaction_id,
        "identification": entry.identification,
        "begin": entry.begin and rfc3339(entry.begin),
        "end": entry.end and rfc3339(entry.end),
        "begin_wh": _exact(entry.begin_wh),
        "end_wh": _exact(entry.end_wh),
        "energy_wh": _exact(entry.energy_wh),
        "outcome": entry.outcome.value if entry.outcome else "not checked",
        "accepted": entry.accepted,
        "findings": entry.findings,
        "found": entry.found,
        "kept": rfc3339(entry.kept),
        "erased": entry.erased and rfc3339(entry.erased),
        "is_whole": entry.is_whole,
        "public_key": entry.public_key,
        "ocmf": entry.text,
    }


def _exact(energy_wh: Decimal | None) -> str | None:
    return None if energy_wh is None else f"{energy_wh:f}"
