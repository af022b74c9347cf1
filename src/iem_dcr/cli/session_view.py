"""Shows a charging session: `HumanView` to a person, `JsonView` as one JSON object a line.

A view is the driver's station and its sink for receipts, so it receives everything from the driver. `charging.charge`
reports the progress of the session to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from iem_dcr.cli.output import kw, kwh, say, tell, warnings_are_logged
from iem_dcr.cli.receipt_view import print_receipt
from iem_dcr.diagnostics.status import measured
from iem_dcr.driver.meter_state import INTERRUPTED
from iem_dcr.errors import printable
from iem_dcr.ocmf import Outcome, verify
from iem_dcr.ocmf.examination import examine
from iem_dcr.ocmf.rules import Severity
from iem_dcr.powermeter import TransactionRequestStatus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal

    from iem_dcr.cli.output import Output
    from iem_dcr.driver import KeptReceipt
    from iem_dcr.ocmf import Receipt, Verification
    from iem_dcr.powermeter import (
        Powermeter,
        StationError,
        TransactionReq,
        TransactionStartResponse,
        TransactionStopResponse,
    )

ROWS = 12
"""Live values in the table of a terminal."""
LINES_BESIDE_ROWS = 6
"""Lines of the heading, the bar, and the space around them."""
ALL_COLUMNS_FROM_WIDTH = 74
WIDEST = 78
"""Width at which a longer bar would show nothing more."""
_VERIFIED = {Outcome.VALID: True, Outcome.INVALID: False, Outcome.NOT_CHECKED: None}


class SessionView:
    """Receives everything about one session. Its subclasses decide what is shown.

    Attributes:
        live: set at every live value; a task that waits for the next value clears it first.
        ended_elsewhere: set when the transaction has ended without a request from this session.
    """

    def __init__(self) -> None:
        self.live = asyncio.Event()
        self.ended_elsewhere = asyncio.Event()
        self._transaction_id = ""
        self._is_charging = False
        self._own_receipts: list[KeptReceipt] = []

    # --- called by the driver ---

    def publish_powermeter(self, value: Powermeter) -> None:  # noqa: ARG002  subclasses show it
        """Receive a live value."""
        self.live.set()

    def publish_public_key(self, key: str) -> None:
        """Receive the meter's public key."""

    def raise_error(self, error: StationError) -> None:
        """Receive a raised error. Before the start it is about an earlier transaction."""
        if error.sub_type == INTERRUPTED and self._is_charging:
            self.ended_elsewhere.set()

    def clear_error(self, error: StationError) -> None:
        """Receive a cleared error."""

    async def keep(self, kept: KeptReceipt) -> None:
        """Show a new receipt. The session's own is held back, because the answer to the stop contains it."""
        if kept.found:
            return
        if kept.transaction_id == self._transaction_id:
            self._own_receipts.append(kept)
        else:
            self.show_other_receipt(kept)

    # --- called by the session ---

    def starting(self, transaction_id: str) -> None:
        """Receive the id of the session's transaction."""
        self._transaction_id = transaction_id

    def started(self, request: TransactionReq, response: TransactionStartResponse) -> None:
        """Show the answer to the start."""

    @contextlib.contextmanager
    def charging(self) -> Iterator[None]:
        """Context that is entered while the transaction runs."""
        self._is_charging = True
        try:
            yield
        finally:
            self._is_charging = False

    def progress(self, passed_s: float) -> None:
        """Show for how many seconds the transaction has run."""

    def ending(self, current_a: Decimal | None) -> None:
        """Show what the end waits for: a falling current, in amperes, or None for the signature."""

    def stopped(self, response: TransactionStopResponse) -> None:
        """Show the answer to the stop."""

    def stop_brought_no_receipt(self) -> None:
        """Show the receipts that were held back."""
        for kept in self._own_receipts:
            self.show_other_receipt(kept)

    def show_receipt(self, receipt: Receipt, verification: Verification) -> None:
        """Show the session's receipt and the result of its check."""

    def show_other_receipt(self, kept: KeptReceipt) -> None:
        """Show a receipt that is not the answer to the stop, such as that of a transaction that was ended first."""


