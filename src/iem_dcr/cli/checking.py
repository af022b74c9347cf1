"""Checks receipts, in this process or in several, with few of them in memory.

A receipt with begin and end, or of no transaction, is judged as it comes. One with only a begin or only an end is held
until all receipts were seen, because its other half may be anywhere in the input.
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
from typing import TYPE_CHECKING

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
    Result: TypeAlias = tuple[tuple[str, str, int, int] | None, "Checked | Found"]
    """What `Counters` stores of a receipt, and the receipt checked; a `Found` is a half."""

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


def check(
    pieces: Iterable[Found | Record], key: str, counters: Counters, view: View, *, jobs: int = 1
) -> Iterator[list[Checked]]:
    """Yield the results of receipts in batches, in their order, and those of begins and ends last.

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
    halves: list[Found] = []
    work = partial(_check_batch, key=key, view=view)
    batches = _in_batches(pieces)
    for results in map(work, batches) if jobs == 1 else _in_processes(work, batches, jobs):
        for entry, _ in results:
            counters.add(entry)
        halves += [one for _, one in results if isinstance(one, Found)]
        yield [one for _, one in results if isinstance(one, Checked)]
    receipts = [parse(half.text) for half in halves]
    yield [
        _judged([halves[at] for at in group], [receipts[at] for at in group], key, view)
        for group in transactions_of(receipts)
    ]


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
    return Counters.entry_of(receipt), found if half_of(receipt) else _judged([found], [receipt], key, view)


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
