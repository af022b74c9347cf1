"""iem-dcr run as a process of its own, with real brokers and simulated meters."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

import pytest

from iem_dcr import ocmf
from iem_dcr.config import VENDOR_CI
from iem_dcr.everest_api.topics import Topics
from tests.support.api_bench import request, start_payload
from tests.support.bench import CI
from tests.support.brokers import Amqtt, Mosquitto, Recorder, real_time, until
from tests.support.command_line import PATIENCE_S, Simulator, begin, run
from tests.support.tools import UNMEASURED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.brokers import TestBroker

NOBODY = "127.0.0.1:9"
"""Nothing listens there."""
USER_ID = "04A2B3C4D5E6F7"
TIME = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
PM1 = Topics("pm1")


class Running:
    """The command, running, with its log in a file beside the configuration."""

    def __init__(self, config: Path, *options: str, **variables: Any) -> None:
        self._log = config.with_suffix(".log")
        with self._log.open("w", encoding="utf-8") as log:
            self.process = begin("run", str(config), *options, stderr=log.fileno(), **variables)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end and return the exit status."""
        self.process.send_signal(number)
        assert self.process.communicate(timeout=PATIENCE_S)[0] == ""
        return self.process.returncode

    @property
    def log(self) -> list[str]:
        return self._log.read_text("utf-8").splitlines()

    def logged(self, text: str) -> bool:
        return any(text in line for line in self.log)


def configured(tmp_path: Path, broker: TestBroker, *meters: Simulator | str) -> Path:
    """Write the configuration of meters pm1, pm2 … at a broker; a text is an address."""
    lines = ["[mqtt]", 'host = "127.0.0.1"', f"port = {broker.port}", f'protocol = "{broker.protocol}"']
    for number, meter in enumerate(meters, 1):
        host, _, port = (meter if isinstance(meter, str) else meter.address).rpartition(":")
        lines += [f'[[meter]]\nmodule_id = "pm{number}"\nip_address = "{host}"\nport_http = {port}\nCI = "{CI}"']
    path = tmp_path / "meters.toml"
    path.write_text("\n".join(lines), "utf-8")
    path.chmod(0o600)
    return path


async def answer(everest: Recorder, topic: str) -> Any:
    """Wait for the one reply on a topic."""
    await until(lambda: everest.payloads(topic))
    (payload,) = everest.payloads(topic)
    return json.loads(payload)


@real_time
async def test_a_session(tmp_path: Path, state_folder: Path) -> None:
    path = str(tmp_path / "notify")
    with (
        Mosquitto() as broker,
        Simulator() as meter,
        Recorder(broker, "everest_api/1/powermeter/#", "reply/#") as everest,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
    ):
        systemd.bind(path)
        systemd.settimeout(PATIENCE_S)
        with Running(configured(tmp_path, broker, meter, NOBODY), NOTIFY_SOCKET=path) as running:
            await until(
                lambda: everest.payloads(PM1.values) and everest.payloads(PM1.check) and everest.payloads(PM1.key)
            )
            assert systemd.recv(4096) == b"READY=1"
            assert everest.payloads(PM1.check)[0] == b"true"
            everest.publish(PM1.start, request(start_payload("T-1", identification_data=USER_ID), "reply/start"))
            assert await answer(everest, "reply/start") == {"status": "OK"}
            everest.publish(PM1.stop, request("T-1", "reply/stop"))
            stopped = await answer(everest, "reply/stop")
            assert stopped["status"] == "OK"
            assert ocmf.parse(stopped["signed_meter_value"]["signed_meter_data"]).identification == USER_ID
            everest.publish(Topics("pm2").stop, request("T-2", "reply/dead"))
            everest.publish(PM1.stop, request("T-1", "reply/again"))
            await answer(everest, "reply/again")  # so the one before it has come as well
            assert running.end() == 0
            refused = await answer(everest, "reply/dead")
            assert (refused["status"], refused["error"]) == ("UNEXPECTED_ERROR", "the driver is stopping")
            assert not everest.payloads(Topics("pm2").check)
    assert all(re.match(rf"{TIME} [A-Z]+ (pm1|pm2|-): ", line) for line in running.log)
    assert {line.split()[2] for line in running.log} == {"pm1:", "pm2:", "-:"}
    assert not running.logged("Traceback")
    assert not running.logged(USER_ID)
    journal = state_folder / "receipts.db"
    assert running.logged(f"INFO -: receipts are kept in journal {journal}")
    listed = run("receipts", "list")
    assert (listed.status, listed.err) == (0, f"Journal: {journal}\n")
    assert [line.split()[2] for line in listed.out.splitlines()] == ["T-1"]


