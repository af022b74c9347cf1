"""The receipts that a driver knows: which were seen, whose they are, and which one answers a stop. In memory, bounded.

Two receipts are the same if their signed payloads are. A receipt seen before another one never becomes the last again,
because the meter's nodes may lag.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iem_dcr.ocmf import Receipt

MAX_RECEIPTS: Final = 64
MAX_KNOWN: Final = 256
"""Of receipts beyond `MAX_RECEIPTS` only the digest and the owner are known."""


class ReceiptMemory:
    """The receipts that are known of one meter.

    Attributes:
        last: the newest receipt that the meter has shown, or None.
    """

    def __init__(self) -> None:
        self.last: Receipt | None = None
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._owners: OrderedDict[bytes, str] = OrderedDict()
        self._by_id: OrderedDict[str, Receipt] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of receipts held whole under an id."""
        return len(self._by_id)

    def show(self, receipt: Receipt) -> bool:
        """Record that the meter shows a receipt. Returns whether it is new."""
        if not self.knows(receipt):
            self.add(receipt)
            self.last = receipt
            return True
        order = {digest: number for number, digest in enumerate(self._seen)}
        # A known receipt may be the last one if a previous process has seen it, but not one older than the last.
        if self.last is None or order[digest_of(receipt)] > order.get(digest_of(self.last), -1):
            self.last = receipt
        return False

    def knows(self, receipt: Receipt) -> bool:
        """Return whether a receipt was seen before."""
        return digest_of(receipt) in self._seen

    def add(self, receipt: Receipt) -> None:
        """Record that a receipt exists."""
        self._seen[digest_of(receipt)] = None
        _limit(self._seen, MAX_KNOWN)

    def own(self, receipt: Receipt, transaction_id: str, *, answers: bool) -> None:
        """Record the first owner of a receipt; ``answers``: a stop for this id gets this receipt."""
        self._owners.setdefault(digest_of(receipt), transaction_id)
        _limit(self._owners, MAX_KNOWN)
        if answers:
            self._by_id.pop(transaction_id, None)
            self._by_id[transaction_id] = receipt
            _limit(self._by_id, MAX_RECEIPTS)

    def owner_of(self, receipt: Receipt) -> str:
        """Return the id that a receipt belongs to, or ""."""
        return self._owners.get(digest_of(receipt), "")

    def of(self, transaction_id: str) -> Receipt | None:
        """Return the receipt that answers a stop for an id, or None."""
        return self._by_id.get(transaction_id)

    def recall(self, filed: Iterable[tuple[Receipt, str, bool]]) -> None:
        """Add receipts of previous processes before those of this one, oldest first; each as for `own`."""
        seen, self._seen = self._seen, OrderedDict()
        for receipt, transaction_id, answers in filed:
            self.add(receipt)
            if transaction_id:
                self.own(receipt, transaction_id, answers=answers)
        for digest in seen:
            self._seen.setdefault(digest)


def digest_of(receipt: Receipt) -> bytes:
    """Return the digest of a receipt's signed payload, which identifies the receipt."""
    return hashlib.sha256(receipt.signed).digest()


def _limit(latest: OrderedDict[Any, Any], size: int) -> None:
    while len(latest) > size:
        latest.popitem(last=False)
