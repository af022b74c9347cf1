"""Checking receipts, few in this process, many over all cores; nothing of them is held longer than it takes.

A receipt with begin and end (and one of no transaction) is judged as it comes. One with only a begin or only an end is
held until all were seen, for the other half may stand anywhere.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from iem_dcr.errors import IemDcrError, ReceiptError
from iem_dcr.ocmf import Receipt, parse, public_key_der_hex, verify
from iem_dcr.ocmf.documents import Found, Record
from iem_dcr.ocmf.findings import examine_counters, transactions_of
from iem_dcr.ocmf.transaction import has_begin, has_end, is_fiscal, meter_of, rows_of
from iem_dcr.ocmf.verdict import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from iem_dcr.ocmf.findings import Finding

UNREADABLE = "unreadable"

MANY = 2_000
"""From more receipts on, processes are started: that takes about as long as checking so many."""
BATCH = 250
MOST_COUNTED = 200_000
"""Receipts whose counters are compared; more would have to be held."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a transaction, or of what could not be read.

    Attributes:
        sources: where its receipts stand.
        meter: serial number, or "".
        paginations: PG of its receipts.
        identification: ID, or "".
        identification_type: IT, or "".
        key_from: "given", "document", or "none".
        verdict: None where it could not be read.
        problem: why it could not be read.
        notes: what else is to be said, a sentence each.
        half: the one receipt where it may have another half; it is judged once all were seen.
        counters: a stand-in for each receipt, enough to compare counters.
        word: the judgement, or "unreadable"; "" of a half.
        line: what is to be written of it, where the process that checked it has written it already.
    """

    sources: tuple[str, ...]
    meter: str = ""
    paginations: tuple[str, ...] = ()
    identification: str = ""
    identification_type: str = ""
    key_from: str = "none"
    verdict: Verdict | None = None
    problem: str = ""
    notes: tuple[str, ...] = ()
    half: Found | None = field(default=None, repr=False)
    counters: tuple[Receipt, ...] = field(default=(), repr=False)
    word: str = ""
    line: str = field(default="", repr=False)


class Checking:
    """The check of a set of receipts.

    Args:
        pieces: the receipts.
        key: checks them all; without one each has its own.
        condense: leaves of what was checked only what is wanted of it, where processes have to hand it over.

    Attributes:
        is_parallel: there were many, and they are checked in processes; known once `results` gave its first.
        across: findings across the whole set; complete when `results` has ended.
        counted: whether all counters were compared.
    """

    def __init__(
        self, pieces: Iterable[Found | Record], key: str = "", condense: Callable[[Checked], Checked] | None = None
    ) -> None:
        self._pieces = iter(pieces)
        self._key = key
        self._condense = condense
        self.is_parallel = False
        self.across: tuple[Finding, ...] = ()
        self.counted = True

    def results(self) -> Iterator[list[Checked]]:
        """Yield what became of the receipts, some at a time, in their order; halves at the end.

        Raises:
            ReceiptError: the rest cannot be read.
            IemDcrError: a process that checked was ended by something else.
        """
        counters: list[Receipt] = []
        halves: list[Found] = []
        for batch in self._batches():
            for checked in batch:
                if len(counters) < MOST_COUNTED:
                    counters += checked.counters
                else:
                    self.counted = False
                if checked.half is not None:
                    halves.append(checked.half)
            yield [checked for checked in batch if checked.half is None]
        if halves:
            yield _pair(halves, self._key)
        self.across = examine_counters(counters)

    def _batches(self) -> Iterator[list[Checked]]:
        first = list(islice(self._pieces, MANY + 1))
        batches = _in_batches(chain(first, self._pieces))
        self.is_parallel = len(first) > MANY
        check = partial(check_batch, key=self._key, condense=self._condense if self.is_parallel else None)
        if not self.is_parallel:
            yield from map(check, batches)
            return
        workers = os.cpu_count() or 1
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin_worker) as pool:
            running: deque[Future[list[Checked]]] = deque()
            try:
                for batch in batches:
                    running.append(pool.submit(check, batch))
                    if len(running) > 4 * workers:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            except BrokenProcessPool as error:
                raise IemDcrError("a process that checked receipts was ended; was there too little memory?") from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def check_batch(batch: list[Found | Record], key: str, condense: Callable[[Checked], Checked] | None) -> list[Checked]:
    """Check and judge receipts one by one; with a key that is given, theirs are not used."""
    found = chain.from_iterable(one.tuples() if isinstance(one, Record) else (one,) for one in batch)
    checked = [_check(one, key) for one in found]
    return checked if condense is None else [one if one.half is not None else condense(one) for one in checked]


def _check(found: Found, key: str) -> Checked:
    try:
        receipt = parse(found.text)
    except ReceiptError as error:
        return Checked((found.source,), problem=str(error), word=UNREADABLE)
    if _is_half(receipt):
        return Checked((found.source,), half=found, counters=(_counter(receipt),))
    return _judged([found], [receipt], key)


def _judged(found: list[Found], receipts: list[Receipt], key: str) -> Checked:
    keys = [key or one.key for one in found]
    verifications = [verify(receipt, used) for receipt, used in zip(receipts, keys, strict=True)]
    first = receipts[0]
    kind = first.payload.get("IT")
    verdict = judge(receipts, verifications)
    return Checked(
        sources=tuple(one.source for one in found),
        meter=meter_of(first),
        paginations=tuple(receipt.pagination or "" for receipt in receipts),
        identification=first.identification or "",
        identification_type=kind if isinstance(kind, str) else "",
        key_from="given" if key else "document" if any(keys) else "none",
        verdict=verdict,
        notes=_notes(found, receipts, key),
        counters=tuple(_counter(receipt) for receipt in receipts),
        word=verdict.judgement.value,
    )


def _pair(halves: list[Found], key: str) -> list[Checked]:
    receipts = [parse(half.text) for half in halves]
    return [
        _judged([halves[number] for number in group], [receipts[number] for number in group], key)
        for group in transactions_of(receipts)
    ]


def _notes(found: list[Found], receipts: list[Receipt], key: str) -> tuple[str, ...]:
    for one, receipt in zip(found, receipts, strict=True):
        if key and one.key and one.key != key and _der(one.key, receipt) != _der(key, receipt):
            return ("the document names another key than the one given, which was used",)
    return ()


def _der(key: str, receipt: Receipt) -> str:
    try:
        return public_key_der_hex(key, receipt.algorithm).lower()
    except ReceiptError:
        return ""


def _is_half(receipt: Receipt) -> bool:
    if is_fiscal(receipt):
        return False
    rows = rows_of([receipt])
    return has_begin(rows) != has_end(rows)


def _counter(receipt: Receipt) -> Receipt:
    """Make a small stand-in whose text is as good to tell receipts apart."""
    digest = hashlib.sha256(receipt.text.encode()).hexdigest()
    return Receipt(digest, {"MS": meter_of(receipt), "PG": receipt.pagination}, {}, b"")


def _in_batches(pieces: Iterator[Found | Record]) -> Iterator[list[Found | Record]]:
    while batch := list(islice(pieces, BATCH)):
        yield batch


def _begin_worker() -> None:
    """Leave an interruption to the process that started this one, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
