"""Which journal a meter's settings ask for, where it is, and when it is opened. Only then is SQLite imported.

``auto`` is resolved by the EVerest module and ``iem-dcr run``; for all others it means none. It is the file `FILE` in
the first folder of these that this user can use:

1. ``$STATE_DIRECTORY``, the first path of it: systemd makes it for a service with ``StateDirectory=``;
2. ``/var/lib/iem-dcr``, where it exists: so does whoever installs for a host;
3. ``$XDG_STATE_HOME/iem-dcr``, or ``~/.local/state/iem-dcr``, which is made.

Only a folder that is missing or forbidden has the next one tried. A file that is full, locked, slow or damaged, or on a
disk that went read-only, stays the journal, and is tried again: another file would know nothing of what runs.

A driver is given a `LateJournal`. It is opened when the driver first turns to it, which is after the first live value
or for a command, and in a thread: neither an import nor a disk that hangs keeps the loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

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
"""So many writes wait for a file that is not open yet; a disk that hangs for good must not fill the memory."""


# --- where it is ---


def place(*, makes_folder: bool = True) -> Path | None:
    """Return the file that ``auto`` means; None where no folder can be used.

    Args:
        makes_folder: the folder in the user's home is made; otherwise it counts as usable where it could be made.
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
    """Return the journal that ``auto`` leads to, or the next one after it that there is; None where there is none."""
    return next((folder / FILE for folder, _ in _folders() if os.path.isfile(folder / FILE)), None)  # noqa: PTH113


def _is_usable(folder: Path) -> bool:
    if not os.path.isdir(folder):  # noqa: PTH112  Path.is_dir may raise
        return False
    if os.access(folder, os.W_OK | os.X_OK):
        return True
    # What a journal on a read-only disk knows still counts.
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY) and os.access(folder / FILE, os.R_OK)


def _can_be_made(folder: Path) -> bool:
    parent = next(parent for parent in folder.parents if parent.exists())
    return not folder.exists() and parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)


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


def check_journal_of(settings: Settings) -> None:
    """Check when a program starts that does not have to run whether the journal that is configured can be written.

    Raises:
        ConfigError: it cannot be, and why.
    """
    if settings.journal_path not in (AUTO, *OFF):
        from iem_dcr.journal import check_journal  # noqa: PLC0415  only who wants a journal loads SQLite

        check_journal(settings.journal_path)


# --- when it is opened ---


