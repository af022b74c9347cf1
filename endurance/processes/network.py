"""Sessions over a network that fails: `make endurance-network ROUNDS=3`.

Usage: python -m endurance.processes.network [--rounds N] [--way packets|proxy] [--keep FOLDER]

`iem-dcr run` at a real mosquitto drives one simulated meter for each fault, in another network namespace where the
machine allows that, else behind a proxy. In every round a fault comes at some moment of a session and goes again.
Exits with 1 when a promise of `endurance.invariants` was broken, or values did not come back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from endurance.given import at_least_one
from endurance.processes import running
from endurance.processes.account import Account, Life
from endurance.processes.chargers import ServiceCharger
from endurance.processes.everest import Everest, start_payload
from endurance.processes.ways import PacketWay, ProxyWay, unshared, why_no_namespaces, within
from endurance.stage import Call
from iem_dcr.journal import open_for_reading
from tests.support.brokers import Mosquitto

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from endurance.processes.ways import Way

EVSE_ID: Final = "DE*NET*E1"
MOST_WAIT_S: Final = 62.0
VALUES_BACK_WITHIN_S: Final = 15.0
CALM_S: Final = 100.0
SEED: Final = 1
_INSIDE: Final = "IEM_DCR_ENDURANCE_INSIDE"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong with a way.

    Attributes:
        name: of it.
        lasts_s: how long.
        begin: makes it so.
        cuts_power: the meter loses its power meanwhile, so that the connections it had are unknown to it afterwards.
    """

    name: str
    lasts_s: float
    begin: Callable[[Way], None]
    cuts_power: bool = False


def _set(**values: Any) -> Callable[[Way], None]:
    def begin(way: Way) -> None:
        for name, value in values.items():
            setattr(way, name, value)

    return begin


FAULTS: Final = (
    Fault("30 % loss", 20.0, _set(loss=0.3)),
    Fault("2 s delay", 20.0, _set(delay_s=2.0)),
    Fault("black hole", 12.0, _set(carries_requests=False, carries_answers=False)),
    Fault("requests vanish", 12.0, _set(carries_requests=False)),
    Fault("requests held back", 12.0, _set(holds_back=True)),
    Fault("answers vanish", 12.0, _set(carries_answers=False)),
    Fault("network down", 8.0, lambda way: way.set_up(is_up=False)),
    Fault("half-open", 8.0, _set(carries_requests=False, carries_answers=False), cuts_power=True),
)


