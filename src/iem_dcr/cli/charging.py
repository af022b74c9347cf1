"""One charging session at a meter: live values, start, some seconds of charging, stop, check of the receipt.

A transaction that was begun is also ended, whatever happens in between. Ctrl-C or a lost reader of the output ends the
charging early. Only the third Ctrl-C leaves the transaction running.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import click

from iem_dcr import ocmf
from iem_dcr.cli.exit_codes import EXIT_FAILURE, EXIT_INTERRUPTED
from iem_dcr.cli.output import tell
from iem_dcr.driver.meter_state import CURRENT_FLOWS_A
from iem_dcr.ocmf.verdict import verdict_on
from iem_dcr.powermeter import TransactionRequestStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from decimal import Decimal

    from iem_dcr.cli.demo_everest import MeterBehindEverest
    from iem_dcr.cli.interruption import Interruption
    from iem_dcr.cli.session_view import SessionView
    from iem_dcr.device.messages import MeterValue
    from iem_dcr.driver import MeterDriver
    from iem_dcr.powermeter import TransactionReq, TransactionStopResponse

    PowerMeter = MeterDriver | MeterBehindEverest
    """The meter of a session: a driver, or a driver behind EVerest's API."""

TICK_S = 0.1
SETTLING_S = 15.0
"""Time for the driver to end a transaction that the meter runs after a failed start."""

NOTHING_BEGAN = "no transaction was begun."
_MAY_RUN = "the transaction may still be running in the meter. Check with: iem-dcr read {}"
_END_IT = "To end it once no current flows: iem-dcr session {} --end-running --seconds 0 --id ..."


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


async def charge(
    meter: PowerMeter,
    request: TransactionReq,
    view: SessionView,
    interruption: Interruption,
    *,
    seconds: float,
    connect_s: float,
) -> int:
    """Run a session at a meter that is being driven.

    Args:
        meter: the meter; its station is the view.
        request: the start.
        view: shows the session.
        interruption: ends the charging early. The transaction is still stopped, and its receipt shown.
        seconds: how long to charge.
        connect_s: longest time until the first live value.

    Returns:
        The exit status: 0 if the transaction was begun and stopped and its receipt verifies; 130 if it was
        interrupted; else 1.

    Raises:
        click.ClickException: no live value came in time.
        LeftEarlyError: interrupted before the start, or by the third signal.
    """
    may_run = _MAY_RUN.format(meter.address)
    await interruption.break_off(_first_value(meter, view, connect_s), NOTHING_BEGAN)
    view.transaction_id = request.transaction_id
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
        is_verified = _show_receipt(meter, stopped, view)
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
            "Run with -v to see why."
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
    """End the transaction, and show what the end is waiting for."""
    stopping = asyncio.ensure_future(meter.stop_transaction(transaction_id))
    try:
        flows: bool | None = None
        while not stopping.done():
            current_a = _flowing_current_a(meter.value)
            if (current_a is not None) is not flows and not view.ended_elsewhere.is_set():
                flows = current_a is not None
                view.ending(current_a)
            await asyncio.wait({stopping}, timeout=TICK_S)
        return stopping.result()
    finally:
        stopping.cancel()


def _flowing_current_a(value: MeterValue | None) -> Decimal | None:
    """Return the current that keeps the meter from ending a transaction, or None if none flows."""
    return value.I if value is not None and value.I is not None and abs(value.I) > CURRENT_FLOWS_A else None


def _show_receipt(meter: PowerMeter, stopped: TransactionStopResponse, view: SessionView) -> bool:
    """Show the result of the stop. Returns whether it is a receipt that verifies."""
    view.stopped(stopped)
    if stopped.signed_meter_value is None:
        view.stop_brought_no_receipt()
        if meter.value is not None and meter.value.XT:
            tell(f"The transaction is still running in the meter. {_END_IT.format(meter.address)}")
        return False
    receipt = ocmf.parse(stopped.signed_meter_value.signed_meter_data)
    verdict = verdict_on([receipt], meter.public_key)
    view.show_receipt(receipt, verdict)
    return verdict.outcome is ocmf.Outcome.VALID


async def _settle(meter: PowerMeter, view: SessionView) -> None:
    """After a failed start, wait until the driver has ended a transaction that the meter runs nevertheless.

    This happens, for example, if the answer to a B was lost.

    Raises:
        click.ClickException: the transaction is still running.
    """
    try:
        async with asyncio.timeout(SETTLING_S):
            while True:
                view.live.clear()
                await view.live.wait()
                if meter.value is not None and not meter.value.XT:
                    return
    except TimeoutError as error:
        state = "is still running a transaction" if meter.value is not None and meter.value.XT else "does not answer"
        raise click.ClickException(
            f"the meter {meter.address} {state} after the failed start. Check with: iem-dcr read {meter.address}"
        ) from error
