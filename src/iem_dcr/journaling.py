"""Which journal a meter's settings ask for, and where it is. Without one nothing of it is imported, SQLite least.

``auto`` is resolved by the EVerest module and ``iem-dcr run`` alone; for all others it means none. It is the file
`FILE` in the first folder of these that this user can use:

1. ``$STATE_DIRECTORY``, the first path of it: systemd makes it for a service with ``StateDirectory=``;
2. ``/var/lib/iem-dcr``, where it exists: so does whoever installs for a host;
3. ``$XDG_STATE_HOME/iem-dcr``, or ``~/.local/state/iem-dcr``, which is made.

Only a folder that is missing or forbidden has the next one tried. A file that is full, locked, slow or damaged stays
the journal, and is tried again: another file would know nothing of what runs.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iem_dcr.config import Settings
    from iem_dcr.journal import Journal

_log = logging.getLogger(__name__)

AUTO: Final = "auto"
OFF: Final = ("", "off")
FILE: Final = "receipts.db"
SYSTEM_FOLDER: Final = Path("/var/lib/iem-dcr")
FOLDER_MODE: Final = 0o700


def place(setting: str) -> Path | None:
    """Return the file of the journal that ``journal_path`` asks for; None for no journal.

    Makes the folder in the user's home where no other can be used. Where none can be, one warning says so.
    """
    if setting != AUTO:
        return None if setting in OFF else Path(setting)
    for folder, is_made in _folders():
        try:
            if is_made:
                folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        except OSError:
            continue
        if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):  # noqa: PTH112  Path.is_dir may raise
            return folder / FILE
    _log.warning(
        "no folder for the journal of receipts: receipts, and what runs, are forgotten when this process ends; make %s "
        "writable for this user, or set journal_path to a file",
        SYSTEM_FOLDER,
    )
    return None


def existing() -> Path | None:
    """Return the journal that ``auto`` leads to, or the next one after it that there is; None where there is none."""
    return next((folder / FILE for folder, _ in _folders() if os.path.isfile(folder / FILE)), None)  # noqa: PTH113


def journal_of(settings: Settings, *, resolves_auto: bool = False) -> Journal | None:
    """Open the journal that is configured (`journal_path`), or return None where there is none.

    Never raises: a Python without SQLite, or a file that cannot be used, must not take the charger down.

    Args:
        settings: of the meter.
        resolves_auto: what ``auto`` means is looked for; otherwise it means none.
    """
    path = _path_of(settings, resolves_auto=resolves_auto)
    if path is None:
        return None
    try:
        from iem_dcr.journal import open_journal  # noqa: PLC0415  only who wants a journal loads SQLite
    except ImportError as error:
        _log.warning(
            "receipts are not kept in %s: this Python has no SQLite (%s); install python3-sqlite3, or set journal_path "
            "to off",
            path,
            error,
        )
        return None
    return open_journal(path, settings.journal_keep_days)


def check_journal_of(settings: Settings, *, resolves_auto: bool = False) -> None:
    """Check when a program starts that does not have to run whether the journal that is configured can be written.

    Raises:
        ConfigError: it cannot be, and why.
    """
    path = _path_of(settings, resolves_auto=resolves_auto)
    if path is not None:
        from iem_dcr.journal import check_journal  # noqa: PLC0415  as above

        check_journal(path)


def _path_of(settings: Settings, *, resolves_auto: bool) -> Path | None:
    is_for_others = settings.journal_path == AUTO and not resolves_auto
    return None if is_for_others else place(settings.journal_path)


def _folders() -> Iterator[tuple[Path, bool]]:
    """Yield the folders of ``auto``, and whether each is made where it is missing."""
    state_directory = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if state_directory:
        yield Path(state_directory), False
    yield SYSTEM_FOLDER, False
    # What is relative is to be ignored (XDG Base Directory Specification).
    state_home = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state_home):  # noqa: PTH117
        state_home = os.path.expanduser("~/.local/state")  # noqa: PTH111  Path.expanduser raises without a home
    if os.path.isabs(state_home):  # noqa: PTH117
        yield Path(state_home) / "iem-dcr", True
