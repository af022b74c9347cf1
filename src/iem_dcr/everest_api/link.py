"""One connection to a broker, from CONNECT to its end. The one file that imports an MQTT library.

aiomqtt, and paho beneath it, are made for a client that connects in a thread, waits for each message to be written and
takes messages from a queue. Here they are given a connected socket, many messages are written at once, and what comes
in goes straight to where it belongs; all of it on the loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from iem_dcr.errors import printable
from iem_dcr.everest_api.dialing import BrokerTroubleError, ReadAhead

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    import paho.mqtt.client as paho

    from iem_dcr.everest_api.mqtt_settings import MqttSettings

KEEPALIVE_S: Final = 15
ANSWER_S: Final = 10.0
"""How long the broker may take to answer CONNECT, SUBSCRIBE and a PUBLISH that it has to acknowledge."""
SESSION_S: Final = 30
"""With MQTT 5: how long the broker keeps subscriptions and requests for a client that is away."""

_PACKETS_AT_ONCE = 64
_TAKEN_OVER = 142
_NOBODY_LISTENS = 16
TWICE_HINT: Final = "Is iem-dcr running twice with the same meters? Else give each its own client_id"
_TAKEN_OVER_REASON = f"another client with the same client_id has taken the session over. {TWICE_HINT}"
_REASONS: Mapping[int, tuple[str, bool]] = {
    132: ('it does not speak this version of MQTT: try the other one, protocol = "3.1.1" or "5"', True),
    133: ("it refuses the client_id", True),
    134: ("it refuses user and password", True),
    135: ("it does not let this user connect: see user and password, and its access rules", True),
    136: ("it is not available at the moment", False),
    137: ("it is busy", False),
    138: ("it has banned this client", True),
    139: ("it is shutting down", False),
    141: ("it has heard nothing of this client for too long", False),
    149: ("it does not take messages of that size", False),
    _TAKEN_OVER: (_TAKEN_OVER_REASON, True),
}
"""MQTT 5's reasons of CONNACK and DISCONNECT, and whether they last until somebody changes a setting."""

T = TypeVar("T")


