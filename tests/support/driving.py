"""What stations do in the stories of the driver, and what is done by hand at their simulated meters."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any

from iem_dcr import ocmf
from iem_dcr.config import Settings
from iem_dcr.driver import MeterDriver
from iem_dcr.powermeter import TransactionRequestStatus
from tests.support.bench import CI, SECRET, Bench, RememberingStation, bench, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pytest

    from iem_dcr.driver import Journal, KeptReceipt
    from iem_dcr.powermeter import TransactionStopResponse
    from iem_dcr.simulator import Answer, SimulatorOptions

OK = TransactionRequestStatus.OK
NOT_SUPPORTED = TransactionRequestStatus.NOT_SUPPORTED
UNEXPECTED_ERROR = TransactionRequestStatus.UNEXPECTED_ERROR
OTHER_SERIAL = "1SIM0000000099"
FOR_GOOD = 100_000
"""As many requests as a fault can meet in a test, and more."""

SPOILED_BY_A_BEGIN = {
    "signing_delay_s": 3.0,
    "begin_spoils_signature": True,
    "receipt_while_signing": "previous",
    "receipt_in_transaction": "previous",
}
"""Of a meter that a B in the seconds after an end robs of that receipt."""


# --- the bench ---


@contextlib.asynccontextmanager
async def live_bench(options: SimulatorOptions | None = None, **others: Any) -> AsyncIterator[Bench]:
    """Run a driver at a meter through which no current flows, from the first live value on."""
    async with bench(options, **others) as b:
        b.meter.set_load(0, 0)
        await b.until_live()
        yield b


@contextlib.asynccontextmanager
async def process(
    b: Bench, journal: Journal | None = None, begins_after_s: float = 0.0, **settings: object
) -> AsyncIterator[tuple[MeterDriver, RememberingStation]]:
    """Stop the bench's driver and run another in its place, as after a restart of the process."""
    await stop_driver(b)
    host, port = b.server.address.split(":")
    station = RememberingStation()
    given = Settings.of({"ip_address": host, "port_http": int(port), "CI": CI} | settings)
    made = MeterDriver(given, station, journal=journal, begins_after_s=begins_after_s, wall=b.wall)
    task = asyncio.create_task(made.run())
    try:
        yield made, station
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def stop_driver(b: Bench) -> None:
    b.task.cancel()
    await asyncio.gather(b.task, return_exceptions=True)


async def run_again(b: Bench) -> None:
    """End the run of the driver and begin another."""
    await stop_driver(b)
    b.task = asyncio.create_task(b.driver.run())
    await asyncio.sleep(20)


def changed_answers(b: Bench, change: Callable[[str, str, Answer], Answer]) -> None:
    """Have the meter answer something else than it would; ``change`` is given method, node and answer."""
    handle = b.meter.handle

    def changed(method: str, path: str, body: bytes = b"") -> Answer:
        return change(method, path.rpartition("/")[2], handle(method, path, body))

    b.meter.handle = changed  # type: ignore[method-assign]  # the meter of this test


def exchange(b: Bench, serial: str = OTHER_SERIAL) -> None:
    """Put another meter in the place of the one that answers."""
    b.meter.configure(MS=serial, private_key=SECRET + 1)


# --- by hand at the meter ---


def post(b: Bench, node: str, **body: object) -> None:
    """Post something to the meter behind the driver's back."""
    assert b.meter.handle("POST", f"/counter/v1/ocmf/{node}", json.dumps(body).encode()).status == 200


def begin_by_hand(b: Bench, ID: str | None = None) -> None:
    if ID is not None:
        post(b, "user", IS=True, IL="NONE", IF=[], IT="ISO14443", ID=ID, US=False)
    post(b, "receipt", TX="B")


def end_by_hand(b: Bench) -> None:
    post(b, "receipt", TX="E")


def session_by_hand(b: Bench, ID: str | None = None) -> None:
    begin_by_hand(b, ID)
    end_by_hand(b)


# --- the station ---


def driver_at(at: Bench | MeterDriver) -> MeterDriver:
    return at.driver if isinstance(at, Bench) else at


async def start(at: Bench | MeterDriver, name: str = "T-1", *, for_s: float = 0.0, **fields: Any) -> None:
    """Begin a transaction, and let it run for so long."""
    assert (await driver_at(at).start_transaction(request(name, **fields))).status is OK
    await asyncio.sleep(for_s)


async def start_fails(at: Bench | MeterDriver, name: str = "T-1", **fields: Any) -> str:
    """Ask for a transaction that does not begin. Returns what the station is told."""
    started = await driver_at(at).start_transaction(request(name, **fields))
    assert started.status is UNEXPECTED_ERROR
    return started.error


def receipt_of(response: TransactionStopResponse) -> ocmf.Receipt:
    assert response.status is OK, response.error
    assert response.signed_meter_value is not None
    return ocmf.parse(response.signed_meter_value.signed_meter_data)


async def stop(at: Bench | MeterDriver, name: str) -> ocmf.Receipt:
    """Stop a transaction. Returns the receipt, whoever it belongs to."""
    return receipt_of(await driver_at(at).stop_transaction(name))


async def own_receipt(at: Bench | MeterDriver, name: str = "T-1") -> ocmf.Receipt:
    """Stop a transaction that gets its own receipt, and return that."""
    receipt = await stop(at, name)
    assert receipt.identification == f"04AB{name}"
    return receipt


async def stop_fails(at: Bench | MeterDriver, name: str = "T-1") -> str:
    """Stop a transaction that has no receipt. Returns what the station is told."""
    stopped = await driver_at(at).stop_transaction(name)
    assert stopped.status is UNEXPECTED_ERROR
    assert stopped.signed_meter_value is None
    return stopped.error


async def expect_refused(b: Bench, name: str = "T-1") -> None:
    """Stop a transaction whose start was refused: there is no receipt, and nothing is posted for it."""
    posts = b.posts()
    assert "refused" in await stop_fails(b, name)
    assert b.posts() == posts


# --- who listens ---


class Sink:
    """Keeps receipts in a list, after so many seconds, or fails to."""

    def __init__(self, *, takes_s: float = 0.0, fails: bool = False) -> None:
        self.kept: list[KeptReceipt] = []
        self._takes_s = takes_s
        self._fails = fails

    async def keep(self, kept: KeptReceipt) -> None:
        await asyncio.sleep(self._takes_s)
        if self._fails:
            raise OSError("no space left")
        self.kept.append(kept)


def logged(caplog: pytest.LogCaptureFixture, word: str = "", level: int = logging.WARNING) -> list[str]:
    """Return the log messages of at least this level that have a word in them."""
    messages = [record.getMessage() for record in caplog.records if record.levelno >= level]
    return [message for message in messages if word in message]
