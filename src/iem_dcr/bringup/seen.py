"""What live values alone tell of a transaction: that it runs, since when, and what was charged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iem_dcr.bringup.sight import SeenTransaction

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

    from iem_dcr.device.messages import MeterValue


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
        was_running = before is not None and before.XT
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
