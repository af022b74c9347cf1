"""The journal that a meter's settings ask for. Without one nothing of it is imported, SQLite least."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iem_dcr.config import Settings
    from iem_dcr.journal import Journal

_log = logging.getLogger(__name__)


def journal_of(settings: Settings) -> Journal | None:
    """Open the journal that is configured (`journal_path`), or return None where there is none.

    Never raises: a Python without SQLite, or a file that cannot be used, must not take the charger down.
    """
    if not settings.journal_path:
        return None
    try:
        from iem_dcr.journal import open_journal  # noqa: PLC0415  only who wants a journal loads SQLite

        return open_journal(settings.journal_path, settings.journal_keep_days)
    except Exception:  # noqa: BLE001  whatever it is, the meter is driven without
        _log.exception("receipts are not kept in %s", settings.journal_path)
        return None


def check_journal_of(settings: Settings) -> None:
    """Check at the start of a program that does not have to run whether the journal that is configured can be written.

    Raises:
        ConfigError: it cannot be, and why.
    """
    if settings.journal_path:
        from iem_dcr.journal import check_journal  # noqa: PLC0415  as above

        check_journal(settings.journal_path)
