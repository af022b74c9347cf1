"""Which journal a meter's settings select, where its file is, and when it is opened. Only then is SQLite imported.

The EVerest module and ``iem-dcr run`` resolve ``auto``. For all other users it means no journal. It is the file `FILE`
in the first of these folders that this user can use:

1. ``$STATE_DIRECTORY``, its first path: systemd creates it for a service with ``StateDirectory=``;
2. ``/var/lib/iem-dcr``, if it exists: an installation for the whole host creates it;
3. ``$XDG_STATE_HOME/iem-dcr``, or ``~/.local/state/iem-dcr``, which this program creates.

The next folder is tried only if one is missing or forbidden. A file that is full, locked, slow or damaged, or on a
disk that became read-only, stays the journal and is retried. Another file would not know the running transactions.

A driver gets a `LateJournal`. It is opened in a thread when the driver first uses it: after the first live value, or
for a command. So neither an import nor a disk that hangs blocks the loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, NoReturn

from iem_dcr.config import AUTO, OFF
from iem_dcr.driver.ports import Recalled
from iem_dcr.errors import JournalError, printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator

    from iem_dcr.config import Settings
    from iem_dcr.driver.ports import FiledReceipt, KeptReceipt, NotedEntry
    from iem_dcr.journal import Journal

_log = logging.getLogger(__name__)

FILE: Final = "receipts.db"
SYSTEM_FOLDER: Final = Path("/var/lib/iem-dcr")
FOLDER_MODE: Final = 0o700
CLOSE_TIMEOUT_S: Final = 2.0
MAX_WAITING: Final = 10_000
"""Limit of the writes that wait for a file that is not open yet. A disk that hangs must not fill the memory."""


# --- the place of the file ---


def place(*, makes_folder: bool = True) -> Path | None:
    """Return the file that ``auto`` means; None if no folder can be used.

    Args:
        makes_folder: create the folder in the user's home. If False, it counts as usable if it could be created.
    """
    for folder, is_made in _folders():
        try:
            if is_made and makes_folder:
                folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
            if _is_usable(folder) or (is_made and _can_be_made(folder)):
                return folder / FILE
        except OSError:
            continue
    return None


def existing() -> Path | None:
    """Return the first existing journal in the folders of ``auto``, or None."""
    return next((folder / FILE for folder, _ in _folders() if os.path.isfile(folder / FILE)), None)  # noqa: PTH113


def _is_usable(folder: Path) -> bool:
    if not os.path.isdir(folder):  # noqa: PTH112  Path.is_dir may raise
        return False
    if os.access(folder, os.W_OK | os.X_OK):
        return True
    # A journal on a read-only disk can still be read.
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY) and os.access(folder / FILE, os.R_OK)


def _can_be_made(folder: Path) -> bool:
    parent = next(parent for parent in folder.parents if parent.exists())
    return not folder.exists() and parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)


def _folders() -> Iterator[tuple[Path, bool]]:
    """Yield the folders of ``auto``, and whether each is created if it is missing."""
    state_directory = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if state_directory:
        yield Path(state_directory), False
    yield SYSTEM_FOLDER, False
    # A relative path must be ignored (XDG Base Directory Specification).
    state_home = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state_home):  # noqa: PTH117
        state_home = os.path.expanduser("~/.local/state")  # noqa: PTH111  Path.expanduser raises without a home
    if os.path.isabs(state_home):  # noqa: PTH117
        yield Path(state_home) / "iem-dcr", True


def check_journal_of(settings: Settings) -> None:
    """Check at the start of a program whether the configured journal can be written. Not for a charger, which must run.

    Raises:
        ConfigError: it cannot be written, and why.
    """
    if settings.journal_path not in (AUTO, *OFF):
        from iem_dcr.journal import check_journal  # noqa: PLC0415  SQLite is imported only for a journal

        check_journal(settings.journal_path)


# --- opening ---


class Journals:
    """The journals of a process. Drivers whose settings select the same file share it.

    Args:
        resolves_auto: ``auto`` selects a file. If False, it means no journal.
    """

    def __init__(self, *, resolves_auto: bool = False) -> None:
        self._resolves_auto = resolves_auto
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run_calls, name="journals", daemon=True)
        self._warned: set[str] = set()

    def of(self, settings: Settings) -> LateJournal | None:
        """Return the journal that the settings of a meter select, or None."""
        path, keep_days = settings.journal_path, settings.journal_keep_days
        if path in OFF or (path == AUTO and not self._resolves_auto):
            return None
        return LateJournal(self._in_thread, partial(self._open, path, keep_days))

    def _open(self, path: str, keep_days: int) -> Journal | None:
        """Find and open a journal. Returns None if there can be none, and logs a warning once.

        Never raises: a Python without SQLite, or a missing folder, must not take the charger down.
        """
        try:
            found = self._auto if path == AUTO else Path(path)
            if found is None:
                self._warn(
                    "no folder for the journal of receipts: receipts and running transactions are forgotten when this "
                    f"process ends; make {SYSTEM_FOLDER} writable for this user, or set journal_path to a file"
                )
                return None
            from iem_dcr.journal import open_journal  # noqa: PLC0415  SQLite is imported only for a journal

            return open_journal(found, keep_days)
        except ImportError as error:
            self._warn(
                f"receipts are not kept: this Python has no SQLite ({error}); install python3-sqlite3, or set "
                "journal_path to off"
            )
        except Exception:  # noqa: BLE001  no fault of a journal may take the charger down
            _log.exception("the journal %s cannot be opened: receipts are not kept", printable(path, limit=300))
        return None

    def _in_thread(self, call: Callable[[], None]) -> None:
        """Call functions one by one in a daemon thread. A disk may hang it, and the process can still end."""
        if self._thread.ident is None:
            self._thread.start()
        self._calls.put(call)

    def _run_calls(self) -> NoReturn:
        while True:
            self._calls.get()()

    @cached_property
    def _auto(self) -> Path | None:
        """The file of ``auto``, the same for the whole life of the process."""
        return place()

    def _warn(self, what: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _log.warning("%s", what)


class LateJournal:
    """A journal that is opened when its driver first uses it: an `iem_dcr.driver.ports.Journal`.

    Writes before that wait in order. If there can be no journal, it behaves as an empty one and drops the writes. Used
    on one loop.

    Args:
        in_thread: calls a function in a thread.
        open_journal: finds and opens the journal; returns None if there is none. Called in that thread; never raises.
    """

    def __init__(
        self, in_thread: Callable[[Callable[[], None]], None], open_journal: Callable[[], Journal | None]
    ) -> None:
        self._in_thread = in_thread
        self._open_journal = open_journal
        self._opening: asyncio.Future[Journal | None] | None = None
        self._waiting: list[Callable[[Journal | None], None]] = []
        self._journal: Journal | None = None

    @property
    def path(self) -> Path | None:
        """The path of the file; None before it is open, or if there is none."""
        return None if self._journal is None else self._journal.path

    async def recall(self, *, meter: str, address: str) -> Recalled:
        """Return what is known of a meter or of its address."""
        journal = await self._opened()
        return Recalled() if journal is None else await journal.recall(meter=meter, address=address)

    async def receipt_of(self, transaction_id: str, *, meter: str, address: str) -> FiledReceipt | None:
        """Return the receipt that answers a stop for an id, or None."""
        journal = await self._opened()
        return None if journal is None else await journal.receipt_of(transaction_id, meter=meter, address=address)

    def note(self, entry: NotedEntry) -> Awaitable[None]:
        """Write an entry of the ledger or a later state of it."""
        return self._write(lambda journal: journal.note(entry))

    def withdraw(self, entry: NotedEntry) -> Awaitable[None]:
        """Withdraw the entry of a B that was refused."""
        return self._write(lambda journal: journal.withdraw(entry))

    def refused(self, transaction_id: str, *, meter: str, address: str) -> Awaitable[None]:
        """Note the id of a start that failed without the meter acting on a B."""
        return self._write(lambda journal: journal.refused(transaction_id, meter=meter, address=address))

    def keep(self, kept: KeptReceipt) -> Awaitable[None]:
        """Write a receipt."""
        return self._write(lambda journal: journal.keep(kept))

    def pin(self, address: str, meter: str) -> Awaitable[None]:
        """Write the serial that is accepted at an address."""
        return self._write(lambda journal: journal.pin(address, meter))

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Wait at most `timeout_s` for the queued writes. The log says which writes are lost."""
        if self._opening is None:
            return
        ends_s = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._opened()
        except TimeoutError:
            waiting = len(self._waiting)
            _log.error("the journal of receipts was not open in time: %d waiting writes are lost", waiting)
        if self._journal is not None:
            await self._journal.close(max(0.0, ends_s - asyncio.get_running_loop().time()))

    async def _opened(self) -> Journal | None:
        return await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Future[Journal | None]:
        """Open the journal, once. Returns a future that is done when it is open and the waiting writes are queued."""
        if self._opening is None:
            loop = asyncio.get_running_loop()
            self._opening = opening = loop.create_future()

            def on_open(found: Journal | None) -> None:
                self._journal = found
                for write in self._waiting:
                    write(self._journal)
                self._waiting.clear()
                opening.set_result(self._journal)

            def open_in_thread() -> None:
                found = self._open_journal()
                with suppress(RuntimeError):  # the loop may have ended
                    loop.call_soon_threadsafe(on_open, found)

            self._in_thread(open_in_thread)
        return self._opening

    def _write(self, write: Callable[[Journal], Awaitable[None]]) -> Awaitable[None]:
        written: asyncio.Future[Awaitable[None] | None] = asyncio.get_running_loop().create_future()

        def make(journal: Journal | None) -> None:
            answer = None if journal is None else write(journal)
            if not written.done():  # the caller may have cancelled it
                written.set_result(answer)

        if self._begin().done():
            make(self._journal)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append(make)
        else:
            why = "the journal of receipts is not open yet, and the queue in memory is full: this is NOT kept"
            written.set_exception(JournalError(why))
            written.exception()  # marks it as retrieved: the caller may never await it
        return _Written(written)


class _Written:
    """Done when its write is done. It need not be awaited."""

    def __init__(self, written: asyncio.Future[Awaitable[None] | None]) -> None:
        self._written = written

    def __await__(self) -> Generator[object, None, None]:
        answer = yield from self._written.__await__()
        if answer is not None:
            yield from answer.__await__()
