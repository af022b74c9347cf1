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


def test_everything_that_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with systemd(path) as listening, notifier(NOTIFY_SOCKET=path) as told:
        assert all((told.ready(), told.status("48 of 50 meters answer\nREADY=0"), told.alive(), told.stopping()))
        assert [listening.recv(4096) for _ in range(4)] == [
            b"READY=1",
            b"STATUS=48 of 50 meters answer READY=0",
            b"WATCHDOG=1",
            b"STOPPING=1",
        ]


def test_an_abstract_socket() -> None:
    name = f"iem-dcr-test-{os.getpid()}"
    with systemd(f"\0{name}") as listening, notifier(NOTIFY_SOCKET=f"@{name}") as told:
        assert told.ready()
        assert listening.recv(4096) == b"READY=1"


def test_without_systemd_nothing_fails() -> None:
    with notifier() as told:
        assert (told.ready(), told.alive(), told.watchdog_period_s) == (True, True, None)
    with notifier(WATCHDOG_USEC="1000000") as told:
        assert told.watchdog_period_s is None


def test_systemd_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tmp_path / "notify")
    with notifier(NOTIFY_SOCKET=path) as told:
        assert [told.ready(), told.ready(), told.alive()] == [False] * 3
        assert [record.getMessage() for record in caplog.records] == [
            "READY was not sent to systemd: No such file or directory"
        ]
        # It comes back, and the same notifier reaches it.
        with systemd(path) as listening:
            assert told.ready()
            assert listening.recv(4096) == b"READY=1"
    assert told.ready(), "closed, there is nobody to tell"


def test_systemd_that_does_not_listen_blocks_nobody(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with systemd(path), notifier(NOTIFY_SOCKET=path) as told:
        assert not all(told.status("x" * 300) for _ in range(100_000))


@pytest.mark.parametrize("address", ["vsock:2:1234", "relative", "@"])
def test_an_address_that_is_none(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with notifier(NOTIFY_SOCKET=address, WATCHDOG_USEC="1000000") as told:
        assert (told.ready(), told.watchdog_period_s) == (True, None)
    assert f"NOTIFY_SOCKET is {address}, which is not a local socket" in caplog.text


@pytest.mark.parametrize(
    ("environment", "every_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "x"}, None),
        *(({"WATCHDOG_USEC": text}, None) for text in ("", "0", "-1", "1.5", "x", "²", "9" * 5000)),
    ],
)
def test_the_watchdog(environment: dict[str, str], every_s: float | None) -> None:
    with notifier(NOTIFY_SOCKET="/run/systemd/notify", **environment) as told:
        assert told.watchdog_period_s == every_s


# --- the unit file ---


def unit() -> dict[tuple[str, str], str]:
    """Return section and key of every line of the unit file, with its value."""
    found: dict[tuple[str, str], str] = {}
    section = ""
    for line in UNIT.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[section, key] = value
    return found


def seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+)(ms)?", text)
    assert match is not None
    return int(match[1]) / (1000 if match[2] else 1)


def test_what_the_unit_file_says() -> None:
    found = unit()
    expected = {
        ("Unit", "After"): "network-online.target",
        ("Unit", "Wants"): "network-online.target",
        ("Unit", "StartLimitIntervalSec"): "0",
        ("Service", "Type"): "notify",
        ("Service", "Restart"): "always",
        ("Service", "ProtectSystem"): "strict",
        ("Service", "NoNewPrivileges"): "yes",
        ("Service", "DynamicUser"): "yes",
        ("Service", "StateDirectory"): "iem-dcr",
        ("Service", "StateDirectoryMode"): "0700",
        ("Install", "WantedBy"): "multi-user.target",
    }
    assert expected.items() <= found.items()
    assert seconds(found["Service", "RestartSec"]) <= 1
    assert seconds(found["Service", "WatchdogSec"]) >= 5
    # Longer than the service itself takes at most, so that it is never killed while an answer goes out.
    assert seconds(found["Service", "TimeoutStopSec"]) > 5
    page = PAGE.read_text("utf-8")
    command = found["Service", "ExecStart"]
    assert command.split()[0] in page
    assert command.split()[-1] in page


def test_systemd_takes_the_unit_file(tmp_path: Path) -> None:
    tool = needs_tool("systemd-analyze")
    installed = Path(sys.executable).parent / "iem-dcr"
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text("utf-8").replace("/opt/iem-dcr/bin/iem-dcr", str(installed)), "utf-8")
    done = subprocess.run([tool, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert UNIT.stem not in done.stderr, "it has a key that systemd does not know"
