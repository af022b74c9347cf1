"""Examines a set of receipts: which of them belong to one transaction, and which are missing.

This meter's tuples have begin and end. Other meters sign them in separate tuples and count both (PG). There is one
counter per meter and context, which increases by one (OCMF 1.4.1, Pagination).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from iem_dcr.errors import printable
from iem_dcr.ocmf.rules import finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iem_dcr.ocmf.receipt import Receipt
    from iem_dcr.ocmf.rules import Finding

MOST_COUNTED = 2_000_000
"""Maximum number of receipts whose counters are compared. Each takes about 150 bytes."""


def half_of(receipt: Receipt) -> str:
    """Return which half of a transaction a receipt is: "begin", "end", or "" for neither or both."""
    if receipt.is_fiscal or receipt.has_begin == receipt.has_end:
        return ""
    return "begin" if receipt.has_begin else "end"


def transactions_of(receipts: Sequence[Receipt]) -> list[tuple[int, ...]]:
    """Group a set of receipts into transactions.

    Returns:
        The indices of the receipts of each transaction: one, or a begin and the next end by the counter of the same
        meter. If only one begin and one end remain, they belong together, even with different meters. Repeated
        receipts are omitted.
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
    """The counters of a set.

    Attributes:
        are_all_counted: False if receipts beyond `MOST_COUNTED` were ignored.
    """

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
        """By meter and context: counter, index of the receipt, and digest."""
        self._count = 0
        self.are_all_counted = True

    @staticmethod
    def entry_of(receipt: Receipt) -> tuple[str, str, int, int] | None:
        """Return the entry of a receipt for `add`: its meter, context and counter, and a digest of its text."""
        counter = receipt.counter
        return None if counter is None else (receipt.meter, *counter, Counters.digest_of(receipt.text))

    @staticmethod
    def digest_of(text: str) -> int:
        """Return a hash of 64 bits."""
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    def add(self, entry: tuple[str, str, int, int] | None) -> None:
        """Add the next receipt of the set."""
        number, self._count = self._count, self._count + 1
        if entry is None:
            return
        if number >= MOST_COUNTED:
            self.are_all_counted = False
            return
        meter, context, counter, digest = entry
        self._of.setdefault((meter, context), []).append((counter, number, digest))

    def findings(self) -> Iterator[Finding]:
        """Yield findings about missing and repeated counters. Each has the index of its receipt."""
        for (meter, context), entries in self._of.items():
            name = f"meter {printable(meter, limit=40)}"
            seen: set[int] = set()
            last = -1
            for counter, number, digest in sorted(entries):
                if counter != last:
                    if 0 <= last < counter - 1:
                        text = f"{name}: {_span(context, last + 1, counter - 1)} missing"
                        yield finding("pagination-gap", text, field="PG", receipt=number)
                    last, seen = counter, {digest}
                    continue
                code, text = "pagination-repeated", f"another receipt has {context}{counter} of {name} too"
                if digest in seen:
                    code, text = "receipt-repeated", f"{context}{counter} of {name} is repeated"
                yield finding(code, text, field="PG", receipt=number)
                seen.add(digest)


def _span(context: str, first: int, last: int) -> str:
    return f"{context}{first} is" if first == last else f"{context}{first} to {context}{last} ({last - first + 1}) are"


def _order(receipt: Receipt, number: int) -> tuple[str, str, int, int]:
    context, counter = receipt.counter or ("", 0)
    return receipt.meter, context, counter, number
