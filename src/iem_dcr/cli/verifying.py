"""Checking receipts, in this process or in as many as are asked for; nothing of them is held longer than it takes.

A receipt with begin and end (and one of no transaction) is judged as it comes. One with only a begin or only an end is
held until the other half comes, which may stand anywhere: an end whose counter is the next one after a begin's of the
same meter is its other half at once, the others are paired when all were seen.
"""

from __future__ import annotations

import contextlib
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
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

from iem_dcr.errors import IemDcrError, ReceiptError
from iem_dcr.ocmf import parse, public_key_der_hex, verify
from iem_dcr.ocmf.import_formats import Found, Record, found_around
from iem_dcr.ocmf.sets import Counters, half_of, transactions_of
from iem_dcr.ocmf.verdict import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from iem_dcr.ocmf import Receipt
    from iem_dcr.ocmf.rules import Finding

UNREADABLE = "unreadable"

MANY = 2_000
"""Of more receipts, the accepted ones are not shown one by one."""
BATCH = 250


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
        half: the one receipt where it may have another half; it is judged together with that.
        counted: meter, context, counter and digest of each of its receipts, to compare counters.
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
    counted: tuple[tuple[str, str, int, int] | None, ...] = field(default=(), repr=False)
    word: str = ""
    line: str = field(default="", repr=False)


class Checking:
    """The check of a set of receipts.

    Args:
        pieces: the receipts.
        key: checks them all; without one each has its own.
        jobs: processes that check; 1 is this one.
        condense: leaves of what was checked only what is wanted of it.

    Attributes:
        are_many: there are more than `MANY`; known once `results` gave its first.
        counters: those of the whole set; complete when `results` has ended.
    """

    def __init__(
        self,
        pieces: Iterable[Found | Record],
        key: str = "",
        jobs: int = 1,
        condense: Callable[[Checked], Checked] | None = None,
    ) -> None:
        self._pieces = iter(pieces)
        self._key = key
        self._jobs = jobs
        self._condense = condense
        self._halves: dict[tuple[str, str, int], Found] = {}
        self._held: list[Found] = []
        self._done: set[int] = set()
        self.are_many = False
        self.counters = Counters()

    def results(self) -> Iterator[list[Checked]]:
        """Yield what became of the receipts, some at a time, in their order; halves when the other one is there.

        Raises:
            ReceiptError: the rest cannot be read.
            IemDcrError: a process that checked was ended by something else.
        """
        for batch in self._batches():
            done = []
            for checked in batch:
                for counted in checked.counted:
                    self.counters.add(counted)
                if checked.half is None:
                    done.append(checked)
                elif (pair := self._paired(checked.half, checked.counted[0])) is not None:
                    done.append(pair)
            yield done
        held = [*self._held, *self._halves.values()]
        if held:
            receipts = [parse(half.text) for half in held]
            groups = transactions_of(receipts)
            yield [_judged([held[at] for at in group], [receipts[at] for at in group], self._key) for group in groups]

    def findings(self) -> Iterator[Finding]:
        """Yield what is found across the whole set, once `results` has ended."""
        return self.counters.findings()

    def _paired(self, half: Found, counted: tuple[str, str, int, int] | None) -> Checked | None:
        """Judge a half with the other one, if that is here and certain; else hold it."""
        if counted is None:
            self._held.append(half)
            return None
        meter, context, counter, digest = counted
        if digest in self._done:
            return None
        receipt = parse(half.text)
        is_begin = half_of(receipt) == "begin"
        other = self._halves.get((meter, context, counter + 1 if is_begin else counter - 1))
        if other is None or half_of(parse(other.text)) == half_of(receipt):
            if (meter, context, counter) in self._halves:
                self._held.append(half)
            else:
                self._halves[meter, context, counter] = half
            return None
        del self._halves[meter, context, counter + 1 if is_begin else counter - 1]
        self._done |= {digest, Counters.digest_of(other.text)}
        both = [half, other] if is_begin else [other, half]
        return _judged(both, [parse(one.text) for one in both], self._key)

    def _batches(self) -> Iterator[list[Checked]]:
        first = list(islice(self._pieces, MANY + 1))
        self.are_many = len(first) > MANY
        batches = _in_batches(chain(first, self._pieces))
        condense = self._condense if self.are_many and self._jobs > 1 else None
        check = partial(check_batch, key=self._key, condense=condense)
        if self._jobs == 1:
            yield from map(check, batches)
            return
        with ProcessPoolExecutor(self._jobs, multiprocessing.get_context("spawn"), _begin_worker) as pool:
            running: deque[Future[list[Checked]]] = deque()
            try:
                for batch in batches:
                    with _interruption_waits():
                        running.append(pool.submit(check, batch))
                    if len(running) > 4 * self._jobs:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            except BrokenProcessPool as error:
                raise IemDcrError("a process that checked receipts was ended; was there too little memory?") from error
            except BaseException:
                # Nothing that they still do is wanted, and leaving the pool would wait for it.
                for process in multiprocessing.active_children():
                    process.kill()
                raise
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _in_batches(pieces: Iterator[Found | Record]) -> Iterator[list[Found | Record]]:
    while batch := list(islice(pieces, BATCH)):
        yield batch


def check_batch(batch: list[Found | Record], key: str, condense: Callable[[Checked], Checked] | None) -> list[Checked]:
    """Check and judge receipts one by one; with a key that is given, theirs are not used."""
    checked: list[Checked] = []
    for piece in batch:
        if isinstance(piece, Record):
            found = [Found(text, source=f"line {line}") for text, line in piece.tuples()]
        else:
            found = [piece]
        checked += [_check(one, key) for one in found]
    return checked if condense is None else [one if one.half is not None else condense(one) for one in checked]


def _check(found: Found, key: str) -> Checked:
    try:
        receipt = parse(found.text)
    except ReceiptError as error:
        return Checked((found.source,), problem=str(error), word=UNREADABLE)
    counted = Counters.entry_of(receipt)
    if half_of(receipt):
        return Checked((found.source,), half=found, counted=(counted,))
    return _judged([found], [receipt], key, (counted,))


def _judged(
    found: list[Found],
    receipts: list[Receipt],
    key: str,
    counted: tuple[tuple[str, str, int, int] | None, ...] = (),
) -> Checked:
    keys = [key or one.key for one in found]
    verifications = [verify(receipt, used) for receipt, used in zip(receipts, keys, strict=True)]
    first = receipts[0]
    kind = first.payload.get("IT")
    verdict = judge(receipts, verifications, keys, found_around(found))
    return Checked(
        sources=tuple(one.source for one in found),
        meter=first.meter,
        paginations=tuple(receipt.pagination or "" for receipt in receipts),
        identification=first.identification or "",
        identification_type=kind if isinstance(kind, str) else "",
        key_from="given" if key else "document" if any(keys) else "none",
        verdict=verdict,
        notes=_notes(found, receipts, key),
        counted=counted,
        word=verdict.judgement.value,
    )


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


@contextlib.contextmanager
def _interruption_waits() -> Iterator[None]:
    """Hold SIGINT back: a process that is started meanwhile has it blocked until it can leave it to this one."""
    resource_tracker.ensure_running()  # starting it would let SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker() -> None:
    """Leave an interruption to the process that started this one, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
