"""Writes a file whole or not at all.

``click.open_file(atomic=True)`` does not: on a full disk it replaces the file by the part that fitted, and where a
device was given it puts a file in its place.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_atomically(file: Path, data: bytes) -> None:
    """Write a file under another name beside its place, and rename it; through a link, the file it leads to.

    A device or a pipe is written as it is.

    Raises:
        OSError: it cannot be written; what was there still is.
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
