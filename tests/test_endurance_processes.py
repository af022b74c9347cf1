"""Short runs of real processes that are killed or cut off, and what judges them."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import sqlite3
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from endurance.command_line import HOURS
from endurance.day import grown_when_full
from endurance.growth import grown
from endurance.invariants import broken
from endurance.meter import Serving, Truth
from endurance.processes import network, packets, programs
from endurance.processes.killing import Run
from endurance.processes.packets import NetworkFault, NetworkPath, unshared, why_no_namespaces, within
from endurance.processes.soak import ALLOWED
from endurance.processes.station import RealStation
from endurance.processes.wrapped_program import Connection, FailingDisk
from endurance.station import Call, JournalEntry
from iem_dcr.device.client import MeterClient
from iem_dcr.errors import MeterError
from iem_dcr.simulator import BASE
from tests.support.brokers import PATIENCE_S
from tests.support.tools import UNMEASURED, needs_tool

if TYPE_CHECKING:
    from collections.abc import Callable

METER = "1SIM0000000000"


# --- the real programs ---


@UNMEASURED
@pytest.mark.timeout(300)  # a lost command is waited for until its deadline
def test_services_and_modules_killed_at_random_instants_keep_every_promise(tmp_path: Path) -> None:
    needs_tool("mosquitto")
    run = Run(tmp_path, restarts=12, seed=1, stations=4, slow_disk=False)
    asyncio.run(run.run())
    assert run.broken == []
    assert min(run.counts["start: OK"], run.counts["stop: OK"], run.counts["receipts"]) >= 4
    assert len(list(tmp_path.glob("*.sqlite"))) == 2


# --- the network ---


def in_namespace(folder: Path, work: str) -> Any:
    """Await one of the coroutines below in a network namespace of its own."""
    if why := why_no_namespaces():
        pytest.skip(why)
    result = folder / "result.json"
    program = (
        "import asyncio, json, pathlib, tests.test_endurance_processes as t\n"
        f"pathlib.Path({str(result)!r}).write_text(json.dumps(asyncio.run(t.{work})))"
    )
    with programs.running(unshared(sys.executable, "-c", program)) as process:
        assert process.wait(PATIENCE_S * 3) == 0
    return json.loads(result.read_text("utf-8"))


def test_a_session_whose_answers_vanish_for_a_while_keeps_every_promise(tmp_path: Path) -> None:
    needs_tool("mosquitto")
    assert in_namespace(tmp_path, f"session_without_answers({str(tmp_path)!r})") == []
    chronicle = (tmp_path / "n0.txt").read_text("utf-8")
    assert re.search(r"call 0 start 'n0-1'.*call \d stop 'n0-2': OK", chronicle, re.DOTALL)


async def session_without_answers(folder: str) -> list[str]:
    return await network.run_faults(1, Path(folder), [NetworkFault("answers vanish", 2.0, carries_answers=False)])


def test_packets_with_data_are_held_back_and_others_pass() -> None:
    held_back, ip, tcp = NetworkFault(carries_data=False), b"\x45" + bytes(8) + b"\x06" + bytes(10), bytes(12) + b"\x50"
    assert not held_back.carries(ip + tcp + bytes(7) + b"GET", is_answer=False)
    assert held_back.carries(ip + tcp + bytes(7) + b"GET", is_answer=True)
    for packet in (ip + tcp + bytes(7), ip + tcp, ip, b"\x60" + bytes(80), b"\x4f", b""):
        assert held_back.carries(packet, is_answer=False)


def test_a_begin_that_packets_lost_is_not_delivered_when_the_network_is_back(tmp_path: Path) -> None:
    found = in_namespace(tmp_path, "begins_over_a_failing_network()")
    assert found == [[True, True], *[[False, False]] * 4, [True, True]]


async def begins_over_a_failing_network() -> list[tuple[bool, bool]]:
    """Send B with each fault. Return whether it was answered, and whether the meter had it in the end."""
    station, found = RealStation("pm", METER, signing_delay_s=0.0, current_a=0.0), []
    no_answers, no_requests = NetworkFault(carries_answers=False), NetworkFault(carries_requests=False)
    held_back, lost = NetworkFault(carries_data=False), NetworkFault(loss=1.0)
    async with contextlib.AsyncExitStack() as stack:
        pid = await network.new_namespace(stack)
        path = await stack.enter_async_context(NetworkPath(1, pid))
        await station.serve_meter(stack, path.host)
        call = f"t.begins{station.address}"
        program = f"import asyncio, sys, tests.test_endurance_processes as t; sys.exit(not asyncio.run({call}))"
        for fault in (NetworkFault(), no_answers, no_requests, held_back, lost, NetworkFault()):
            path.set_fault(fault)
            client = await asyncio.create_subprocess_exec(*within(pid, sys.executable, "-c", program))
            is_answered = await client.wait() == 0
            path.set_fault(NetworkFault())
            # The kernel would send again by itself what is held back, after 1.6 s at the latest.
            await asyncio.sleep(0.3 if fault.carries_data else 2.0)
            found.append((is_answered, station.meter.open_transaction is not None))
            station.meter.handle("POST", f"{BASE}/receipt", b'{"TX":"E"}')
    return found


async def begins(host: str, port: int) -> bool:
    """Send B as the driver does. Return whether it was answered."""
    async with MeterClient(host, port, timeout_s=1.0) as client:
        with contextlib.suppress(MeterError):
            await client.begin()
            return True
    return False


# --- the disk of a journal ---


def test_a_failing_disk_is_slow_or_refuses_writes_for_a_while(tmp_path: Path) -> None:
    disk = FailingDisk(tmp_path / "journal.sqlite", has_troubles=True)
    Connection.disk_file = disk.file
    with contextlib.closing(sqlite3.connect(disk.journal, factory=Connection, isolation_level=None)) as journal:
        journal.execute("CREATE TABLE receipts (text)")
        for is_full in (True, False):
            disk.start_trouble(1.0, wait_s=0.4, is_full=is_full)
            began_s = time.monotonic()
            journal.execute("BEGIN")
            journal.execute("INSERT INTO receipts VALUES ('T1')")
            if is_full:
                with pytest.raises(sqlite3.OperationalError, match="database or disk is full"):
                    journal.execute("COMMIT")
                journal.execute("ROLLBACK")
                time.sleep(max(0.0, disk.well_s - time.monotonic()))
            else:
                journal.execute("COMMIT")
                assert 0.4 <= time.monotonic() - began_s < 1.0
        assert journal.execute("SELECT count(*) FROM receipts").fetchone() == (1,)
    assert [begin_s for begin_s, _ in disk.dropped_by_kill()] == [begin_s for begin_s, _ in disk.troubles]


# --- the command lines ---


@pytest.mark.parametrize("rounds", ["0", "-1", "many"])
def test_wrong_numbers_are_usage_errors(rounds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        network.main(["--rounds", rounds])
    assert ended.value.code == 2
    assert "expects a number from 1 to " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "9001", "much", ""])
def test_hours_are_above_zero_and_about_a_year_at_most(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expects a number from"):
        HOURS(text)
    assert HOURS("0.5") == 0.5


def test_without_namespaces_the_network_command_says_so_and_succeeds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packets, "TUN", "/dev/net/none")
    monkeypatch.setattr("shutil.which", lambda name, **_: f"/usr/bin/{name}")
    assert network.main([]) == 0
    assert "skipped: packets between network namespaces: /dev/net/none: No such file" in capsys.readouterr().out


# --- what judges a run ---


def tuple_of(number: int, name: str) -> str:
    return f'OCMF|{{"PG":"T{number}","ID":"04{name}","CI":"E1","TT":""}}|{{"SD":"{number}"}}'


def stop_answer(number: int, name: str) -> dict[str, object]:
    return {"status": "OK", "signed_meter_value": {"signed_meter_data": tuple_of(number, name)}}


def two_sessions() -> RealStation:
    """Two correct sessions of one process."""
    station = RealStation("pm", METER)
    station.process_starts()
    station.journal_entries = []
    for number, name in enumerate(("A", "B"), start=1):
        at_s, calls = 10.0 * number, station.calls
        request = {"identification_data": f"04{name}", "transaction_id": name, "evse_id": "E1"}
        calls.append(Call("start", name, len(calls), request, 0, at_s, at_s + 0.1, {"status": "OK"}))
        calls.append(Call("stop", name, len(calls), {}, 0, at_s + 5, at_s + 5.1, stop_answer(number, name)))
        owner = Serving(name, 0)
        station.meter.truths.append(Truth(METER, number - 1, owner, at_s, at_s + 5, tuple_of(number, name)))
        station.journal_entries.append(JournalEntry(tuple_of(number, name), name))
    station.energies = [(METER, 1.0, 0), (METER, 2.0, 0)]
    station.checks = {b"true"}
    return station


def test_a_correct_run_breaks_no_promise() -> None:
    station = two_sessions()
    assert broken(station) == []
    assert "call 1 stop 'A': OK by 0, receipt T1 of card 04A" in station.chronicle()


@pytest.mark.parametrize(
    ("sentence", "spoil"),
    [
        ("it belongs to 'A'", lambda run: setattr(run.calls[3], "answer", run.calls[1].answer)),
        ("is not in the journal", lambda run: run.journal_entries.pop()),
        ("has the receipt of 'A' 2 times", lambda run: run.journal_entries.append(run.journal_entries[0])),
        (
            "in the journal as that of ''",
            lambda run: run.journal_entries.insert(0, replace(run.journal_entries.pop(0), transaction_id="")),
        ),
        ("was never answered", lambda run: setattr(run.calls[2], "answer", None)),
        ("was answered after 40.0 s", lambda run: setattr(run.calls[2], "answered_s", 60.0)),
        ("falls from 2.0 Wh to 1.5 Wh", lambda run: run.energies.append((METER, 1.5, 0))),
        ("the communication check is b'false'", lambda run: run.checks.add(b"false")),
        ("still runs after one more start and stop", lambda run: setattr(run, "running_at_end", run.meter.truths[-1])),
        ("ended at 12.0 s without a request", lambda run: setattr(run.meter.truths[0], "closed_s", 12.0)),
        ("was never signed by a meter", lambda run: setattr(run.calls[1], "answer", stop_answer(9, "A"))),
    ],
)
def test_each_broken_promise_is_found(sentence: str, spoil: Callable[[RealStation], object]) -> None:
    station = two_sessions()
    spoil(station)
    assert any(sentence in each for each in broken(station)), broken(station)


# --- what grows ---


def samples(**slopes: float) -> list[dict[str, float]]:
    """Samples of an hour, in which each quantity rises by its slope."""

    def at(name: str, minute: int) -> float:
        return 1000 + slopes.get(name, 0.0) * minute / 60 + (minute % 2) * ALLOWED[name] / 4

    return [{name: at(name, minute) for name in ALLOWED} for minute in range(61)]


def test_growth_is_distinguished_from_fluctuation() -> None:
    assert grown(samples(), ALLOWED) == []
    for name, allowed in ALLOWED.items():
        (sentence,) = grown(samples(**{name: 3 * allowed}), ALLOWED)
        assert sentence.startswith(f"{name} grows by ")


def test_growth_in_a_virtual_day_counts_once_the_collections_are_full() -> None:
    day: list[dict[str, float]] = [
        {"hours": hour, "objects": 1000 if hour >= 6 else 10 * hour, "tasks": 20, "timers": 10, "handles": 9}
        for hour in range(1, 25)
    ]
    assert grown_when_full(day) == []
    assert grown_when_full([each | {"objects": 900 + 10 * each["hours"]} for each in day]) != []
    assert grown_when_full([each | {"tasks": 20 + 2 * (each["hours"] > 15)} for each in day]) == [
        "tasks grows by 2, more than 1"
    ]
