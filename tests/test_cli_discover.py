"""iem-dcr discover: what it shows of an EVerest's power meter APIs, and how it ends when there are none."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from iem_dcr.cli.discover import warnings
from iem_dcr.everest_api.broker_errors import BrokerError
from iem_dcr.everest_api.discovery import FoundApi
from iem_dcr.everest_api.topics import QUERY_MODULES
from tests.support.brokers import BROKERS, PATIENCE_S, Mosquitto, Recorder, TestBroker
from tests.support.certificates import make_certificates
from tests.support.command_line import Done, begin, finish, run, run_process
from tests.support.fake_bus import FakeBus

if TYPE_CHECKING:
    from pathlib import Path

GOOD = {"heartbeat_period_ms": 1000, "communication_check_period_s": 15, "request_reply_timeout_s": 120}
AS_IT_COMES = {"heartbeat_period_ms": 500, "communication_check_period_s": 5, "request_reply_timeout_s": 550}

SHOWN = """
 Module id   Type         Version   Heartbeat   Check within   Reply within
 ──────────────────────────────────────────────────────────────────────────
 pm1         powermeter   1         0.5 s       5 s            550 s
 pm2         powermeter   1         0.5 s       5 s            550 s
 pm3         powermeter   1         1 s         15 s           120 s

Warning: pm1, pm2: cfg_communication_check_to_s is 5: set 15 or more. A restart of iem-dcr or of the broker can take \
longer than that, and EVerest stops charging at once when it misses the check.
Warning: pm1, pm2: cfg_request_reply_to_s is 550: set 120. No reply takes longer than that, and a lost reply \
blocks the connector until EVerest stops waiting.
"""


def api(module_id: str, times: dict[str, int]) -> dict[str, Any]:
    return {"type": "powermeter", "module_id": module_id, "version": 1, "communication_monitoring": times}


def discovered(broker: TestBroker, *apis: dict[str, Any], options: tuple[str, ...] = ()) -> Done:
    """Run it against a broker where EVerest answers with these."""
    with Recorder(broker, QUERY_MODULES) as everest:
        process = begin("discover", "--broker", f"mqtt://127.0.0.1:{broker.port}", *options)
        give_up = time.monotonic() + PATIENCE_S
        while not everest.messages and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.01)
        reply_to = json.loads(everest.messages[0].payload)["headers"]["replyTo"]
        for each in apis:
            everest.publish(reply_to, json.dumps({"apis": [each]}).encode())
        return finish(process)


@BROKERS
def test_what_it_shows(kind: type[TestBroker]) -> None:
    with kind() as broker:
        done = discovered(broker, api("pm2", AS_IT_COMES), api("pm3", GOOD), api("pm1", AS_IT_COMES))
    assert (done.status, done.err) == (0, "")
    assert "\n".join(line.rstrip() for line in done.out.splitlines()) == SHOWN.rstrip("\n")


def test_json() -> None:
    with Mosquitto() as broker:
        done = discovered(broker, api("pm1", GOOD), options=("--json", "--wait", "1"))
        address = f"127.0.0.1:{broker.port}"
    assert (done.status, done.err) == (0, "")
    assert done.events == [{"broker": address, "apis": [api("pm1", GOOD) | {"version": "1", "warnings": []}]}]


def test_there_is_none_or_no_broker() -> None:
    with Mosquitto() as broker:
        address = f"127.0.0.1:{broker.port}"
        words = ("discover", "--broker", f"mqtt://{address}", "--wait", "0.1")
        done = run(*words)
        assert (done.status, done.out) == (1, "")
        assert "No powermeter API" in done.err
        done = run(*words, "--json")
        assert done.status == 1
        assert done.events == [{"broker": address, "apis": []}]
        broker.kill()
        done = run(*words)
    assert (done.status, done.out) == (1, "")
    assert done.err == f"Error: broker {address}: nothing listens there\n"


class BreaksAtTheEnd(FakeBus):
    """A broker that passes answers on, and breaks when it is left."""

    def __init__(self, _settings: object, *, identity: str) -> None:
        super().__init__(connected=False)
        assert identity

    async def run_once(self) -> None:
        self.connect()
        while not self.on(QUERY_MODULES):
            await self.news.wait()
        reply_to = self.on(QUERY_MODULES)[0].value["headers"]["replyTo"]
        self.receive(reply_to, json.dumps({"apis": [api("pm1", GOOD)]}).encode())
        try:
            await asyncio.Event().wait()
        finally:
            raise BrokerError("the connection broke")


def test_what_was_found_counts_although_the_broker_fails_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iem_dcr.cli.discover.MqttConnection", BreaksAtTheEnd)
    done = run("discover", "--wait", "0.1", "--json")
    assert (done.status, done.err) == (0, "")
    assert [each["module_id"] for each in done.events[0]["apis"]] == ["pm1"]


def test_user_and_password(tmp_path: Path) -> None:
    word = "pass:w/ord"
    file = tmp_path / "password"
    file.write_text(f"{word}\n")
    with Mosquitto(users={"iem": word}) as broker:
        address = f"127.0.0.1:{broker.port}"
        for url, options, said in (
            (f"mqtt://{address}", ("--user", "iem", "--password-file", str(file)), "No powermeter API"),
            (f"mqtt://iem:pass%3Aw%2Ford@{address}", (), "No powermeter API"),
            (f"mqtt://iem:other@{address}", (), "let this user connect"),
        ):
            done = run("discover", "--wait", "0.1", "--broker", url, *options)
            assert (done.status, said in done.err, "other" in done.err) == (1, True, False)


def test_tls(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    with Mosquitto(tls=made, client_certificates=True) as broker:
        url = f"mqtts://127.0.0.1:{broker.port}"
        mine = ("--cert-file", made.client_cert, "--key-file", made.client_key)
        done = run_process("discover", "--wait", "0.1", "--broker", url, "--ca-file", made.ca, *mine)
        assert "No powermeter API" in done.err
        done = run_process("discover", "--wait", "0.1", "--broker", url, *mine)
        assert done.status == 1
        assert "not trusted" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--broker", "localhost"), "mqtt://HOST"),
        (("--broker", "mqtt://u:se/cret@host"), "mqtt://HOST"),
        (("--broker", "mqtt://u:cret%zz@host"), "%25"),
        (("--broker", "mqtts://host", "--ca-file", "/no/such/file"), "ca_file"),
        (("--user", "u", "--password-file", "/no/such/file"), "password_file"),
        (("--wait", "nan"), "wait"),
    ],
)
def test_mistakes_in_the_command_line(options: tuple[str, ...], said: str) -> None:
    done = run("discover", *options)
    assert (done.status, done.out) == (2, "")
    assert said in done.err
    assert "cret" not in done.err


def test_times_that_are_not_given_are_not_warned_of() -> None:
    assert warnings(FoundApi("powermeter", "pm1", "1")) == []
    (said,) = warnings(FoundApi("powermeter", "pm1", "1", {"request_reply_timeout_s": 60}))
    assert said.startswith("cfg_request_reply_to_s is 60: set 120.")
