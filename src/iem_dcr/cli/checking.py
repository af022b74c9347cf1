"""Checks receipts, in this process or in several, with few of them in memory.

A receipt with begin and end, or of no transaction, is judged as it comes. One with only a begin or only an end is held
until its other half comes, which may be anywhere in the input. An end whose counter follows a begin's of the same meter
is paired with that begin at once, so that a log of millions fits into memory. The other halves are paired when all
receipts were seen.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from iem_dcr.cli.receipt_view import UNREADABLE, Transaction
from iem_dcr.errors import IemDcrError, ReceiptError
from iem_dcr.ocmf import parse, public_key_der_hex, verify
from iem_dcr.ocmf.import_formats import Found, Record, found_around
from iem_dcr.ocmf.sets import Counters, half_of, transactions_of
from iem_dcr.ocmf.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from typing import TypeAlias

    from rich.text import Text

    from iem_dcr.ocmf import Receipt

    View: TypeAlias = Callable[[Transaction], str | Text | None]
    """Formats a transaction: as a line of JSON, as a text for a person, or as None if it is not shown."""
    Entry: TypeAlias = tuple[str, str, int, int] | None
    """What `Counters` stores of a receipt."""
    Result: TypeAlias = tuple[Entry, "Checked | Half"]

BATCH = 250
BATCHES_PER_JOB = 4
"""Batches that wait for each process: enough to keep it busy, and a bound on the memory used."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The result for a transaction, or for a receipt that could not be read.

    Attributes:
        word: see `Transaction.word`.
        view: what the view made of it.
        has_document_key: whether it was checked with the key in its document.
    """

    word: str
    view: str | Text | None
    has_document_key: bool = False


class Half(NamedTuple):
    """A receipt that is only a begin or only an end, as `half_of` says."""

    found: Found
    kind: str


def check(
    pieces: Iterable[Found | Record], key: str, counters: Counters, view: View, *, jobs: int = 1
) -> Iterator[list[Checked]]:
    """Yield the results of receipts in batches, in their order. A half is yielded when its other half is found.

    Args:
        pieces: the receipts.
        key: checks all of them; "" if each has its own.
        counters: receives the counter of every receipt; complete at the end.
        view: formats each transaction in the process that checked it. Passing a verdict between processes costs more
            than the check.
        jobs: number of processes that check; 1 means this process only.

    Raises:
        ReceiptError: the rest of the input cannot be read.
        IemDcrError: a process that checks was killed.
    """
    halves = _Halves()
    work = partial(_check_batch, key=key, view=view)
    batches = _in_batches(pieces)
    for results in map(work, batches) if jobs == 1 else _in_processes(work, batches, jobs):
        done = []
        for entry, one in results:
            counters.add(entry)
            if isinstance(one, Checked):
                done.append(one)
            elif pair := halves.add(one, entry):
                done.append(_judged(pair, [parse(half.text) for half in pair], key, view))
        yield done
    yield [_judged(group, [parse(half.text) for half in group], key, view) for group in halves.groups()]


def _in_batches(pieces: Iterable[Found | Record]) -> Iterator[list[Found | Record]]:
    pieces = iter(pieces)
    while batch := list(islice(pieces, BATCH)):
        yield batch


def _check_batch(batch: list[Found | Record], key: str, view: View) -> list[Result]:
    return [_check(found, key, view) for piece in batch for found in found_in(piece)]


def found_in(piece: Found | Record) -> Iterable[Found]:
    """Return the tuples of a piece of the input."""
    if isinstance(piece, Found):
        return (piece,)
    return (Found(text, source=f"line {line}") for text, line in piece.tuples())


def _check(found: Found, key: str, view: View) -> Result:
    try:
        receipt = parse(found.text)
    except ReceiptError as error:
        return None, Checked(UNREADABLE, view(Transaction(sources=(found.source,), problem=str(error))))
    kind = half_of(receipt)
    return Counters.entry_of(receipt), Half(found, kind) if kind else _judged([found], [receipt], key, view)


def _judged(found: Sequence[Found], receipts: Sequence[Receipt], key: str, view: View) -> Checked:
    """Judge a transaction. A given key replaces those of the document."""
    keys = [key or one.key for one in found]
    verifications = [verify(receipt, used) for receipt, used in zip(receipts, keys, strict=True)]
    has_other_key = any(_is_another_key(one.key, key, receipt) for one, receipt in zip(found, receipts, strict=True))
    transaction = Transaction(
        tuple(receipts),
        judge(receipts, verifications, keys, found_around(found)),
        sources=tuple(one.source for one in found),
        key_from="given" if key else "document" if any(keys) else "none",
        notes=("the document names another key; the given key was used",) if has_other_key else (),
    )
    return Checked(transaction.word, view(transaction), transaction.key_from == "document")


def _is_another_key(document_key: str, key: str, receipt: Receipt) -> bool:
    return bool(key and document_key) and key != document_key and _der(document_key, receipt) != _der(key, receipt)


def _der(key: str, receipt: Receipt) -> str:
    try:
        return public_key_der_hex(key, receipt.algorithm).lower()
    except ReceiptError:
        return ""


class _Halves:
    """Receipts whose other half has not come yet."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str, int], Half] = {}
        """By meter, context and counter of the begin."""
        self._others: list[Half] = []
        self._paired: set[int] = set()
        """Digests. A pair that is there again is omitted, as in `transactions_of`."""

    def add(self, half: Half, entry: Entry) -> tuple[Found, Found] | None:
        """Return begin and end if the other half is here and certain; else hold this one."""
        if entry is None:
            self._others.append(half)
            return None
        meter, context, counter, digest = entry
        if digest in self._paired:
            return None
        at = meter, context, counter if half.kind == "begin" else counter - 1
        other = self._waiting.setdefault(at, half)
        if other.kind == half.kind:
            if other is not half:
                self._others.append(half)
            return None
        del self._waiting[at]
        self._paired |= {digest, Counters.digest_of(other.found.text)}
        return (half.found, other.found) if half.kind == "begin" else (other.found, half.found)

    def groups(self) -> Iterator[list[Found]]:
        """Yield the held halves by transaction; called when all receipts were seen."""
        held = [half.found for half in (*self._others, *self._waiting.values())]
        held = [found for found in held if Counters.digest_of(found.text) not in self._paired]
        for group in transactions_of([parse(found.text) for found in held]):
            yield [held[at] for at in group]


# --- in several processes ---


def _in_processes(
    work: Callable[[list[Found | Record]], list[Result]], batches: Iterable[list[Found | Record]], jobs: int
) -> Iterator[list[Result]]:
    """Check batches in processes, with a bounded number of waiting batches. Yield the results in their order."""
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin_worker)
    running: deque[Future[list[Result]]] = deque()
    try:
        for batch in batches:
            # The worker processes start with SIGINT blocked: this process handles Ctrl-C.
            signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                running.append(pool.submit(work, batch))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, signals)
            if len(running) > BATCHES_PER_JOB * jobs:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool as error:
        raise IemDcrError("a process that checks receipts was killed; the host may be out of memory") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """Make a worker end when its parent is killed. Otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
