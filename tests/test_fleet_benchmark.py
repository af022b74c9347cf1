"""The benchmark of a fleet: it runs, its meters behave like meters, and its judgement of punctuality is right."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fleet_everest import judged
from iem_dcr.config import Settings
from iem_dcr.driver import MeterDriver
from tests.support.bench import RememberingStation
from tests.support.brokers import real_time, until
from tests.support.command_line import PATIENCE_S

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc, which only Linux has")
def test_the_benchmark_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "fleet.py"), "--quick"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    for word in ("values on time", "CPU per value", "KiB per meter", "communication_check"):
        assert word in done.stdout


def two_meters() -> subprocess.Popen[str]:
    command = [sys.executable, str(BENCHMARKS / "fleet_meters.py"), "2"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@real_time
async def test_the_driver_drives_its_meters() -> None:
    with two_meters() as meters:
        assert meters.stdin is not None
        assert meters.stdout is not None
        ports = json.loads(await asyncio.to_thread(meters.stdout.readline))
        assert len(set(ports)) == 2
        station = RememberingStation()
        settings = {"ip_address": "127.0.0.1", "port_http": ports[1], "CI": "DE*BEN*E1*1", "TT_initial": "0.50 EUR/kWh"}
        driver = MeterDriver(Settings.of(settings), station)
        task = asyncio.create_task(driver.run())
        try:
            await until(lambda: len(station.values) >= 2 and station.keys)
            (_, first), (_, last) = station.values[0], station.values[-1]
            assert last.energy_wh_import > first.energy_wh_import > 0
            assert last.power_w == pytest.approx(40_000, rel=0.01)
            assert first.meter_id.endswith("1")
            assert driver.gateway is not None
            assert driver.gateway.CI == "DE*BEN*E1*1"
            assert not station.active
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            meters.stdin.close()


def test_values_on_the_grid_are_on_time() -> None:
    punctual = [100.00 + second for second in range(10)]
    late_once = [*punctual[:9], 109.2]
    assert judged([punctual], 1, 10) == {"values": 10, "on_time": 10, "due": 10, "late_s": 0.0}
    assert judged([late_once], 1, 10)["on_time"] == 9
    assert judged([punctual, late_once], 2, 10)["due"] == 20


def test_a_late_first_value_does_not_shift_the_grid() -> None:
    late_at_first = [100.3, *(100.0 + second for second in range(1, 10))]
    assert judged([late_at_first], 1, 10)["on_time"] == 9


@pytest.mark.parametrize("missing", [1, 5, 10])
def test_missing_values_are_not_on_time(missing: int) -> None:
    assert judged([[100.0 + second for second in range(missing, 10)]], 1, 10)["on_time"] == 10 - missing
    assert judged([], 3, 10) == {"values": 0, "on_time": 0, "due": 30, "late_s": None}


def test_extra_values_do_not_replace_those_of_another_meter() -> None:
    eager = [100.0 + tenth / 10 * 10 for tenth in range(20)]
    assert judged([eager], 2, 10)["on_time"] == 10
