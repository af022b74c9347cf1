"""Measures the EVerest module: round trip of a command through the double of everestpy, first value, footprint.

Usage: python benchmarks/everest.py [--quick]

It needs EVerest's definitions (the folder ``shared`` beside the checkout), because the double checks every value.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.driver import footprint
from endurance.growth import resident_kib
from endurance.plan import EVSE_ID, start_request
from endurance.processes.wrapped_program import MODULE_PY
from tests.support.command_line import Simulator
from tests.support.everest_bench import EverestBench

SIGNING_S = 0.12
FIRST_VALUE_GOAL_S = 0.3
MEMORY_GOAL_MIB = 40.0
"""Memory of the whole process with the double of everestpy. The real everestpy needs 8 MiB more."""
LOOK_S = 0.14
"""Time of the driver's first query that can find the receipt with this signing delay."""
IDLE = (
    "import sys, time\n"
    "from everest.framework import Module, RuntimeSession\n"
    "session = RuntimeSession(); module = Module(session); module.say_hello()\n"
    "for name in ('start_transaction', 'stop_transaction'):\n"
    "    module.implement_command('main', name, lambda args: {'status': 'UNEXPECTED_ERROR', 'error': 'no'})\n"
    "module.init_done(lambda: None)\n"
    "time.sleep(3600)\n"
)
"""A module that does nothing: its memory and round trip are the share of the double."""


def verdict(value: float, goal: float) -> str:
    return "met" if value <= goal else "NOT MET"


def timed(everest: EverestBench, command: str, arguments: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Call a command. Return the time in seconds and the answer."""
    before = time.perf_counter()
    answer = everest.call(command, arguments)
    return time.perf_counter() - before, answer


def idle_module(folder: Path) -> tuple[float, float]:
    """Return resident memory (MiB) and round trip (s) of a module that does nothing."""
    program = folder / "module.py"
    program.write_text(IDLE, encoding="utf-8")
    with EverestBench(program) as everest:
        everest.ready()
        trips = [timed(everest, "stop_transaction", {"transaction_id": ""})[0] for _ in range(20)]
        return resident_kib(everest.pid) / 1024, statistics.median(trips)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sessions")
    sessions = 3 if parser.parse_args().quick else 30
    with tempfile.TemporaryDirectory() as folder:
        idle_mib, idle_s = idle_module(Path(folder))
    with Simulator(signing_delay_s=SIGNING_S, current_a=0.0) as meter, tempfile.TemporaryDirectory() as kept:
        host, _, port = meter.address.rpartition(":")
        settings = {"ip_address": host, "port_http": int(port), "CI": EVSE_ID}
        with EverestBench(MODULE_PY, settings, environment={"STATE_DIRECTORY": kept}) as everest:
            ready_at = everest.ready()
            first = everest.wait_for(lambda: everest.published("powermeter"))[0]
            starts, stops = [], []
            for number in range(sessions):
                took_s, answer = timed(everest, "start_transaction", {"value": start_request(f"B{number}", "04AB")})
                starts.append(took_s)
                took_s, answer = timed(everest, "stop_transaction", {"transaction_id": f"B{number}"})
                stops.append(took_s)
                if answer["status"] != "OK":
                    raise SystemExit(f"not stopped: {answer}")
            module_mib = resident_kib(everest.pid) / 1024
    start_s, stop_s = statistics.median(starts), statistics.median(stops)
    first_s = first.at - ready_at
    print(
        f"First value {first_s * 1000:.0f} ms after ready; goal {FIRST_VALUE_GOAL_S * 1000:.0f} ms: "
        f"{verdict(first_s, FIRST_VALUE_GOAL_S)}"
    )
    print(f"Round trip, median of {sessions}; a module that does nothing answers in {idle_s * 1000:.1f} ms")
    print(f"  start_transaction {start_s * 1000:6.1f} ms   ratio {start_s / idle_s:.1f}")
    print(
        f"  stop_transaction  {stop_s * 1000:6.1f} ms   {(stop_s - LOOK_S) * 1000:.1f} ms on top of the query at 140 ms"
    )
    _, python_mib = footprint("pass")
    print(
        f"Resident after {sessions} sessions {module_mib:.1f} MiB; goal {MEMORY_GOAL_MIB:.0f} MiB: "
        f"{verdict(module_mib, MEMORY_GOAL_MIB)}"
    )
    print(
        f"  python {python_mib:.1f} MiB, the double of everestpy {idle_mib - python_mib:.1f} MiB, "
        f"the module {module_mib - idle_mib:.1f} MiB"
    )


if __name__ == "__main__":
    main()