class JsonView(SessionView):
    """Writes events, one JSON object a line. Values are those that a station would receive."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def publish_powermeter(self, value: Powermeter) -> None:
        """Write ``powermeter``."""
        super().publish_powermeter(value)
        self._event("powermeter", value=value.to_json())

    def publish_public_key(self, key: str) -> None:
        """Write ``public_key_ocmf``."""
        self._event("public_key_ocmf", value=key)

    def raise_error(self, error: StationError) -> None:
        """Write ``error_raised``."""
        super().raise_error(error)
        self._event("error_raised", type=error.type, sub_type=error.sub_type, message=error.message)

    def clear_error(self, error: StationError) -> None:
        """Write ``error_cleared``."""
        self._event("error_cleared", type=error.type, sub_type=error.sub_type, message=error.message)

    def started(self, request: TransactionReq, response: TransactionStartResponse) -> None:  # noqa: ARG002
        """Write ``start_transaction``."""
        self._event("start_transaction", response=response.to_json())

    def stopped(self, response: TransactionStopResponse) -> None:
        """Write ``stop_transaction``."""
        self._event("stop_transaction", response=response.to_json())

    def show_receipt(self, receipt: Receipt, verification: Verification) -> None:
        """Write ``receipt``."""
        self._receipt(receipt, verification.outcome)

    def show_other_receipt(self, kept: KeptReceipt) -> None:
        """Write ``receipt``, because the meter itself only returns its last receipt."""
        self._receipt(kept.receipt, kept.outcome or Outcome.NOT_CHECKED)

    def _receipt(self, receipt: Receipt, outcome: Outcome) -> None:
        verified = _VERIFIED[outcome]
        accepted = verified and not any(found.severity is Severity.ERROR for found in examine(receipt))
        self._event("receipt", verified=verified, accepted=accepted, ocmf=receipt.text)

    def _event(self, event: str, **fields: object) -> None:
        self._output.line({"event": event, **fields})


class HumanView(SessionView):
    """Shows the session to a person: with a table and a progress bar on a terminal, else with a line per value.

    Args:
        output: standard output.
        seconds: planned duration of the charging.
    """

    def __init__(self, output: Output, seconds: float) -> None:
        super().__init__()
        self._console = output.console()
        self._seconds = seconds
        self._passed_s = 0.0
        self._last: Powermeter | None = None
        self._begin_wh: Decimal | None = None
        self._rows: deque[Powermeter] = deque(maxlen=ROWS)
        self._live: Live | None = None

    def publish_powermeter(self, value: Powermeter) -> None:
        """Show the first value, and all values during the transaction."""
        super().publish_powermeter(value)
        if self._last is None:
            energy = f"register {kwh(value.energy_wh_import)}"
            say(self._console, f"First live value: {_value_text(value).lstrip()}  {energy}")
        self._last = value
        if not self._is_charging:
            return
        if self._begin_wh is None:
            self._begin_wh = value.energy_wh_import
        self._rows.append(value)
        if self._live is not None:
            self._live.refresh()
        else:
            charged = kwh(value.energy_wh_import - self._begin_wh)
            say(self._console, f"  {value.timestamp:%H:%M:%S}  {_value_text(value)}  charged {charged}")

    def raise_error(self, error: StationError) -> None:
        """Say it."""
        super().raise_error(error)
        if error.sub_type == INTERRUPTED and self._is_charging:
            tell("The transaction is over: another program ended it, or the meter lost power.")
        else:
            tell(f"Error raised at the station: {error.type}, {error.sub_type}: {printable(error.message)}")

    def clear_error(self, error: StationError) -> None:
        """Say it."""
        if error.sub_type != INTERRUPTED or not self.ended_elsewhere.is_set():
            tell(f"Error cleared at the station: {error.type}, {error.sub_type}")

    def started(self, request: TransactionReq, response: TransactionStartResponse) -> None:
        """Print whether the transaction began."""
        if response.status is not TransactionRequestStatus.OK:
            tell(f"Error: the transaction did not begin ({response.status.value}){_reason(response.error)}")
            return
        user = printable(request.identification_data)
        say(self._console, f"Transaction {printable(request.transaction_id)} began for user {user}")
        self._begin_wh = None if self._last is None else self._last.energy_wh_import

    @contextlib.contextmanager
    def charging(self) -> Iterator[None]:
        """Show the live values."""
        with super().charging():
            if not self._console.is_terminal or self._console.is_dumb_terminal:
                yield
                return
            live = Live(
                console=self._console,
                get_renderable=self._picture,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=sys.stderr.isatty(),
            )
            with live as self._live:
                yield
            self._live = None

    def progress(self, passed_s: float) -> None:
        """Move the bar."""
        self._passed_s = passed_s
        if self._live is not None:
            self._live.refresh()

    def ending(self, current_a: Decimal | None) -> None:
        """Say it."""
        if current_a is not None:
            say(self._console, f"Ending the transaction: waiting for the current to fall ({current_a:.1f} A) ...")
        else:
            say(self._console, "Ending the transaction and waiting for the signature ...")

    def stopped(self, response: TransactionStopResponse) -> None:
        """Print an error if there is no receipt."""
        if response.status is not TransactionRequestStatus.OK:
            tell(f"Error: the transaction has no receipt{_reason(response.error)}")

    def show_receipt(self, receipt: Receipt, verification: Verification) -> None:
        """Print it."""
        self._console.print()
        print_receipt(self._console, receipt, verification)

    def show_other_receipt(self, kept: KeptReceipt) -> None:
        """Print it, and state that it belongs to another transaction."""
        self._console.print("\nThe receipt of another transaction, which was ended first:")
        print_receipt(self._console, kept.receipt, verify(kept.receipt, kept.public_key))
        self._console.print()

    def _picture(self) -> Group:
        width = min(self._console.width, WIDEST)
        bar = Table.grid(padding=(0, 1))
        bar.width = width
        bar.add_column()
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        bar.add_row(
            "Charging",
            ProgressBar(total=max(self._seconds, 0.001), completed=self._passed_s),
            f"{self._passed_s:.0f}/{self._seconds:.0f} s",
        )
        return Group(self._table(width), bar) if self._rows else Group(bar)

    def _table(self, width: int) -> Table:
        """Return a table of the last values, with as many columns and rows as fit."""
        has_all = width >= ALL_COLUMNS_FROM_WIDTH
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        more = ("Voltage", "Current", "Import register") if has_all else ()
        for heading in ("Meter time", "Power", *more, "Charged"):
            table.add_column(heading, justify="right", no_wrap=True)
        for value in list(self._rows)[-max(1, self._console.height - LINES_BESIDE_ROWS) :]:
            cells = [f"{value.timestamp:%H:%M:%S}", kw(value.power_w)]
            if has_all:
                cells += [measured(value.voltage_v, "V"), measured(value.current_a, "A"), kwh(value.energy_wh_import)]
            table.add_row(*cells, Text(kwh(value.energy_wh_import - (self._begin_wh or 0)), style="bold"))
        return table


def _value_text(value: Powermeter) -> str:
    return f"{kw(value.power_w):>11}  {measured(value.voltage_v, 'V'):>8}  {measured(value.current_a, 'A'):>8}"


def _reason(why: str) -> str:
    """Return a reason to append to a message, or "" if the driver's log has just shown it."""
    return "" if warnings_are_logged() else f": {printable(why, limit=400)}"
