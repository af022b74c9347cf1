"""Receipts and entries to keep, journals in virtual time, and processes that write journals."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from iem_dcr import ocmf
from iem_dcr.driver.ports import KeptReceipt, NotedEntry
from iem_dcr.journal import Journal, open_for_reading, open_journal
from iem_dcr.ocmf import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator

    from iem_dcr.driver.ports import FiledReceipt, Recalled
    from iem_dcr.journal import Entry
    from iem_dcr.journal.worker import Unit

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
METER = "1TST0000000001"
ADDRESS = "192.0.2.7:80"
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def tuple_text(number: int, *, ID: str | None = None, meter: str = METER, end: str = "2026-03-01T12:30:00,500") -> str:
    """Make a tuple as the meter writes it; nobody signed it."""
    person = f"04AB{number:06}" if ID is None else ID
    first = '{"TM":"2026-03-01T12:00:00,000+0100 S","TX":"B","ST":"G","RV":"00000451.795","RI":"1-b:1.8.e","RU":"kWh"}'
    last = f'{{"TM":"{end}+0100 S","TX":"E","RV":"00000{452 + number}.895"}}'
    payload = f'{{"FV":"1.0","GI":"x","MS":"{meter}","PG":"T{number}","ID":"{person}","RD":[{first},{last}]}}'
    return f'OCMF|{payload}|{{"SD":"30{number:08x}"}}'


def accepted_payload(number: int, **fields: str) -> str:
    """Make a payload that the transparency software accepts: nothing of the end is left out."""
    return tuple_text(number, **fields).split("|")[1].replace('"TX":"E",', '"TX":"E","RI":"1-b:1.8.e","RU":"kWh",')


def kept(number: int, transaction_id: str = "", **fields: Any) -> KeptReceipt:
    """Make a receipt on its way to be kept; fields of the tuple, and of what goes with it."""
    words = {name: fields.pop(name) for name in ("ID", "meter", "end") if name in fields}
    made = KeptReceipt(
        ocmf.parse(tuple_text(number, **words)), transaction_id, "3059", Outcome.VALID, address=ADDRESS, meter=METER
    )
    return replace(made, **fields)


def entry(transaction_id: str, state: str = "uncertain", **fields: Any) -> NotedEntry:
    """Make an entry of the ledger, of a B that went out now."""
    made = NotedEntry(transaction_id, "04AB000001", METER, ADDRESS, "T0", None, None, state, datetime.now(UTC))
    return replace(made, **fields)


def entries(path: Path, **conditions: Any) -> list[Entry]:
    """Read a journal."""
    with open_for_reading(path) as reader:
        return list(reader.entries(**conditions))


def result(answer: Awaitable[T]) -> T:
    """Return what a method of a journal has come to."""

    async def main() -> T:
        return await asyncio.wait_for(answer, 10)

    return asyncio.run(main())


@contextlib.asynccontextmanager
async def journal(path: Path, keep_days: int = 365) -> AsyncIterator[Journal]:
    """Open a journal and close it."""
    opened = open_journal(path, keep_days)
    try:
        yield opened
    finally:
        await opened.close()


@contextlib.contextmanager
def changing(path: Path) -> Iterator[sqlite3.Connection]:
    """Change the file of a journal behind its back."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


