"""Reading the small files that settings name: passwords, tokens, certificates. None of them can hang or be endless."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

LARGEST_BYTES: Final = 4 * 1024 * 1024
"""A host's whole bundle of certificates is a quarter of one MiB."""


def read_plain(path: str) -> bytes:
    """Read a file, through links.

    A pipe or a device is none: opening it may wait for ever, reading it may never end, and what it gives is gone at the
    second reading.

    Raises:
        OSError: it cannot be read, is no file, or is larger than `LARGEST_BYTES`.
        ValueError: no file can have that name.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")
        content = file.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {LARGEST_BYTES // 1024 // 1024} MiB")
    return content


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; of a pipe that would else wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
