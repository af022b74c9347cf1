"""The journal: every receipt of one or more meters, in one SQLite file that outlives the process.

`open_journal` opens it for drivers. `open_for_reading`, `count_to_forget`, `forget`, `pins` and `pin` are for the
maintenance of the file. Importing this package imports ``sqlite3``, so a process without a journal does not import it.
"""

from iem_dcr.journal.file import check_journal
from iem_dcr.journal.maintenance import (
    Entry,
    Erased,
    JournalReader,
    count_to_forget,
    forget,
    open_for_reading,
    pin,
    pins,
)
from iem_dcr.journal.store import Journal, open_journal
from iem_dcr.journal.worker import Worker

__all__ = [
    "Entry",
    "Erased",
    "Journal",
    "JournalReader",
    "Worker",
    "check_journal",
    "count_to_forget",
    "forget",
    "open_for_reading",
    "open_journal",
    "pin",
    "pins",
]
