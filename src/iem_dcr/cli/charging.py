"""One charging session at a meter: live values, start, some seconds of charging, stop, check of the receipt.

A transaction that was begun is also ended, whatever happens in between. Ctrl-C or a lost reader of the output ends the
charging early. Only the third Ctrl-C leaves the transaction running.

The session is the driver's station and its sink for receipts, so it shows all that the driver publishes: to a person in
sentences, or to a program as one JSON object a line. Each receipt is shown once, as soon as the driver keeps it: a
meter returns only its last one, and the answer to a stop contains only one.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, TextColumn

from iem_dcr import ocmf
from iem_dcr.cli.exit_codes import EXIT_FAILURE, EXIT_INTERRUPTED
from iem_dcr.cli.output import kw, kwh, progress_bar, say, tell
from iem_dcr.cli.receipt_view import print_receipt
from iem_dcr.diagnostics.status import measured
from iem_dcr.driver.meter_state import CURRENT_FLOWS_A, INTERRUPTED
from iem_dcr.driver.timing import now_s
from iem_dcr.errors import printable
from iem_dcr.ocmf.verdict import Judgement, verdict_on
from iem_dcr.powermeter import TransactionRequestStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from decimal import Decimal

    from iem_dcr.cli.demo_everest import DemoEverest
    from iem_dcr.cli.interruption import Interruption
    from iem_dcr.cli.output import Output
    from iem_dcr.driver import KeptReceipt, MeterDriver
    from iem_dcr.ocmf import Receipt
    from iem_dcr.powermeter import (
        Powermeter,
        StationError,
        TransactionReq,
        TransactionStartResponse,
        TransactionStopResponse,
    )

    PowerMeter = MeterDriver | DemoEverest
    """What starts and stops transactions: a driver, or EVerest, which has its driver do it."""

TICK_S = 0.1
SETTLING_S = 15.0
"""Time for the driver to end a transaction that the meter runs after a failed start."""
WIDE_FROM = 76
"""Columns of a terminal from which the line of a live value has more than power and charged energy."""

NOTHING_BEGAN = "no transaction was begun."
_MAY_RUN = "the transaction may still be running in the meter. Check with: iem-dcr read {}"
_END_IT = "To end it once no current flows: iem-dcr session {} --end-running --seconds 0 --id ..."
_SIGNATURE = " and waiting for the signature"
_OF_ANOTHER = "\nThe receipt of another transaction, which was ended first:"
_OF_EARLIER_BEGIN = "\nThe receipt of an earlier begin of this transaction, whose answer was lost:"


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
        request: the start.
        seconds: how long to charge.
        as_json: write events with the values that a station would receive; say nothing.
    """

    def __init__(self, output: Output, request: TransactionReq, seconds: float, *, as_json: bool = False) -> None:
        self._output = output
        self._console = output.console()
        self._as_json = as_json
        self._request = request
        self._seconds = seconds
        columns = TextColumn("Charging"), BarColumn(None), TextColumn("{task.completed:.0f}/{task.total:.0f} s")
        self._bar = progress_bar(self._console, *columns, is_shown=not as_json)
        self._last: Powermeter | None = None
        self._has_value = asyncio.Event()
        self._begin_wh: Decimal | None = None
        self._is_charging = False
        self._has_ended_elsewhere = False
        self._shown: set[str] = set()

    async def run(self, driver: MeterDriver, meter: PowerMeter, interruption: Interruption, *, connect_s: float) -> int:
        """Run the session at a meter that is being driven, and whose station is this session. Returns the exit status.

        Args:
            driver: the driver of the meter.
            meter: what starts and stops transactions.
            interruption: ends the charging early. The transaction is still stopped, and its receipt shown.
            connect_s: longest time until the first live value.

        Raises:
            click.ClickException: no live value came in time, or the meter may run a transaction after a failed start.
            LeftEarlyError: interrupted before the start, or by the third signal.
        """
        may_run = _MAY_RUN.format(driver.address)
        await interruption.break_off(self._first_value(driver, connect_s), NOTHING_BEGAN)
        is_verified = False
        response = await interruption.see_through(meter.start_transaction(self._request), may_run)
        if response.status is TransactionRequestStatus.OK:
            try:
                self._show_start(response)
                await self._charge(interruption)
            finally:
                stopped = await interruption.see_through(self._stop(driver, meter), may_run)
                is_verified = self._show_stop(driver, stopped)
        else:
            self._show_start(response)
            await interruption.see_through(self._settle(driver), may_run)
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
        values = f"{kw(value.power_w):>11}  {measured(value.voltage_v, 'V'):>8}  {measured(value.current_a, 'A'):>8}"
        if self._last is None:
            self.say(f"First live value: {values.lstrip()}  register {kwh(value.energy_wh_import)}")
        self._last = value
        if self._is_charging and self._begin_wh is not None:
            charged = kwh(value.energy_wh_import - self._begin_wh)
            if self._console.is_terminal and self._console.width < WIDE_FROM:
                self.say(f"{value.timestamp:%H:%M:%S}  {kw(value.power_w)}  {charged}")
            else:
                self.say(f"  {value.timestamp:%H:%M:%S}  {values}  charged {charged}")
        self._has_value.set()

    def publish_public_key(self, key: str) -> None:
        """Show the meter's public key."""
        self._event("public_key_ocmf", value=key)

    def raise_error(self, error: StationError) -> None:
        """Show a raised error. Before the start it is about an earlier transaction."""
        self._event("error_raised", type=error.type, sub_type=error.sub_type, message=error.message)
        if error.sub_type == INTERRUPTED and self._is_charging:
            self._has_ended_elsewhere = True
            tell("The transaction is over: another program ended it, or the meter lost power.")
        else:
            tell(f"Error raised at the station: {error.type}, {error.sub_type}: {printable(error.message)}")

    def clear_error(self, error: StationError) -> None:
        """Show a cleared error."""
        self._event("error_cleared", type=error.type, sub_type=error.sub_type, message=error.message)
        if not self._has_ended_elsewhere or error.sub_type != INTERRUPTED:
            tell(f"Error cleared at the station: {error.type}, {error.sub_type}")

    async def keep(self, kept: KeptReceipt) -> None:
        """Show a new receipt."""
        if not kept.found:
            is_own = kept.transaction_id == self._request.transaction_id
            own = _OF_EARLIER_BEGIN if self._begin_wh is None else ""
            self._show_receipt(kept.receipt, kept.public_key, own if is_own else _OF_ANOTHER)

    # --- the steps of a session ---

    async def _first_value(self, driver: MeterDriver, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await self._has_value.wait()
        except TimeoutError as error:
            raise click.ClickException(
                f"the meter {driver.address} gave no live value within {within_s:g} s; nothing was begun. "
                "Run with -v to see why."
            ) from error

    def _show_start(self, response: TransactionStartResponse) -> None:
        self._event("start_transaction", response=response.to_json())
        if response.status is not TransactionRequestStatus.OK:
            reason = printable(response.error, limit=400)
            tell(f"Error: the transaction did not begin ({response.status.value}): {reason}")
        elif self._last is not None:
            self._begin_wh = self._last.energy_wh_import
            user = printable(self._request.identification_data)
            self.say(f"Transaction {printable(self._request.transaction_id)} began for user {user}")

    async def _charge(self, interruption: Interruption) -> None:
        end_s = now_s() + self._seconds
        bar_id = self._bar.add_task("", total=self._seconds)
        self._is_charging = True
        with self._bar:
            while (left_s := end_s - now_s()) > 0 and not interruption.came and not self._has_ended_elsewhere:
                await interruption.wait(min(TICK_S, left_s))
                self._bar.update(bar_id, completed=self._seconds - max(0.0, end_s - now_s()), refresh=True)
        self._is_charging = False

    async def _stop(self, driver: MeterDriver, meter: PowerMeter) -> TransactionStopResponse:
        """End the transaction, and say what the end is waiting for."""
        stopping = asyncio.ensure_future(meter.stop_transaction(self._request.transaction_id))
        flowed: bool | None = None
        try:
            while not stopping.done():
                current_a = None if driver.value is None else driver.value.I
                flows = current_a is not None and abs(current_a) > CURRENT_FLOWS_A
                if flows is not flowed and not self._has_ended_elsewhere:
                    waits_for = f": waiting for the current to fall ({current_a:.1f} A)" if flows else _SIGNATURE
                    self.say(f"Ending the transaction{waits_for} ...")
                flowed = flows
                await asyncio.wait({stopping}, timeout=TICK_S)
            return stopping.result()
        finally:
            stopping.cancel()

    def _show_stop(self, driver: MeterDriver, stopped: TransactionStopResponse) -> bool:
        """Show the answer to the stop. Returns whether it is a receipt that verifies."""
        self._event("stop_transaction", response=stopped.to_json())
        signed = stopped.signed_meter_value
        if signed is not None:
            return self._show_receipt(ocmf.parse(signed.signed_meter_data), signed.public_key)
        tell(f"Error: the transaction has no receipt: {printable(stopped.error, limit=400)}")
        if driver.value is not None and driver.value.XT:
            tell(f"The transaction is still running in the meter. {_END_IT.format(driver.address)}")
        return False

    async def _settle(self, driver: MeterDriver) -> None:
        """After a failed start, wait until the driver has ended what the meter may run, and has read its receipt.

        Raises:
            click.ClickException: a transaction may still be running.
        """
        self._has_value.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLING_S):
                await self._has_value.wait()  # the last value is older than a B whose answer was lost
                while driver.expects_receipt:  # noqa: ASYNC110  the driver has no event for it
                    await asyncio.sleep(TICK_S)
        if not self._has_value.is_set() or driver.value is None or driver.value.XT:
            raise click.ClickException(f"the start failed, and {_MAY_RUN.format(driver.address)}")

    # --- output ---

    def _show_receipt(self, receipt: Receipt, public_key: str, heading: str = "") -> bool:
        """Show a receipt that was not shown yet. Returns whether it verifies."""
        verdict = verdict_on([receipt], public_key)
        is_valid = verdict.outcome is ocmf.Outcome.VALID
        if receipt.text not in self._shown:
            verified = None if verdict.outcome is ocmf.Outcome.NOT_CHECKED else is_valid
            accepted = verified and verdict.judgement is Judgement.ACCEPTED
            self._event("receipt", verified=verified, accepted=accepted, ocmf=receipt.text)
            if not self._as_json:
                self.say(f"{heading}\n" if heading else "")
                print_receipt(self._console, receipt, verdict)
            self._shown.add(receipt.text)
        return is_valid

    def _event(self, event: str, **fields: object) -> None:
        """Write an event for a program."""
        if self._as_json:
            self._output.line({"event": event, **fields})
