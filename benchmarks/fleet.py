"""Measures how many meters one ``iem-dcr run`` on one core can drive with one punctual value per second each.

Usage: python benchmarks/fleet.py [--quick] [--meters N] [--seconds S]

Values are punctual if 99 % of them reach a client of the broker at most 100 ms late, measured against each meter's own
grid of seconds. The number of meters is doubled until this fails.

The service has its own core. The meters (fleet_meters.py), the broker (mosquitto) and this process, with
EVerest's part (fleet_everest.py), share the others. Their load is printed, because they must not be the limit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.fleet_everest import Everest
from endurance.growth import resident_kib
from endurance.processes.programs import why_no_mosquitto
from tests.support.brokers import Amqtt, Mosquitto

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).resolve().parent
END_TIMEOUT_S = 10.0
GOAL_METERS = 500
ON_TIME = 0.99
COUNTS = (250, 500, 1000, 2000)
SETTLE_S = 4.0
"""Time from the first value of the last meter to the measurement. The start is over by then."""


@dataclass(frozen=True, slots=True)
class Trial:
    """The measurement of one process with a number of meters.

    Attributes:
        meters: number of meters.
        on_time: share of the expected values that were punctual.
        late_s: lateness that 99 % of the received values do not exceed, or None without values.
        per_value_s: CPU seconds of the process per value.
        busy: share of its core that the process used.
        others: shares of a core that the meters, the broker and EVerest's part used.
        foreign: share of a core that unrelated programs used.
        resident_kib: resident memory of the process in KiB.
        first_check_s: seconds from the start of the process to the first communication check, or None.
        all_there_s: seconds to the first check and value of the last meter, or None.
    """

    meters: int
    on_time: float
    late_s: float | None
    per_value_s: float
    busy: float
    others: tuple[float, ...]
    foreign: float
    resident_kib: int
    first_check_s: float | None
    all_there_s: float | None

    @property
    def held(self) -> bool:
        return self.on_time >= ON_TIME

    def __str__(self) -> str:
        shares = (*self.others, self.foreign)
        names = ("meters", "broker", "EVerest", "foreign")
        others = ", ".join(f"{name} {share:.0%}" for name, share in zip(names, shares, strict=True))
        late = "   -  " if self.late_s is None else f"{self.late_s * 1000:4.0f} ms"
        return (
            f"{self.meters:5} meters  on time {self.on_time:6.1%}  99 % within {late}  CPU per value "
            f"{self.per_value_s * 1000:5.3f} ms  busy {self.busy:4.0%}  ({others})"
        )


class Fleet:
    """The meters, the broker and EVerest's part for a series of trials."""

    def __init__(self, stack: contextlib.ExitStack, most: int, *, settle_s: float) -> None:
        # each meter is a connection
        most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
        self._core = reserve_core()
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iem-dcr-fleet-")))
        self.broker = stack.enter_context(Amqtt() if why_no_mosquitto() else Mosquitto(extra="log_dest none"))
        command = [sys.executable, str(HERE / "fleet_meters.py"), str(most)]
        meters = stack.enter_context(running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert meters.stdout is not None  # noqa: S101  it is a pipe
        self._ports: list[int] = json.loads(meters.stdout.readline())
        self._everest = stack.enter_context(Everest(self.broker.port))
        self._other_pids = (meters.pid, self.broker.pid, os.getpid())
        self._settle_s = settle_s

    def trial(self, count: int, seconds: int) -> Trial:
        command = [sys.executable, "-m", "iem_dcr", "-q", "run", self._config(count)]
        everest = self._everest
        everest.expect(_module_ids(count))
        log, begin_s = self._folder / "log", time.monotonic()
        with log.open("w") as stderr, running(command, self._core, stderr=stderr) as process:
            is_complete = everest.wait(20 + count / 50)
            time.sleep(self._settle_s)
            pids = (process.pid, *self._other_pids)
            before_s, all_before_s, cpu_before_s = time.monotonic(), busy_s(), [*map(cpu_s, pids)]
            window = everest.window(seconds)
            took_s, all_s = time.monotonic() - before_s, busy_s() - all_before_s
            used_s = [cpu_s(pid) - at_first_s for pid, at_first_s in zip(pids, cpu_before_s, strict=True)]
            resident = resident_kib(process.pid)
        if window["values"] == 0 or window["rising"] < count * 0.9:
            print(f"Only {window['rising']} of {count} meters sent values with a rising register.")
            print(*log.read_text("utf-8").splitlines()[:5], sep="\n")
        first_s = [*everest.checked.values(), *everest.valued.values()]
        return Trial(
            meters=count,
            on_time=window["on_time"] / window["due"],
            late_s=window["late_s"],
            per_value_s=used_s[0] / max(1, window["values"]),
            busy=used_s[0] / took_s,
            others=tuple(share_s / took_s for share_s in used_s[1:]),
            foreign=max(0.0, all_s - sum(used_s)) / took_s,
            resident_kib=resident,
            first_check_s=min(everest.checked.values()) - begin_s if everest.checked else None,
            all_there_s=max(first_s) - begin_s if is_complete else None,
        )

    def _config(self, count: int) -> str:
        """Write a configuration of ``count`` meters and return its path."""
        tables = [f'[mqtt]\nhost = "127.0.0.1"\nport = {self.broker.port}\nprotocol = "{self.broker.protocol}"\n']
        tables += [
            f'[[meter]]\nmodule_id = "{module_id}"\nip_address = "127.0.0.1"\nport_http = {port}\n'
            f'CI = "DE*BEN*{module_id}"\njournal_path = "off"\n'
            for module_id, port in zip(_module_ids(count), self._ports, strict=False)
        ]
        file = self._folder / f"{count}.toml"
        file.write_text("\n".join(tables), "utf-8")
        return str(file)


def _module_ids(count: int) -> list[str]:
    return [f"pm{number}" for number in range(count)]


def reserve_core() -> set[int]:
    """Keep this process, and those that it starts, off one core if there are several. Return that core."""
    allowed = os.sched_getaffinity(0)
    measured = {min(allowed)}
    os.sched_setaffinity(0, allowed - measured or measured)
    return measured


@contextlib.contextmanager
def running(command: list[str], on: set[int] | None = None, **options: Any) -> Iterator[subprocess.Popen[str]]:  # noqa: ANN401  as Popen's
    """Run a process, on these cores. Terminate it at the end of the context, and kill it if it does not end."""
    with subprocess.Popen(command, text=True, **options) as process:  # noqa: S603  our own programs
        os.sched_setaffinity(process.pid, on or os.sched_getaffinity(0))
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used, in user mode and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy_s() -> float:
    """Return the CPU seconds that all programs of this machine have used (proc(5): all columns but idle and iowait)."""
    columns = Path("/proc/stat").read_text("utf-8").splitlines()[0].split()[1:9]
    return sum(int(ticks) for place, ticks in enumerate(columns) if place not in (3, 4)) / os.sysconf("SC_CLK_TCK")


def largest_held(fleet: Fleet, counts: Sequence[int], seconds: int) -> Trial:
    """Print a trial with each number of meters until the values are late. Return the last trial in time, or the first.

    A failed trial is repeated once, because another program may have used the core.
    """
    held: Trial | None = None
    for count in counts:
        for _ in range(2):
            trial = fleet.trial(count, seconds)
            print(trial, flush=True)
            if trial.held:
                break
        if not trial.held:
            return held or trial
        held = trial
    return trial


def report(one: Trial, held: Trial, most: int) -> None:
    """Print the results. ``most`` is the largest number of meters that would have been tried."""
    goal = "not tried" if most < GOAL_METERS else "met" if held.held and held.meters >= GOAL_METERS else "NOT MET"
    print(f"{'Held' if held.held else 'Not held'} on one core: {held.meters} meters   goal: {GOAL_METERS}: {goal}")
    print(f"  values on time                {held.on_time:.2%}")
    print(f"  CPU per value                 {held.per_value_s * 1000:.3f} ms")
    held_mib, one_mib = held.resident_kib / 1024, one.resident_kib / 1024
    per_meter_kib = (held.resident_kib - one.resident_kib) / (held.meters - one.meters)
    print(f"  resident                      {held_mib:.1f} MiB, with 1 meter {one_mib:.1f} MiB:", end="")
    print(f" {per_meter_kib:.1f} KiB per meter")
    for trial in (one, held):
        first, there = (f"{at:.2f} s" if at is not None else "-" for at in (trial.first_check_s, trial.all_there_s))
        print(f"  from the start of the process, {trial.meters} meter{'s' if trial.meters > 1 else ''}: ", end="")
        print(f"first communication_check {first}, all meters' checks and values {there}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 meters and a few seconds")
    parser.add_argument("--meters", type=int, help="this number only")
    parser.add_argument("--seconds", type=int, default=15, help="length of each measurement (%(default)s)")
    arguments = parser.parse_args()
    seconds, counts = (2, (8,)) if arguments.quick else (arguments.seconds, COUNTS)
    if arguments.meters:
        counts = (arguments.meters,)
    with contextlib.ExitStack() as stack:
        fleet = Fleet(stack, max(counts), settle_s=1.0 if arguments.quick else SETTLE_S)
        print(f"Broker {type(fleet.broker).__name__}, windows of {seconds} s", flush=True)
        report(fleet.trial(1, 2), largest_held(fleet, counts, seconds), max(counts))


if __name__ == "__main__":
    main()
