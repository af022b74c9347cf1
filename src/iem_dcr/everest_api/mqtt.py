"""The connection to the broker. The one file that imports an MQTT library.

* Each connection is a new `aiomqtt.Client`. When it is lost, another is made after a pause.
* The work of a connection is one task group. A lost connection, or an acknowledgement that is missing for 10 s, ends
  the group and with it the connection.
* All subscriptions are acknowledged before anything is published.
* A message at QoS 1 is published on each new connection until the broker has acknowledged it.
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

from iem_dcr.driver.timing import now_s
from iem_dcr.errors import ConfigError, printable
from iem_dcr.everest_api.broker_errors import Backoff, BrokerError, from_os_error, from_reason_code
from iem_dcr.everest_api.bus import Bus, qos_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from iem_dcr.everest_api.bus import Delivery
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
MAX_UNACKNOWLEDGED: Final = 16
"""Brokers accept 20 and more (mosquitto's max_inflight_messages)."""
_TOPICS_AT_ONCE: Final = 64

_SOCKET_OPTIONS: Final = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_SNDBUF, 128 * 1024),  # values in it go stale while a broker does not read
    # It detects a broker's host that is gone sooner than the keep-alive does.
    *([(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000)] if hasattr(socket, "TCP_USER_TIMEOUT") else []),
]


class MqttConnection(Bus):
    """The bus over a broker.

    With MQTT 5 the session survives a lost connection or a restart for 30 s: requests of that time arrive later.

    Args:
        settings: how to reach the broker.
        identity: client_id if the settings give none; unique at the broker, the same after a restart of the service.
    """

    def __init__(self, settings: MqttSettings, *, identity: str) -> None:
        super().__init__()
        self._settings = settings
        self._client_id = settings.client_id or identity
        self._name = f"broker {printable(settings.address)}"
        self._backoff = Backoff(self._name)
        self._keeping: asyncio.Task[None] | None = None
        self._is_ending = False

    async def run(self) -> None:
        """See `bus.Bus.run`."""
        self._is_ending = False
        keeping = self._keeping = asyncio.create_task(self._keep_connected())
        try:
            await asyncio.wait((keeping,))
        finally:
            await self._end(keeping)
        if not keeping.cancelled():
            keeping.result()

    async def run_once(self) -> None:
        """Connect once, and use that connection until it is lost or this is cancelled.

        Raises:
            BrokerError: the connection could not be made, or was lost. Nothing is logged.
        """
        async with self._connection() as client:
            since_s = now_s()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_until_lost(client))
                    group.create_task(self._work_on(client, group))
            except ExceptionGroup as errors:
                lost, bugs = errors.split(aiomqtt.MqttError)
                if lost is None or bugs is not None:
                    raise
                otherwise = f"the connection broke, or it did not acknowledge a message within {ANSWER_TIMEOUT_S:g} s"
                why = self._why([error.__cause__ for error in lost.exceptions], otherwise)
                why.lasted_s = now_s() - since_s
                raise why from errors
            finally:
                self._is_connected = False

    async def probe(self) -> None:
        """Connect and disconnect, to find out whether the broker can be used.

        Raises:
            BrokerError: it cannot be used. The message is the reason.
        """
        async with self._connection():
            pass

    async def close(self, within_s: float) -> None:
        """See `bus.Bus.close`. The broker keeps the session for 30 s (MQTT 5), as after a lost connection."""
        await self._flush(within_s)
        if self._keeping is not None:
            await self._end(self._keeping)

    async def _end(self, keeping: asyncio.Task[None]) -> None:
        # Needs the flag: a task group that fails at this moment swallows the cancellation before Python 3.13.
        self._is_ending = True
        keeping.cancel()
        await asyncio.wait((keeping,))

    async def _keep_connected(self) -> None:
        pause_s = 0.0
        while not self._is_ending:
            await asyncio.sleep(pause_s)
            try:
                await self.run_once()
            except BrokerError as error:
                pause_s = self._backoff.failed(error)

    # --- one connection ---

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[aiomqtt.Client]:
        try:
            client = await self._client()
        except ConfigError as error:
            raise BrokerError("; ".join(error.problems), lasting=True) from error
        try:
            try:
                await _uninterrupted(client.__aenter__())
            except aiomqtt.MqttError as error:
                # aiomqtt raises its own error `from None`.
                raise self._why([error, error.__context__], self._no_answer()) from error
            client.timeout = ANSWER_TIMEOUT_S
            yield client
        finally:  # also after a failure, because aiomqtt keeps its socket
            client.timeout = DISCONNECT_TIMEOUT_S
            await _uninterrupted(_leave(client))

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
            username=settings.user or None,
            password=password,
            identifier=self._client_id,
            tls_context=tls,
            logger=_client_log,
            queue_type=cast("type[asyncio.Queue[aiomqtt.Message]]", partial(_Inbox, dispatch=self._dispatch)),
            timeout=CONNACK_TIMEOUT_S,
            keepalive=KEEPALIVE_S,
            max_inflight_messages=MAX_UNACKNOWLEDGED,
            socket_options=_SOCKET_OPTIONS,
            **version,
        )

    def _no_answer(self) -> str:
        hint = "Is TLS wanted on that port"
        if self._settings.tls:
            hint = "Does it want a client certificate (cert_file, key_file)"
        reason = f"it does not answer within {CONNACK_TIMEOUT_S:g} s. {hint}"
        return f'{reason}, or another version of MQTT (protocol = "3.1.1" or "5")?'

    def _why(self, causes: Sequence[BaseException | None], otherwise: str) -> BrokerError:
        """Return why there is no connection. ``otherwise`` is the reason if none of the causes has one."""
        for cause in causes:
            if isinstance(cause, aiomqtt.MqttCodeError) and isinstance(cause.rc, ReasonCode):
                return from_reason_code(cause.rc.value, f"it ended the connection ({printable(cause.rc)})")
            if isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
                return from_os_error(cause, is_tls=self._settings.tls)
        return BrokerError(otherwise)

    async def _work_on(self, client: aiomqtt.Client, group: asyncio.TaskGroup) -> None:
        """Subscribe and publish. Each wait for the broker is a task of its own in the group."""
        self._new_topics = dict.fromkeys(self._handlers)
        while True:
            self._news.clear()
            await self._subscribe_new(client, group)
            is_first = not self._is_connected
            if is_first:
                again = " again" if self._backoff.connected() else ""
                _log.info("%s: connected%s as %s", self._name, again, printable(self._client_id))
                self._new_deliveries = dict(self._deliveries)
                self._begin_connection()
            for delivery in self._new_deliveries:
                group.create_task(self._publish(client, delivery, is_older=is_first))
            self._new_deliveries.clear()
            if offers := self._good_offers():
                sending = [group.create_task(client.publish(topic, offer[0])) for topic, offer in offers.items()]
                await asyncio.wait(sending)
                self._sent(offers)
            await self._news.wait()

    async def _subscribe_new(self, client: aiomqtt.Client, group: asyncio.TaskGroup) -> None:
        while topics := tuple(islice(self._new_topics, _TOPICS_AT_ONCE)):
            wanted: Any = [(topic, qos_of(topic)) for topic in topics]
            if self._settings.protocol == "5":
                # Retained messages come with a new subscription, not with every reconnection.
                new = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
                wanted = [(topic, SubscribeOptions(qos=qos, retainHandling=new)) for topic, qos in wanted]
            # aiomqtt waits with asyncio.wait_for, which may swallow a cancellation before Python 3.12.
            asking = group.create_task(client.subscribe(wanted))
            await asyncio.wait((asking,))
            for topic, code in zip(topics, asking.result(), strict=False):
                self._new_topics.pop(topic, None)
                if isinstance(code, ReasonCode) and code.is_failure:
                    what = "%s: it refuses the subscription to %s (%s): see its access rules"
                    _log.error(what, self._name, printable(topic, limit=300), printable(code))

    async def _publish(self, client: aiomqtt.Client, delivery: Delivery, *, is_older: bool) -> None:
        if is_older:
            await self._receivers.wait()
        left_s = delivery.until_s - now_s()
        if delivery.done.done() or left_s <= 0:
            return
        properties = None
        if self._settings.protocol == "5":
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = math.ceil(left_s)
        await client.publish(delivery.topic, delivery.payload, 1, properties=properties)
        delivery.settle(acknowledged=True)


