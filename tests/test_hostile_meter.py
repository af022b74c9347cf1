"""A meter that answers as nothing should: nothing hangs, nothing crashes, no receipt is another's, the log stays fit.

``make fuzz REQUESTS=… SEED=…`` runs the same for longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import random
import resource
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from iem_dcr import ocmf
from iem_dcr.cli.watch import json_line
from iem_dcr.cli.watch_view import Picture, plain_line
from iem_dcr.config import Settings
from iem_dcr.device.client import MeterClient
from iem_dcr.device.messages import User
from iem_dcr.device.transport import MAX_ANSWER_BYTES
from iem_dcr.diagnostics import doctor, recorder
from iem_dcr.diagnostics.redaction import redact
from iem_dcr.diagnostics.watching import WatchedMeter, watch
from iem_dcr.driver import MeterDriver
from iem_dcr.driver.driver import START_S, STOP_S
from iem_dcr.errors import MeterError, RecordingError
from iem_dcr.powermeter import TransactionRequestStatus
from iem_dcr.simulator import SimulatedMeter, SimulatorOptions
from tests.support.bench import CI, SECRET, SERIAL, RememberingStation, bench, request
from tests.support.command_line import run
from tests.support.hostile_meter import ABUSES, ESCAPES, FLOODS, LIES, HostileMeter
from tests.support.journals import virtual_journal
from tests.support.virtual_time import VirtualWall, run_virtual, virtual

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from pathlib import Path

REQUESTS = int(os.environ.get("IEM_DCR_FUZZ_REQUESTS", "150"))
SEED = int(os.environ.get("IEM_DCR_FUZZ_SEED", "1"))
LIMIT_S = 2.0
NO_TIME_S = 0.01
LONGEST_LINE = 800
OK = TransactionRequestStatus.OK
QUICK = ("damaged", "other_status", "broken_off", "second_answer", LIES)
"""What keeps no request until its time is up: for tests in real time."""
USER = User(IS=True, IL="NONE", IF=(), IT="ISO14443", ID="04AB", US=False)


def simulated() -> SimulatedMeter:
    loop = asyncio.get_running_loop()
    return SimulatedMeter(SimulatorOptions(MS=SERIAL, private_key=SECRET, charge_s=2.0), monotonic=loop.time)


def nodes(client: MeterClient) -> list[Callable[[], Coroutine[Any, Any, object]]]:
    return [
        client.metervalue, client.gw, client.publickey, client.datetime, client.receipt, client.transaction,
        lambda: client.set_user(USER), client.begin, client.end, lambda: client.answer("/gw"),
    ]  # fmt: skip


async def survived(client: MeterClient) -> None:
    """Ask every node: each gives an answer or an error of the meter's, in time."""
    now_s = asyncio.get_running_loop().time
    for ask in nodes(client):
        begun_s = now_s()
        try:
            said = ascii(await ask())
        except MeterError as error:
            said = str(error)
            assert len(said) < 400, said
        assert said.isprintable()
        assert now_s() - begun_s <= LIMIT_S + NO_TIME_S


@pytest.mark.parametrize("name", [*ABUSES, LIES])
@virtual
async def test_every_request_ends_and_the_next_gets_its_own_answer(name: str) -> None:
    rounds = 10 if name == LIES else 1
    meter = simulated()
    async with (
        HostileMeter(meter, seed=SEED, only=(name,)) as server,
        MeterClient("127.0.0.1", server.port, timeout_s=LIMIT_S) as client,
    ):
        for _ in range(rounds):
            await survived(client)
        assert server.done[name] >= 10 * rounds
        with contextlib.suppress(MeterError):
            await client.gw()
        server.behave()
        await asyncio.sleep(0.5)
        assert (await client.gw()).CI == ""
        assert (await client.metervalue()).MS == meter.options.MS
        assert len((await client.publickey()).PK) == 182


