"""What is found across a set of receipts: which of them are one transaction, and which are missing.

A meter that signs begin and end in tuples of their own counts both (PG); this meter's tuples hold both. Counters are
one per meter and context, and go up by one (OCMF 1.4.1, Pagination).
"""

from __future__ import annotations

import hashlib
from array import array
from typing import TYPE_CHECKING

from iem_dcr.errors import printable
from iem_dcr.ocmf.rules import finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iem_dcr.ocmf.receipt import Receipt
    from iem_dcr.ocmf.rules import Finding

MOST_COUNTED = 2_000_000
"""Receipts whose counters are compared; each takes 24 bytes."""


def half_of(receipt: Receipt) -> str:
    """Say which half of a transaction a receipt is: "begin", "end", or "" where it is neither or both."""
    if receipt.is_fiscal or receipt.has_begin == receipt.has_end:
        return ""
    return "begin" if receipt.has_begin else "end"


def transactions_of(receipts: Sequence[Receipt]) -> list[tuple[int, ...]]:
    """Sort a set into transactions.

    Returns:
        The indices of each transaction's receipts: one, or a begin and the end that comes next by the counter of the
        same meter. A begin and an end that are the only ones left over belong together, whatever their meters say.
        A receipt that is in the set again is left out.
    """
    first_of: dict[str, int] = {}
    for number, receipt in enumerate(receipts):
        first_of.setdefault(receipt.text, number)
    groups: list[tuple[int, ...]] = []
    begins: dict[str, list[int]] = {}
    lone_ends: list[int] = []
    for number in sorted(first_of.values(), key=lambda number: _order(receipts[number], number)):
        half, meter = half_of(receipts[number]), receipts[number].meter
        if half == "begin":
            begins.setdefault(meter, []).append(number)
        elif half == "end" and begins.get(meter):
            groups.append((begins[meter].pop(), number))
        elif half == "end":
            lone_ends.append(number)
        else:
            groups.append((number,))
    lone_begins = [number for numbers in begins.values() for number in numbers]
    if len(lone_begins) == len(lone_ends) == 1:
        groups.append((lone_begins[0], lone_ends[0]))
    else:
        groups += [(number,) for number in (*lone_begins, *lone_ends)]
    return sorted(groups)


class Counters:
    """The counters of a set, in a few bytes for each receipt.

    Attributes:
        are_all_counted: whether none was left out because there are more than `MOST_COUNTED`.
    """

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], tuple[array[int], array[int], array[int]]] = {}
        self._count = 0
        self.are_all_counted = True

    @staticmethod
    def entry_of(receipt: Receipt) -> tuple[str, str, int, int] | None:
        """Return what `add` takes of a receipt: its meter, context and counter, and a digest of its text."""
        counter = receipt.counter
        if counter is None:
            return None
        return receipt.meter, *counter, Counters.digest_of(receipt.text)

    @staticmethod
    def digest_of(text: str) -> int:
        """Return a number of 64 bits that tells texts apart."""
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    def add(self, entry: tuple[str, str, int, int] | None) -> None:
        """Take up the next receipt of the set."""
        number, self._count = self._count, self._count + 1
        if entry is None:
            return
        if number >= MOST_COUNTED:
            self.are_all_counted = False
            return
        meter, context, counter, digest = entry
        values, digests, numbers = self._of.setdefault((meter, context), (array("Q"), array("Q"), array("Q")))
        values.append(counter)
        digests.append(digest)
        numbers.append(number)

    def findings(self) -> Iterator[Finding]:
        """Yield what is missing, or there more than once, with the index of the receipt each is about."""
        for (meter, context), (values, digests, numbers) in self._of.items():
            name = f"meter {printable(meter, limit=40)}"
            order: Sequence[int] = range(len(values))
            if any(values[at] > values[at + 1] for at in order[:-1]):
                order = array("Q", sorted(order, key=values.__getitem__))
            seen: set[int] = set()
            last = -1
            for at in order:
                before, last = last, values[at]
                if before != last:
                    seen = {digests[at]}
                    if 0 <= before < last - 1:
                        text = f"{name}: {_span(context, before + 1, last - 1)} missing"
                        yield finding("pagination-gap", text, field="PG", receipt=numbers[at])
                    continue
                code, text = "pagination-repeated", f"another receipt has {context}{last} of {name} too"
                if digests[at] in seen:
                    code, text = "receipt-repeated", f"{context}{last} of {name} is there again"
                yield finding(code, text, field="PG", receipt=numbers[at])
                seen.add(digests[at])


def _span(context: str, first: int, last: int) -> str:
    return f"{context}{first} is" if first == last else f"{context}{first} to {context}{last} ({last - first + 1}) are"


def _order(receipt: Receipt, number: int) -> tuple[str, str, int, int]:
    context, counter = receipt.counter or ("", 0)
    return receipt.meter, context, counter, number
