"""Stations that do everything in the wrong order, at meters where anything may go wrong: whose receipt comes out."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, field

import pytest

from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import SimulatorOptions
from tests.support.bench import SECRET, SERIAL, Bench, bench, request
from tests.support.virtual_time import run_virtual
from tests.test_driver_sessions import configure, id_of, mischief, quiet, signed_for

OK = TransactionRequestStatus.OK
SESSIONS = 14


@dataclass
class DisorderlyStation:
    """Starts twice, gives up, stops before the start is done, forgets to stop; and notes what it was told."""

    bench: Bench
    rng: random.Random
    told_begun: set[str] = field(default_factory=set)
    receipts: dict[str, str] = field(default_factory=dict)

    async def start(self, name: str) -> None:
        before = asyncio.get_running_loop().time()
        started = await self.bench.driver.start_transaction(request(name))
        assert asyncio.get_running_loop().time() - before <= 30.001
        if started.status is OK:
            self.told_begun.add(name)

    async def start_and_give_up(self, name: str) -> None:
        task = asyncio.create_task(self.start(name))
        await asyncio.sleep(self.rng.random() * 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def stop(self, name: str) -> None:
        before = asyncio.get_running_loop().time()
        stopped = await self.bench.driver.stop_transaction(name)
        assert asyncio.get_running_loop().time() - before <= 60.001
        if stopped.signed_meter_value is not None:
            assert id_of(stopped) == f"04AB{name}", f"{name} got another's receipt"
            text = stopped.signed_meter_value.signed_meter_data
            assert self.receipts.setdefault(name, text) == text, f"{name} got another receipt than before"

    async def begin_somehow(self, name: str) -> None:
        how = self.rng.random()
        if how < 0.2:
            await asyncio.gather(self.start(name), self.start(name))
        elif how < 0.35:
            await self.start_and_give_up(name)
        elif how < 0.5:
            starting = asyncio.create_task(self.start(name))
            await asyncio.sleep(0.05)
            if self.rng.random() < 0.5:
                await self.bench.driver.stop_transaction("another")
            await starting
        else:
            await self.start(name)

    async def session(self, name: str, names: list[str]) -> None:
        trouble = asyncio.create_task(mischief(self.bench, self.rng))
        await asyncio.sleep(self.rng.random())
        await self.begin_somehow(name)
        if self.rng.random() < 0.15:
            await self.restart_the_driver()
        await asyncio.sleep(self.rng.random() * 5)
        if self.rng.random() < 0.7:
            await self.stop(name)
        if self.rng.random() < 0.2:
            await self.stop(self.rng.choice(names))
        trouble.cancel()
        await asyncio.gather(trouble, return_exceptions=True)
        if self.rng.random() < 0.3:
            await quiet(self.bench)

    async def restart_the_driver(self) -> None:
        self.bench.task.cancel()
        await asyncio.gather(self.bench.task, return_exceptions=True)
        self.bench.task = asyncio.create_task(self.bench.driver.run())
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_order_a_receipt_is_its_own_transactions(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    rng = random.Random(1000 + seed)
    names = [f"{seed}-{number}" for number in range(SESSIONS)]

    async def disorder() -> None:
        options = SimulatorOptions(MS=SERIAL, private_key=SECRET, firmware=rng.choice(("v1", "v2")))
        async with bench(options, TT_initial="0,79 EUR/kWh") as b:
            await b.until_live()
            station = DisorderlyStation(b, rng)
            for number, name in enumerate(names):
                configure(b, rng)
                await station.session(name, names[: number + 1])
            await quiet(b)
            for name in reversed(names):
                await station.stop(name)
            assert len(station.receipts) >= SESSIONS // 4
            for name in station.told_begun:
                assert name in station.receipts or not signed_for(b, name), f"{name}: its receipt was not handed over"
            assert not b.station.active
            assert not b.meter.running

    run_virtual(disorder())
