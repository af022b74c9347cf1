"""The connection to the broker that all meters of a process share. The one file that imports an MQTT library.

* Each connection is a new `aiomqtt.Client`. When it is lost, another is made after a pause (`backoff`).
* The work of a connection is one task group. A lost connection, or an acknowledgement that is missing for 10 s, ends
  the group and with it the connection.
* All subscriptions are acknowledged before anything is published.
* Outgoing messages are in the `outbox`. A message at QoS 1 is published on each new connection until the broker has
  acknowledged it. One that is older than the connection first waits for its `receivers`, which may reconnect later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from iem_dcr.errors import ConfigError, printable
from iem_dcr.everest_api.backoff import Backoff
from iem_dcr.everest_api.broker_errors import BrokerError, from_os_error, from_reason_code
from iem_dcr.everest_api.outbox import Delivery, Outbox
from iem_dcr.everest_api.receivers import Receivers
from iem_dcr.everest_api.subscriptions import Subscriptions, qos_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from iem_dcr.everest_api.bus import Handler
    from iem_dcr.everest_api.mqtt_settings import MqttSettings

_log = logging.getLogger(__name__)
_client_log = logging.getLogger(f"{__name__}.client")
_client_log.setLevel(logging.CRITICAL + 1)  # aiomqtt and paho log each lost connection as an error

KEEPALIVE_S: Final = 15
CONNACK_TIMEOUT_S: Final = 5.0
"""aiomqtt does not notice a connection that is closed before CONNACK, and waits this long for CONNACK."""
ANSWER_TIMEOUT_S: Final = 10.0
"""How long the broker may take to acknowledge SUBSCRIBE and PUBLISH, and the kernel to accept a message at QoS 0."""
SESSION_S: Final = 30
"""With MQTT 5: how long the broker keeps subscriptions and requests for a disconnected client."""
DISCONNECT_TIMEOUT_S: Final = 0.5
END_TIMEOUT_S: Final = 12.0
"""How long a cancelled `run` waits for an attempt to connect: a thread that cannot be cancelled, then CONNACK."""

MAX_UNACKNOWLEDGED: Final = 16
"""Brokers accept 20 and more (mosquitto's max_inflight_messages)."""
_TOPICS_AT_ONCE: Final = 64

_SOCKET_OPTIONS: Final = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_SNDBUF, 128 * 1024),  # values in it go stale while a broker does not read
    # It detects a broker's host that is gone sooner than the keep-alive does.
    *([(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000)] if hasattr(socket, "TCP_USER_TIMEOUT") else []),
]