class StepWorker:
    """Does the units of a journal when a test says so, in time that passes when a test says so.

    Attributes:
        now_s: its time.
        writes: whether the unit that is due next may write.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self.writes = False
        self._unit: Unit | None = None
        self._due_s = math.inf

    def time(self) -> float:
        return self.now_s

    def submit(self, unit: Unit, after_s: float, *, writes: bool) -> None:
        self._unit, self._due_s, self.writes = unit, self.now_s + after_s, writes

    def stop(self) -> None:
        self._unit = None

    def step(self, failure: Exception | None = None) -> bool:
        """Do the next unit, or have it fail; returns whether one was due."""
        if self._unit is None or self._due_s > self.now_s:
            return False
        unit, self._unit = self._unit, None
        unit(failure)
        return True

    def run(self, failure: Exception | None = None) -> None:
        """Do what is due."""
        while self.step(failure):
            pass

    def wait(self, seconds: float) -> None:
        """Let time pass, and do what is due then."""
        self.now_s += seconds
        self.run()


class Desk:
    """A journal on a file, whose units are done when a test says so, and what it answers.

    Attributes:
        now: the time of its host.
    """

    def __init__(self, path: Path, keep_days: int = 365) -> None:
        self.path = path
        self.now = NOW
        self.worker = StepWorker()
        self.journal = Journal(path, keep_days, worker=self.worker, wall=lambda: self.now)

    def recall(self, meter: str = METER, address: str = ADDRESS) -> Recalled:
        answer = self.journal.recall(meter=meter, address=address)
        self.worker.run()
        return result(answer)

    def receipt_of(self, transaction_id: str, meter: str = METER, address: str = ADDRESS) -> FiledReceipt | None:
        answer = self.journal.receipt_of(transaction_id, meter=meter, address=address)
        self.worker.run()
        return result(answer)

    def refuse(self, transaction_id: str, meter: str = METER, address: str = ADDRESS) -> Awaitable[None]:
        return self.journal.refused(transaction_id, meter=meter, address=address)

    def keep(self, *receipts: KeptReceipt) -> None:
        """Keep receipts; they are written when this returns."""
        answers = [self.journal.keep(receipt) for receipt in receipts]
        self.worker.run()
        assert [result(answer) for answer in answers] == [None] * len(receipts)


@contextlib.contextmanager
def desk(path: Path, keep_days: int = 365) -> Iterator[Desk]:
    made = Desk(path, keep_days)
    try:
        yield made
    finally:
        made.journal.abandon()


def keep(path: Path, *receipts: KeptReceipt) -> None:
    """Have a process of their own keep receipts."""
    with desk(path) as made:
        made.keep(*receipts)


def failure(name: str) -> Exception:
    """Make an error as SQLite raises it."""
    error: Any = sqlite3.DatabaseError("made by a test")
    error.sqlite_errorcode, error.sqlite_errorname = getattr(sqlite3, name), name
    return error  # type: ignore[no-any-return]


class LoopWorker:
    """Does the units of a journal on the running loop, each in no virtual time or so many seconds."""

    def __init__(self, unit_s: float = 0.0) -> None:
        self._unit_s = unit_s

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def submit(self, unit: Unit, after_s: float, *, writes: bool) -> None:
        asyncio.get_running_loop().call_later(after_s + self._unit_s, unit, None)

    def stop(self) -> None:
        pass


@contextlib.asynccontextmanager
async def virtual_journal(path: Path, unit_s: float = 0.0) -> AsyncIterator[Journal]:
    """Open a journal that takes no virtual time, or so many seconds for each unit of work, and close it."""
    opened = Journal(path, worker=LoopWorker(unit_s))
    try:
        yield opened
    finally:
        await opened.close()


def process(what: str, path: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start a process that writes a journal; see the functions below."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.journals", what, str(path), *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _say(text: object) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _write(path: Path, first: int, count: int) -> None:
    """Keep receipts one after the other, and say every one that is kept."""
    async with journal(path) as opened:
        for number in range(first, first + count):
            await opened.keep(kept(number, f"T-{number}"))
            _say(number)


def _killed_soon(path: Path, times: int) -> None:
    """Kill a process that is making the file after some time or other, and see that the next one can write it."""
    import os  # noqa: PLC0415
    import random  # noqa: PLC0415
    import signal  # noqa: PLC0415
    import time  # noqa: PLC0415

    def child() -> int:
        pid = os.fork()
        if not pid:
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  it lasts for the process
            asyncio.run(_write(path, 0, 1))
            os._exit(0)
        return pid

    chance = random.Random(times)
    killed = 0
    for _ in range(times):
        for file in path.parent.iterdir():
            file.unlink()
        pid = child()
        time.sleep(chance.random() * 0.012)
        os.kill(pid, signal.SIGKILL)
        killed += os.waitpid(pid, 0)[1] == signal.SIGKILL
        was_there = path.exists()
        assert os.waitpid(child(), 0)[1] == 0
        assert [entry.text for entry in entries(path)] == [tuple_text(0)]
        _say(f"{was_there} {sorted(file.name for file in path.parent.iterdir())}")
    _say(killed)


def _forbidden(path: Path) -> None:
    """Use a journal as a user who may not use its folder."""
    import os  # noqa: PLC0415

    from iem_dcr.journaling import place  # noqa: PLC0415

    if os.geteuid() == 0:
        os.setuid(65534)
    with desk(path) as made:
        made.journal.keep(kept(1))
        receipts = made.recall().receipts
        os.environ |= {"STATE_DIRECTORY": str(path.parent), "XDG_STATE_HOME": str(path.parent)}
        _say(f"{len(receipts)} {made.journal.unwritten} {place()}")


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    _what, _path, *_numbers = sys.argv[1:]
    if _what == "write":
        asyncio.run(_write(Path(_path), int(_numbers[0]), int(_numbers[1])))
    elif _what == "forbidden":
        _forbidden(Path(_path))
    else:
        _killed_soon(Path(_path), int(_numbers[0]))
