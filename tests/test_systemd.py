"""What systemd is told, and the unit file."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from iem_dcr.service.systemd import Notifier
from tests.support.tools import needs_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

UNIT = Path(__file__).parents[1] / "contrib" / "iem-dcr.service"
PAGE = UNIT.parents[1] / "docs" / "operations.md"


@contextlib.contextmanager
def systemd(address: str) -> Iterator[socket.socket]:
    """Listen as systemd does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(5.0)
        yield listening


@contextlib.contextmanager
def notifier(**environment: str) -> Iterator[Notifier]:
    made = Notifier(environment)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("is_abstract", [True, False])
def test_a_message_is_one_line(is_abstract: bool, tmp_path: Path) -> None:  # noqa: FBT001  a table's column
    name = f"iem-dcr-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with (
        systemd(f"\0{name}" if is_abstract else name) as listening,
        notifier(NOTIFY_SOCKET=f"@{name}" if is_abstract else name) as told,
    ):
        assert told.send("STATUS=48 of 50 meters answer\nREADY=0")
        assert listening.recv(4096) == b"STATUS=48 of 50 meters answer READY=0"


def test_systemd_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tmp_path / "notify")
    with notifier(NOTIFY_SOCKET=path) as told:
        assert not told.send("READY=1")
        assert not told.send("WATCHDOG=1")
        assert [record.getMessage() for record in caplog.records] == [
            "READY was not sent to systemd: No such file or directory"
        ]
        # It comes back, and the same notifier reaches it.
        with systemd(path) as listening:
            assert told.send("READY=1")
            assert listening.recv(4096) == b"READY=1"
    assert told.send("READY=1"), "closed, there is nobody to tell"


def test_systemd_that_does_not_listen_blocks_nobody(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with systemd(path), notifier(NOTIFY_SOCKET=path) as told:
        assert not all(told.send("STATUS=" + "x" * 300) for _ in range(100_000))


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative", "@"])
def test_an_address_that_is_none(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with notifier(NOTIFY_SOCKET=address, WATCHDOG_USEC="1000000") as told:
        assert (told.send("READY=1"), told.watchdog_period_s) == (True, None)
    assert (f"NOTIFY_SOCKET is {address}, which is not a local socket" in caplog.text) is (address != "")


@pytest.mark.parametrize(("environment", "every_s"), [
    ({}, None), ({"WATCHDOG_USEC": "10000000"}, 5.0),
    ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}, 5.0),
    *(({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": pid}, None) for pid in ("1", "x")),
    *(({"WATCHDOG_USEC": text}, None) for text in ("", "0", "-1", "1.5", "x", "²", "9" * 5000)),
], ids=range(12))  # fmt: skip
def test_the_watchdog(environment: dict[str, str], every_s: float | None) -> None:
    with notifier(NOTIFY_SOCKET="/run/systemd/notify", **environment) as told:
        assert told.watchdog_period_s == every_s


# --- the unit file ---


def test_what_the_unit_file_says() -> None:
    unit = dict(line.split("=", 1) for line in UNIT.read_text("utf-8").splitlines() if re.match(r"[A-Z]\w+=", line))
    assert (unit["Type"], unit["Restart"], unit["StateDirectory"]) == ("notify", "always", "iem-dcr")
    assert int(unit["WatchdogSec"]) >= 5
    assert int(unit["TimeoutStopSec"]) > 5, "longer than the service takes, so that it is not killed while it answers"
    page, command = PAGE.read_text("utf-8"), unit["ExecStart"].split()
    assert command[0] in page
    assert command[-1] in page


def test_systemd_takes_the_unit_file(tmp_path: Path) -> None:
    tool = needs_tool("systemd-analyze")
    installed = Path(sys.executable).parent / "iem-dcr"
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text("utf-8").replace("/opt/iem-dcr/bin/iem-dcr", str(installed)), "utf-8")
    done = subprocess.run([tool, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert UNIT.stem not in done.stderr, "it has a key that systemd does not know"
