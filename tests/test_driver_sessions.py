"""Two hundred sessions in which anything may go wrong at any moment, under virtual time."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any, get_args

import pytest

from iem_dcr import ocmf
from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import Fault, FaultKind, SimulatorOptions
from tests.support.bench import SECRET, SERIAL, Bench, bench, request
from tests.support.virtual_time import run_virtual

if TYPE_CHECKING:
    from iem_dcr.powermeter import TransactionStopResponse

OK = TransactionRequestStatus.OK
NODES = ("*", "/receipt", "/user", "/metervalue", "/gw", "/transaction", "/datetime", "/publickey", "/tariff")
KINDS = get_args(FaultKind)
ENCODINGS = ("unpadded-der", "der", "raw")
POWER_CUTS = ("closed", "closed-late", "running", "lost")
KEEP_ALIVE = ("keep", "close", "drop-idle", "drop-reused")
WHILE_SIGNING = ("refuse", "nothing", "previous")


def random_fault(rng: random.Random) -> Fault:
    kind: Any = rng.choice(KINDS)
    return Fault(
        kind,
        node=rng.choice(NODES),
        method=rng.choice(("*", "GET", "POST")),
        count=rng.choice((1, 1, 1, 2, 3)),
        delay_s=rng.choice((1.0, 8.0, 30.0)) if kind == "stall" else None,
        acts=kind in ("stall", "server-error") and rng.random() < 0.5,
    )


async def mischief(b: Bench, rng: random.Random) -> None:
    """Break things at random moments, until cancelled."""
    while True:
        await asyncio.sleep(rng.expovariate(1 / 1.5))
        what = rng.random()
        if what < 0.75:
            b.meter.faults.add(random_fault(rng))
        elif what < 0.85:
            b.meter.configure(open_at_power_cut=rng.choice(POWER_CUTS), late_close_s=rng.choice((1.0, 5.0, 9.0)))
            b.meter.power_cycle(off_s=rng.choice((0.2, 3.0)), boot_s=rng.choice((0.1, 2.0, 6.0)))
        elif what < 0.95:
            b.meter.shift_clock(4.0)
        else:
            b.meter.configure(XC=rng.choice(("0x0, 0x0, 0x0, 0x0", "0x0001, 0x00000000, 0x00, 0x00")))


def configure(b: Bench, rng: random.Random) -> None:
    b.meter.configure(
        keep_alive=rng.choice(KEEP_ALIVE),
        signature_encoding=rng.choice(ENCODINGS),
        receipt_while_signing=rng.choice(WHILE_SIGNING),
        receipt_in_transaction=rng.choice(WHILE_SIGNING),
        idle_end=rng.choice(("refuse", "accept")),
        second_begin=rng.choice(("refuse", "ignore")),
        user_tariff_sticks=rng.choice((True, False)),
        receipt_wrapping=rng.choice(("raw", "json-string", "object")),
        signing_delay_s=rng.choice((0.0, 0.12, 1.0)),
        charge_s=rng.choice((0.5, 3.0)),
    )


async def quiet(b: Bench, seconds: float = 40.0) -> None:
    """Let everything be well for a while."""
    b.meter.faults.clear()
    b.meter.configure(XC="0x0000, 0x00000000, 0x00, 0x00")
    await asyncio.sleep(seconds)


def id_of(response: TransactionStopResponse) -> str | None:
    assert response.signed_meter_value is not None
    return ocmf.parse(response.signed_meter_value.signed_meter_data).identification


def signed_for(b: Bench, name: str) -> list[str]:
    """Return the PGs of all records the meter has signed for a session."""
    return [record.PG for record in b.meter.signed if f"04AB{name}" == record.ID]


async def one_session(b: Bench, rng: random.Random, name: str) -> str:
    configure(b, rng)
    if rng.random() < 0.2:
        b.meter.shift_clock(rng.choice((-3600.0, 60.0)))
    trouble = asyncio.create_task(mischief(b, rng))
    await asyncio.sleep(rng.random())
    tariff = {"tariff_text": "0,59 EUR/kWh"} if rng.random() < 0.5 else {}
    started = await b.driver.start_transaction(request(name, **tariff))
    if started.status is OK:
        await asyncio.sleep(rng.random() * 6)
        stopped = await b.driver.stop_transaction(name)
        trouble.cancel()
        if stopped.status is not OK:
            await quiet(b)
            stopped = await b.driver.stop_transaction(name)
    else:
        trouble.cancel()
        stopped = None
    await asyncio.gather(trouble, return_exceptions=True)
    return await check(b, name, started.status is OK, stopped)


async def check(b: Bench, name: str, begun: bool, stopped: TransactionStopResponse | None) -> str:  # noqa: FBT001
    if stopped is not None and stopped.status is OK:
        assert id_of(stopped) == f"04AB{name}", f"{name} got another's receipt"
        again = await b.driver.stop_transaction(name)
        assert again.signed_meter_value == stopped.signed_meter_value
        return "stopped"
    await quiet(b)
    assert not b.meter.running, f"{name}: a transaction runs that the station does not know of"
    if not begun:
        late = await b.driver.stop_transaction(name)
        if late.status is OK:
            assert id_of(late) == f"04AB{name}"
        return "not begun"
    assert not signed_for(b, name), f"{name}: the meter has a receipt that the station did not get: {stopped}"
    return "lost by the meter"


@pytest.mark.parametrize("seed", range(8))
def test_no_receipt_is_lost_or_swapped(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    rng = random.Random(seed)

    async def sessions() -> list[str]:
        options = SimulatorOptions(MS=SERIAL, private_key=SECRET, firmware=rng.choice(("v1", "v2")))
        async with bench(options, TT_initial="0,79 EUR/kWh") as b:
            await b.until_live()
            outcomes = [await one_session(b, rng, f"{seed}-{number}") for number in range(25)]
            await quiet(b)
            assert not b.station.active
            assert not b.meter.running
            assert len(asyncio.all_tasks()) <= TASKS_OF_A_QUIET_BENCH
            assert b.station.values == sorted(b.station.values, key=lambda entry: entry[0])
            return outcomes

    outcomes = run_virtual(sessions())
    assert outcomes.count("stopped") >= 8, outcomes


TASKS_OF_A_QUIET_BENCH = 5
"""The test, the driver, the simulator's supervisor, and a handler for each of its connections."""
