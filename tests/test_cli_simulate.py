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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_from_the_address_to_the_end(number: signal.Signals) -> None:
    process = begin("simulate", "--port", "0")
    first = read_until(process, "\n")
    found = re.fullmatch(r"http://(127\.0\.0\.1:\d+)\n", first)
    assert found is not None
    address = found[1]
    hints = read_until(process, "/_sim/set")
    assert f"iem-dcr session {address} --id 04A2B3C4D5E6F7 --evse-id 'DE*PNX*E1234567*1'\n" in hints
    assert f"http://{address}/_sim/faults" in hints
    assert state(address)["running"] is False
    process.send_signal(number)
    done = finish(process)
    assert (done.status, done.err) == (0, "")


def test_options() -> None:
    given = {
        "--firmware": "v2",
        "--serial": "7",
        "--current": "32.5",
        "--voltage": "800",
        "--charge-seconds": "3",
        "--signing-delay": "0.25",
        "--signature-encoding": "raw",
        "--open-at-power-cut": "lost",
    }
    sets = {
        "MM": ("true", "true"),
        "EF": ("null", None),
        "bidirectional": ("TRUE", True),
        "import_wh": ("5", 5),
        "activation_threshold_a": ("1e-1", 0.1),
        "unset_time": ("1970", "1970"),
        "RD_rows": ("1-b:2.8.e, 1-b:1.8.e", ["1-b:2.8.e", "1-b:1.8.e"]),
        "connections": ("one-waits", "one-waits"),
    }
    words = [f"{option}={value}" for option, value in given.items()]
    words += [f"--set={name}={value}" for name, (value, _) in sets.items()]
    process = begin("simulate", "--port=0", "--set=private_key=0x12AB", *words)
    found = state(read_until(process, "\n").strip().removeprefix("http://"))
    process.terminate()
    assert finish(process).status == 0
    expected = {name: value for name, (_, value) in sets.items()} | {
        "firmware": "v2",
        "MS": "7",
        "current_a": 32.5,
        "voltage_v": 800.0,
        "charge_s": 3.0,
        "signing_delay_s": 0.25,
        "signature_encoding": "raw",
        "open_at_power_cut": "lost",
    }
    assert {name: found["options"][name] for name in expected} == expected
    assert found["import_wh"] == 5
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
    assert "cannot listen at 203.0.113.7" in run("simulate", "--host", "203.0.113.7", "--port", "0").err


def test_it_goes_on_without_a_reader() -> None:
    process = begin("simulate", "--port", "0")
    address = read_until(process, "\n").strip().removeprefix("http://")
    assert process.stdout is not None
    process.stdout.close()
    assert state(address)["begun"] == 0
    process.terminate()
    assert process.wait(60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_a_value_that_is_nested_without_end_is_a_mistake_in_the_command_line() -> None:
    done = run("simulate", "--port=0", f"--set=current_a={'[' * 50_000}")
    assert done.status == 2
    assert "current_a" in done.err
    assert "Traceback" not in done.err
