"""Measures the EVerest module: round trip of a command through the double of everestpy, first value, footprint.

Usage: python benchmarks/everest.py [--quick]

It needs EVerest's definitions (the folder ``shared`` beside the checkout), because the double checks every value.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import iem_dcr.everest  # noqa: E402  needs the path above
from tests.support.bench import CI  # noqa: E402
from tests.support.command_line import Simulator  # noqa: E402
from tests.support.everest_bench import EverestBench  # noqa: E402

MODULE = Path(iem_dcr.everest.__file__).parent / "IsabellenhuetteIemDcr" / "module.py"
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


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def python_alone_mib() -> float:
    """Return the resident memory of an interpreter without imports, in MiB."""
    program = "print(next(line for line in open('/proc/self/status') if line.startswith('VmRSS')).split()[1])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    return int(done.stdout) / 1024


def verdict(value: float, goal: float) -> str:
    """Return whether a goal is met, as text."""
    return "met" if value <= goal else "NOT MET"


def timed(everest: EverestBench, command: str, arguments: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Call a command. Return the time in seconds and the answer."""
    before = time.perf_counter()
    answer = everest.call(command, arguments)
    return time.perf_counter() - before, answer


def request(name: str) -> dict[str, Any]:
    """Return the arguments of a start."""
    return {
        "value": {
            "evse_id": CI,
            "transaction_id": name,
            "identification_status": "ASSIGNED",
            "identification_flags": [],
            "identification_type": "ISO14443",
            "identification_data": f"04{name}",
        }
    }


def idle_module(folder: Path) -> tuple[float, float]:
    """Return resident memory (MiB) and round trip (s) of a module that does nothing."""
    program = folder / "module.py"
    program.write_text(IDLE, encoding="utf-8")
    with EverestBench(program) as everest:
        everest.ready()
        trips = [timed(everest, "stop_transaction", {"transaction_id": ""})[0] for _ in range(20)]
        return resident_mib(everest.pid), statistics.median(trips)


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sessions")
    sessions = 3 if parser.parse_args().quick else 30
    with tempfile.TemporaryDirectory() as folder:
        idle_mib, idle_s = idle_module(Path(folder))
    with Simulator(signing_delay_s=SIGNING_S, current_a=0.0) as meter, tempfile.TemporaryDirectory() as kept:
        host, _, port = meter.address.rpartition(":")
        settings = {"ip_address": host, "port_http": int(port), "CI": CI}
        with EverestBench(MODULE, settings, environment={"STATE_DIRECTORY": kept}) as everest:
            ready_at = everest.ready()
            first = everest.wait_for(lambda: everest.published("powermeter"))[0]
            starts, stops = [], []
            for number in range(sessions):
                took_s, answer = timed(everest, "start_transaction", request(f"B{number}"))
                starts.append(took_s)
                took_s, answer = timed(everest, "stop_transaction", {"transaction_id": f"B{number}"})
                stops.append(took_s)
                if answer["status"] != "OK":
                    raise SystemExit(f"not stopped: {answer}")
            module_mib = resident_mib(everest.pid)
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
    python_mib = python_alone_mib()
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
