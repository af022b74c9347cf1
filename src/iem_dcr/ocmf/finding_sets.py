"""What is found across a set of receipts: which of them are one transaction, and which are missing.

A meter that signs begin and end in tuples of their own counts both (PG); this meter's tuples hold both. Counters are
one per meter and context, and go up by one (OCMF 1.4.1, Pagination).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from iem_dcr.errors import printable
from iem_dcr.ocmf.examination import examine_transaction
from iem_dcr.ocmf.finding_codes import Finding, finding
from iem_dcr.ocmf.transaction import has_begin, has_end, is_fiscal, meter_of, pagination_of, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iem_dcr.ocmf.receipt import Receipt


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
        half = _half(receipts[number])
        meter = meter_of(receipts[number])
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


def examine_set(receipts: Sequence[Receipt]) -> tuple[Finding, ...]:
    """Examine a set of receipts: each transaction in it, and their counters.

    Returns:
        The findings, with the index of the receipt each is about.
    """
    found: list[Finding] = []
    for group in transactions_of(receipts):
        for one in examine_transaction([receipts[number] for number in group]):
            at = one.receipt if one.receipt is not None else len(group) - 1
            found.append(Finding(one.code, one.severity, one.reading, one.field, one.text, group[at]))
    return (*found, *examine_counters(receipts))


def examine_counters(receipts: Sequence[Receipt]) -> tuple[Finding, ...]:
    """Look for counters that are missing in a set, or there more than once."""
    counted: dict[tuple[str, str], dict[int, list[int]]] = {}
    for number, receipt in enumerate(receipts):
        pagination = pagination_of(receipt)
        if pagination is not None:
            context, counter = pagination
            counted.setdefault((meter_of(receipt), context), {}).setdefault(counter, []).append(number)
    found: list[Finding] = []
    for (meter, context), numbers_of in counted.items():
        name = f"meter {printable(meter, limit=40)}"
        for counter, numbers in numbers_of.items():
            found += _repeated(receipts, numbers, f"{context}{counter} of {name}")
        for before, after in pairwise(sorted(numbers_of)):
            if after > before + 1:
                text = f"{name}: {_span(context, before + 1, after - 1)} missing"
                found.append(finding("pagination-gap", text, field="PG", receipt=numbers_of[after][0]))
    return tuple(found)


def _repeated(receipts: Sequence[Receipt], numbers: list[int], name: str) -> Iterator[Finding]:
    seen = {receipts[numbers[0]].text}
    for number in numbers[1:]:
        text = receipts[number].text
        if text in seen:
            yield finding("receipt-repeated", f"{name} is there again", field="PG", receipt=number)
        else:
            yield finding("pagination-repeated", f"another receipt has {name} too", field="PG", receipt=number)
        seen.add(text)


def _span(context: str, first: int, last: int) -> str:
    return f"{context}{first} is" if first == last else f"{context}{first} to {context}{last} ({last - first + 1}) are"


def _order(receipt: Receipt, number: int) -> tuple[str, str, int, int]:
    context, counter = pagination_of(receipt) or ("", 0)
    return meter_of(receipt), context, counter, number


def _half(receipt: Receipt) -> str:
    """Say which half of a transaction a receipt is: "begin", "end", or "" where it is neither or both."""
    if is_fiscal(receipt):
        return ""
    rows = rows_of([receipt])
    begin, end = has_begin(rows), has_end(rows)
    if begin == end:
        return ""
    return "begin" if begin else "end"
