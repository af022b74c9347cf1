"""Why there is no connection to a broker: it is said, nothing secret is shown, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING, Any

import pytest

from iem_dcr.everest_api import broker_errors, mqtt
from iem_dcr.everest_api.broker_errors import Backoff, BrokerError
from iem_dcr.everest_api.mqtt import MqttConnection
from tests.support.brokers import Mosquitto, real_time, settings_at, until
from tests.support.certificates import make_certificates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
"""paho leaves the socket of a TLS handshake that failed to the garbage collector."""

WORD = "sEcReT"


@pytest.fixture(autouse=True)
def _collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have sockets that were left to the garbage collector closed within the test that left them."""
    monkeypatch.setattr(broker_errors, "FIRST_PAUSE_S", 0.01)
    yield
    gc.collect()


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less for a peer that never answers."""
    monkeypatch.setattr(mqtt, "CONNACK_TIMEOUT_S", 0.3)


SILENCE = pytest.mark.usefixtures("silence")


def connection(settings: Any) -> MqttConnection:
    return MqttConnection(settings, identity="iem-dcr-0123456789ab")


@real_time
async def test_two_with_the_same_name_are_an_error_that_names_the_setting(caplog: pytest.LogCaptureFixture) -> None:
    def errors() -> list[str]:
        ours = [each for each in caplog.records if each.name.startswith("iem_dcr")]
        return [each.getMessage() for each in ours if each.levelname == "ERROR"]

    with Mosquitto() as broker:
        buses = [connection(broker.settings()) for _ in range(2)]
        for bus in buses:
            bus.subscribe("requests", lambda *_: None)
        tasks = [asyncio.create_task(bus.run()) for bus in buses]
        await until(errors)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert "client_id" in errors()[0]


@real_time
async def test_a_wrong_password_and_a_file_that_is_put_right(tmp_path: Path) -> None:
    file = tmp_path / "password"
    with Mosquitto(users={"iem": WORD}) as broker:
        bus = connection(broker.settings(user="iem", password_file=str(file)))
        for content, said in ((None, "password_file .* cannot be read"), ("wrong", "user and password")):
            if content:
                file.write_text(content)
            with pytest.raises(BrokerError, match=said) as refused:
                await bus.probe()
            assert refused.value.lasting
        file.write_text(f"{WORD}\n")
        await bus.probe()


@pytest.mark.parametrize(("of_broker", "of_settings", "said"), [
    ({"tls": "good"}, {"tls": True, "ca_file": "others"}, "not trusted"),
    ({"tls": "good"}, {}, "does not answer .* TLS"),
    ({"tls": "good"}, {"protocol": "3.1.1"}, "does not answer .* TLS"),
    ({"tls": "example"}, {"tls": True, "ca_file": "example"}, "another name"),
    ({"tls": "good", "client_certificates": True}, {"tls": True, "ca_file": "good"}, "client certificate"),
    ({}, {"tls": True, "ca_file": "good"}, "TLS"),
    ({}, {"host": "no-such-host.invalid"}, "not known"),
])  # fmt: skip
@real_time
async def test_why_there_is_no_connection_is_said(
    of_broker: dict[str, Any], of_settings: dict[str, Any], said: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if "does not answer" in said or "client_certificates" in of_broker:
        request.getfixturevalue("silence")
    made = {
        name: make_certificates(tmp_path / name, server_name="broker.example" if name == "example" else "127.0.0.1")
        for name in ("good", "others", "example")
    }
    if "tls" in of_broker:
        of_broker = of_broker | {"tls": made[of_broker["tls"]]}
    if "ca_file" in of_settings:
        of_settings = of_settings | {"ca_file": made[of_settings["ca_file"]].ca}
    with Mosquitto(**of_broker) as broker, pytest.raises(BrokerError, match=said):
        await connection(broker.settings(**of_settings)).probe()


async def refuses_everybody(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def speaks_something_else(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await refuses_everybody(reader, writer)


@SILENCE
@pytest.mark.parametrize("answer", [refuses_everybody, speaks_something_else])
@real_time
async def test_what_is_no_broker_of_mqtt_5_is_said(answer: Any) -> None:
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        with pytest.raises(BrokerError, match=r'protocol = "3\.1\.1"'):
            await connection(settings_at(server.sockets[0].getsockname()[1])).probe()


def test_pauses_get_longer_and_a_reason_that_only_settings_change_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backoff = Backoff("broker b:1883")
    pauses_s = [backoff.failed(BrokerError("nothing listens there")) for _ in range(15)]
    assert pauses_s[0] < 0.011
    assert 7.5 <= pauses_s[-1] <= 15.0
    for _ in range(3):
        backoff.failed(BrokerError("it refuses user and password", lasting=True))
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("WARNING", "broker b:1883: nothing listens there; trying again"),
        ("ERROR", "broker b:1883: it refuses user and password; trying again"),
    ]
    broken = BrokerError("the connection broke")
    broken.lasted_s = 3600.0
    assert backoff.connected()
    assert backoff.failed(broken) < 0.011
    assert backoff.failed(BrokerError("it refuses the client_id", lasting=True)) >= 2.5


@SILENCE
@pytest.mark.parametrize("received", [0, 1])
@real_time
async def test_a_cancelled_probe_closes_its_connection(received: int) -> None:
    """The broker accepts the connection and never answers; the probe is cancelled before or after it sends CONNECT."""
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    silent = await asyncio.start_server(lambda *streams: accepted.put_nowait(streams), "127.0.0.1", 0)
    async with silent:
        probe = asyncio.create_task(connection(settings_at(silent.sockets[0].getsockname()[1])).probe())
        reader, writer = await accepted.get()
        await reader.readexactly(received)
        probe.cancel()
        await asyncio.wait((probe,))
        await asyncio.sleep(0)
        assert probe.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await reader.read()
        await refuses_everybody(reader, writer)
    gc.collect()
    assert not complaints
