"""Writing a file so that it is there whole or, where that fails, as it was before."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(file: Path, data: bytes) -> None:
    """Write a file under another name beside its place, and rename it; through a link, the file it leads to.

    A device or a pipe is written as it is.

    Raises:
        OSError: it cannot be written; what was there still is.
    """
    if file.exists() and not file.is_file():
        file.write_bytes(data)
        return
    place = file.resolve()
    number, name = tempfile.mkstemp(prefix=".iem-dcr-", dir=place.parent)
    made = Path(name)
    try:
        with os.fdopen(number, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        made.chmod(_mode(place))
        made.replace(place)
    except BaseException:
        made.unlink(missing_ok=True)
        raise


def _mode(place: Path) -> int:
    """Return the permissions of the file there, or those of a new one."""
    if place.exists():
        return place.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
