"""One charging session at a meter: live values, start, some seconds of charging, stop, check of the receipt."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

import click

from iem_dcr import ocmf
from iem_dcr.cli.exit_codes import EXIT_INTERRUPTED
from iem_dcr.cli.interruption import LeftEarlyError
from iem_dcr.cli.terminal import tell
from iem_dcr.ocmf import Outcome
from iem_dcr.powermeter import TransactionRequestStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from iem_dcr.cli.interruption import Interruption
    from iem_dcr.cli.station import SessionStation
    from iem_dcr.cli.terminal import Output
    from iem_dcr.device.messages import MeterValue
    from iem_dcr.driver import KeptReceipt, ReceiptSink
    from iem_dcr.powermeter import TransactionReq, TransactionStartResponse, TransactionStopResponse

    Connect = Callable[[SessionStation, ReceiptSink], "PowerMeter"]
    """Makes the meter of a session, which tells the station what it publishes and the sink its receipts."""

TICK_S = 0.1
SETTLING_S = 15.0
"""How long a transaction that the meter runs after a failed start may take until the driver has ended it."""

NOTHING_BEGAN = "no transaction was begun."
_MAY_RUN = "the transaction may still run in the meter. See with: iem-dcr read {}"
_END_IT = "To end it once no current flows: iem-dcr session {} --end-running --seconds 0 --id ..."


class PowerMeter(Protocol):
    """The meter as whoever charges has it: a driver is one."""

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


class _Keeper:
    """Shows every receipt that comes to light, and holds back the session's own until its stop was answered."""

    def __init__(self, transaction_id: str, station: SessionStation) -> None:
        self._transaction_id = transaction_id
        self._station = station
        self._own: list[KeptReceipt] = []

    async def keep(self, kept: KeptReceipt) -> None:
        """Take a receipt; what only was found in the meter is no news."""
        if kept.found:
            return
        if kept.transaction_id == self._transaction_id:
            self._own.append(kept)
        else:
            self._station.other_receipt(kept)

    def show_own(self) -> None:
        """Show what was held back: the stop had no answer that brought it."""
        for kept in self._own:
            self._station.other_receipt(kept)


async def _go_on() -> None:
    """Do nothing."""


async def charge(
    connect: Connect,
    request: TransactionReq,
    station: SessionStation,
    interruption: Interruption,
    *,
    seconds: float,
    connect_s: float,
    linger: Callable[[], Awaitable[None]] = _go_on,
) -> bool:
    """Run a session.

    Args:
        connect: makes the meter.
        request: the start.
        station: is told of everything.
        interruption: ends the charging early; the transaction is stopped and its receipt shown all the same.
        seconds: how long it charges.
        connect_s: how long the first live value may take.
        linger: what is done when the receipt was shown, with the meter still there.

    Returns:
        Whether the transaction was begun, stopped, and its receipt verified.

    Raises:
        click.ClickException: no live value came in time.
        LeftEarlyError: interrupted before the start, or by somebody who insisted.
    """
    keeper = _Keeper(request.transaction_id, station)
    meter = connect(station, keeper)
    may_run = _MAY_RUN.format(meter.address)
    async with _running(meter):
        await interruption.break_off(_first_value(meter, station, connect_s), NOTHING_BEGAN)
        response = await interruption.see_through(meter.start_transaction(request), may_run)
        if response.status is not TransactionRequestStatus.OK:
            station.started(request, response)
            await interruption.see_through(_settle(meter, station), may_run)
            keeper.show_own()
            return False
        try:
            station.started(request, response)
            await _charge_for(seconds, station, interruption)
        finally:
            station.ending()
            stopped = await interruption.see_through(meter.stop_transaction(request.transaction_id), may_run)
            station.stopped(stopped)
        if stopped.signed_meter_value is None:
            keeper.show_own()
            if meter.value is not None and meter.value.XT:
                tell(f"The transaction still runs in the meter. {_END_IT.format(meter.address)}")
            return False
        receipt = ocmf.parse(stopped.signed_meter_value.signed_meter_data)
        loop = asyncio.get_running_loop()
        verification = await loop.run_in_executor(None, ocmf.verify, receipt, meter.public_key)
        station.receipt(receipt, verification)
        await linger()
        return verification.outcome is Outcome.VALID


async def charge_and_judge(
    connect: Connect,
    request: TransactionReq,
    station: SessionStation,
    interruption: Interruption,
    output: Output,
    *,
    seconds: float,
    connect_s: float,
    linger: Callable[[], Awaitable[None]] = _go_on,
) -> int:
    """Run a session as `charge` does, and return the exit status: 0 if all of it went well."""
    try:
        is_verified = await charge(
            connect, request, station, interruption, seconds=seconds, connect_s=connect_s, linger=linger
        )
    except LeftEarlyError:
        if output.error is None:
            raise
        return output.status()
    output.flush()
    if output.error is None and interruption.came:
        return EXIT_INTERRUPTED
    return output.status() or int(not is_verified)


@contextlib.asynccontextmanager
async def _running(meter: PowerMeter) -> AsyncIterator[None]:
    task = asyncio.create_task(meter.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


async def _first_value(meter: PowerMeter, station: SessionStation, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await station.live.wait()
    except TimeoutError as error:
        raise click.ClickException(
            f"the meter {meter.address} gave no live value within {within_s:g} s; nothing was begun. "
            "Run it with -v to see why."
        ) from error


async def _charge_for(seconds: float, station: SessionStation, interruption: Interruption) -> None:
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    with station.charging() as show_passed:
        while (left_s := begun_s + seconds - loop.time()) > 0 and not interruption.came:
            show_passed(seconds - left_s)
            await interruption.wait(min(TICK_S, left_s))
        show_passed(min(seconds, loop.time() - begun_s))


async def _settle(meter: PowerMeter, station: SessionStation) -> None:
    """After a failed start, let the driver end what the meter runs all the same: a B whose answer was lost, for one.

    Raises:
        click.ClickException: it still runs.
    """
    try:
        async with asyncio.timeout(SETTLING_S):
            while True:
                station.live.clear()
                await station.live.wait()
                if meter.value is not None and not meter.value.XT:
                    return
    except TimeoutError as error:
        state = "still runs a transaction" if meter.value is not None and meter.value.XT else "does not answer"
        raise click.ClickException(
            f"the meter {meter.address} {state} after the failed start. See with: iem-dcr read {meter.address}"
        ) from error
