"""``iem-dcr record``: every answer of a meter in a folder, for tests and for whoever helps from afar."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from iem_dcr.bringup import folder as folders
from iem_dcr.bringup import recorder
from iem_dcr.cli.arguments import Address, AddressType, common
from iem_dcr.cli.interruption import Interruption
from iem_dcr.cli.output import Output
from iem_dcr.device import messages
from iem_dcr.errors import NotUnderstoodError, RecordingError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iem_dcr.bringup.recorder import Recorded


@click.command(name="record", short_help="Keep every answer of a meter in a folder.")
@click.argument("address", type=AddressType(), metavar="HOST[:PORT]")
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    required=True,
    help="Folder that is made; one that is there has to be empty.",
)
@click.option("--raw", is_flag=True, help="Keep everything as it is, with ids, keys and personal data.")
@common
def command(address: Address, folder: Path, raw: bool) -> int:
    """Ask every node of a meter once, and keep body, status and headers of each answer in a folder.

    Serial numbers, ids, keys and receipts are pseudonyms of the same shape unless --raw is given; the README in the
    folder says what is in it. Nothing is sent to the meter but GETs, and while a transaction runs only those that
    cannot be in its way.
    """
    try:
        folders.check(folder)
    except RecordingError as error:
        raise click.UsageError(_refused(folder, error), click.get_current_context(silent=True)) from error
    recorded = asyncio.run(_record(address))
    if not any(one.answer is not None and _is_json(one) for one in recorded):
        what = "none of its answers is JSON, nothing was kept"
        raise NotUnderstoodError(str(address), "GET /metervalue, /gw, /publickey", "", what)
    receipts = None
    written = {address.host, str(address)} if any(not part.isalpha() for part in address.host) else {str(address)}
    try:
        if not raw:
            recorded, receipts = folders.disguised(recorded, written)
        folders.write(folder, recorded, datetime.now(UTC), receipts)
    except RecordingError as error:
        raise click.ClickException(_refused(folder, error)) from error
    output = Output()
    for line in _lines(folder, recorded, raw=raw):
        output.write(line + "\n")
    output.flush()
    return output.status()


async def _record(address: Address) -> tuple[Recorded, ...]:
    with Interruption() as interruption:
        return await interruption.break_off(recorder.record(address.host, address.port), "nothing was kept.")


def _lines(folder: Path, recorded: tuple[Recorded, ...], *, raw: bool) -> Iterator[str]:
    for one in recorded:
        said = one.problem if one.answer is None else f"status {one.answer.status}, {len(one.answer.body)} bytes"
        yield f"  {one.node.path:<32}  {said}"
    shown = printable(folder, limit=300)
    if raw:
        yield f"Kept in {shown} as it is: ids, keys and personal data are in it."
    else:
        yield f"Kept in {shown}, with pseudonyms. Its README.md says what is in it, and how to check before it is sent."


def _is_json(one: Recorded) -> bool:
    try:
        return isinstance(messages.decode(one.answer.body if one.answer else b""), dict)
    except messages.ShapeError:
        return False


def _refused(folder: Path, error: Exception) -> str:
    return f"{printable(folder, limit=300)} {error}"