@pytest.mark.parametrize("name", FLOODS)
@virtual
async def test_a_flood_fills_no_memory(name: str) -> None:
    async with (
        HostileMeter(simulated(), seed=SEED, only=(name,)) as server,
        MeterClient("127.0.0.1", server.port, timeout_s=LIMIT_S) as client,
    ):
        with contextlib.suppress(MeterError):
            await client.gw()
        tracemalloc.start()
        try:
            with contextlib.suppress(MeterError):
                await client.gw()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 32 * MAX_ANSWER_BYTES


# --- the driver ---


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Yield what is logged, and see at the end that all of it is fit to be read."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, "asyncio")
    yield caplog
    for record in caplog.get_records("call"):
        line = record.getMessage()
        assert not record.exc_info, line
        assert line.isprintable(), line
        assert len(line) <= LONGEST_LINE, line


@contextlib.asynccontextmanager
async def driven(seed: int) -> AsyncIterator[tuple[MeterDriver, HostileMeter, RememberingStation]]:
    """Run a driver on a hostile meter."""
    async with HostileMeter(simulated(), seed=seed, requests=REQUESTS, share=0.4) as server:
        address = {"ip_address": "127.0.0.1", "port_http": server.port, "CI": CI, "command_timeout_ms": 1500}
        station = RememberingStation()
        driver = MeterDriver(Settings.of(address), station, wall=VirtualWall())
        task = asyncio.create_task(driver.run())
        try:
            yield driver, server, station
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def in_time(command: Coroutine[Any, Any, Any], limit_s: float) -> Any:
    begun_s = asyncio.get_running_loop().time()
    response = await command
    assert asyncio.get_running_loop().time() - begun_s <= limit_s + NO_TIME_S
    assert (response.error or "").isprintable()
    assert len(response.error or "") <= LONGEST_LINE
    return response


class Handed:
    """What was handed over: genuine, nobody else's, and never twice."""

    def __init__(self, meter: SimulatedMeter) -> None:
        self._meter = meter
        self._texts: set[str] = set()

    def add(self, text: str, transaction_id: str) -> None:
        assert text in [record.text for record in self._meter.signed]
        assert text not in self._texts
        self._texts.add(text)
        assert ocmf.parse(text).identification == f"04AB{transaction_id}"

    def __len__(self) -> int:
        return len(self._texts)


@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
@virtual
async def test_driver_returns_only_receipts_of_its_transactions(seed: int, log: pytest.LogCaptureFixture) -> None:
    rng = random.Random(seed)
    async with driven(seed) as (driver, server, station):
        handed = Handed(server.meter)
        number = 0
        while not server.behaves:
            number += 1
            await asyncio.sleep(rng.uniform(0, 5))
            await in_time(driver.start_transaction(request(f"T-{number}")), START_S)
            await asyncio.sleep(rng.uniform(0, 8))
            stopped = await in_time(driver.stop_transaction(f"T-{number}"), STOP_S)
            if stopped.status is OK:
                handed.add(stopped.signed_meter_value.signed_meter_data, f"T-{number}")
        await asyncio.sleep(60)
        assert (await in_time(driver.start_transaction(request("T-last")), START_S)).status is OK
        await asyncio.sleep(5)
        stopped = await in_time(driver.stop_transaction("T-last"), STOP_S)
        handed.add(stopped.signed_meter_value.signed_meter_data, "T-last")
        await asyncio.sleep(5)
        assert station.active == {}
        assert station.values[-1][0] >= asyncio.get_running_loop().time() - 1.1
        assert station.keys[-1] == driver.public_key
        assert len(asyncio.all_tasks()) < 10
        virtual_s = asyncio.get_running_loop().time()
    loud = [record for record in log.records if record.levelno >= logging.INFO]
    assert len(loud) < virtual_s
    if "IEM_DCR_FUZZ_REQUESTS" in os.environ:
        resident_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(  # noqa: T201  the figures of a long run
            f"seed {seed}: {server.done.total()} requests abused, {number} sessions, {len(handed)} receipts, "
            f"{len(loud)} lines of log in {virtual_s:.0f} s of virtual time, at most {resident_mib:.0f} MiB resident"
        )


