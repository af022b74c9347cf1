"""Measures the driver: latency of start and stop, drift of the schedule, CPU and memory.

Usage: python benchmarks/driver.py [--quick]

A simulated meter runs in its own process. In the same run, bare ``http.client`` makes the same requests as the driver,
also with one connection each. The results are ratios and differences of the two, independent of the machine's speed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from iem_dcr.config import Settings
from iem_dcr.driver import MeterDriver
from iem_dcr.powermeter import TransactionReq, TransactionRequestStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from iem_dcr.powermeter import Powermeter, StationError

CI = "DE*BEN*E0001*1"
BASE = "/counter/v1/ocmf"
SIGNING_S = 0.12
MIB = 1024 * 1024


@dataclass
class Station:
    """Records the arrival of values.

    Attributes:
        at_s: the loop's time of each value.
    """

    at_s: list[float] = field(default_factory=list)

    def publish_powermeter(self, value: Powermeter) -> None:
        """Convert a value as for a station, and record its time."""
        value.to_json()
        self.at_s.append(asyncio.get_running_loop().time())

    def publish_public_key(self, key: str) -> None:
        """Ignore the key."""

    def raise_error(self, error: StationError) -> None:
        """Ignore an error."""

    def clear_error(self, error: StationError) -> None:
        """Ignore the end of an error."""


@contextlib.contextmanager
def simulated_meter() -> Iterator[int]:
    """Run a simulated meter without load in its own process. Yield its port."""
    command = [sys.executable, "-m", "iem_dcr", "simulate", "--port", "0"]
    command += ["--signing-delay", str(SIGNING_S), "--current", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  our own program
        try:
            first = process.stdout.readline() if process.stdout is not None else ""
            match = re.search(r":(\d+)\s*$", first)
            if match is None:
                raise SystemExit(f"the simulated meter did not start: {first!r}")
            yield int(match[1])
        finally:
            process.terminate()


def request(number: int) -> TransactionReq:
    return TransactionReq(CI, f"bench-{number}", "ASSIGNED", "ISO14443", (), identification_data=f"04{number:012X}")


class Bare:
    """Makes only the requests of a session, each on its own connection."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, method: str, node: str, body: object = None) -> bytes:
        data = None if body is None else json.dumps(body, separators=(",", ":"))
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port)) as connection:
            connection.request(method, BASE + node, data, {"Content-Type": "application/json"} if data else {})
            return connection.getresponse().read()

    def start(self) -> float:
        """Make the requests of a start. Return the time in seconds."""
        before = time.perf_counter()
        self.ask("GET", "/gw")
        json.loads(self.ask("GET", "/metervalue"))
        self.ask("GET", "/transaction")
        self.ask("POST", "/receipt", {"TX": "E"})
        user = {"IS": True, "IL": "NONE", "IF": [], "IT": "ISO14443", "ID": "04AB", "US": False}
        self.ask("POST", "/user", user)
        self.ask("POST", "/receipt", {"TX": "B"})
        return time.perf_counter() - before

    def stop(self) -> float:
        """Make the requests of a stop. Return the time in seconds without the wait for the receipt."""
        before = time.perf_counter()
        json.loads(self.ask("GET", "/gw"))
        self.ask("POST", "/receipt", {"TX": "E"})
        first_s = time.perf_counter() - before
        while not (answer := self.ask("GET", "/receipt")).startswith(b"OCMF|"):
            time.sleep(0.01)
        before = time.perf_counter()
        assert self.ask("GET", "/receipt") == answer  # noqa: S101  wrong answers would make the benchmark meaningless
        json.loads(self.ask("GET", "/metervalue"))
        return first_s + time.perf_counter() - before


async def latencies(port: int, sessions: int) -> tuple[list[float], list[float]]:
    """Run sessions through the driver. Return the seconds of each start and stop."""
    starts, stops = [], []
    async with running_driver(port) as (driver, _):
        for number in range(sessions):
            before = time.perf_counter()
            started = await driver.start_transaction(request(number))
            starts.append(time.perf_counter() - before)
            if started.status is not TransactionRequestStatus.OK:
                raise SystemExit(f"not started: {started.error}")
            before = time.perf_counter()
            stopped = await driver.stop_transaction(f"bench-{number}")
            stops.append(time.perf_counter() - before)
            if stopped.status is not TransactionRequestStatus.OK:
                raise SystemExit(f"not stopped: {stopped.error}")
    return starts, stops


@contextlib.asynccontextmanager
async def running_driver(port: int) -> AsyncIterator[tuple[MeterDriver, Station]]:
    """Run a driver that has published its first value."""
    settings = Settings.of({"ip_address": "127.0.0.1", "port_http": port, "CI": CI})
    station = Station()
    driver = MeterDriver(settings, station)
    task = asyncio.create_task(driver.run())
    try:
        while not station.at_s:  # noqa: ASYNC110  the driver has no event for it
            await asyncio.sleep(0.01)
        yield driver, station
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def live_values(port: int, seconds: float) -> tuple[list[float], float]:
    """Record live values. Return their times and the CPU seconds per value."""
    async with running_driver(port) as (_, station):
        await asyncio.sleep(3)
        count, cpu_s = len(station.at_s), time.process_time()
        await asyncio.sleep(seconds)
        cpu_s = time.process_time() - cpu_s
        values = station.at_s[count:]
        return values, cpu_s / max(1, len(values))


