"""Every command is answered within its time, whatever the meter does and whatever the settings are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from iem_dcr import ocmf
from iem_dcr.config import SETTINGS
from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import Fault, SimulatorOptions
from tests.support.bench import SECRET, SERIAL, bench, request
from tests.support.virtual_time import virtual
from tests.test_driver_start import expect_refused

if TYPE_CHECKING:
    from iem_dcr.driver import KeptReceipt

START_S = 30.0
STOP_S = 60.0
SILENT_STOP_S = 110.0
"""A stop may take so long while the meter is silent."""
MAXIMA: dict[str, Any] = {
    setting.key: setting.maximum for setting in SETTINGS if setting.maximum is not None and setting.key != "port_http"
}
NODES = ("*", "/gw", "/metervalue", "/user", "/receipt", "/transaction", "/publickey")


@pytest.mark.parametrize("kind", ["stall", "stall acting", "drip", "refuse", "server-error", "lose-answer", "reset"])
@pytest.mark.parametrize("node", NODES)
@virtual
async def test_the_deadlines_hold_with_every_maximum(node: str, kind: str) -> None:
    loop = asyncio.get_running_loop()
    name, _, acting = kind.partition(" ")
    async with bench(**MAXIMA) as b:
        await b.until_live()
        b.meter.set_load(50, 400)
        slow: dict[str, Any] = {"delay_s": 100.0} if name in ("stall", "drip") else {}
        b.meter.faults.add(Fault(name, node=node, count=100_000, acts=bool(acting), **slow))  # type: ignore[arg-type]  # one of the kinds
        before = loop.time()
        await b.driver.start_transaction(request())
        assert loop.time() - before <= START_S
        before = loop.time()
        await b.driver.stop_transaction("T-1")
        assert loop.time() - before <= STOP_S


@virtual
async def test_a_command_behind_another_is_answered_in_time() -> None:
    loop = asyncio.get_running_loop()
    async with bench(**MAXIMA) as b:
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is TransactionRequestStatus.OK
        b.meter.faults.add(Fault("stall", count=100_000, delay_s=100.0))
        before = loop.time()
        stop = asyncio.create_task(b.driver.stop_transaction("T-1"))
        await asyncio.sleep(0.1)
        start = await b.driver.start_transaction(request("T-2"))
        assert start.status is TransactionRequestStatus.UNEXPECTED_ERROR
        assert loop.time() - before <= START_S + 0.1
        assert (await stop).status is TransactionRequestStatus.UNEXPECTED_ERROR
        assert loop.time() - before <= SILENT_STOP_S
        b.meter.faults.clear()
        await expect_refused(b, "T-2")


@virtual
async def test_a_queue_of_stops_is_answered_in_time() -> None:
    loop = asyncio.get_running_loop()
    async with bench(**MAXIMA) as b:
        await b.until_live()
        b.meter.faults.add(Fault("stall", count=100_000, delay_s=100.0))
        before = loop.time()
        await asyncio.gather(*(b.driver.stop_transaction("") for _ in range(5)))
        assert loop.time() - before <= SILENT_STOP_S


class Hanging:
    """A keeper of receipts that never comes back."""

    async def keep(self, kept: KeptReceipt) -> None:
        await asyncio.sleep(1000)


@virtual
async def test_a_receipt_that_comes_at_the_last_moment_is_not_kept_back_by_its_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker threads are busy, and so is the disk: the receipt is handed over unchecked, but it is handed over."""
    loop = asyncio.get_running_loop()
    in_executor = loop.run_in_executor

    def busy(executor: Any, func: Any, *args: Any) -> Any:
        return loop.create_future() if func is ocmf.verify else in_executor(executor, func, *args)

    async with bench(SimulatorOptions(MS=SERIAL, private_key=SECRET, signing_delay_s=57.5), sink=Hanging()) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        assert (await b.driver.start_transaction(request())).status is TransactionRequestStatus.OK
        monkeypatch.setattr(loop, "run_in_executor", busy)
        before = loop.time()
        assert (await b.driver.stop_transaction("T-1")).status is TransactionRequestStatus.OK
        assert 57.5 < loop.time() - before <= STOP_S
        monkeypatch.undo()
