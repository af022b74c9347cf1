"""What live values alone tell: how old they are, whether the meter was silent, and what transaction runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from iem_dcr.bringup.sight import SeenTransaction, Sight
from iem_dcr.driver.timing import now_s

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

    from iem_dcr.device.messages import MeterValue

CLOCK_JUMP: Final = timedelta(seconds=5)
"""A clock that jumps further than this between two values may have been through a power cut."""


@dataclass(frozen=True, slots=True)
class News:
    """What a live value tells beside itself.

    Attributes:
        before: the value before it, of the same meter, or None.
        is_another: another meter answers than before.
        may_have_missed: something may have happened since the value before: there was none for a while, or the meter's
            clock jumped.
    """

    before: MeterValue | None
    is_another: bool
    may_have_missed: bool


class SeenMeter:
    """What there is to see of one meter in its live values, whoever reads them.

    Attributes:
        value: the last live value, or None before the first.
        read_s: the loop's time at which it was read.
    """

    def __init__(self) -> None:
        self.value: MeterValue | None = None
        self.read_s = 0.0
        self._moved_s = 0.0
        self._read_at: datetime | None = None
        self._clock_off: timedelta | None = None
        self._problem = ""
        self._silent: tuple[datetime, float] | None = None
        self._transaction = TransactionWatch()

    @property
    def is_silent(self) -> bool:
        """Whether the last question for a value had no answer."""
        return self._silent is not None

    def take_up(self, value: MeterValue, read_at: datetime) -> News:
        """Take up a live value.

        Args:
            value: as it was read.
            read_at: the host's time of it.
        """
        before, off_before = self.value, self._clock_off
        is_another = before is not None and before.MS != value.MS
        if is_another:
            self._transaction.forget()
            before = off_before = None
        self._clock_off = None if value.TM is None else value.TM.instant - read_at
        is_known = off_before is not None and self._clock_off is not None
        jumped = is_known and abs(self._clock_off - off_before) > CLOCK_JUMP  # type: ignore[operator]  # both are known
        news = News(before, is_another, jumped or self.is_silent)
        self._transaction.take_up(before, value, read_at, may_have_missed=news.may_have_missed)
        self.value, self._read_at, self.read_s = value, read_at, now_s()
        if before is None or value.TM is None or before.TM != value.TM:
            self._moved_s = self.read_s
        self._problem, self._silent = "", None
        return news

    def failed(self, problem: str, asked: datetime, asked_s: float) -> None:
        """Take note that there was no value.

        Args:
            problem: why.
            asked: the host's time at which it was asked for.
            asked_s: the loop's time then.
        """
        self._problem = problem
        if self._silent is None:
            self._silent = asked, asked_s

    def sight(self, address: str) -> Sight:
        """Return what there is to see now, as far as live values tell; to be called on the loop."""
        now, value = now_s(), self.value
        silent_since, silent_s = self._silent or (None, now)
        return Sight(
            address=address,
            now_s=now,
            value=value,
            read_at=self._read_at,
            age_s=None if value is None else now - self.read_s,
            stands_s=self.read_s - self._moved_s,
            clock_off=self._clock_off,
            problem=self._problem,
            silent_since=silent_since,
            silent_s=None if silent_since is None else now - silent_s,
            transaction=None if value is None else self._transaction.seen(value),
        )


class TransactionWatch:
    """Sees the transactions of one meter in its live values."""

    def __init__(self) -> None:
        self._began: tuple[datetime, bool, Decimal] | None = None

    def forget(self) -> None:
        """Forget what was seen: another meter answers at this address."""
        self._began = None

    def take_up(
        self, before: MeterValue | None, value: MeterValue, read_at: datetime, *, may_have_missed: bool
    ) -> None:
        """Take note of a transaction that is seen for the first time, also right after another.

        Args:
            before: the value before, or None.
            value: the value that came.
            read_at: the host's time of it.
            may_have_missed: something may have happened between the two.
        """
        if not value.XT:
            self._began = None
            return
        was_running = before is not None and bool(before.XT)
        if self._began is not None and not (before is not None and is_another(before, value)):
            return
        begin_seen = before is not None and not was_running and not may_have_missed
        self._began = read_at, begin_seen, before.import_wh if before and begin_seen else value.import_wh

    def seen(self, value: MeterValue) -> SeenTransaction | None:
        """Return the transaction that runs, as far as is known at the last live value."""
        if self._began is None:
            return None
        since, begin_seen, begun_wh = self._began
        charged_wh = value.transaction_wh
        return SeenTransaction(since, begin_seen, value.import_wh - begun_wh if charged_wh is None else charged_wh)


def is_another(before: MeterValue, value: MeterValue) -> bool:
    """Tell whether the transaction's register fell, which it only does when a new transaction begins."""
    if before.transaction_wh is None or value.transaction_wh is None:
        return False
    return value.transaction_wh < before.transaction_wh