def bare_values(port: int, seconds: float) -> float:
    """Read values in a bare loop. Return the CPU seconds per reading."""
    bare = Bare(port)
    count, cpu_s = 0, time.thread_time()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        json.loads(bare.ask("GET", "/metervalue"))
        count += 1
        time.sleep(1)
    return (time.thread_time() - cpu_s) / count


FOOTPRINT = """
import time, sys
before = time.perf_counter()
{imports}
took_ms = (time.perf_counter() - before) * 1000
rss_kib = int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1])
print(took_ms, rss_kib * 1024)
"""


def footprint(imports: str) -> tuple[float, float]:
    """Return import time (ms) and resident memory (MiB) of a new interpreter with these imports."""
    runs = []
    for _ in range(5):
        code = FOOTPRINT.format(imports=imports)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603  as above
        took_ms, rss = map(float, done.stdout.split())
        runs.append((took_ms, rss / MIB))
    return statistics.median(run[0] for run in runs), statistics.median(run[1] for run in runs)


def ms(seconds: float) -> str:
    return f"{seconds * 1000:6.1f} ms"


def report_latency(port: int, sessions: int) -> None:
    """Print the latency of start and stop, and that of the bare requests."""
    starts, stops = asyncio.run(latencies(port, sessions))
    bare = Bare(port)
    bare_starts, bare_stops = [], []
    for _ in range(sessions):
        bare_starts.append(bare.start())
        bare_stops.append(bare.stop())
    print(f"Start and stop, median of {sessions} sessions, signing delay {SIGNING_S * 1000:.0f} ms")
    for name, driver, plain, wait_s, goal_s in (
        ("start", starts, bare_starts, 0.0, 0.008),
        ("stop", stops, bare_stops, SIGNING_S, max(0.015, SIGNING_S / 10) + 0.008),
    ):
        took_s, bare_s = statistics.median(driver), statistics.median(plain)
        on_top_s = took_s - bare_s - wait_s
        print(f"  {name:5}  driver {ms(took_s)}   bare requests {ms(bare_s)}   on top {ms(on_top_s)}", end="")
        print("   (and of the signing)" if wait_s else "")
        print(f"         goal: under {goal_s * 1000:.0f} ms on top: {'met' if on_top_s < goal_s else 'NOT MET'}")


def report_first_value(port: int) -> None:
    """Print the time from the driver's start to its first live value."""

    async def first_value_s() -> float:
        before = time.perf_counter()
        async with running_driver(port):
            return time.perf_counter() - before

    took_s = statistics.median([asyncio.run(first_value_s()) for _ in range(5)])
    print(f"First live value after {ms(took_s).strip()}   goal: 300 ms: {'met' if took_s < 0.3 else 'NOT MET'}")


def report_live_values(port: int, seconds: float) -> None:
    """Print drift and jitter of the schedule, and CPU per value compared with a bare loop at the same time.

    The bare loop has its own process, so that the two do not share an interpreter.
    """
    command = [sys.executable, str(Path(__file__).resolve()), "--bare-loop", str(port), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as bare:  # noqa: S603  our own program
        values, cpu_s = asyncio.run(live_values(port, seconds))
        bare_cpu_s = float(bare.communicate()[0])
    offsets_s = [(at - values[0] + 0.5) % 1.0 - 0.5 for at in values]
    half, middle_s = len(values) // 2, statistics.median(offsets_s)
    within = sum(abs(offset_s - middle_s) <= 0.020 for offset_s in offsets_s) / len(offsets_s)
    drift_s = statistics.median(offsets_s[half:]) - statistics.median(offsets_s[:half])
    print(f"Live values, {len(values)} in {seconds:.0f} s")
    print(f"  drift from first to second half {ms(drift_s).strip()}, within 20 ms {within:.1%}", end="")
    print(f"   goal: no drift, 99 %: {'met' if abs(drift_s) < 0.005 and within >= 0.99 else 'NOT MET'}")
    ratio = cpu_s / bare_cpu_s
    print(f"  CPU per value {ms(cpu_s).strip()}, bare http.client loop {ms(bare_cpu_s).strip()}", end="")
    print(f"   ratio {ratio:.1f}   goal: 2.0: {'met' if ratio <= 2.0 else 'NOT MET'}")


def report_footprint() -> None:
    """Print import time and resident memory of the imports of an EVerest module."""
    module = "import iem_dcr.config, iem_dcr.driver, iem_dcr.powermeter"
    print("Footprint, median of 5 fresh interpreters")
    for name, imports in (
        ("python alone", "pass"),
        ("the driver", module),
        ("the driver, verifying", f"{module}\nimport iem_dcr.ocmf; iem_dcr.ocmf.prepare()"),
    ):
        took_ms, rss_mib = footprint(imports)
        print(f"  {name:22}  import {took_ms:6.0f} ms   resident {rss_mib:5.1f} MiB")
    print(f"  goal: under 45 MiB: {'met' if rss_mib < 45 else 'NOT MET'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds instead of minutes")
    parser.add_argument("--bare-loop", nargs=2, metavar=("PORT", "SECONDS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare_loop:
        port, seconds = arguments.bare_loop
        print(bare_values(int(port), float(seconds)))
        return
    with simulated_meter() as port:
        report_latency(port, 5 if arguments.quick else 50)
        report_first_value(port)
        report_live_values(port, 6.0 if arguments.quick else 120.0)
    report_footprint()


if __name__ == "__main__":
    main()
