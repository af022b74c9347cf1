"""One charging session at a meter: live values, start, some seconds of charging, stop, check of the receipt.

What was begun is ended, whatever happens in between: Ctrl-C and a lost reader end the charging early, and only somebody
who insists leaves the transaction as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

import click

from iem_dcr import ocmf
from iem_dcr.cli.exit_codes import EXIT_FAILURE, EXIT_INTERRUPTED
from iem_dcr.cli.output import tell
from iem_dcr.driver.meter_state import CURRENT_FLOWS_A
from iem_dcr.ocmf import Outcome
from iem_dcr.powermeter import TransactionRequestStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from decimal import Decimal

    from iem_dcr.cli.interruption import Interruption
    from iem_dcr.cli.session_view import SessionView
    from iem_dcr.device.messages import MeterValue
    from iem_dcr.powermeter import TransactionReq, TransactionStartResponse, TransactionStopResponse

TICK_S = 0.1
SETTLING_S = 15.0
"""How long a transaction that the meter runs after a failed start may take until the driver has ended it."""

NOTHING_BEGAN = "no transaction was begun."
_MAY_RUN = "the transaction may still run in the meter. See with: iem-dcr read {}"
_END_IT = "To end it once no current flows: iem-dcr session {} --end-running --seconds 0 --id ..."


class PowerMeter(Protocol):
    """The meter as whoever charges has it: a driver, or a driver behind EVerest's API."""

    @property
    def address(self) -> str:
        """Address of the meter, ``host:port``."""

    @property
    def value(self) -> MeterValue | None:
        """The last live value, as the meter gave it."""

    @property
    def public_key(self) -> str:
        """The meter's public key, hex of DER, or "" while it is not known."""

    async def run(self) -> None:
        """Be the meter until cancelled."""

    async def start_transaction(self, request: TransactionReq) -> TransactionStartResponse:
        """Begin a transaction."""

    async def stop_transaction(self, transaction_id: str) -> TransactionStopResponse:
        """End a transaction."""


@contextlib.asynccontextmanager
async def running(meter: PowerMeter) -> AsyncIterator[None]:
    """Have a meter driven while this is entered."""
    task = asyncio.create_task(meter.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


async def charge(
    meter: PowerMeter,
    request: TransactionReq,
    view: SessionView,
    interruption: Interruption,
    *,
    seconds: float,
    connect_s: float,
) -> int:
    """Run a session at a meter that is driven.

    Args:
        meter: whose station is the view.
        request: the start.
        view: shows everything.
        interruption: ends the charging early; the transaction is stopped and its receipt shown all the same.
        seconds: how long it charges.
        connect_s: how long the first live value may take.

    Returns:
        The exit status: 0 where the transaction was begun, stopped, and its receipt verified; 130 where all that went
        well but somebody ended it early.

    Raises:
        click.ClickException: no live value came in time.
        LeftEarlyError: interrupted before the start, or by somebody who insisted.
    """
    may_run = _MAY_RUN.format(meter.address)
    await interruption.break_off(_first_value(meter, view, connect_s), NOTHING_BEGAN)
    view.starting(request.transaction_id)
    response = await interruption.see_through(meter.start_transaction(request), may_run)
    if response.status is not TransactionRequestStatus.OK:
        view.started(request, response)
        await interruption.see_through(_settle(meter, view), may_run)
        view.stop_brought_no_receipt()
        return EXIT_INTERRUPTED if interruption.came else EXIT_FAILURE
    try:
        view.started(request, response)
        await _charge_for(seconds, view, interruption)
    finally:
        stopped = await interruption.see_through(_stop(meter, request.transaction_id, view), may_run)
        is_verified = await _show_receipt(meter, stopped, view)
    if interruption.came:
        return EXIT_INTERRUPTED
    return 0 if is_verified else EXIT_FAILURE


async def _first_value(meter: PowerMeter, view: SessionView, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await view.live.wait()
    except TimeoutError as error:
        raise click.ClickException(
            f"the meter {meter.address} gave no live value within {within_s:g} s; nothing was begun. "
            "Run it with -v to see why."
        ) from error


async def _charge_for(seconds: float, view: SessionView, interruption: Interruption) -> None:
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    with view.charging():
        while (left_s := begin_s + seconds - loop.time()) > 0:
            view.progress(seconds - left_s)
            if interruption.came or view.ended_elsewhere.is_set():
                return
            await interruption.wait(min(TICK_S, left_s))
        view.progress(seconds)


async def _stop(meter: PowerMeter, transaction_id: str, view: SessionView) -> TransactionStopResponse:
    """End the transaction, and show what that waits for."""
    stopping = asyncio.ensure_future(meter.stop_transaction(transaction_id))
    try:
        current_a = _flowing_current_a(meter.value)
        if not view.ended_elsewhere.is_set():
            view.ending(current_a)
        while not stopping.done():
            await asyncio.wait({stopping}, timeout=TICK_S)
            if current_a is not None and _flowing_current_a(meter.value) is None and not stopping.done():
                current_a = None
                view.ending(None)
        return stopping.result()
    finally:
        stopping.cancel()


def _flowing_current_a(value: MeterValue | None) -> Decimal | None:
    """Return the current at which a meter ends no transaction; None where none flows."""
    return value.I if value is not None and value.I is not None and abs(value.I) > CURRENT_FLOWS_A else None


async def _show_receipt(meter: PowerMeter, stopped: TransactionStopResponse, view: SessionView) -> bool:
    """Show what the stop brought. Returns whether that is a receipt that verifies."""
    view.stopped(stopped)
    if stopped.signed_meter_value is None:
        view.stop_brought_no_receipt()
        if meter.value is not None and meter.value.XT:
            tell(f"The transaction still runs in the meter. {_END_IT.format(meter.address)}")
        return False
    receipt = ocmf.parse(stopped.signed_meter_value.signed_meter_data)
    verification = await asyncio.to_thread(ocmf.verify, receipt, meter.public_key)
    view.show_receipt(receipt, verification)
    return verification.outcome is Outcome.VALID


async def _settle(meter: PowerMeter, view: SessionView) -> None:
    """After a failed start, let the driver end what the meter runs all the same: a B whose answer was lost, for one.

    Raises:
        click.ClickException: it still runs.
    """
    try:
        async with asyncio.timeout(SETTLING_S):
            while True:
                view.live.clear()
                await view.live.wait()
                if meter.value is not None and not meter.value.XT:
                    return
    except TimeoutError as error:
        state = "still runs a transaction" if meter.value is not None and meter.value.XT else "does not answer"
        raise click.ClickException(
            f"the meter {meter.address} {state} after the failed start. See with: iem-dcr read {meter.address}"
        ) from error
