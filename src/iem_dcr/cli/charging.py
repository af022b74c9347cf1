"""One charging session at a meter: live values, start, some seconds of charging, stop, check of the receipt.

A transaction that was begun is also ended, whatever happens in between. Ctrl-C or a lost reader of the output ends the
charging early. Only the third Ctrl-C leaves the transaction running.

The session is the driver's station and its sink for receipts, so it shows all that the driver publishes: to a person in
sentences, or to a program as one JSON object a line.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, TextColumn

from iem_dcr import ocmf
from iem_dcr.cli.exit_codes import EXIT_FAILURE, EXIT_INTERRUPTED
from iem_dcr.cli.output import kw, kwh, progress_bar, say, tell, warnings_are_logged
from iem_dcr.cli.receipt_view import print_receipt
from iem_dcr.diagnostics.status import measured
from iem_dcr.driver.meter_state import CURRENT_FLOWS_A, INTERRUPTED
from iem_dcr.errors import printable
from iem_dcr.ocmf.verdict import Judgement, verdict_on
from iem_dcr.powermeter import TransactionRequestStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from decimal import Decimal

    from iem_dcr.cli.demo_everest import MeterBehindEverest
    from iem_dcr.cli.interruption import Interruption
    from iem_dcr.cli.output import Output
    from iem_dcr.device.messages import MeterValue
    from iem_dcr.driver import KeptReceipt, MeterDriver
    from iem_dcr.ocmf import Receipt
    from iem_dcr.ocmf.verdict import Verdict
    from iem_dcr.powermeter import (
        Powermeter,
        StationError,
        TransactionReq,
        TransactionStartResponse,
        TransactionStopResponse,
    )

    PowerMeter = MeterDriver | MeterBehindEverest
    """The meter of a session: a driver, or a driver behind EVerest's API."""

TICK_S = 0.1
SETTLING_S = 15.0
"""Time for the driver to end a transaction that the meter runs after a failed start."""
WIDE_FROM = 76
"""Columns of a terminal from which the line of a live value has more than power and charged energy."""

NOTHING_BEGAN = "no transaction was begun."
_MAY_RUN = "the transaction may still be running in the meter. Check with: iem-dcr read {}"
_END_IT = "To end it once no current flows: iem-dcr session {} --end-running --seconds 0 --id ..."
_VERIFIED = {ocmf.Outcome.VALID: True, ocmf.Outcome.INVALID: False, ocmf.Outcome.NOT_CHECKED: None}
_SIGNATURE = " and waiting for the signature"
_OK = TransactionRequestStatus.OK


