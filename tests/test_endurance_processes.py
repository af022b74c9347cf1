"""Processes killed, cut off and left to run, in short; and that what judges them finds what is wrong."""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from endurance.stage import Call, Filed

from endurance.day import Hour
from endurance.day import grown as grown_in_a_day
from endurance.given import positive
from endurance.processes import network, running, ways
from endurance.processes.account import Account, Life
from endurance.processes.killing import Run
from endurance.processes.network import Fault
from endurance.processes.soak import ALLOWED, Sample, grown, slope_per_hour
from endurance.processes.ways import PacketWay, ProxyWay, unshared, why_no_namespaces
from iem_dcr.device.client import MeterClient
from iem_dcr.errors import MeterError
from iem_dcr.simulator import SimulatorServer
from tests.support.brokers import PATIENCE_S, real_time
from tests.support.tools import needs_tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

METER = "1SIM0000000000"


# --- the real programs ---


@pytest.mark.timeout(300)  # a command that is lost is waited for as long as it may take
def test_services_and_modules_killed_at_random_instants_keep_every_promise(tmp_path: Path) -> None:
    needs_tool("mosquitto")
    found = asyncio.run(Run(tmp_path, restarts=12, seed=1, stations=4).run())
    assert found.broken == []
    assert found.counts["start: OK"] >= 4
    assert found.counts["stop: OK"] >= 4
    assert found.counts["receipts"] >= 4
    assert len(list(tmp_path.glob("*.sqlite"))) == 2


def test_a_session_whose_answers_vanish_for_a_while_keeps_every_promise(tmp_path: Path) -> None:
    needs_tool("mosquitto")
    fault = Fault("answers vanish", 2.0, lambda way: setattr(way, "carries_answers", False))
    run = network.Run(tmp_path, 1, [fault], packets=False)
    assert asyncio.run(run.run()) == []
    (connector,) = run.connectors
    assert [call.ok for call in connector.account.calls][-2:] == [True, True]
    assert len(connector.back_s) == 1


# --- the way to a meter ---


async def state_by(way: ProxyWay | PacketWay, within_s: float) -> bytes:
    """Ask the meter for its state; b"" where no answer comes in time."""
    writer = None
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await asyncio.open_connection(way.host, way.port)
            writer.write(b"GET /_sim/state HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n")
            return await reader.readline()
    except (TimeoutError, OSError):
        return b""
    finally:
        if writer is not None:
            writer.transport.abort()


@real_time
async def test_a_proxy_carries_what_it_is_told_to() -> None:
    async with SimulatorServer() as meter, ProxyWay(1, meter.port) as way:
        assert b"200" in await state_by(way, PATIENCE_S)
        for fails in ("carries_requests", "carries_answers"):
            setattr(way, fails, False)
            assert await state_by(way, 0.3) == b""
            way.mend()
            assert b"200" in await state_by(way, PATIENCE_S)
        way.delay_s = PATIENCE_S
        assert await state_by(way, 0.3) == b""
        way.mend()
        way.loss = 1.0
        assert await state_by(way, 0.3) == b""
        way.mend()
        way.set_up(is_up=False)
        assert await state_by(way, PATIENCE_S) == b""
        way.set_up(is_up=True)
        assert b"200" in await state_by(way, PATIENCE_S)


def within_a_namespace(folder: Path, what: str) -> object:
    """Call a function of this file in a process with a network of its own. Returns what it found."""
    if why := why_no_namespaces():
        pytest.skip(why)
    done = folder / "done"
    program = f"import tests.test_endurance_processes as t; t.{what}({str(done)!r})"
    process = running.start(unshared(sys.executable, "-c", program))
    try:
        assert process.wait(PATIENCE_S) == 0
    finally:
        running.end(process)
    return json.loads(done.read_text("utf-8"))


def test_packets_between_namespaces_are_carried_or_not(tmp_path: Path) -> None:
    assert within_a_namespace(tmp_path, "carry_packets") == [True, False, False, False, True]


