"""Checks receipts, in this process or in several, with as few of them in memory as possible.

A receipt with begin and end, or of no transaction, is judged as it comes. One with only a begin or only an end is held
until its other half comes, which may be anywhere in the input. An end whose counter follows a begin's of the same meter
is paired with that begin at once. The other halves are paired when all receipts were seen.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from iem_dcr.errors import IemDcrError, ReceiptError
from iem_dcr.ocmf import parse, public_key_der_hex, verify
from iem_dcr.ocmf.import_formats import Found, Record, found_around
from iem_dcr.ocmf.sets import Counters, half_of, transactions_of
from iem_dcr.ocmf.verdict import Judgement, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from iem_dcr.ocmf import Receipt

UNREADABLE = "unreadable"
BATCH = 250
BATCHES_PER_JOB = 4
"""Batches that wait for each process: enough to keep it busy, and a bound on the memory used."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The result for a transaction, or for a receipt that could not be read.

    Attributes:
        sources: where in the input its receipts are.
        word: the judgement, `UNREADABLE`, or "" for a half.
        meter: serial number, or "".
        paginations: PG of its receipts.
        identification: ID, or "".
        identification_type: IT, or "".
        key_from: "given", "document", or "none".
        verdict: None if it could not be read.
        problem: why it could not be read.
        notes: further remarks, a sentence each.
        half: a receipt that may have another half. It is judged together with that half.
        counted: meter, context, counter and digest of each of its receipts, to compare counters.
        line: the line of output, if it was made where the receipt was checked.
    """

    sources: tuple[str, ...]
    word: str = ""
    meter: str = ""
    paginations: tuple[str, ...] = ()
    identification: str = ""
    identification_type: str = ""
    key_from: str = "none"
    verdict: Verdict | None = None
    problem: str = ""
    notes: tuple[str, ...] = ()
    half: Found | None = field(default=None, repr=False)
    counted: tuple[tuple[str, str, int, int] | None, ...] = field(default=(), repr=False)
    line: str = field(default="", repr=False)

    @property
    def is_accepted(self) -> bool:
        """Whether it is accepted without remarks."""
        return self.word == Judgement.ACCEPTED.value and not self.notes


def check(
    pieces: Iterable[Found | Record],
    key: str,
    counters: Counters,
    *,
    jobs: int = 1,
    finish: Callable[[Checked], Checked],
) -> Iterator[list[Checked]]:
    """Yield the results of receipts in batches, in their order. A half is yielded when its other half is found.

    Args:
        pieces: the receipts.
        key: checks all of them; "" if each has its own.
        counters: receives the counter of every receipt; complete at the end.
        jobs: number of processes that check; 1 means this process only.
        finish: is called for each transaction in the process that checked it, and drops what is not needed. Passing a
            verdict between processes costs more than the check.

    Raises:
        ReceiptError: the rest of the input cannot be read.
        IemDcrError: a process that checks was killed.
    """
    halves = _Halves(key)
    work = partial(_check_batch, key=key, finish=finish)
    batches = _in_batches(pieces)
    for batch in map(work, batches) if jobs == 1 else _in_processes(work, batches, jobs):
        done = []
        for checked in batch:
            for counted in checked.counted:
                counters.add(counted)
            if checked.half is None:
                done.append(checked)
            elif (pair := halves.add(checked.half, checked.counted[0])) is not None:
                done.append(finish(pair))
        yield done
    yield [finish(checked) for checked in halves.rest()]


def _in_batches(pieces: Iterable[Found | Record]) -> Iterator[list[Found | Record]]:
    pieces = iter(pieces)
    while batch := list(islice(pieces, BATCH)):
        yield batch


def _check_batch(batch: list[Found | Record], key: str, finish: Callable[[Checked], Checked]) -> list[Checked]:
    checked: list[Checked] = []
    for piece in batch:
        if isinstance(piece, Found):
            checked.append(_check(piece, key))
        else:
            checked += [_check(Found(text, source=f"line {line}"), key) for text, line in piece.tuples()]
    return [one if one.half is not None else finish(one) for one in checked]


# --- one transaction ---


def _check(found: Found, key: str) -> Checked:
    try:
        receipt = parse(found.text)
    except ReceiptError as error:
        return Checked((found.source,), UNREADABLE, problem=str(error))
    counted = Counters.entry_of(receipt)
    if half_of(receipt):
        return Checked((found.source,), half=found, counted=(counted,))
    return replace(_judged([found], [receipt], key), counted=(counted,))


def _judged(found: Sequence[Found], receipts: Sequence[Receipt], key: str) -> Checked:
    """Judge a transaction. A given key replaces those of the document."""
    keys = [key or one.key for one in found]
    verifications = [verify(receipt, used) for receipt, used in zip(receipts, keys, strict=True)]
    verdict = judge(receipts, verifications, keys, found_around(found))
    first = receipts[0]
    kind = first.payload.get("IT")
    has_other_key = any(_is_another_key(one.key, key, receipt) for one, receipt in zip(found, receipts, strict=True))
    return Checked(
        sources=tuple(one.source for one in found),
        word=verdict.judgement.value,
        meter=first.meter,
        paginations=tuple(receipt.pagination or "" for receipt in receipts),
        identification=first.identification or "",
        identification_type=kind if isinstance(kind, str) else "",
        key_from="given" if key else "document" if any(keys) else "none",
        verdict=verdict,
        notes=("the document names another key; the given key was used",) if has_other_key else (),
    )


def _is_another_key(document_key: str, key: str, receipt: Receipt) -> bool:
    if not key or not document_key or key == document_key:
        return False
    return _der(document_key, receipt) != _der(key, receipt)


def _der(key: str, receipt: Receipt) -> str:
    try:
        return public_key_der_hex(key, receipt.algorithm).lower()
    except ReceiptError:
        return ""


class _Halves:
    """Receipts whose other half has not come yet."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._by_counter: dict[tuple[str, str, int], Found] = {}
        self._others: list[Found] = []
        self._paired: set[int] = set()

    def add(self, half: Found, counted: tuple[str, str, int, int] | None) -> Checked | None:
        """Judge a half together with its other half if that is known for certain; else hold it."""
        if counted is None:
            self._others.append(half)
            return None
        meter, context, counter, digest = counted
        if digest in self._paired:
            return None
        receipt = parse(half.text)
        is_begin = half_of(receipt) == "begin"
        at_other = meter, context, counter + 1 if is_begin else counter - 1
        other = self._by_counter.get(at_other)
        if other is None or half_of(parse(other.text)) == half_of(receipt):
            if (meter, context, counter) in self._by_counter:
                self._others.append(half)
            else:
                self._by_counter[meter, context, counter] = half
            return None
        del self._by_counter[at_other]
        self._paired |= {digest, Counters.digest_of(other.text)}
        both = [half, other] if is_begin else [other, half]
        return _judged(both, [parse(one.text) for one in both], self._key)

    def rest(self) -> list[Checked]:
        """Pair and judge the held halves; called when all receipts were seen."""
        held = [*self._others, *self._by_counter.values()]
        receipts = [parse(half.text) for half in held]
        return [
            _judged([held[at] for at in group], [receipts[at] for at in group], self._key)
            for group in (transactions_of(receipts) if held else ())
        ]


# --- in several processes ---


def _in_processes(
    work: Callable[[list[Found | Record]], list[Checked]], batches: Iterable[list[Found | Record]], jobs: int
) -> Iterator[list[Checked]]:
    """Check batches in processes, with a bounded number of waiting batches. Yield the results in their order."""
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin_worker)
    running: deque[Future[list[Checked]]] = deque()
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
