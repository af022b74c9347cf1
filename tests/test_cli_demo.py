"""iem-dcr demo and what is drawn on a terminal."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys

from tests.support.bench import CI
from tests.support.command_line import PATIENCE_S, Simulator, begin, environment, finish, read_until, run

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """Run iem-dcr on a terminal of 110 columns and return its exit status and all that was written to it."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "iem_dcr.cli.main", *arguments],
        stdin=its,
        stdout=its,
        stderr=its,
        env=environment() | {"TERM": "xterm", "COLUMNS": "110", "LINES": "40"},
    )
    os.close(its)
    written = b""
    while True:
        try:
            some = os.read(ours, 65536)
        except OSError:  # the last process of the terminal has ended
            break
        if not some:
            break
        written += some
    os.close(ours)
    return process.wait(PATIENCE_S), written.decode()


def test_without_a_terminal() -> None:
    done = run("demo", "--seconds", "2")
    assert (done.status, done.err) == (0, "")
    assert "\x1b" not in done.out
    lines = done.out.splitlines()
    assert lines[0] == "A charging session at a simulated IEM-DCR"
    assert re.fullmatch(r"The simulated meter 1SIM0000000042 is at http://127\.0\.0\.1:\d+", lines[1])
    values = [line for line in lines if re.match(r"  \d\d:\d\d:\d\d ", line)]
    assert len(values) >= 1
    assert any("125.0 A" in line for line in values)
    assert "─ Receipt T1 ─" in done.out
    for shown in (
        "Charge point   EVSEID DE*PNX*E1234567*1",
        "User           04A2B3C4D5E6F7 (ISO14443)",
        "Tariff         0.49 EUR/kWh",
        "Signature      VALID: the signature matches the data and the key",
    ):
        assert shown in done.out
    energy = re.search(r"Energy +0\.(\d{3}) kWh", done.out)
    assert energy is not None
    assert int(energy[1]) > 0
    assert "  iem-dcr simulate\n" in done.out


def test_on_a_terminal() -> None:
    status, written = on_a_terminal("demo", "--seconds", "2")
    assert status == 0
    assert ESCAPE.search(written)
    text = ESCAPE.sub("", written)
    assert re.search(r"Meter time +Power +Voltage +Current +Import register +Charged", text)
    assert re.search(r"Charging ━+╸?━+ 1/2 s", text)
    assert re.search(r"Charging ━+ 2/2 s", text)
    assert "VALID: the signature matches" in text


def test_it_is_interrupted() -> None:
    process = begin("demo", "--seconds", "4")
    before = read_until(process, "began for user")
    process.send_signal(signal.SIGINT)
    done = finish(process, before)
    assert (done.status, done.err) == (130, "")
    assert "VALID: the signature matches" in done.out
    assert "To go on" not in done.out


def test_a_session_on_a_terminal() -> None:
    with Simulator() as simulator:
        status, written = on_a_terminal(
            "-v", "session", simulator.address, "--id", "04AB", "--evse-id", CI, "--seconds", "1.5"
        )
    assert status == 0
    text = ESCAPE.sub("", written)
    assert re.search(r"Charging ━+ +0/2 s", text)
    assert re.search(r"Charging ━+ 2/2 s +0\.000 kW +0\.0 V +0\.0 A  charged 0\.00\d kWh", text)
    assert f"info: meter {simulator.address}: set up: CT EVSEID, CI {CI}" in text
    assert "VALID: the signature matches" in text