class Connector:
    """The station at one meter, behind one way.

    Args:
        name: of it; its power meter's module_id.
        way: to its meter.
        fault: what happens to it.
        control: base URL of the meter's control path, on a way that never fails.
        everest: the station's side of the broker.

    Attributes:
        account: what is known of it.
        back_s: how long it took until a value came when a fault was over.
        waited_s: how long each command took.
    """

    def __init__(self, name: str, way: Way, fault: Fault, control: str, everest: Everest) -> None:
        self.name = name
        self.way = way
        self.fault = fault
        self.account = Account(f"1SIM-{name}", journal=True)
        self.account.processes.append(Life(0, time.monotonic()))
        self.back_s: list[float] = []
        self._control = control
        self._everest = everest
        self._chance = random.Random(f"{SEED} {name}")
        self._value_s = 0.0
        self._ids = 0

    def value(self, value: dict[str, Any]) -> None:
        """Take a live value."""
        self._value_s = time.monotonic()
        self.account.energies.append((value["meter_id"], value["energy_Wh_import"]["total"]))

    async def ask_meter(self, method: str, path: str, value: object = None) -> dict[str, Any]:
        """Use the meter's control path; a meter without power is waited for."""
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.request(method, f"{self._control}{path}", json=value) as response:
                        answer: dict[str, Any] = await response.json()
                        return answer
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)

    async def begin(self) -> None:
        """Wait until values come."""
        async with asyncio.timeout(MOST_WAIT_S):
            while not self._value_s:  # noqa: ASYNC110  it is set where they come
                await asyncio.sleep(0.02)

    async def round(self) -> None:
        """Have a session, and the fault at some moment of it or before it."""
        chance = self._chance
        failing = asyncio.create_task(self._fail(chance.uniform(0.0, 6.0)))
        await asyncio.sleep(chance.uniform(0.0, 3.0))
        start = await self._ask("start", self._new_id())
        await asyncio.sleep(chance.uniform(0.5, 6.0))
        stop = await self._ask("stop", start.transaction_id)
        await failing
        if start.ok and not stop.ok:
            stop = await self._ask("stop", start.transaction_id)
            if not stop.ok:
                self.account.troubles.append(
                    f"no receipt of {start.transaction_id} after {self.fault.name}: {stop.answer}"
                )

    async def _fail(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self.fault.begin(self.way)
        if self.fault.cuts_power:
            await self.ask_meter("POST", "/_sim/power-cycle", {"off_s": 0.5, "boot_s": 1.0})
        await asyncio.sleep(self.fault.lasts_s)
        self.way.mend()
        self.way.set_up(is_up=True)
        over_s = time.monotonic()
        while self._value_s < over_s:
            if time.monotonic() - over_s > VALUES_BACK_WITHIN_S:
                self.account.troubles.append(f"no value within {VALUES_BACK_WITHIN_S} s after {self.fault.name}")
                return
            await asyncio.sleep(0.02)
        self.back_s.append(self._value_s - over_s)

    async def finish(self) -> None:
        """Wait until it is calm, and have one more session."""
        give_up_s = time.monotonic() + CALM_S
        while (await self.ask_meter("GET", "/_sim/state"))["running"]:
            if time.monotonic() > give_up_s:
                self.account.troubles.append("a transaction runs that the station was told had stopped, or never began")
                break
            await asyncio.sleep(0.5)
        while True:
            start = await self._ask("start", self._new_id())
            await asyncio.sleep(1.5)
            stop = await self._ask("stop", start.transaction_id)
            if (start.ok and stop.ok) or time.monotonic() > give_up_s:
                start.fresh = stop.fresh = True
                break
        state = await self.ask_meter("GET", "/_sim/state")
        if state["running"]:
            self.account.troubles.append("a transaction runs after one more start and stop")
        self.account.learn(state)

    def _new_id(self) -> str:
        self._ids += 1
        return f"{self.name}-{self._ids}"

    async def _ask(self, command: str, transaction_id: str) -> Call:
        call = Call(command, transaction_id, len(self.account.calls), process=0, asked_s=time.monotonic())
        self.account.calls.append(call)
        value: object = transaction_id
        if command == "start":
            card = f"04{self.name.encode().hex()}{call.number:04}"
            value = call.request = start_payload(EVSE_ID, transaction_id, card)
        answered = asyncio.Event()

        def answer(told: dict[str, Any]) -> None:
            call.answers += 1
            if call.answer is None:
                call.answer, call.answered_s = told, time.monotonic()
            answered.set()

        self._everest.ask(f"everest_api/1/powermeter/{self.name}/e2m/{command}_transaction", value, answer)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MOST_WAIT_S):
                await answered.wait()
        return call

    def report(self) -> str:
        """Return a line of a table."""
        calls = self.account.calls
        longest_s = max(
            ((call.answered_s or 0.0) - (call.asked_s or 0.0) for call in calls if call.answer is not None), default=0.0
        )
        back = f"{max(self.back_s):5.1f} s" if self.back_s else "      -"
        ok = sum(call.ok for call in calls)
        return f"  {self.fault.name:18} {len(calls):8} {ok:5} {longest_s:13.1f} s {back:>16}"


