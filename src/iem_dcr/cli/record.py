"""``iem-dcr record``: saves every answer of a meter in a folder, for tests and for remote support."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from iem_dcr.cli.arguments import Address, AddressType, common
from iem_dcr.cli.interruption import Interruption
from iem_dcr.cli.output import Output, say
from iem_dcr.diagnostics import recorder
from iem_dcr.diagnostics.redaction import redact
from iem_dcr.errors import NotUnderstoodError, RecordingError, printable

if TYPE_CHECKING:
    from iem_dcr.diagnostics.nodes import Recorded


@click.command(name="record")
@click.argument("address", type=AddressType(), metavar="HOST[:PORT]")
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    required=True,
    help="Folder to create; an existing one must be empty.",
)
@click.option("--raw", is_flag=True, help="Save everything unchanged, with ids, keys and personal data.")
@common
def command(address: Address, folder: Path, raw: bool) -> int:
    """Read every node of a meter once, and save body, status and headers of each answer in a folder.

    Without --raw, serial numbers, ids, keys and signatures are replaced by pseudonyms of the same shape, so the
    receipts in the folder do not verify. The README in the folder says what is in it. The command sends only GET
    requests, and during a transaction only those that cannot disturb it.
    """
    name = printable(folder, limit=300)
    try:
        recorder.check_folder(folder)
    except RecordingError as error:
        raise click.BadParameter(f"{name} {error}", param_hint="--output") from error
    recorded = asyncio.run(_record(address))
    if not any(one.answer is not None and recorder.is_json(one.answer) for one in recorded):
        what = "none of its answers is JSON, nothing was saved"
        raise NotUnderstoodError(str(address), "GET /metervalue, /gw, /publickey", "", what)
    addresses = {str(address)} if address.host.isalpha() else {address.host, str(address)}
    try:
        if not raw:
            recorded = redact(recorded, addresses)
        recorder.write_folder(folder, recorded, datetime.now(UTC), is_redacted=not raw)
    except RecordingError as error:
        raise click.ClickException(f"{name} {error}") from error
    output = Output()
    console = output.console()
    for one in recorded:
        said = one.problem if one.answer is None else f"status {one.answer.status}, {len(one.answer.body)} bytes"
        say(console, f"  {one.node.path:<32}  {said}")
    if raw:
        say(console, f"Saved in {name} unchanged: it contains ids, keys and personal data.")
    else:
        advice = "Its README.md says what is in it, and what to check before you send it."
        say(console, f"Saved in {name}, with pseudonyms. {advice}")
    return output.status()


async def _record(address: Address) -> tuple[Recorded, ...]:
    with Interruption() as interruption:
        return await interruption.break_off(recorder.record(address.host, address.port), "nothing was saved.")
