"""The journal: every receipt of one or more meters, in one SQLite file that outlives the process.

`open_journal` gives the driver of a meter what keeps its receipts; `open_for_reading` and `forget` are for whoever
looks after the file. Importing this package imports ``sqlite3``, so a process without a journal does not import it.
"""

from iem_dcr.journal.entry import Entry
from iem_dcr.journal.erasing import Erased, forget
from iem_dcr.journal.journal import Journal, open_journal
from iem_dcr.journal.reading import JournalReader, open_for_reading
from iem_dcr.journal.schema import check_journal

__all__ = ["Entry", "Erased", "Journal", "JournalReader", "check_journal", "forget", "open_for_reading", "open_journal"]