def carry_packets(done: str) -> None:
    """Run in a network namespace of its own: ask a meter in another one over a way that fails and is mended."""

    async def main() -> list[bool]:
        simulate = running.command("simulate", "--port", "8080", "--host", "0.0.0.0")  # noqa: S104  of its own network
        with running.running(unshared(*simulate), stdout=-1) as far:
            running.first_line(far)
            async with PacketWay(1, far.pid, 8080) as way:
                found = [await state_by(way, PATIENCE_S)]
                for fails in ({"carries_answers": False}, {"carries_requests": False}, {"loss": 1.0}):
                    for name, value in fails.items():
                        setattr(way, name, value)
                    found.append(await state_by(way, 0.5))
                    way.mend()
                found.append(await state_by(way, PATIENCE_S))
        return [b"200" in line for line in found]

    pathlib.Path(done).write_text(json.dumps(asyncio.run(main())), "utf-8")


def test_a_begin_that_was_given_up_is_not_delivered_when_the_network_is_back(tmp_path: Path) -> None:
    assert within_a_namespace(tmp_path, "give_up") == ["MeterTimeoutError", False, "begun", True]


def give_up(done: str) -> None:
    """Run in a network namespace of its own: send B while no request gets through, and look at the meter later."""

    async def main() -> list[object]:
        found: list[object] = []
        simulate = running.command("simulate", "--port", "8080", "--host", "0.0.0.0")  # noqa: S104  of its own network
        with running.running(unshared(*simulate), stdout=-1) as far:
            running.first_line(far)
            async with (
                PacketWay(1, far.pid, 8080) as way,
                MeterClient(way.host, way.port, timeout_s=1.0) as client,
            ):
                assert b"200" in await state_by(way, PATIENCE_S)
                for way.holds_back in (True, False):
                    try:
                        await client.begin()
                        found.append("begun")
                    except MeterError as error:
                        found.append(type(error).__name__)
                    way.mend()
                    # The kernel would send what is lost again by itself after 1.6 s at the latest.
                    await asyncio.sleep(2.0)
                    value = await client.metervalue()
                    found.append(value.XT)
        return found

    pathlib.Path(done).write_text(json.dumps(asyncio.run(main())), "utf-8")


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--rounds", "-1"], ["--rounds", "many"]])
def test_wrong_numbers_are_said_to_be_so(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        network.main(arguments)
    assert ended.value.code == 2
    assert "expects a whole number, at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "9000", "much", ""])
def test_a_time_is_above_nothing_and_below_a_year_of_hours(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="above 0 and below 9000"):
        positive(text)
    assert positive("0.5") == 0.5


def test_where_no_namespaces_can_be_made_that_is_said_and_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ways, "TUN", "/dev/net/none")
    monkeypatch.setattr("shutil.which", lambda name, **_: f"/usr/bin/{name}")
    assert network.main(["--way", "packets"]) == 0
    assert "skipped: packets between network namespaces: /dev/net/none: No such file" in capsys.readouterr().out


# --- what judges a run ---


def tuple_of(number: int, card: str) -> str:
    return f'OCMF|{{"PG":"T{number}","ID":"{card}","CI":"E1","TT":""}}|{{"SD":"{number}"}}'


def told() -> Account:
    """Two sessions of one process, as they should be."""
    account = Account(METER, journal=True)
    account.processes.append(Life(0, began_s=0.0))
    for number, name in enumerate(("A", "B"), start=1):
        at_s = 10.0 * number
        card = f"04{name}"
        for command, answer in (
            ("start", {"status": "OK"}),
            ("stop", {"status": "OK", "signed_meter_value": {"signed_meter_data": tuple_of(number, card)}}),
        ):
            request = {"identification_data": card, "transaction_id": name, "evse_id": "E1"}
            call = Call(command, name, len(account.calls), request, 0, at_s, at_s + 0.1, answer, answers=1)
            account.calls.append(call)
            if command == "start":
                account.begun(card, at_s, 0, is_certain=True)
            at_s += 5
    account.energies = [(METER, 1.0), (METER, 2.0)]
    account.checks = {b"true"}
    account.filed = [Filed(tuple_of(number, card), name) for number, card, name in ((1, "04A", "A"), (2, "04B", "B"))]
    account.learn({"signed": [{"text": filed.text} for filed in account.filed], "running": False})
    return account


