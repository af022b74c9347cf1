"""Measures how many meters one ``iem-dcr run`` on one core can drive with one punctual value per second each.

Usage: python benchmarks/fleet.py [--quick] [--meters N] [--profile] [--no-heartbeats]

Values are punctual if 99 % of them reach a client of the broker at most 100 ms late, measured against each meter's own
grid of seconds. The number of meters is doubled until this fails, and then a binary search finds the limit.

The service has its own core. The meters (fleet_meters.py), the broker (mosquitto) and this process, with
EVerest's part (fleet_everest.py), share the others. Their load is printed, because they must not be the limit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pstats
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import fleet_processes as processes
from benchmarks.fleet_everest import Everest
from endurance.growth import resident_kib
from endurance.processes.programs import why_no_mosquitto
from tests.support.brokers import Amqtt, Mosquitto

GOAL_METERS = 500
ON_TIME = 0.99
CLOSE_ENOUGH = 1.1
"""The search ends if the ratio of the failed to the successful number of meters is at most this."""
SETTLE_S = 4.0
"""Time from the first value of the last meter to the measurement. The start is over by then."""
TOP = 40
"""Number of functions in a printed profile."""


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
        """Whether the values were punctual."""
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

    def __init__(self, stack: contextlib.ExitStack, most: int, *, heartbeats: bool, settle_s: float) -> None:
        processes.raise_limits()
        self._core = processes.reserve_core()
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iem-dcr-fleet-")))
        self.broker = stack.enter_context(Amqtt() if why_no_mosquitto() else Mosquitto(extra="log_dest none"))
        command = [sys.executable, str(processes.HERE / "fleet_meters.py"), str(most)]
        meters = stack.enter_context(processes.running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert meters.stdout is not None  # noqa: S101  it is a pipe
        self._ports: list[int] = json.loads(meters.stdout.readline())
        self._everest = stack.enter_context(Everest(self.broker.port))
        self._other_pids = (meters.pid, self.broker.pid, os.getpid())
        self._heartbeats = heartbeats
        self._settle_s = settle_s

    def trial(self, count: int, seconds: int, *, profile: Path | None = None) -> Trial:
        """Measure the service with ``count`` meters, under cProfile if there is a file for its ``profile``."""
        program = ["-m", "iem_dcr"] if profile is None else [str(processes.HERE / "fleet_profiled.py"), str(profile)]
        command = [sys.executable, *program, "-q", "run", self._config(count)]
        everest = self._everest
        everest.expect(_module_ids(count), heartbeats=self._heartbeats)
        log, begin_s = self._folder / "log", time.monotonic()
        with log.open("w") as stderr, processes.running(command, self._core, stderr=stderr) as process:
            is_complete = everest.wait(20 + count / 50)
            time.sleep(self._settle_s)
            if profile is not None:
                process.send_signal(signal.SIGUSR1)
            pids = (process.pid, *self._other_pids)
            before_s, all_before_s, cpu_before_s = time.monotonic(), processes.busy_s(), [*map(processes.cpu_s, pids)]
            window = everest.window(seconds)
            took_s, all_s = time.monotonic() - before_s, processes.busy_s() - all_before_s
            used_s = [processes.cpu_s(pid) - at_first_s for pid, at_first_s in zip(pids, cpu_before_s, strict=True)]
            resident = resident_kib(process.pid)
            if profile is not None:
                process.send_signal(signal.SIGUSR2)
                time.sleep(1)
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


def search(fleet: Fleet, first: int, most: int, seconds: int) -> Trial | None:
    """Find the maximum number of meters to within 10 %, and print every trial. Return None if ``first`` is too many.

    A failed trial is repeated once, because another program may have used the core.
    """
    held: Trial | None = None
    count, failed = first, 0
    while True:
        for _ in range(2):
            trial = fleet.trial(count, seconds)
            print(trial, flush=True)
            if trial.held:
                break
        if trial.held:
            held = trial
        else:
            failed = count
        if failed:
            count = round((failed + (held.meters if held else 0)) / 2)
        elif count == most:
            return held
        else:
            count = min(2 * count, most)
        if failed and (held is None or failed / held.meters <= CLOSE_ENOUGH):
            return held


def report(one: Trial, held: Trial, *, is_limit: bool) -> None:
    """Print the results."""
    if held.held:
        print(f"Held on one core: {'' if is_limit else 'at least '}{held.meters} meters", end="")
        print(
            f"   goal: {GOAL_METERS}: {'met' if held.meters >= GOAL_METERS else 'NOT MET' if is_limit else 'not tried'}"
        )
    else:
        print(f"Not held on one core: {held.meters} meters")
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
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 meters and a few seconds, instead of a search")
    parser.add_argument("--meters", type=int, help="this number, instead of a search")
    parser.add_argument("--first", type=int, default=250, help="first number of the search (%(default)s)")
    parser.add_argument("--most", type=int, default=2000, help="largest number of the search (%(default)s)")
    parser.add_argument("--seconds", type=int, default=15, help="length of each measurement (%(default)s)")
    parser.add_argument("--no-heartbeats", action="store_true", help="omit EVerest's heartbeats")
    parser.add_argument("--profile", action="store_true", help="print a profile of the CPU time")
    arguments = parser.parse_args()
    seconds = 2 if arguments.quick else arguments.seconds
    count = 8 if arguments.quick else arguments.meters
    with contextlib.ExitStack() as stack:
        settle_s = 1.0 if arguments.quick else SETTLE_S
        fleet = Fleet(stack, count or arguments.most, heartbeats=not arguments.no_heartbeats, settle_s=settle_s)
        heartbeats = "without" if arguments.no_heartbeats else "with"
        print(f"Broker {type(fleet.broker).__name__}, {heartbeats} heartbeats, windows of {seconds} s", flush=True)
        one = fleet.trial(1, 2)
        if count:
            held: Trial | None = fleet.trial(count, seconds)
            print(held, flush=True)
        else:
            held = search(fleet, arguments.first, arguments.most, seconds)
        if held is None:
            raise SystemExit(f"not even {arguments.first} meters are held: --first takes fewer")
        report(one, held, is_limit=not count and held.meters < arguments.most)
        if arguments.profile:
            profile = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "profile"
            fleet.trial(min(held.meters, 300), seconds, profile=profile)
            pstats.Stats(str(profile)).sort_stats("tottime").print_stats(TOP)


if __name__ == "__main__":
    main()
