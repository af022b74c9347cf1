"""Writes exported receipts to standard output or to a file, completely or not at all."""

from __future__ import annotations

import io
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from iem_dcr.cli.output import Output, counted, tell
from iem_dcr.errors import printable

if TYPE_CHECKING:
    from iem_dcr.ocmf.export import Exported


def write_exported(exported: Exported, file: str | None) -> int:
    """Write exported receipts to a file or, if it is None, to standard output. Returns the exit status.

    Raises:
        click.ClickException: they cannot be written.
    """
    for note in exported.notes:
        tell(f"Note: {note}.")
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
    tell(f"{counted(exported.count, 'receipt')} written to {printable(file)}.")
    return 0


def write_atomically(file: Path, data: bytes) -> None:
    """Write a temporary file beside the target, and rename it to the target. A link is followed to its file.

    A device or a pipe is written directly. ``click.open_file(atomic=True)`` does not do this: on a full disk it
    replaces the file with the part that fitted.

    Raises:
        OSError: the file cannot be written. An existing file is unchanged.
    """
    if file.exists() and not file.is_file():
        file.write_bytes(data)
        return
    place = file.resolve()
    made = place.with_name(f".iem-dcr-{secrets.token_hex(8)}")
    try:
        with made.open("xb") as stream:
            if place.exists():
                os.fchmod(stream.fileno(), place.stat().st_mode & 0o777)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        made.replace(place)
    except BaseException:
        made.unlink(missing_ok=True)
        raise