def test_a_run_as_it_should_be_breaks_no_promise() -> None:
    assert told().broken() == []


def swapped(account: Account) -> None:
    account.calls[3].answer = account.calls[1].answer


def unfiled(account: Account) -> None:
    assert account.filed is not None
    account.filed.pop()


def filed_twice(account: Account) -> None:
    assert account.filed is not None
    account.filed.append(account.filed[0])


def filed_as_anothers(account: Account) -> None:
    assert account.filed is not None
    account.filed[0] = replace(account.filed[0], transaction_id="")


def unanswered(account: Account) -> None:
    account.calls[2].answer = None


def late(account: Account) -> None:
    account.calls[2].answered_s = 60.0


def falling(account: Account) -> None:
    account.energies.append((METER, 1.5))


def silenced(account: Account) -> None:
    account.checks.add(b"false")


def running_on(account: Account) -> None:
    account.running_at_end = account.unit.truths[-1]


def invented(account: Account) -> None:
    text = tuple_of(9, "04A")
    account.calls[1].answer = {"status": "OK", "signed_meter_value": {"signed_meter_data": text}}


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (swapped, "it is that of 'A'"),
        (unfiled, "is not in the journal"),
        (filed_twice, "2 times in the journal"),
        (filed_as_anothers, "is in the journal as that of ''"),
        (unanswered, "was never answered"),
        (late, "was answered after 40.0 s"),
        (falling, "falls from 2.0 Wh to 1.5 Wh"),
        (silenced, "a communication check of b'false'"),
        (running_on, "runs after one more start and stop"),
        (invented, "was never signed by a meter"),
    ],
)
def test_what_is_wrong_with_a_run_is_found(spoil: Callable[[Account], None], sentence: str) -> None:
    account = told()
    spoil(account)
    assert any(sentence in broken for broken in account.broken()), account.broken()


def test_a_tuple_is_known_by_the_card_of_its_start_and_by_its_place() -> None:
    account = told()
    account.begun("04A", 50.0, 0, is_certain=True)
    account.begun("04A", 60.0, 0, is_certain=False)
    account.unit.truths[2].lost = True
    texts = [tuple_of(1, "04A"), tuple_of(2, "04B"), tuple_of(3, "04A"), tuple_of(4, "04C")]
    account.learn({"signed": [{"text": text} for text in texts], "running": False})
    assert [(truth.text, truth.transaction_id) for truth in account.unit.truths] == [
        (texts[0], "A"),
        (texts[1], "B"),
        (None, "A"),
        (texts[2], "A"),
        (texts[3], None),
    ]
    assert "T3 of card '04A'" in account.told()


# --- what grows ---


def samples(**slopes: float) -> list[Sample]:
    """An hour of samples; each column rises by so much in it."""

    def at(name: str, minute: int) -> int:
        return round(1000 + slopes.get(name, 0.0) * minute / 60 + (minute % 2) * ALLOWED[name] / 4)

    return [Sample(float(minute), **{name: at(name, minute) for name in ALLOWED}) for minute in range(61)]


def test_what_grows_in_an_hour_is_told_from_a_moments_work() -> None:
    flat = samples()
    assert all(by <= ALLOWED[name] for name, by in grown(flat).items())
    for name, allowed in ALLOWED.items():
        risen = samples(**{name: 3 * allowed})
        assert [each for each, by in grown(risen).items() if by > ALLOWED[each]] == [name]
        assert slope_per_hour(risen, name) == pytest.approx(3 * allowed, rel=0.1)


def test_what_grows_in_a_virtual_day_is_found_once_the_memories_are_full() -> None:
    day = [Hour(float(hour), 1000 if hour >= 6 else 10 * hour, 20, 10, 9, 50_000) for hour in range(1, 25)]
    assert grown_in_a_day(day) == []
    assert grown_in_a_day([*day, replace(day[-1], objects=1100)]) == ["objects grow from 1000 to 1100"]
    assert grown_in_a_day([*day, replace(day[-1], tasks=22)]) == ["tasks grow from 20 to 22"]
