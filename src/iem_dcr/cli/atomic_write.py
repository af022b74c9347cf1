"""Writes a file completely or not at all.

``click.open_file(atomic=True)`` does not do this: on a full disk it replaces the file with the part that fitted, and
it replaces a device with a file.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_atomically(file: Path, data: bytes) -> None:
    """Write a temporary file beside the target, and rename it to the target. A link is followed to its file.

    A device or a pipe is written directly.

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
