"""Real brokers for tests, each a process on a free port of loopback, and a client that remembers what comes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from iem_dcr.everest_api.mqtt_settings import MqttSettings
from tests.support.tools import needs_tool

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.support.certificates import Certificates

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE_S = 60.0
_CHECKOUT = Path(__file__).resolve().parents[2]


def real_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Run an async test against the clock on the wall, for what other processes do. Tasks left behind are an error."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        async def checked() -> T:
            async with asyncio.timeout(PATIENCE_S * 3):
                result = await test(*args, **kwargs)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            assert not left, f"tasks left behind: {left}"
            return result

        return asyncio.run(checked())

    return run


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so; it is an error when it is not within half a minute."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


class TestBroker(ABC):
    """A broker in a process of its own; entered, it listens.

    Attributes:
        port: on 127.0.0.1; the same after a restart.
        folder: of its files.
    """

    __test__ = False

    protocol = "5"

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="iem-dcr-broker-")
        self.folder = Path(self._folder.name)
        for _ in range(5):  # somebody else may take a port that was free a moment ago
            self.port = _free_port()
            if self.start():
                return self
        raise AssertionError(f"{type(self).__name__} does not start: {self.log}")

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()

    @property
    def log(self) -> str:
        """What it wrote."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @abstractmethod
    def command(self) -> list[str]:
        """The command that runs it."""

    def start(self) -> bool:
        """Start it, again on the same port; return once it accepts connections, False when it ended."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=_CHECKOUT
            )
        give_up = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up and self._process.poll() is None:
            with socket.socket() as trial:
                trial.settimeout(1.0)
                if trial.connect_ex(("127.0.0.1", self.port)) == 0:
                    return True
            time.sleep(0.01)
        self.kill()
        return False

    def kill(self) -> None:
        """End it without giving it time for anything (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stall(self) -> None:
        """Have it do nothing any more, with its connections up (SIGSTOP)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it go on after `stall`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def settings(self, **others: Any) -> MqttSettings:
        """How it is reached."""
        return settings_at(self.port, **{"protocol": self.protocol} | others)


def settings_at(port: int, /, **others: Any) -> MqttSettings:
    """How something on a port of this host is reached as a broker."""
    fields: dict[str, Any] = {"host": "127.0.0.1", "port": port} | others
    return MqttSettings(**fields)


class Mosquitto(TestBroker):
    """mosquitto.

    Args:
        users: names and passwords; without any everybody may connect.
        tls: certificates of a TLS listener, which is then the only one.
        client_certificates: whether clients have to show one.
        persistence: whether sessions and messages outlive a kill; they are written at once.
        extra: further lines of its configuration.
    """

    def __init__(
        self,
        *,
        users: dict[str, str] | None = None,
        tls: Certificates | None = None,
        client_certificates: bool = False,
        persistence: bool = False,
        extra: str = "",
    ) -> None:
        self._tool = needs_tool("mosquitto")
        super().__init__()
        self._users = users
        self._tls = tls
        self._client_certificates = client_certificates
        self._persistence = persistence
        self.extra = extra

    def command(self) -> list[str]:
        lines = [f"listener {self.port} 127.0.0.1", "set_tcp_nodelay true", "log_type all", self.extra]
        if self._users is None:
            lines.append("allow_anonymous true")
        else:
            passwords = self.folder / "passwords"
            passwords.write_text("".join(f"{name}:{_hashed(word)}\n" for name, word in self._users.items()))
            lines += ["allow_anonymous false", f"password_file {passwords}"]
        if self._tls is not None:
            lines += [f"cafile {self._tls.ca}", f"certfile {self._tls.server_cert}", f"keyfile {self._tls.server_key}"]
            lines.append(f"require_certificate {str(self._client_certificates).lower()}")
        if self._persistence:
            lines += ["persistence true", f"persistence_location {self.folder}/"]
            lines += ["autosave_on_changes true", "autosave_interval 1"]
        if os.geteuid() == 0:
            lines.append("user root")
        configuration = self.folder / "mosquitto.conf"
        configuration.write_text("\n".join(lines) + "\n")
        return [self._tool, "-c", str(configuration)]


class Amqtt(TestBroker):
    """amqtt's broker. It speaks MQTT 3.1.1 only."""

    protocol = "3.1.1"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.support.amqtt_broker", str(self.port)]


BROKERS = pytest.mark.parametrize("kind", [Mosquitto, Amqtt], ids=["mosquitto", "amqtt"])
"""Runs a test with each kind of broker."""


@dataclass(frozen=True)
class Message:
    """What came, and how."""

    topic: str
    payload: bytes
    qos: int
    retained: bool


class Recorder:
    """A client with a thread of its own that remembers every message; it plays EVerest's part.

    Args:
        broker: where it connects to; it has to let everybody in without TLS.
        topics: what it subscribes to, at QoS 1.
    """

    def __init__(self, broker: TestBroker, *topics: str) -> None:
        self.messages: list[Message] = []
        self._topics = topics
        self._subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = self._connected
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._came
        self._client.connect("127.0.0.1", broker.port)

    def __enter__(self) -> Self:
        self._client.loop_start()
        if self._topics:
            assert self._subscribed.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def payloads(self, topic: str) -> list[bytes]:
        """What came on a topic, in order."""
        return [message.payload for message in tuple(self.messages) if message.topic == topic]

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish, and return when the broker has it."""
        info = self._client.publish(topic, payload, qos, retain)
        if qos:
            info.wait_for_publish(PATIENCE_S)
            assert info.is_published()

    def _connected(self, *_: object) -> None:
        if self._topics:
            self._client.subscribe([(topic, 1) for topic in self._topics])

    def _came(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self.messages.append(Message(message.topic, bytes(message.payload), message.qos, message.retain))


class Network:
    """What lies between a client and a broker: it can be cut and mended while the broker goes on.

    Attributes:
        port: on 127.0.0.1, in place of the broker's.
        connections: how many were made through it.
    """

    def __init__(self, broker: TestBroker) -> None:
        self._broker = broker
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_cut = False
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        self._is_cut = True
        for writer in self._open:
            writer.transport.abort()

    def mend(self) -> None:
        """Let connections through again."""
        self._is_cut = False

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._is_cut:
            writer.transport.abort()
            return
        self.connections += 1
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._broker.port)
        self._open |= {writer, far_writer}
        try:
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            self._open -= {writer, far_writer}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while some := await reader.read(65536):
            writer.write(some)
            await writer.drain()
    writer.transport.abort()


def _free_port() -> int:
    """Return a port below those that the system gives out by itself: nothing else of the tests takes it meanwhile."""
    while True:
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", random.randrange(10_000, 30_000)))
            return int(trial.getsockname()[1])


def _hashed(password: str) -> str:
    """A password as mosquitto's password file has it: PBKDF2 with SHA-512."""
    salt = os.urandom(12)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"$7$101${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"