class TakenOverError(BrokerTroubleError):
    """Another client of the same name has taken this one's place."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, lasting=True)


class NobodyListensError(Exception):
    """The broker took a message and has nobody to give it to."""


class LinkLostError(Exception):
    """The connection ended while something was under way on it."""


class Link(aiomqtt.Client):
    """One connection; used once.

    Args:
        settings: of the broker.
        password: as it is now.
        client_id: name of this client at the broker.
        made: a connected socket, which becomes the link's own.
        take: gets topic, payload and retained flag of each message; must not raise.
    """

    def __init__(
        self,
        settings: MqttSettings,
        password: str | None,
        client_id: str,
        made: socket.socket,
        take: Callable[[str, bytes, bool], None],
    ) -> None:
        self._made = ReadAhead(made)
        self._take = take
        self._is_v5 = settings.protocol == "5"
        self._is_tls = settings.tls
        self._errors = _LastError()
        self._waiting: dict[int, tuple[paho.MQTTMessageInfo, asyncio.Future[ReasonCode]]] = {}
        self._drained: asyncio.Future[None] | None = None
        version: dict[str, Any] = {"protocol": aiomqtt.ProtocolVersion.V311, "clean_session": True}
        if self._is_v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = SESSION_S
            version = {"protocol": aiomqtt.ProtocolVersion.V5, "clean_start": False, "properties": properties}
        super().__init__(
            settings.host,
            settings.port,
            username=settings.user,
            password=password,
            identifier=client_id,
            logger=self._errors.logger,
            timeout=ANSWER_S,
            keepalive=KEEPALIVE_S,
            **version,
        )
        self.pending_calls_threshold = 1_000_000
        # paho would connect by itself, and block the loop while it does.
        self._client._create_socket = lambda: self._made  # type: ignore[method-assign]  # noqa: SLF001
        self._take_callbacks()

    # --- From CONNECT to the end ---

    async def open(self) -> None:
        """Send CONNECT and await its answer.

        Raises:
            BrokerTroubleError: it was refused, or did not come; the link is of no more use.
        """
        self._client_connect()
        await asyncio.wait((self._connected,), timeout=ANSWER_S)
        if not self._connected.done():
            hint = 'protocol = "3.1.1" or "5" is for another one'
            raise BrokerTroubleError(
                f"it did not answer within {ANSWER_S:g} s. Is it a broker for this version of MQTT ({hint})?"
            )
        error = self._connected.exception()
        if error is not None:
            raise self._trouble_before_connack(error) from error

    @property
    def gone(self) -> asyncio.Future[None]:
        """Is done once the connection is at its end; to be waited for, not awaited."""
        return self._disconnected

    @property
    def trouble(self) -> BrokerTroubleError:
        """Why the connection is at its end."""
        error = self._disconnected.exception() if self._disconnected.done() else None
        if isinstance(error, aiomqtt.MqttCodeError):
            return self._refused(error.rc) or BrokerTroubleError(self._said_or("the connection broke"))
        return BrokerTroubleError(self._said_or(f"the connection broke ({printable(error)})" if error else "it closed"))

    def break_off(self, reason: str) -> None:
        """End a connection that is of no use any more."""
        self._break(LinkLostError(reason))

    def shut(self) -> None:
        """Send DISCONNECT if that can be done without waiting, and close the socket."""
        with contextlib.suppress(Exception):  # whatever state it is in, the socket is closed below
            self._client.disconnect()
            self._client.loop_write()
        self._let_go()
        self._made.close()
        for future in (self._connected, self._disconnected):
            if future.done() and not future.cancelled():
                future.exception()  # seen, so asyncio does not report it

    # --- What goes out ---

    async def subscribe_all(self, topics: Mapping[str, int]) -> list[tuple[str, str]]:
        """Subscribe to topics, each with its QoS, in one packet.

        Returns:
            Topic and reason of each that the broker refused.

        Raises:
            LinkLostError: the link ended, or the broker did not answer.
        """
        wanted: Any
        if self._is_v5:
            # Retained messages come with a new subscription, not with every reconnection.
            wanted = [
                (topic, SubscribeOptions(qos=qos, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB))
                for topic, qos in topics.items()
            ]
        else:
            wanted = list(topics.items())
        codes = await self._answered(self.subscribe(wanted), "SUBSCRIBE")
        return [
            (topic, str(code))
            for topic, code in zip(topics, codes, strict=False)
            if isinstance(code, ReasonCode) and code.is_failure
        ]

    async def unsubscribe_all(self, topics: Iterable[str]) -> None:
        """Take subscriptions back, in one packet.

        Raises:
            LinkLostError: the link ended, or the broker did not answer.
        """
        await self._answered(self.unsubscribe(list(topics)), "UNSUBSCRIBE")

    async def send(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Write messages at QoS 0; comes back when the kernel has all of them.

        Raises:
            LinkLostError: the link ended before.
        """
        for topic, payload in messages:
            if self._client.publish(topic, payload, 0).rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise LinkLostError
        self._write()
        while self._client.want_write():
            self._drained = self._loop.create_future()
            await asyncio.wait((self._drained, self._disconnected), return_when=asyncio.FIRST_COMPLETED)
            self._check()

    async def send_acknowledged(self, topic: str, payload: bytes, *, good_for_s: float) -> str | None:
        """Publish at QoS 1 and await the acknowledgement.

        Args:
            topic: where to.
            payload: what.
            good_for_s: after that the broker need not pass it on any more (MQTT 5 only).

        Returns:
            None when it is acknowledged, or why the broker refused it.

        Raises:
            LinkLostError: the link ended before, or there was no acknowledgement for too long, which ends it.
            NobodyListensError: the broker says that nobody has subscribed to the topic (some do, with MQTT 5).
        """
        properties = None
        if self._is_v5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = max(1, math.ceil(good_for_s))
        info = self._client.publish(topic, payload, 1, properties=properties)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise LinkLostError
        answer: asyncio.Future[ReasonCode] = self._loop.create_future()
        self._waiting[info.mid] = info, answer
        # Without it paho makes no objects to call it with, which for values at QoS 0 is a third of the work.
        self._client.on_publish = lambda _client, _data, mid, code, _properties: self._acknowledged(mid, code)
        try:
            self._write()
            await asyncio.wait((answer, self._disconnected), timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.pop(info.mid, None)
            if not self._waiting:
                self._client.on_publish = None
        if answer.done():
            if answer.result().value == _NOBODY_LISTENS:
                raise NobodyListensError
            return str(answer.result()) if answer.result().is_failure else None
        self._check()
        reason = f"it did not acknowledge a message within {ANSWER_S:g} s"
        self.break_off(reason)
        raise LinkLostError(reason)

    async def _answered(self, question: Coroutine[Any, Any, T], name: str) -> T:
        # A task of its own: asyncio.wait_for, with which aiomqtt waits, may swallow being cancelled before Python 3.12.
        asking = self._loop.create_task(question)
        try:
            await asyncio.wait((asking, self._disconnected), return_when=asyncio.FIRST_COMPLETED)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        self._check()
        try:
            return asking.result()
        except aiomqtt.MqttError as error:
            reason = f"it did not answer {name} within {ANSWER_S:g} s"
            self.break_off(reason)
            raise LinkLostError(reason) from error

    def _check(self) -> None:
        if self._disconnected.done():
            raise LinkLostError

    # --- The socket, in place of aiomqtt's way through other threads ---

    def _write(self) -> None:
        try:
            self._client.loop_write()
        except Exception as error:  # noqa: BLE001  paho raises whatever it stumbles on; the connection is broken then
            self._break(error)

    def _read(self) -> None:
        try:
            for _ in range(_PACKETS_AT_ONCE):
                if self._client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS or not self._made.is_ahead:
                    return
        except Exception as error:  # noqa: BLE001  as above
            self._break(error)
            return
        self._loop.call_soon(self._read)  # after everybody else's turn

    def _break(self, error: Exception) -> None:
        for future in (self._connected, self._disconnected):
            if not future.done():
                future.set_exception(error)
                return

    async def _misc_loop(self) -> None:
        try:
            while self._client.loop_misc() == MQTTErrorCode.MQTT_ERR_SUCCESS:  # noqa: ASYNC110  paho wants to be asked
                await asyncio.sleep(1)
        except Exception as error:  # noqa: BLE001  as above
            self._break(error)

    # --- What paho calls ---

    def _take_callbacks(self) -> None:
        """Have paho call this instead of aiomqtt, for all but the answers to CONNECT, SUBSCRIBE and UNSUBSCRIBE."""
        client = self._client
        client.on_socket_open = lambda *_: self._opened()
        client.on_socket_close = lambda *_: self._let_go()
        client.on_socket_register_write = lambda *_: self._loop.add_writer(self._made, self._write)
        client.on_socket_unregister_write = lambda *_: self._wrote()
        client.on_message = lambda _client, _data, message: self._took(message)
        client.on_disconnect = lambda _client, _data, _flags, code, _properties: self._ended(code)
        client.on_publish = None

    def _opened(self) -> None:
        self._loop.add_reader(self._made, self._read)
        self._misc_task = self._loop.create_task(self._misc_loop())

    def _let_go(self) -> None:
        if self._made.fileno() >= 0:
            self._loop.remove_reader(self._made)
            self._loop.remove_writer(self._made)
        if self._misc_task is not None:
            self._misc_task.cancel()

    def _wrote(self) -> None:
        if self._made.fileno() >= 0:
            self._loop.remove_writer(self._made)
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _took(self, message: paho.MQTTMessage) -> None:
        with contextlib.suppress(UnicodeDecodeError):  # of a topic that is none
            self._take(message.topic, bytes(message.payload), message.retain)

    def _acknowledged(self, mid: int, code: ReasonCode) -> None:
        # paho calls it for messages at QoS 0 too, which take their numbers from the same circle.
        if mid in self._waiting:
            self._loop.call_soon(self._settle, mid, code)

    def _settle(self, mid: int, code: ReasonCode) -> None:
        info, answer = self._waiting.get(mid, (None, None))
        if info is not None and answer is not None and info.is_published() and not answer.done():
            answer.set_result(code)

    def _ended(self, code: ReasonCode) -> None:
        self._break(aiomqtt.MqttCodeError(code))

    # --- Reasons ---

    def _trouble_before_connack(self, error: BaseException) -> BrokerTroubleError:
        refused = self._refused(error.rc) if isinstance(error, aiomqtt.MqttCodeError) else None
        if refused is not None:
            return refused
        if isinstance(error, MqttConnectError):
            return BrokerTroubleError(f"it refuses the connection ({printable(error)})")
        if self._is_tls:
            return BrokerTroubleError(
                self._said_or("it closed the connection") + ". Does it want a client certificate (cert_file, key_file)?"
            )
        hint = "Is TLS wanted on that port, or another version of MQTT?"
        return BrokerTroubleError(f"{self._said_or('it closed the connection without an answer')}. {hint}")

    @staticmethod
    def _refused(code: int | ReasonCode | None) -> BrokerTroubleError | None:
        if not isinstance(code, ReasonCode) or code.value not in _REASONS:
            return None
        reason, lasting = _REASONS[code.value]
        return TakenOverError(reason) if code.value == _TAKEN_OVER else BrokerTroubleError(reason, lasting=lasting)

    def _said_or(self, otherwise: str) -> str:
        return f"the connection broke ({self._errors.text})" if self._errors.text else otherwise


class _LastError(logging.Handler):
    """Keeps the last error that paho would have logged: it tells it to nobody else. The rest of its log is dropped."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""
        self.logger = logging.Logger("mqtt", logging.ERROR)  # noqa: LOG001  one for each link, outside of the tree
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.text = printable(record.getMessage())
