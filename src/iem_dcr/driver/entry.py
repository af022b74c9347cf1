"""An entry of the ledger: one B, what is known of it, and the form in which the journal keeps it."""

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
    """A B that may have been acted on, or a start that was refused.

    Attributes:
        number: counts the entries.
        transaction_id: the station's.
        ID: that was assigned, which the receipt will show.
        serial: of the meter.
        PG_before: PG of the last receipt before it; "" where there was none; None where that is not known.
        state: what is known of it.
        noted: the host's time at which it was made.
        sent_s: when B went out; None for one of a process before.
        sent: the same by the meter's clock, or None.
        answered: the meter's time of the answer to B, or of its time-out.
        leaps: how far the meter's clock may have leapt between the look at it and B: what was seen of it since.
        is_answered: B was answered 2xx.
        power_up: the meter was powered up since B.
        end_answered_s: when E was answered first since B.
        request: of the start; None for one of a process before.
        receipt: its receipt, when it is closed.
        superseded: its receipt answers no stop: another transaction was begun under the same id.
        unwanted: the driver ends it by itself.
        told: the station was answered that it was begun, and has not asked for its end.
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
    told: bool = False

    @property
    def windows(self) -> tuple[tuple[datetime, datetime], ...]:
        """Between which times of the meter B was acted on, if it was: one more for each leap of its clock."""
        if self.sent is None:
            return ()
        begin, end = self.sent, self.answered or self.sent
        return tuple((begin + leap, end + leap) for leap in (NO_LEAP, *self.leaps))

    def to_note(self, address: str) -> NotedEntry:
        """Return it as the journal keeps it."""
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
        """Return the entry of a process before; ``power_up``: the meter was powered up since."""
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
            told=noted.state == "open",
        )
