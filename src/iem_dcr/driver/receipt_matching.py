"""Which receipt belongs to which transaction, and what a stop is entitled to. Pure: no I/O, no clock, no log.

Theory. A receipt is *new* if its signed payload differs from every receipt that the driver knows. A new receipt is
*ours* if three things hold. It has the same serial. It shows the assigned ID, or a cut of it. It begins between 5 s
before B went out and 5 s after B's answer or time-out, by the meter's own clock. If either the ID or the time cannot
be read, the other must agree and the pagination must have changed since B. If several entries fit, the receipt belongs
to the one whose B went out nearest to the begin. Any other receipt is another client's and closes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from iem_dcr.driver.transitions import AWAITED, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from iem_dcr.driver.entry import Entry
    from iem_dcr.ocmf import Receipt

BEGINS_BEFORE: Final = timedelta(seconds=5)
BEGINS_AFTER: Final = timedelta(seconds=5)
"""The meter shows whole seconds, a request takes time, and the meter may act on it after the driver has timed out."""
ENDED_BEFORE: Final = timedelta(seconds=2)
"""The meter shows whole seconds, and its end may lie just before the time that was read for E."""
SHORTEST_CUT: Final = 8
"""A shown ID of at least this many characters may be cut: a meter may have a length limit of its own."""
_FAR: Final = timedelta.max


def owner(receipt: Receipt, entries: Iterable[Entry]) -> Entry | None:
    """Return the entry that a new receipt belongs to, or None if it is another client's."""
    fitting = [entry for entry in entries if is_ours(receipt, entry)]
    return min(fitting, key=lambda entry: _distance(receipt, entry), default=None)


def is_ours(receipt: Receipt, entry: Entry) -> bool:
    """Return whether a new receipt belongs to an entry."""
    if entry.state in (State.CLOSED, State.REFUSED):
        return False
    if receipt.meter_serial and receipt.meter_serial != entry.serial:
        return False
    agreements = [_ID_agrees(receipt, entry), _begin_agrees(receipt, entry)]
    if False in agreements:
        return False
    return None not in agreements or (True in agreements and _page_moved_on(receipt, entry))


def _ID_agrees(receipt: Receipt, entry: Entry) -> bool | None:  # noqa: N802  OCMF's name
    shown = receipt.identification
    if shown is None:
        return None
    return shown == entry.ID or (len(shown) >= SHORTEST_CUT and entry.ID.startswith(shown))


def _begin_agrees(receipt: Receipt, entry: Entry) -> bool | None:
    begin = _begin_of(receipt)
    if begin is None or not entry.windows:
        return None
    return any(sent - BEGINS_BEFORE <= begin <= answered + BEGINS_AFTER for sent, answered in entry.windows)


def _page_moved_on(receipt: Receipt, entry: Entry) -> bool:
    return bool(receipt.pagination) and entry.PG_before is not None and receipt.pagination != entry.PG_before


def _begin_of(receipt: Receipt) -> datetime | None:
    return receipt.begin.TM.instant if receipt.begin is not None and receipt.begin.TM is not None else None


def _distance(receipt: Receipt, entry: Entry) -> tuple[timedelta, int]:
    begin = _begin_of(receipt)
    if begin is None or not entry.windows:
        return _FAR, -entry.number
    return min(abs(begin - sent) for sent, _ in entry.windows), -entry.number


def ended_since(receipt: Receipt, moment: datetime | None) -> bool:
    """Return whether an E at ``moment`` ended the transaction: it ends at most 2 s before, by the meter's clock."""
    end = receipt.end
    if moment is None or end is None or end.TM is None:
        return True
    return end.TM.instant >= moment - ENDED_BEFORE


# --- what a stop is entitled to --------------------------------------------------------------------------------------


class Right(Enum):
    """What a stop gets: the rows of the table in docs/architecture.md."""

    RECEIPT = auto()
    """Its receipt, which the driver already has. A running transaction continues."""
    END = auto()
    """E, then its receipt."""
    ONE_LOOK = auto()
    """Its receipt if the meter shows it now, else an error. A running transaction continues."""
    REFUSED = auto()
    """An error: its start was refused."""
    WHATEVER_RUNS = auto()
    """The receipt of the running transaction, which is ended, or the meter's last receipt. The id has no influence."""


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What a stop is entitled to, and the entry that it concerns."""

    right: Right
    entry: Entry | None = None


def entitlement(transaction_id: str, entries: Sequence[Entry], serial: str) -> Entitlement:
    """Return what a stop for an id is entitled to.

    Args:
        transaction_id: the station's id; "" for any open transaction.
        entries: all known entries, in the order of their B.
        serial: serial number of the meter that answers, or "" if none has answered yet.
    """
    if transaction_id == "":
        awaited = [entry for entry in entries if entry.state in AWAITED and entry.serial in (serial, "")]
        awaited = awaited or [entry for entry in entries if entry.state in AWAITED and not serial]
        return Entitlement(Right.END, awaited[-1]) if awaited else Entitlement(Right.WHATEVER_RUNS)
    own = [entry for entry in entries if entry.transaction_id == transaction_id]
    if not own:
        return Entitlement(Right.WHATEVER_RUNS)
    newest = own[-1]
    closed = [entry for entry in own if entry.state is State.CLOSED]
    if closed and (newest is closed[-1] or not (newest.is_answered or newest.state in AWAITED)):
        return Entitlement(Right.RECEIPT, closed[-1])
    if newest.state is State.REFUSED:
        return Entitlement(Right.REFUSED, newest)
    if newest.state is State.LOST or (serial and newest.serial not in (serial, "")):
        return Entitlement(Right.ONE_LOOK, newest)
    return Entitlement(Right.END, newest)
