"""Reads the small files that settings name: passwords, tokens, certificates. Reading never hangs and is bounded."""

from __future__ import annotations

import os
import stat
from typing import Final

from iem_dcr.config import shown
from iem_dcr.errors import ConfigError, printable

LARGEST_BYTES: Final = 4 * 1024 * 1024
"""A host's complete certificate bundle has about a quarter of one MiB."""


def read_plain(name: str, path: str) -> bytes:
    """Read a regular file, following links.

    Pipes and devices are refused: opening one may block for ever, reading it may never end, and a second reading does
    not return the same content.

    Args:
        name: of the setting that names the file.
        path: of the file.

    Raises:
        ConfigError: the file cannot be read, is not a regular file, or is larger than `LARGEST_BYTES`.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                why = "it is a pipe or a device, not a file"
            elif len(content := file.read(LARGEST_BYTES + 1)) > LARGEST_BYTES:
                why = f"it is larger than {LARGEST_BYTES // 1024 // 1024} MiB"
            else:
                return content
    except (OSError, ValueError) as error:
        why = printable(getattr(error, "strerror", None) or error)
    raise ConfigError([f"{name} {shown(path)} cannot be read: {why}"])


def read_secret(name: str, path: str) -> str:
    """Read a file as UTF-8, as `read_plain` does.

    Raises:
        ConfigError: also if it is not UTF-8. The message does not show the content.
    """
    try:
        return read_plain(name, path).decode()
    except UnicodeDecodeError:
        raise ConfigError([f"{name} {shown(path)} cannot be read: not UTF-8"]) from None


def _without_waiting(path: str, flags: int) -> int:
    """Open a file without blocking: a pipe would otherwise wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