class MqttConnection:
    """The bus of all meters of a process.

    With MQTT 5 the session survives a lost connection or a restart for 30 s: requests of that time arrive later.

    Args:
        settings: how to reach the broker.
        identity: client_id if the settings give none; unique at the broker, the same after a restart of the service.
    """

    def __init__(self, settings: MqttSettings, *, identity: str) -> None:
        self._settings = settings
        self._client_id = settings.client_id or identity
        self._name = f"broker {printable(settings.address)}"
        self._subscriptions = Subscriptions()
        self._on_connected: dict[Callable[[], None], None] = {}
        self._work = asyncio.Event()
        self._outbox = Outbox(self._work.set)
        self._backoff = Backoff(self._name)
        self._number = 0
        self._is_connected = False
        self._receivers = Receivers()
        self._closing = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    # --- the bus ---

    @property
    def connected(self) -> bool:
        """Whether there is a connection and all subscriptions are acknowledged."""
        return self._is_connected

    def subscribe(self, topic: str, handler: Handler) -> None:
        """See `bus.Bus.subscribe`. Requests are received at QoS 1, heartbeats at QoS 0."""
        self._subscriptions.add(topic, handler)
        self._work.set()

    def unsubscribe(self, topic: str, handler: Handler) -> None:
        """See `bus.Bus.unsubscribe`. Requests of the next 30 s are kept for another handler."""
        self._subscriptions.remove(topic, handler)

    def on_connected(self, handler: Callable[[], None]) -> Callable[[], None]:
        """See `bus.Bus.on_connected`."""
        self._on_connected[handler] = None
        return lambda: self._on_connected.pop(handler, None)

    def offer(self, topic: str, payload: bytes, *, good_for_s: float) -> None:
        """See `bus.Bus.offer`."""
        self._outbox.offer(topic, payload, good_for_s)

    async def deliver(self, topic: str, payload: bytes, *, within_s: float) -> bool:
        """See `bus.Bus.deliver`. The message may arrive twice if the connection is lost before the acknowledgement.

        Returns:
            False also if the bus is closed.
        """
        since = self._number if self._is_connected else None
        return await self._outbox.deliver(topic, payload, within_s, since=since)

    # --- from run to close ---

    async def run(self) -> None:
        """Stay connected until cancelled or until `close` is called. A lost connection is made again."""
        self._ended.clear()
        stop = asyncio.Event()
        keeping = asyncio.create_task(self._keep_connected(stop))
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait((keeping, closing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.set()
            try:
                # Not cancelled at once: asyncio.wait_for (in aiomqtt) may swallow a cancellation before Python 3.12.
                await asyncio.wait((keeping,), timeout=END_TIMEOUT_S)
            finally:
                for task in (keeping, closing):
                    task.cancel()
                await asyncio.gather(keeping, closing, return_exceptions=True)
                self._ended.set()
        if not keeping.cancelled():
            keeping.result()

    async def run_once(self) -> None:
        """Connect once, and use that connection until it is lost or this is cancelled.

        Raises:
            BrokerError: the connection could not be made, or was lost. Nothing is logged.
        """
        await self._serve(asyncio.Event())

    async def probe(self) -> None:
        """Connect and disconnect, to find out whether the broker can be used.

        Raises:
            BrokerError: it cannot be used. The message is the reason.
        """
        async with self._connection():
            pass

    async def close(self, within_s: float) -> None:
        """Send what is in the outbox, for ``within_s`` seconds at most, then disconnect and end `run`.

        The broker keeps the session for 30 s (MQTT 5), as after a lost connection.
        """
        await self._outbox.close(within_s, offers=self._is_connected)
        self._closing.set()
        await self._ended.wait()

    async def _keep_connected(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._serve(stop)
            except BrokerError as error:
                self._backoff.failed(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._backoff.next_pause_s()):
                    await stop.wait()

    # --- one connection ---

    async def _serve(self, stop: asyncio.Event) -> None:
        """Use one connection until it is lost or ``stop`` is set."""
        async with self._connection() as client:
            since_s = _now_s()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_until_lost(client))
                    group.create_task(self._work_on(client, group))
                    await stop.wait()
                    raise _StoppedError
            except ExceptionGroup as errors:
                lost, others = errors.split(aiomqtt.MqttError)
                mistakes = others and others.split(_StoppedError)[1]
                if mistakes:
                    raise mistakes from None
                if lost:
                    why = _why_lost(lost, self._settings)
                    why.lasted_s = _now_s() - since_s
                    raise why from errors
            finally:
                self._is_connected = False

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[aiomqtt.Client]:
        try:
            client = await self._client()
        except ConfigError as error:
            raise BrokerError("; ".join(error.problems), lasting=True) from error
        try:
            await _connect(client)
        except (aiomqtt.MqttError, UnicodeError) as error:
            raise _why_not_connected(error, self._settings) from error
        client.timeout = ANSWER_TIMEOUT_S
        try:
            yield client
        finally:
            await _leave(client)

    async def _client(self) -> aiomqtt.Client:
        settings = self._settings
        password, tls = await asyncio.to_thread(lambda: (settings.current_password(), settings.tls_context()))
        version: dict[str, Any] = {"protocol": aiomqtt.ProtocolVersion.V311, "clean_session": True}
        if settings.protocol == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = SESSION_S
            version = {"protocol": aiomqtt.ProtocolVersion.V5, "clean_start": False, "properties": properties}
        return aiomqtt.Client(
            settings.host,
            settings.port,
            username=settings.user,
            password=password,
            identifier=self._client_id,
            tls_context=tls,
            logger=_client_log,
            queue_type=cast("type[asyncio.Queue[aiomqtt.Message]]", partial(_Inbox, take=self._take)),
            timeout=CONNACK_TIMEOUT_S,
            keepalive=KEEPALIVE_S,
            max_inflight_messages=MAX_UNACKNOWLEDGED,
            socket_options=_SOCKET_OPTIONS,
            **version,
        )

    def _take(self, message: aiomqtt.Message) -> None:
        topic, retained = message.topic.value, message.retain
        if not retained:
            self._receivers.hear(topic)
        self._subscriptions.dispatch(topic, message.payload, retained)

    async def _work_on(self, client: aiomqtt.Client, group: asyncio.TaskGroup) -> None:
        """Subscribe and publish. Each wait for the broker is a task of its own in the group."""
        self._subscriptions.begin_anew()
        await self._subscribe(client, group)
        self._announce()
        while True:
            self._work.clear()
            await self._subscribe(client, group)
            for delivery in self._outbox.deliveries:
                if delivery.tried != self._number:
                    delivery.tried = self._number
                    group.create_task(self._deliver(client, delivery))
            for topic, payload in self._outbox.take_offers():
                sending = group.create_task(client.publish(topic, payload))
                sending.add_done_callback(partial(self._sent, topic))
            await self._work.wait()

    async def _subscribe(self, client: aiomqtt.Client, group: asyncio.TaskGroup) -> None:
        while topics := tuple(islice(self._subscriptions.new, _TOPICS_AT_ONCE)):
            wanted: Any = [(topic, qos_of(topic)) for topic in topics]
            if self._settings.protocol == "5":
                # Retained messages come with a new subscription, not with every reconnection.
                new = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
                wanted = [(topic, SubscribeOptions(qos=qos, retainHandling=new)) for topic, qos in wanted]
            # aiomqtt waits with asyncio.wait_for, which may swallow a cancellation before Python 3.12.
            asking = group.create_task(client.subscribe(wanted))
            await asyncio.wait((asking,))
            for topic, code in zip(topics, asking.result(), strict=False):
                self._subscriptions.new.pop(topic, None)
                if isinstance(code, ReasonCode) and code.is_failure:
                    what = "%s: it refuses the subscription to %s (%s): see its access rules"
                    _log.error(what, self._name, printable(topic, limit=300), printable(code))

    def _announce(self) -> None:
        again = " again" if self._backoff.connected() else ""
        _log.info("%s: connected%s as %s", self._name, again, printable(self._client_id))
        self._number += 1
        self._is_connected = True
        self._receivers.begin_anew()
        for handler in tuple(self._on_connected):
            try:
                handler()
            except Exception:  # noqa: BLE001  one meter's handler must not disturb the others
                _log.exception("%s: a handler of new connections failed, which is a bug in the program", self._name)

    def _sent(self, topic: str, _task: asyncio.Task[None]) -> None:
        self._outbox.sent(topic)

    async def _deliver(self, client: aiomqtt.Client, delivery: Delivery) -> None:
        if delivery.since != self._number:
            await self._receivers.wait()
        left_s = delivery.until_s - _now_s()
        if delivery.done.done() or left_s <= 0:
            return
        properties = None
        if self._settings.protocol == "5":
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = math.ceil(left_s)
        await client.publish(delivery.topic, delivery.payload, 1, properties=properties)
        delivery.settle(acknowledged=True)


class _Inbox(asyncio.Queue[aiomqtt.Message]):
    """aiomqtt's queue of incoming messages. It dispatches each at once: a real queue costs a task for each message."""

    def __init__(self, maxsize: int = 0, *, take: Callable[[aiomqtt.Message], None]) -> None:
        super().__init__(maxsize)
        self._hand_over = take

    def put_nowait(self, item: aiomqtt.Message) -> None:
        """Dispatch a message."""
        self._hand_over(item)


class _StoppedError(Exception):
    """The connection is to end."""


async def _until_lost(client: aiomqtt.Client) -> None:
    """Wait for the end of a connection, and raise its reason."""
    async for _ in client.messages:
        pass


async def _connect(client: aiomqtt.Client) -> None:
    """Connect. If that fails or is cancelled, leave the client, because aiomqtt keeps its socket.

    aiomqtt can be left only after the attempt has ended: a thread that cannot be cancelled, then the wait for CONNACK.
    """
    attempt = asyncio.create_task(client.__aenter__())
    try:
        await asyncio.wait((attempt,))
        attempt.result()
    except BaseException:
        client.timeout = DISCONNECT_TIMEOUT_S
        await asyncio.wait((attempt,), timeout=CONNACK_TIMEOUT_S + 1.0)
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
        await _leave(client)
        raise


async def _leave(client: aiomqtt.Client) -> None:
    """Disconnect, and retrieve the reason of an earlier end: asyncio logs an exception that is never retrieved."""
    client.timeout = DISCONNECT_TIMEOUT_S
    with contextlib.suppress(aiomqtt.MqttError):
        await client.__aexit__(None, None, None)
        await _until_lost(client)  # not after an error: a time-out has cancelled the future that has the reason


def _why_not_connected(error: Exception, settings: MqttSettings) -> BrokerError:
    cause = error.__context__  # aiomqtt raises its own error `from None`
    if isinstance(error, aiomqtt.MqttCodeError):
        return _from_code(error.rc, f"it refuses the connection ({printable(error)})")
    if isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
        return from_os_error(cause, is_tls=settings.tls)
    if isinstance(error, UnicodeError):
        return BrokerError("the host is not known (no name of a host)")
    hint = "Does it want a client certificate (cert_file, key_file)" if settings.tls else "Is TLS wanted on that port"
    reason = f"it does not answer within {CONNACK_TIMEOUT_S:g} s. {hint}"
    return BrokerError(f'{reason}, or another version of MQTT (protocol = "3.1.1" or "5")?')


def _why_lost(errors: ExceptionGroup[aiomqtt.MqttError], settings: MqttSettings) -> BrokerError:
    causes = [error.__cause__ for error in errors.exceptions if error.__cause__ is not None]
    for cause in causes:
        if isinstance(cause, aiomqtt.MqttCodeError):
            return _from_code(cause.rc, "the connection broke")
        if isinstance(cause, OSError):
            return from_os_error(cause, is_tls=settings.tls)
    if causes:
        return BrokerError(f"the connection broke ({printable(causes[0])})")
    return BrokerError(f"it closed the connection, or did not acknowledge a message within {ANSWER_TIMEOUT_S:g} s")


def _from_code(code: int | ReasonCode | None, otherwise: str) -> BrokerError:
    return from_reason_code(code.value if isinstance(code, ReasonCode) else -1, otherwise)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
