"""iem-dcr simulate: its address, its options, its end."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.request
from dataclasses import fields
from typing import Any

import pytest

from iem_dcr.simulator import SimulatorOptions
from tests.support.command_line import PATIENCE_S, begin, finish, read_until, run


def state(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{address}/_sim/state", timeout=PATIENCE_S) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def test_from_the_address_to_the_end() -> None:
    process = begin("simulate", "--port", "0")
    first = read_until(process, "\n")
    found = re.fullmatch(r"http://(127\.0\.0\.1:\d+)\n", first)
    assert found is not None
    address = found[1]
    hints = read_until(process, "/_sim/set")
    assert f"iem-dcr session {address} --id 04A2B3C4D5E6F7 --evse-id 'DE*PNX*E1234567*1'\n" in hints
    assert f"http://{address}/_sim/faults" in hints
    assert state(address)["running"] is False
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert (done.status, done.err) == (0, "")


def test_options() -> None:
    named = {
        "--firmware": ("firmware", "v2", "v2"),
        "--serial": ("MS", "7", "7"),
        "--current": ("current_a", "32.5", 32.5),
        "--voltage": ("voltage_v", "800", 800.0),
        "--charge-seconds": ("charge_s", "3", 3.0),
        "--signing-delay": ("signing_delay_s", "0.25", 0.25),
        "--signature-encoding": ("signature_encoding", "raw", "raw"),
        "--open-at-power-cut": ("open_at_power_cut", "lost", "lost"),
    }
    sets = {
        "EF": ("null", None),
        "bidirectional": ("TRUE", True),
        "import_wh": ("5", 5),
        "unset_time": ("1970", "1970"),
        "RD_rows": ("1-b:2.8.e, 1-b:1.8.e", ["1-b:2.8.e", "1-b:1.8.e"]),
    }
    words = [f"{option}={text}" for option, (_, text, _) in named.items()]
    words += [f"--set={name}={text}" for name, (text, _) in sets.items()]
    process = begin("simulate", "--port=0", "--set=private_key=0x12AB", *words)
    found = state(read_until(process, "\n").strip().removeprefix("http://"))
    process.terminate()
    assert finish(process).status == 0
    expected = {name: value for name, (_, value) in sets.items()} | {name: value for name, _, value in named.values()}
    assert {name: found["options"][name] for name in expected} == expected
    assert found["TM"].startswith("1970-01-01T00:00:0")


def test_the_help_has_every_knob_in_its_group() -> None:
    done = run("simulate", "--help")
    assert re.findall(r"^  (\w+) {2,}|^([A-Z][\w ]+):$", done.out, re.MULTILINE)[1:] == [
        pair
        for knob in fields(SimulatorOptions)
        for pair in ([("", knob.metadata["group"])] if knob.metadata["group"] else []) + [(knob.name, "")]
    ]


def test_an_address_that_cannot_be_listened_at() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("simulate", "--port", str(port))
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"Error: cannot listen at 127.0.0.1 port {port}: Address already in use")
    assert "--port 0" in done.err


def test_it_goes_on_without_a_reader() -> None:
    process = begin("simulate", "--port", "0")
    address = read_until(process, "\n").strip().removeprefix("http://")
    assert process.stdout is not None
    process.stdout.close()
    assert state(address)["begun"] == 0
    process.terminate()
    assert process.wait(PATIENCE_S) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_a_value_that_is_nested_without_end_is_a_mistake_in_the_command_line() -> None:
    done = run("simulate", "--port=0", f"--set=current_a={'[' * 50_000}")
    assert done.status == 2
    assert "current_a" in done.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set=nope=1"], "Invalid value for --set: nope: no such option"),
        (["--set=current_a=x"], "Invalid value for --set: current_a: 'x'"),
        (["--current=x"], "Invalid value for --current: current_a: 'x'"),
    ],
)
def test_a_mistake_names_the_option_that_was_given(words: list[str], told: str) -> None:
    done = run("simulate", "--port=0", *words)
    assert done.status == 2
    assert told in done.err
