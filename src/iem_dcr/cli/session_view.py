"""Shows a charging session: to a person in sentences, or to a program as one JSON object a line.

The view is the driver's station and its sink for receipts, so it receives everything from the driver.
`charging.charge` reports the progress of the session to it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from rich.progress import BarColumn, TextColumn

from iem_dcr.cli.output import kw, kwh, progress_bar, say, tell, warnings_are_logged
from iem_dcr.cli.receipt_view import print_receipt
from iem_dcr.diagnostics.status import measured
from iem_dcr.driver.meter_state import INTERRUPTED
from iem_dcr.errors import printable
from iem_dcr.ocmf import Outcome
from iem_dcr.ocmf.verdict import Judgement, verdict_on
from iem_dcr.powermeter import TransactionRequestStatus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal

    from iem_dcr.cli.output import Output
    from iem_dcr.driver import KeptReceipt
    from iem_dcr.ocmf import Receipt
    from iem_dcr.ocmf.verdict import Verdict
    from iem_dcr.powermeter import (
        Powermeter,
        StationError,
        TransactionReq,
        TransactionStartResponse,
        TransactionStopResponse,
    )

OK = TransactionRequestStatus.OK
WIDE_FROM = 76
"""Columns of a terminal from which the line of a live value has more than power and charged energy."""
_VERIFIED = {Outcome.VALID: True, Outcome.INVALID: False, Outcome.NOT_CHECKED: None}


class SessionView:
    """Shows one session. On a terminal there is a progress bar below the live values.

    Args:
        output: standard output.
        seconds: planned duration of the charging.
        as_json: write events with the values that a station would receive; say nothing.

    Attributes:
        live: set at every live value; a task that waits for the next value clears it first.
        ended_elsewhere: set when the transaction has ended without a request from this session.
        transaction_id: of the session; "" before the start.
    """

    def __init__(self, output: Output, seconds: float, *, as_json: bool = False) -> None:
        self.live = asyncio.Event()
        self.ended_elsewhere = asyncio.Event()
        self.transaction_id = ""
        self._output = output
        self._as_json = as_json
        self._console = output.console()
        columns = TextColumn("Charging"), BarColumn(None), TextColumn("{task.completed:.0f}/{task.total:.0f} s")
        self._bar = progress_bar(self._console, *columns, is_shown=not as_json)
        self._bar_id = self._bar.add_task("", total=seconds)
        self._is_charging = False
        self._last: Powermeter | None = None
        self._begin_wh: Decimal | None = None
        self._own_receipts: list[KeptReceipt] = []

    # --- called by the driver ---

    def publish_powermeter(self, value: Powermeter) -> None:
        """Show a live value: the first, and all during the transaction."""
        self._event("powermeter", value=value.to_json())
        if self._last is None:
            self.say(f"First live value: {_value_text(value).lstrip()}  register {kwh(value.energy_wh_import)}")
        self._last = value
        if self._is_charging:
            self._show_progress(value)
        self.live.set()

    def publish_public_key(self, key: str) -> None:
        """Show the meter's public key."""
        self._event("public_key_ocmf", value=key)

    def raise_error(self, error: StationError) -> None:
        """Show a raised error. Before the start it is about an earlier transaction."""
        self._event("error_raised", type=error.type, sub_type=error.sub_type, message=error.message)
        if error.sub_type == INTERRUPTED and self._is_charging:
            self.ended_elsewhere.set()
            self._tell("The transaction is over: another program ended it, or the meter lost power.")
        else:
            self._tell(f"Error raised at the station: {error.type}, {error.sub_type}: {printable(error.message)}")

    def clear_error(self, error: StationError) -> None:
        """Show a cleared error."""
        self._event("error_cleared", type=error.type, sub_type=error.sub_type, message=error.message)
        if error.sub_type != INTERRUPTED or not self.ended_elsewhere.is_set():
            self._tell(f"Error cleared at the station: {error.type}, {error.sub_type}")

    async def keep(self, kept: KeptReceipt) -> None:
        """Show a new receipt. The session's own is held back, because the answer to the stop contains it."""
        if kept.found:
            return
        if kept.transaction_id == self.transaction_id:
            self._own_receipts.append(kept)
        else:
            self._show_other_receipt(kept)

    # --- called by the session ---

    def say(self, text: str) -> None:
        """Say something to a person."""
        if not self._as_json:
            say(self._console, text)

    def started(self, request: TransactionReq, response: TransactionStartResponse) -> None:
        """Show the answer to the start."""
        self._event("start_transaction", response=response.to_json())
        if response.status is not OK:
            self._tell(f"Error: the transaction did not begin ({response.status.value}){_reason(response.error)}")
            return
        user = printable(request.identification_data)
        self.say(f"Transaction {printable(request.transaction_id)} began for user {user}")
        self._begin_wh = None if self._last is None else self._last.energy_wh_import

    @contextlib.contextmanager
    def charging(self) -> Iterator[None]:
        """Context that is entered while the transaction runs."""
        self._is_charging = True
        try:
            with self._bar:
                yield
        finally:
            self._is_charging = False

    def progress(self, passed_s: float) -> None:
        """Show for how many seconds the transaction has run."""
        self._bar.update(self._bar_id, completed=passed_s, refresh=True)

    def ending(self, current_a: Decimal | None) -> None:
        """Show what the end waits for: a falling current, in amperes, or None for the signature."""
        if current_a is None:
            self.say("Ending the transaction and waiting for the signature ...")
        else:
            self.say(f"Ending the transaction: waiting for the current to fall ({current_a:.1f} A) ...")

    def stopped(self, response: TransactionStopResponse) -> None:
        """Show the answer to the stop."""
        self._event("stop_transaction", response=response.to_json())
        if response.status is not OK:
            self._tell(f"Error: the transaction has no receipt{_reason(response.error)}")

    def stop_brought_no_receipt(self) -> None:
        """Show the receipts that were held back."""
        for kept in self._own_receipts:
            self._show_other_receipt(kept)

    def show_receipt(self, receipt: Receipt, verdict: Verdict) -> None:
        """Show a receipt."""
        verified = _VERIFIED[verdict.outcome]
        accepted = verified and verdict.judgement is Judgement.ACCEPTED
        self._event("receipt", verified=verified, accepted=accepted, ocmf=receipt.text)
        if not self._as_json:
            self._console.print()
            print_receipt(self._console, receipt, verdict)

    def _show_other_receipt(self, kept: KeptReceipt) -> None:
        """Show a receipt that is not the answer to the stop. The meter itself returns only its last one."""
        self.say("\nThe receipt of another transaction, which was ended first:")
        self.show_receipt(kept.receipt, verdict_on([kept.receipt], kept.public_key))

    def _show_progress(self, value: Powermeter) -> None:
        if self._begin_wh is None:
            self._begin_wh = value.energy_wh_import
        charged = kwh(value.energy_wh_import - self._begin_wh)
        if self._bar.disable or self._console.width >= WIDE_FROM:
            self.say(f"  {value.timestamp:%H:%M:%S}  {_value_text(value)}  charged {charged}")
        else:
            self.say(f"{value.timestamp:%H:%M:%S}  {kw(value.power_w)}  {charged}")

    def _event(self, event: str, **fields: object) -> None:
        """Write an event for a program."""
        if self._as_json:
            self._output.line({"event": event, **fields})

    def _tell(self, text: str) -> None:
        """Say something to a person on standard error."""
        if not self._as_json:
            tell(text)


def _value_text(value: Powermeter) -> str:
    return f"{kw(value.power_w):>11}  {measured(value.voltage_v, 'V'):>8}  {measured(value.current_a, 'A'):>8}"


def _reason(why: str) -> str:
    """Return a reason to append to a message, or "" if the driver's log has just shown it."""
    return "" if warnings_are_logged() else f": {printable(why, limit=400)}"
