"""iem-dcr demo, and what goes over the broker meanwhile."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
import socket
import subprocess

from iem_dcr.everest_api.topics import READY_BEACON, Topics
from iem_dcr.powermeter import TransactionReq
from tests.support.brokers import Mosquitto, Recorder
from tests.support.command_line import PATIENCE_S, begin, finish, read_until, run, run_process
from tests.support.tools import needs_tool


def told(text: str) -> tuple[str, int]:
    """Return the module_id and the broker's port that a demo shows."""
    where = re.search(r"API module is (demo_[0-9a-f]{4}), at the MQTT broker 127\.0\.0\.1:(\d+)\.$", text, re.MULTILINE)
    assert where is not None
    return where[1], int(where[2])


def test_without_a_terminal() -> None:
    done = run("demo", "--seconds", "2")
    assert (done.status, done.err) == (0, "")
    assert "\x1b" not in done.out
    assert re.match(
        r"A charging session at a simulated IEM-DCR\nThe simulated meter 1SIM\d{10} is at http://127\.0\.0\.1:\d+\n",
        done.out,
    )
    assert re.search(r"^  \d\d:\d\d:\d\d .* [1-9]\d*\.\d A", done.out, re.MULTILINE)
    assert "\nReceipt T1 of meter " in done.out
    assert "Verdict       VALID: the signature matches the data and the key\n" in done.out
    assert "  iem-dcr simulate\n" in done.out
    module_id, port = told(done.out)
    topics = f"everest_api/1/powermeter/{module_id}/#"
    assert f"\n  mosquitto_sub -h 127.0.0.1 -p {port} -v -t '{topics}'\n" in done.out


def test_the_command_that_it_shows_lets_one_watch() -> None:
    needs_tool("mosquitto_sub")
    process = begin("demo", "--seconds", "4")
    before = read_until(process, "mosquitto_sub")
    command = [*shlex.split(before.splitlines()[-1]), "-C", "14", "-W", "30"]
    watcher = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert (watcher.returncode, watcher.stderr) == (0, "")
    lines = [line.split(" ", 1) for line in watcher.stdout.splitlines()]
    (value, *_) = (json.loads(payload) for topic, payload in lines if topic == Topics(told(before)[0]).values)
    assert re.fullmatch(r"1SIM[0-9]{10}", value["meter_id"])
    done = finish(process, before)
    assert (done.status, done.err) == (0, "")


def test_an_interruption_with_somebody_watching_is_quiet() -> None:
    process = begin("demo", "--seconds", "60")
    before = read_until(process, "mosquitto_sub")
    with contextlib.ExitStack() as watchers:
        # One that never says anything, and one that says what is no MQTT.
        port = told(before)[1]
        silent, wrong = (
            watchers.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_S)) for _ in range(2)
        )
        wrong.sendall(b"GET / HTTP/1.1\r\n\r\n")
        before += read_until(process, "began for user")
        process.send_signal(signal.SIGTERM)
        done = finish(process, before)
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""
    assert (done.status, done.err) == (130, "")
    assert "VALID: the signature matches" in done.out
    assert "Next steps" not in done.out


def test_what_goes_over_a_broker() -> None:
    with Mosquitto() as broker, Recorder(broker, "everest_api/#") as watcher:
        done = run_process("demo", "--seconds", "3", "--broker", f"mqtt://127.0.0.1:{broker.port}")
        assert (done.status, done.err) == (0, "")
        module_id, port = told(done.out)
        assert port == broker.port
        ours = Topics(module_id)
        topics = {READY_BEACON, ours.heartbeat, ours.check, ours.key, ours.values, ours.start, ours.stop}
        assert {message.topic for message in watcher.messages} >= topics
        assert not any(message.retained for message in watcher.messages)
        (start,), (stop,) = (
            [json.loads(payload) for payload in watcher.payloads(topic)] for topic in (ours.start, ours.stop)
        )
        transaction = TransactionReq.from_json(start["payload"])
        assert transaction.transaction_id in done.out
        assert stop["payload"] == transaction.transaction_id
        (begun,) = watcher.payloads(start["headers"]["replyTo"])
        assert json.loads(begun) == {"status": "OK"}
        (ended,) = map(json.loads, watcher.payloads(stop["headers"]["replyTo"]))
        assert ended["signed_meter_value"]["signed_meter_data"] in done.out
        (key,) = {json.loads(payload) for payload in watcher.payloads(ours.key)}
        assert ended["signed_meter_value"]["public_key"] == key
        assert set(watcher.payloads(ours.check)) == {b"true"}
        beats = [int(payload) for payload in watcher.payloads(ours.heartbeat)]
        assert beats == list(range(beats[-1] + 1))
        assert beats[-1] >= 2
        shown_w = [
            f"{json.loads(payload)['power_W']['total'] / 1000:.3f} kW" for payload in watcher.payloads(ours.values)
        ]
        assert all(power in shown_w for power in re.findall(r"^  \d\d:\d\d:\d\d +(\S+ kW)", done.out, re.MULTILINE))


def test_keep_open_goes_on_with_session_after_session() -> None:
    process = begin("demo", "--seconds", "2", "--keep-open")
    before = read_until(process, "In a browser")
    page = before.rsplit(" ", 1)[-1].strip()
    for number in (1, 2):
        before += read_until(process, f"Receipt T{number} ")
        before += read_until(process, "The next session begins in 5 s. Ctrl-C ends the demo.")
    with socket.create_connection(("127.0.0.1", int(page.rstrip("/").rpartition(":")[2])), PATIENCE_S) as browser:
        browser.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in browser.recv(64)
    process.send_signal(signal.SIGINT)
    done = finish(process, before)
    assert (done.status, done.err) == (0, "")
    assert done.out.count("VALID: the signature matches") == 2
    assert "Next steps" in done.out


def test_two_demos_on_one_broker_do_not_mix() -> None:
    with Mosquitto() as broker, Recorder(broker, "everest_api/#") as watcher:
        both = [begin("demo", "--seconds", "2", "--broker", f"mqtt://127.0.0.1:{broker.port}") for _ in range(2)]
        for done in [finish(process) for process in both]:
            assert (done.status, done.err) == (0, "")
            (stop,) = watcher.payloads(Topics(told(done.out)[0]).stop)
            assert json.loads(stop)["payload"] in done.out


def test_a_broker_with_users_and_the_password_not_shown() -> None:
    with Mosquitto(users={"tester": "geheim@1"}) as broker:
        address = f"127.0.0.1:{broker.port}"
        done = run("demo", "--seconds", "2", "--broker", f"mqtt://tester:geheim%401@{address}")
        assert (done.status, done.err) == (0, "")
        assert f"mosquitto_sub -h 127.0.0.1 -p {broker.port} -u tester -P PASSWORD -v" in done.out
        assert "geheim" not in done.out
        refused = run("demo", "--broker", f"mqtt://tester:falsch@{address}")
    assert refused.status == 1
    assert refused.err.startswith(f"Error: the broker {address} cannot be used: it ")
    assert "user and password" in refused.err
    assert "falsch" not in refused.err


def test_no_broker_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("demo", "--broker", f"mqtt://{address}")
    assert (done.status, done.err) == (1, f"Error: the broker {address} cannot be used: nothing listens there\n")
    assert "Next steps" not in done.out


def test_what_is_no_broker_at_all() -> None:
    done = run("demo", "--broker", "http://u:geheim@h")
    assert (done.status, done.out) == (2, "")
    assert "--broker" in done.err
    assert "expected mqtt://" in done.err
    assert "geheim" not in done.err