class Journals:
    """The journals of a process. Drivers whose settings lead to the same file share it.

    Args:
        resolves_auto: ``auto`` is looked for; otherwise it means none.
    """

    def __init__(self, *, resolves_auto: bool = False) -> None:
        self._resolves_auto = resolves_auto
        self._opener = _Opener()
        self._told: set[str] = set()

    def of(self, settings: Settings) -> LateJournal | None:
        """Return the journal that the settings of a meter ask for, or None where they ask for none."""
        path, keep_days = settings.journal_path, settings.journal_keep_days
        if path in OFF or (path == AUTO and not self._resolves_auto):
            return None
        return LateJournal(self._opener.call, partial(self._open, path, keep_days))

    def _open(self, path: str, keep_days: int) -> Journal | None:
        """Find and open a journal; None where there can be none, which a warning says once.

        Never raises: a Python without SQLite, or a folder that is not there, must not take the charger down.
        """
        try:
            found = self._auto if path == AUTO else Path(path)
            if found is None:
                self._warn(
                    "no folder for the journal of receipts: receipts, and what runs, are forgotten when this process "
                    f"ends; make {SYSTEM_FOLDER} writable for this user, or set journal_path to a file"
                )
                return None
            from iem_dcr.journal import open_journal  # noqa: PLC0415  only who wants a journal loads SQLite

            return open_journal(found, keep_days)
        except ImportError as error:
            self._warn(
                f"receipts are not kept: this Python has no SQLite ({error}); install python3-sqlite3, or set "
                "journal_path to off"
            )
        except Exception:  # noqa: BLE001  as above
            _log.exception("the journal %s cannot be opened: receipts are not kept", printable(path, limit=300))
        return None

    @cached_property
    def _auto(self) -> Path | None:
        """One file for the whole life of the process."""
        return place()

    def _warn(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            _log.warning("%s", what)


class _Opener:
    """Calls one function after the other in a thread that a disk may hang for good: it keeps no process from ending."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._is_running = False

    def call(self, function: Callable[[], None]) -> None:
        """Have a function called."""
        with self._lock:
            self._calls.append(function)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="journals", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._calls:
                    self._is_running = False
                    return
                function = self._calls.popleft()
            function()


class LateJournal:
    """A journal that is opened when its driver first turns to it: an `iem_dcr.driver.ports.Journal`.

    What is written before it is open waits in its order. Where there turns out to be none it is an empty one, and what
    is written is forgotten. Used on one loop.

    Args:
        in_thread: has a function called in a thread.
        open_journal: finds and opens it; returns None where there is none. Called in that thread; never raises.
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
        """The file; None before it is open, and where there is none."""
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
        """Write an entry of the ledger, or a later state of it."""
        return self._write(lambda journal: journal.note(entry))

    def withdraw(self, entry: NotedEntry) -> Awaitable[None]:
        """Take back the entry of a B that was refused."""
        return self._write(lambda journal: journal.withdraw(entry))

    def refused(self, transaction_id: str, *, meter: str, address: str) -> Awaitable[None]:
        """Note an id whose start failed with none of its B possibly acted on."""
        return self._write(lambda journal: journal.refused(transaction_id, meter=meter, address=address))

    def keep(self, kept: KeptReceipt) -> Awaitable[None]:
        """Write a receipt."""
        return self._write(lambda journal: journal.keep(kept))

    def pin(self, address: str, meter: str) -> Awaitable[None]:
        """Write the serial that is accepted at an address."""
        return self._write(lambda journal: journal.pin(address, meter))

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Have what waits written, for so many seconds at most; what is not written then is named in the log."""
        if self._opening is None:
            return
        ends_s = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._opened()
        except TimeoutError:
            waiting = len(self._waiting)
            _log.error("the journal of receipts was not open in time: %d writes that waited are lost", waiting)
        if self._journal is not None:
            await self._journal.close(max(0.0, ends_s - asyncio.get_running_loop().time()))

    async def _opened(self) -> Journal | None:
        return await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Future[Journal | None]:
        """Have it opened, once. Returns a future that is done when it is open and what waited was written to it."""
        if self._opening is None:
            loop = asyncio.get_running_loop()
            self._opening = opening = loop.create_future()

            def is_open(found: Journal | None) -> None:
                self._journal = found
                for write in self._waiting:
                    write(self._journal)
                self._waiting.clear()
                opening.set_result(self._journal)

            def open_it() -> None:
                found = self._open_journal()
                with suppress(RuntimeError):  # the loop has ended meanwhile
                    loop.call_soon_threadsafe(is_open, found)

            self._in_thread(open_it)
        return self._opening

    def _write(self, write: Callable[[Journal], Awaitable[None]]) -> Awaitable[None]:
        written: asyncio.Future[Awaitable[None] | None] = asyncio.get_running_loop().create_future()

        def make(journal: Journal | None) -> None:
            answer = None if journal is None else write(journal)
            if not written.done():  # who waited for it may have given up
                written.set_result(answer)

        if self._begin().done():
            make(self._journal)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append(make)
        else:
            why = "the journal of receipts is not open yet, and the queue in memory is full: this is NOT kept"
            written.set_exception(JournalError(why))
            written.exception()  # who wrote may not wait for it
        return _Written(written)


class _Written:
    """Done when a write is; may be dropped."""

    def __init__(self, written: asyncio.Future[Awaitable[None] | None]) -> None:
        self._written = written

    def __await__(self) -> Generator[object, None, None]:
        answer = yield from self._written.__await__()
        if answer is not None:
            yield from answer.__await__()