class Run:
    """One run; all faults at once, each on a way of its own."""

    def __init__(self, folder: Path, rounds: int, faults: Sequence[Fault], *, packets: bool) -> None:
        self._folder = folder
        self._rounds = rounds
        self._faults = faults
        self._packets = packets
        self._log = folder / "service.log"
        self._journal = folder / "journal.sqlite"
        self.connectors: list[Connector] = []

    async def run(self) -> list[str]:
        """Do it; returns what was broken."""
        names = [f"n{number}" for number in range(len(self._faults))]
        async with contextlib.AsyncExitStack() as stack:
            broker = stack.enter_context(Mosquitto())
            everest = await stack.enter_async_context(Everest(broker.port, names, self._heard))
            far = None
            if self._packets:
                far = stack.enter_context(
                    running.running(unshared("sh", "-c", "echo; exec cat"), stdout=subprocess.PIPE)
                )
                await asyncio.to_thread(running.first_line, far)
                sure = await stack.enter_async_context(PacketWay(100, far.pid, 0))
            for number, (name, fault) in enumerate(zip(names, self._faults, strict=True)):
                port = await self._meter(stack, name, far)
                way: PacketWay | ProxyWay = ProxyWay(number, port) if far is None else PacketWay(number, far.pid, port)
                await stack.enter_async_context(way)
                control = f"http://{way.host if far is None else sure.host}:{port}"
                self.connectors.append(Connector(name, way, fault, control, everest))
            self._charger = ServiceCharger(
                everest, names[0], self._config(broker.port), self._log, lambda _: None, lambda _: None
            )
            stack.push_async_callback(self._end_service)
            await self._charger.start()
            await asyncio.gather(*(connector.begin() for connector in self.connectors))
            await asyncio.gather(*(self._rounds_of(connector) for connector in self.connectors))
            troubles = await self._charger.end()
        return troubles + self._judged()

    def _heard(self, topic: str, payload: bytes) -> None:
        _, _, _, name, _, what = topic.split("/")
        for connector in self.connectors:
            if connector.name == name and what == "powermeter_values":
                connector.value(json.loads(payload))
            elif connector.name == name and what == "communication_check":
                connector.account.checks.add(payload)

    async def _rounds_of(self, connector: Connector) -> None:
        for _ in range(self._rounds):
            await connector.round()
        await connector.finish()

    async def _meter(self, stack: contextlib.AsyncExitStack, name: str, far: subprocess.Popen[str] | None) -> int:
        line = running.command("simulate", "--port", "0", "--serial", f"1SIM-{name}", "--signing-delay", "0.2")
        line += ["--set", "load_delay_s=0.05", "--set", "charge_s=0.4"]
        if far is not None:
            line = within(far.pid, *line, "--host", "0.0.0.0")  # noqa: S104  of a namespace of its own
        meter = stack.enter_context(running.running(line, stdout=subprocess.PIPE))
        return int((await asyncio.to_thread(running.first_line, meter)).rpartition(":")[2])

    async def _end_service(self) -> None:
        self._charger.strike()
        await self._charger.bury()

    def _config(self, port: int) -> Path:
        tables = [f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\n']
        tables += [
            f'[[meter]]\nmodule_id = "{each.name}"\nip_address = "{each.way.host}"\nport_http = {each.way.port}\n'
            f'CI = "{EVSE_ID}"\njournal_path = "{self._journal}"\n'
            for each in self.connectors
        ]
        file = self._folder / "meters.toml"
        file.write_text("\n".join(tables), "utf-8")
        return file

    def _judged(self) -> list[str]:
        broken = []
        for connector in self.connectors:
            with open_for_reading(self._journal) as reader:
                connector.account.file(reader.entries())
            (self._folder / f"{connector.name}.txt").write_text(connector.account.told(), "utf-8")
            broken += [f"{connector.fault.name}: {sentence}" for sentence in connector.account.broken()]
        return broken


def inside(rounds: int, folder: Path, *, packets: bool, faults: Sequence[Fault] = FAULTS) -> list[str]:
    """Have all faults, and print what came of each; returns what was broken."""
    if packets:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # noqa: S607  a tool of the system
    run = Run(folder, rounds, faults, packets=packets)
    began_s = time.monotonic()
    broken = asyncio.run(run.run())
    print(f"{'packets between namespaces' if packets else 'a proxy'}, {time.monotonic() - began_s:.0f} s")
    print("  fault              commands    OK  longest answer  values back after")
    for connector in run.connectors:
        print(connector.report())
    for sentence in broken:
        print(f"BROKEN: {sentence}")
    return broken


def main(arguments: Sequence[str] | None = None) -> int:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=at_least_one, default=3, help="sessions with each fault (%(default)s)")
    parser.add_argument("--way", choices=("packets", "proxy"), help="one of the two; else both")
    parser.add_argument("--keep", type=Path, help="keep logs and journals in this folder")
    given = parser.parse_args(arguments)
    running.end_on_sigterm()
    running.need_mosquitto()
    failed = False
    with contextlib.ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iem-dcr-network-")))
        if os.environ.get(_INSIDE):
            folder.mkdir(parents=True, exist_ok=True)
            return 1 if inside(given.rounds, folder, packets=True) else 0
        if given.way != "proxy":
            why = why_no_namespaces()
            if why:
                print(f"skipped: packets between network namespaces: {why}")
            else:
                line = [*unshared(sys.executable, "-m", __spec__.name), "--rounds", str(given.rounds)]
                with running.running(
                    [*line, "--keep", str(folder / "packets")], env=os.environ | {_INSIDE: "1"}
                ) as process:
                    failed = process.wait() != 0
        if given.way != "packets":
            (folder / "proxy").mkdir(parents=True, exist_ok=True)
            failed = bool(inside(given.rounds, folder / "proxy", packets=False)) or failed
    print("Something is broken." if failed else "Nothing is broken.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
