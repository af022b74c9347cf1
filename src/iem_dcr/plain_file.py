"""Reads the small files that settings name: passwords, tokens, certificates. Reading never hangs and is bounded."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

LARGEST_BYTES: Final = 4 * 1024 * 1024
"""A host's complete certificate bundle has about a quarter of one MiB."""


def read_plain(path: str) -> bytes:
    """Read a regular file, following links.

    Pipes and devices are refused: opening one may block for ever, reading it may never end, and a second reading does
    not return the same content.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is larger than `LARGEST_BYTES`.
        ValueError: the name is not valid for a file.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")
        content = file.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {LARGEST_BYTES // 1024 // 1024} MiB")
    return content


def _without_waiting(path: str, flags: int) -> int:
    """Open a file without blocking: a pipe would otherwise wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