@contextlib.asynccontextmanager
async def running(meter: PowerMeter) -> AsyncIterator[None]:
    """Drive a meter while the context is entered."""
    task = asyncio.create_task(meter.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


class Session:
    """One session. On a terminal it has a progress bar below the live values.

    Args:
        output: standard output.
        seconds: how long to charge.
        as_json: write events with the values that a station would receive; say nothing.
    """

    def __init__(self, output: Output, seconds: float, *, as_json: bool = False) -> None:
        self._output = output
        self._console = output.console()
        self._as_json = as_json
        self._seconds = seconds
        columns = TextColumn("Charging"), BarColumn(None), TextColumn("{task.completed:.0f}/{task.total:.0f} s")
        self._bar = progress_bar(self._console, *columns, is_shown=not as_json)
        self._live = asyncio.Event()
        self._transaction_id = ""
        self._is_charging = False
        self._is_over = False
        self._has_ended_elsewhere = False
        self._last: Powermeter | None = None
        self._begin_wh: Decimal | None = None
        self._own_receipts: dict[str, KeptReceipt] = {}
        self._shown: set[str] = set()

    async def run(
        self, meter: PowerMeter, request: TransactionReq, interruption: Interruption, *, connect_s: float
    ) -> int:
        """Run the session at a meter that is being driven, and whose station is this session.

        Args:
            meter: the meter.
            request: the start.
            interruption: ends the charging early. The transaction is still stopped, and its receipt shown.
            connect_s: longest time until the first live value.

        Returns:
            The exit status: 0 if the transaction was begun and stopped and its receipt verifies; 130 if it was
            interrupted; else 1.

        Raises:
            click.ClickException: no live value came in time.
            LeftEarlyError: interrupted before the start, or by the third signal.
        """
        may_run = _MAY_RUN.format(meter.address)
        await interruption.break_off(self._first_value(meter, connect_s), NOTHING_BEGAN)
        self._transaction_id = request.transaction_id
        is_verified = False
        try:
            response = await interruption.see_through(meter.start_transaction(request), may_run)
            if response.status is _OK:
                try:
                    self._show_start(request, response)
                    await self._charge(interruption)
                finally:
                    stopped = await interruption.see_through(self._stop(meter), may_run)
                    is_verified = self._show_stop(meter, stopped)
            else:
                self._show_start(request, response)
                await interruption.see_through(self._settle(meter), may_run)
        finally:
            self._is_over = True
            self._show_own_receipts()
        if interruption.came:
            return EXIT_INTERRUPTED
        return 0 if is_verified else EXIT_FAILURE

    def say(self, text: str) -> None:
        """Say something to a person."""
        if not self._as_json:
            say(self._console, text)

    # --- called by the driver ---

    def publish_powermeter(self, value: Powermeter) -> None:
        """Show a live value: to a program all, to a person the first and those of the transaction."""
        self._event("powermeter", value=value.to_json())
        if self._last is None:
            self.say(f"First live value: {_value_text(value).lstrip()}  register {kwh(value.energy_wh_import)}")
        self._last = value
        if self._is_charging:
            if self._begin_wh is None:
                self._begin_wh = value.energy_wh_import
            charged = kwh(value.energy_wh_import - self._begin_wh)
            if self._bar.disable or self._console.width >= WIDE_FROM:
                self.say(f"  {value.timestamp:%H:%M:%S}  {_value_text(value)}  charged {charged}")
            else:
                self.say(f"{value.timestamp:%H:%M:%S}  {kw(value.power_w)}  {charged}")
        self._live.set()

    def publish_public_key(self, key: str) -> None:
        """Show the meter's public key."""
        self._event("public_key_ocmf", value=key)

    def raise_error(self, error: StationError) -> None:
        """Show a raised error. Before the start it is about an earlier transaction."""
        self._event("error_raised", type=error.type, sub_type=error.sub_type, message=error.message)
        if error.sub_type == INTERRUPTED and self._is_charging:
            self._has_ended_elsewhere = True
            self._tell("The transaction is over: another program ended it, or the meter lost power.")
        else:
            self._tell(f"Error raised at the station: {error.type}, {error.sub_type}: {printable(error.message)}")

    def clear_error(self, error: StationError) -> None:
        """Show a cleared error."""
        self._event("error_cleared", type=error.type, sub_type=error.sub_type, message=error.message)
        if error.sub_type != INTERRUPTED or not self._has_ended_elsewhere:
            self._tell(f"Error cleared at the station: {error.type}, {error.sub_type}")

    async def keep(self, kept: KeptReceipt) -> None:
        """Show a new receipt. The session's own is held back, because the answer to the stop contains it."""
        text = kept.receipt.text
        if kept.found or text in self._shown:  # a receipt is kept when it is found, and again when it is delivered
            return
        if kept.transaction_id != self._transaction_id:
            self._show_other_receipt(kept)
            return
        self._own_receipts[text] = kept
        if self._is_over:
            self._show_own_receipts()

    # --- the steps of a session ---

    async def _first_value(self, meter: PowerMeter, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await self._live.wait()
        except TimeoutError as error:
            raise click.ClickException(
                f"the meter {meter.address} gave no live value within {within_s:g} s; nothing was begun. "
                "Run with -v to see why."
            ) from error

    def _show_start(self, request: TransactionReq, response: TransactionStartResponse) -> None:
        self._event("start_transaction", response=response.to_json())
        if response.status is not _OK:
            self._tell(f"Error: the transaction did not begin ({response.status.value}){_reason(response.error)}")
            return
        user = printable(request.identification_data)
        self.say(f"Transaction {printable(request.transaction_id)} began for user {user}")
        self._begin_wh = None if self._last is None else self._last.energy_wh_import

    async def _charge(self, interruption: Interruption) -> None:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._seconds
        left_s = self._seconds
        bar_id = self._bar.add_task("", total=self._seconds)
        self._is_charging = True
        with self._bar:
            while left_s > 0 and not interruption.came and not self._has_ended_elsewhere:
                await interruption.wait(min(TICK_S, left_s))
                left_s = max(0.0, end_s - loop.time())
                self._bar.update(bar_id, completed=self._seconds - left_s, refresh=True)
        self._is_charging = False

    async def _stop(self, meter: PowerMeter) -> TransactionStopResponse:
        """End the transaction, and say what the end is waiting for."""
        stopping = asyncio.ensure_future(meter.stop_transaction(self._transaction_id))
        flowed: bool | None = None
        try:
            while not stopping.done():
                current_a = _flowing_current_a(meter.value)
                flows = current_a is not None
                if flows is not flowed and not self._has_ended_elsewhere:
                    waits_for = f": waiting for the current to fall ({current_a:.1f} A)" if flows else _SIGNATURE
                    self.say(f"Ending the transaction{waits_for} ...")
                flowed = flows
                await asyncio.wait({stopping}, timeout=TICK_S)
            return stopping.result()
        finally:
            stopping.cancel()

    def _show_stop(self, meter: PowerMeter, stopped: TransactionStopResponse) -> bool:
        """Show the answer to the stop. Returns whether it is a receipt that verifies."""
        self._event("stop_transaction", response=stopped.to_json())
        if stopped.signed_meter_value is None:
            self._tell(f"Error: the transaction has no receipt{_reason(stopped.error)}")
            self._show_own_receipts()
            if meter.value is not None and meter.value.XT:
                tell(f"The transaction is still running in the meter. {_END_IT.format(meter.address)}")
            return False
        receipt = ocmf.parse(stopped.signed_meter_value.signed_meter_data)
        self._own_receipts.pop(receipt.text, None)
        if self._own_receipts:
            self.say("\nThe receipt of an earlier begin of this transaction, whose answer was lost:")
            self._show_own_receipts()
        verdict = verdict_on([receipt], meter.public_key)
        self._show_receipt(receipt, verdict)
        return verdict.outcome is ocmf.Outcome.VALID

    async def _settle(self, meter: PowerMeter) -> None:
        """After a failed start, wait until the driver has ended a transaction that the meter runs nevertheless.

        This happens, for example, if the answer to a B was lost. Its receipt is waited for as well.

        Raises:
            click.ClickException: the transaction is still running.
        """
        is_idle = False
        try:
            async with asyncio.timeout(SETTLING_S):
                while not is_idle or meter.expects_receipt:
                    self._live.clear()
                    await self._live.wait()
                    is_idle = meter.value is not None and not meter.value.XT
        except TimeoutError as error:
            if is_idle:  # the transaction did not begin
                return
            runs = meter.value is not None and meter.value.XT
            state = "is still running a transaction" if runs else "does not answer"
            raise click.ClickException(
                f"the meter {meter.address} {state} after the failed start. Check with: iem-dcr read {meter.address}"
            ) from error

    # --- output ---

    def _show_own_receipts(self) -> None:
        """Show the receipts that were held back and are in no answer to a stop. The meter returns only its last one."""
        held_back, self._own_receipts = self._own_receipts, {}
        for kept in held_back.values():
            self._show_receipt(kept.receipt, verdict_on([kept.receipt], kept.public_key))

    def _show_other_receipt(self, kept: KeptReceipt) -> None:
        """Show a receipt that is not the answer to the stop. The meter itself returns only its last one."""
        self.say("\nThe receipt of another transaction, which was ended first:")
        self._show_receipt(kept.receipt, verdict_on([kept.receipt], kept.public_key))

    def _show_receipt(self, receipt: Receipt, verdict: Verdict) -> None:
        self._shown.add(receipt.text)
        verified = _VERIFIED[verdict.outcome]
        accepted = verified and verdict.judgement is Judgement.ACCEPTED
        self._event("receipt", verified=verified, accepted=accepted, ocmf=receipt.text)
        if not self._as_json:
            self._console.print()
            print_receipt(self._console, receipt, verdict)

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


def _flowing_current_a(value: MeterValue | None) -> Decimal | None:
    """Return the current that keeps the meter from ending a transaction, or None if none flows."""
    return value.I if value is not None and value.I is not None and abs(value.I) > CURRENT_FLOWS_A else None


def _reason(why: str) -> str:
    """Return a reason to append to a message, or "" if the driver's log has just shown it."""
    return "" if warnings_are_logged() else f": {printable(why, limit=400)}"