class _Inbox(asyncio.Queue[aiomqtt.Message]):
    """aiomqtt's queue of incoming messages. It dispatches each at once.

    A real queue costs a task for each message, and loses acknowledged messages when the connection ends.
    """

    def __init__(self, maxsize: int = 0, *, dispatch: Callable[[str, bytes, bool], None]) -> None:
        super().__init__(maxsize)
        self._dispatch = dispatch

    def put_nowait(self, item: aiomqtt.Message) -> None:
        """Dispatch a message."""
        self._dispatch(item.topic.value, item.payload, item.retain)


async def _until_lost(client: aiomqtt.Client) -> None:
    """Wait for the end of a connection, and raise its reason."""
    async for _ in client.messages:
        pass


async def _leave(client: aiomqtt.Client) -> None:
    """Disconnect, and retrieve the reason of an earlier end: asyncio logs an exception that is never retrieved."""
    with contextlib.suppress(aiomqtt.MqttError):
        await client.__aexit__(None, None, None)
        await _until_lost(client)  # not after an error: a time-out has cancelled the future that has the reason


async def _uninterrupted(work: Coroutine[Any, Any, object]) -> None:
    """Await the beginning or the end of a connection. A cancellation waits for it, and is not lost.

    aiomqtt cannot be left while it connects, in a thread and then until CONNACK. Its asyncio.wait_for may swallow a
    cancellation before Python 3.12.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait((task,))
        task.result()
    finally:
        await asyncio.wait((task,), timeout=CONNACK_TIMEOUT_S + 1.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