# --- the command line ---


@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
@virtual
async def test_diagnostics_give_a_result(seed: int) -> None:
    shown = 0

    def looked(meter: WatchedMeter) -> None:
        nonlocal shown
        status = meter.status()
        console = Console(file=io.StringIO(), width=100, height=30, force_terminal=True)
        console.print(Picture((status,), VirtualWall()()))
        assert plain_line(status).isprintable()
        json_line(status)
        shown += 1

    async with HostileMeter(simulated(), seed=seed, share=0.7) as server:
        begun_s = asyncio.get_running_loop().time()
        report = await doctor.examine("127.0.0.1", server.port, None, wall=VirtualWall())
        assert asyncio.get_running_loop().time() - begun_s <= 60
        assert report.exit_status == 1
        assert all(part.isprintable() for result in report.results.values() for part in (result.text, result.to_do))
        json.dumps(report.to_json())
        recorded = await recorder.record("127.0.0.1", server.port)
        with contextlib.suppress(RecordingError):
            redact(recorded, {"127.0.0.1"})
        await watch([WatchedMeter("127.0.0.1", server.port, VirtualWall())], looked, count=60)
    assert shown == 60


@pytest.fixture
def hostile_port() -> Iterator[int]:
    """Yield the port of a hostile meter on a loop in a thread of its own."""
    ready, over = threading.Event(), threading.Event()
    ports: list[int] = []

    async def serve() -> None:
        async with HostileMeter(simulated(), seed=SEED, only=QUICK, share=0.9) as server:
            ports.append(server.port)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    yield ports[0]
    over.set()
    thread.join()


@pytest.mark.parametrize("command", [
        ["read"], ["doctor"], ["record", "-o", "FOLDER"], ["session", "--seconds", "1"], ["watch", "--count", "2"],
    ],
)  # fmt: skip
def test_commands_end_with_a_reason(command: list[str], hostile_port: int, tmp_path: Path) -> None:
    name, *options = [part.replace("FOLDER", str(tmp_path / "kept")) for part in command]
    for _ in range(2 if name == "read" else 1):
        done = run(name, f"127.0.0.1:{hostile_port}", *options)
        assert done.status in (0, 1, 2)
        assert all(line.isprintable() for line in (done.out + done.err).splitlines())
        assert done.status == 0 or done.err or done.out


@pytest.fixture
def journal_of_a_hostile_meter(tmp_path: Path) -> Path:
    """A journal with the receipt of a meter that calls itself what no meter is called."""
    path = tmp_path / "receipts.db"
    name = ESCAPES.replace("\ud800", "")  # what has no UTF-8 cannot be signed
    options = SimulatorOptions(MS=SERIAL, private_key=SECRET, charge_s=1.0)
    for key, value in {"MS": name, "MM": name * 20, "GI": name + "x" * 30_000, "ST": "\x1b[31m"}.items():
        object.__setattr__(options, key, value)  # the simulator itself would refuse them

    async def session() -> None:
        async with virtual_journal(path) as journal, bench(options, journal=journal) as b:
            await b.until_live()
            assert (await b.driver.start_transaction(request("T-1"))).status is OK
            await asyncio.sleep(2)
            assert (await b.driver.stop_transaction("T-1")).status is OK

    run_virtual(session())
    return path


@pytest.mark.parametrize("command", [["list"], ["show"], ["export", "--format", "csv"]])
def test_receipts_of_a_hostile_meter_are_shown_harmless(command: list[str], journal_of_a_hostile_meter: Path) -> None:
    done = run("receipts", command[0], "--journal", str(journal_of_a_hostile_meter), *command[1:])
    assert done.status == 0
    assert "04ABT-1" in done.out
    # A tuple is handed on as it is, and has no control characters in it but as JSON's escapes.
    assert not set(done.out + done.err) & {chr(code) for code in (*range(10), *range(14, 32), 127)}
