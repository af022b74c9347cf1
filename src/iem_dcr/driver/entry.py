"""An entry of the ledger: one B, what the driver knows of it, and how it is converted for the journal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from iem_dcr.driver.ports import NotedEntry
from iem_dcr.driver.transitions import State

if TYPE_CHECKING:
    from datetime import datetime

    from iem_dcr.ocmf import Receipt
    from iem_dcr.powermeter import TransactionReq

NO_LEAP: Final = timedelta(0)
_STATES: Final = {State.UNCERTAIN: "uncertain", State.OPEN: "open", State.ENDED: "ended", State.LOST: "lost"}
_BY_NAME: Final = {name: state for state, name in _STATES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """A B that the meter may have acted on, or a start that was refused.

    Attributes:
        number: running number; a later B has a higher one.
        transaction_id: the station's id.
        ID: the assigned ID, which the receipt will show.
        serial: serial number of the meter.
        PG_before: PG of the last receipt before this B; "" if there was none; None if it is unknown.
        state: what the driver knows of the transaction.
        noted: the host's time when the entry was made.
        sent_s: when B went out, on the loop's clock; None for an entry of a previous process.
        sent: when B went out, by the meter's clock; None if that is unknown.
        answered: the meter's time of the answer to B, or of its time-out.
        leaps: how far the meter's clock may have leapt between its last reading and B, as measured since.
        is_answered: B was answered 2xx.
        power_up: the meter was powered up since B.
        end_answered_s: when E was first answered since B.
        request: the request of the start; None for an entry of a previous process.
        receipt: the receipt that closed the entry.
        superseded: the receipt answers no stop, because another transaction was begun under the same id.
        unwanted: the driver ends the transaction by itself.
        reported: the station was told that the transaction began, and has not asked for its end.
    """

    number: int
    transaction_id: str
    ID: str
    serial: str
    PG_before: str | None
    state: State
    noted: datetime
    sent_s: float | None = None
    sent: datetime | None = None
    answered: datetime | None = None
    leaps: tuple[timedelta, ...] = ()
    is_answered: bool = False
    power_up: bool = False
    end_answered_s: float | None = None
    request: TransactionReq | None = None
    receipt: Receipt | None = None
    superseded: bool = False
    unwanted: bool = False
    reported: bool = False

    @property
    def windows(self) -> tuple[tuple[datetime, datetime], ...]:
        """Intervals of the meter's time in which B may have been acted on. Each leap of the clock adds one."""
        if self.sent is None:
            return ()
        begin, end = self.sent, self.answered or self.sent
        return tuple((begin + leap, end + leap) for leap in (NO_LEAP, *self.leaps))

    def to_note(self, address: str) -> NotedEntry:
        """Return the entry as the journal keeps it."""
        return NotedEntry(
            self.transaction_id,
            self.ID,
            self.serial,
            address,
            self.PG_before,
            self.sent,
            self.answered,
            _STATES.get(self.state, "lost"),
            self.noted,
        )

    @classmethod
    def of_note(cls, number: int, noted: NotedEntry, *, power_up: bool) -> Entry:
        """Return the entry that a previous process noted; ``power_up``: the meter was powered up since then."""
        return cls(
            number,
            noted.transaction_id,
            noted.ID,
            noted.meter,
            noted.PG_before,
            _BY_NAME.get(noted.state, State.LOST),
            noted.noted,
            sent=noted.sent,
            answered=noted.answered,
            is_answered=noted.state in ("open", "ended"),
            power_up=power_up,
            reported=noted.state == "open",
        )