@real_time
async def test_json_and_the_choice_of_level(tmp_path: Path) -> None:
    with Amqtt() as broker, Recorder(broker) as everest:
        config = configured(tmp_path, broker, NOBODY)
        with Running(config, "--log-format", "json") as running:
            await until(lambda: running.logged("connected as "))
            assert running.end() == 0
            lines = [json.loads(line) for line in running.log]
        assert all(set(line) == {"time", "level", "logger", "module_id", "message"} for line in lines)
        assert {line["module_id"] for line in lines} == {"", "pm1"}
        with Running(config, "-q") as running:
            await until(lambda: running.logged("pm1: meter"))
            assert running.end() == 0
            assert not running.logged(" INFO ")
        with Running(config, "-v") as running:
            await until(lambda: running.logged(": connected as "))
            everest.publish(PM1.heartbeat, b"no number")
            await until(lambda: running.logged(" DEBUG pm1: a heartbeat is ignored"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 130), (signal.SIGHUP, 0)])
@real_time
async def test_a_second_signal_ends_it_at_once_unless_its_terminal_closes(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with Amqtt() as broker, Running(configured(tmp_path, broker, NOBODY)) as running, Recorder(broker) as everest:
        await until(lambda: running.logged(": connected as "))
        everest.publish(PM1.stop, request("T-1", "reply/stop"))
        everest.publish(PM1.stop, b"{")
        await until(lambda: running.logged("pm1: stop_transaction: UNEXPECTED_ERROR"))  # so it has the first one, too
        broker.stall()  # so that the reply cannot go out, and the first signal takes its time
        running.process.send_signal(number)
        await until(lambda: running.logged(number.name))
        assert running.end(number) == status
        broker.go_on()


@real_time
async def test_without_broker_and_meter_it_waits_and_outlives_its_terminal_under_nohup(tmp_path: Path) -> None:
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Amqtt() as broker:
            broker.kill()
            with Running(configured(tmp_path, broker, NOBODY)) as running:
                await until(lambda: running.logged("nothing listens there") and running.logged("pm1: meter"))
                running.process.send_signal(signal.SIGHUP)
                assert running.end() == 0
                assert not running.logged("SIGHUP")
    finally:
        signal.signal(signal.SIGHUP, handler)


def test_an_end_although_the_loop_is_blocked(tmp_path: Path) -> None:
    path = tmp_path / "meters.toml"
    path.write_text("[[meter]]\nmodule_id = 'pm1'\n", "utf-8")
    program = f"""
import time
from iem_dcr.cli import main, run
class Blocked(run.Service):
    async def run(self):
        print("blocked", flush=True)
        while True: time.sleep(60)
run.Service = Blocked
run.ENDS_WITHIN_S = 0.2
main.main(["run", {str(path)!r}])
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"blocked\n"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert b"Traceback" not in err


@real_time
async def test_a_log_that_nobody_reads(tmp_path: Path) -> None:
    with Amqtt() as broker, Simulator() as meter, Recorder(broker, PM1.values) as everest:
        reading, writing = os.pipe()
        os.write(writing, b"x" * fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ))  # full to the brim
        process = begin("run", str(configured(tmp_path, broker, meter)), "-v", stderr=writing)
        os.close(writing)
        await until(lambda: len(everest.payloads(PM1.values)) > 1)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=PATIENCE_S)[0] == ""
        assert process.returncode == 0
        os.close(reading)


@UNMEASURED
def test_it_loads_no_more_than_it_needs() -> None:
    program = "import sys; from iem_dcr.cli import run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"iem_dcr.service.service", "aiomqtt", "h11"} <= loaded
    unwanted = ["rich", "amqtt", "cryptography", "sqlite3", "aiohttp", "unittest", "iem_dcr.everest"]
    assert loaded.isdisjoint(unwanted)
    assert not [name for name in loaded if name.startswith("iem_dcr.simulator")]


@real_time
async def test_the_vendors_default_ci_is_an_error_at_the_start(tmp_path: Path) -> None:
    with Amqtt() as broker:
        config = configured(tmp_path, broker, NOBODY, "127.0.0.1:10")
        config.write_text(config.read_text("utf-8").replace(CI, VENDOR_CI, 1), "utf-8")
        with Running(config) as running:
            await until(lambda: running.logged("connected as"))
    line = running.log[0]
    assert " ERROR -: CI is 1234, the default of the vendor's module: it is being frozen into" in line
    assert f"for it: pm1 at {NOBODY}. Set CI of each" in line
