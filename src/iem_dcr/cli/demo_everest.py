"""The meter of ``iem-dcr demo``: both sides of EVerest's MQTT API in one process.

On one side of the broker is the API client with its driver, as in ``iem-dcr run``. On the other side is EVerest's part:
it starts, sends heartbeats, receives what the power meter publishes, and requests transactions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import aiomqtt

from iem_dcr.errors import IemDcrError, printable
from iem_dcr.everest_api.meter_api import MeterApi
from iem_dcr.everest_api.mqtt import MqttConnection
from iem_dcr.everest_api.topics import READY_BEACON, Topics
from iem_dcr.powermeter import (
    Powermeter,
    SignedMeterValue,
    TransactionReq,
    TransactionRequestStatus,
    TransactionStartResponse,
    TransactionStopResponse,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from iem_dcr.cli.charging import Session
    from iem_dcr.config import Settings
    from iem_dcr.device.messages import MeterValue
    from iem_dcr.driver import KeptReceipt, Station
    from iem_dcr.everest_api.mqtt_settings import MqttSettings
    from iem_dcr.service.observation import ObservedMeter

T = TypeVar("T")

HEARTBEAT_EVERY_S: Final = 1.0
"""EVerest's default of cfg_heartbeat_interval_ms."""
REPLY_TIMEOUT_S: Final = 120.0
"""The value of cfg_request_reply_to_s that docs/everest-api.md recommends."""
RECONNECT_EVERY_S: Final = 1.0

_log = logging.getLogger(__name__)
_client_log = logging.getLogger(f"{__name__}.client")
_client_log.setLevel(logging.CRITICAL + 1)  # aiomqtt logs every lost connection as an error
_NOT_UNDERSTOOD = (ValueError, TypeError, AttributeError, KeyError, ArithmeticError, RecursionError)
"""Errors of reading a message that is not the API's: any client may publish on a broker."""


class MeterBehindEverest:
    """The meter of the demo's sessions: a `charging.PowerMeter`.

    Args:
        settings: of the meter.
        mqtt: connection settings of the broker.
        module_id: distinguishes this demo from others at the same broker.
        observed: observes the driver, for the page.
    """

    def __init__(self, settings: Settings, mqtt: MqttSettings, module_id: str, observed: ObservedMeter) -> None:
        self._bus = MqttConnection(mqtt, identity=f"iem-dcr-{module_id}")
        self._api = MeterApi(module_id, settings, self._bus, sink=self, observer=observed)
        self._everest = DemoEverest(mqtt, module_id)
        self._observed = observed
        self._view: Session | None = None
        observed.attach(self._api.driver, module_id)

    @property
    def address(self) -> str:
        """Address of the meter, ``host:port``."""
        return self._api.driver.address

    @property
    def value(self) -> MeterValue | None:
        """The last live value, as the meter gave it. EVerest receives only a part of it."""
        return self._api.driver.value

    @property
    def public_key(self) -> str:
        """The public key that EVerest has received."""
        return self._everest.public_key

    def begin_session(self, view: Session) -> None:
        """From now on pass to a view the receipts and what EVerest receives."""
        self._view = self._everest.station = view

    async def keep(self, kept: KeptReceipt) -> None:
        """Pass a receipt of the driver to the page and to the session."""
        await self._observed.keep(kept)
        if self._view is not None:
            await self._view.keep(kept)

    async def probe(self) -> None:
        """Check that the broker can be used.

        Raises:
            BrokerError: the broker cannot be used.
        """
        await self._bus.probe()

    async def connected(self, timeout_s: float) -> None:
        """Wait for EVerest's connection or the time-out. aiomqtt fails if it is cancelled before it is connected."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._everest.connected.wait()

    async def run(self) -> None:
        """Run both sides until cancelled."""
        async with asyncio.TaskGroup() as group:
            for side in (self._bus, self._everest, self._api):
                group.create_task(side.run())

    async def start_transaction(self, request: TransactionReq) -> TransactionStartResponse:
        """Make EVerest begin a transaction."""
        return await self._everest.start_transaction(request)

    async def stop_transaction(self, transaction_id: str) -> TransactionStopResponse:
        """Make EVerest end a transaction."""
        return await self._everest.stop_transaction(transaction_id)


class DemoEverest:
    """EVerest with one module ``powermeter_API``.

    Args:
        mqtt: connection settings of the broker.
        module_id: of the module.

    Attributes:
        station: receives what the power meter publishes.
        public_key: the key that the power meter published last, as hex of DER; "" before the first.
        connected: set while connected to the broker.
    """

    def __init__(self, mqtt: MqttSettings, module_id: str) -> None:
        self.station: Station | None = None
        self.public_key = ""
        self._mqtt = mqtt
        self._module_id = module_id
        self._topics = Topics(module_id)
        self._client: aiomqtt.Client | None = None
        self.connected = asyncio.Event()
        self._replies: dict[str, asyncio.Future[bytes]] = {}

    async def run(self) -> None:
        """Act as an EVerest that has just started, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stay_connected())
            await self._publish(READY_BEACON, value=True)
            for beat in count():
                await self._publish(self._topics.heartbeat, beat)
                await asyncio.sleep(HEARTBEAT_EVERY_S)

    async def start_transaction(self, request: TransactionReq) -> TransactionStartResponse:
        """Ask the power meter to begin a transaction.

        Raises:
            IemDcrError: there is no reply, or it cannot be understood.
        """
        payload = {key: value for key, value in asdict(request).items() if value is not None}
        return await self._ask(self._topics.start, payload, _start_response)

    async def stop_transaction(self, transaction_id: str) -> TransactionStopResponse:
        """Ask the power meter to end a transaction. The payload is a plain text, as EVerest sends it.

        Raises:
            IemDcrError: there is no reply, or it cannot be understood.
        """
        return await self._ask(self._topics.stop, transaction_id, _stop_response)

    async def _ask(self, topic: str, payload: object, read: Callable[[Any], T]) -> T:
        reply_to = f"{topic}/reply/{uuid.uuid4().hex[:12]}"
        self._replies[reply_to] = reply = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                await self._publish(topic, {"headers": {"replyTo": reply_to}, "payload": payload}, qos=1)
                return read(json.loads(await reply))
        except TimeoutError as error:
            raise IemDcrError(f"no reply to {topic} within {REPLY_TIMEOUT_S:g} s") from error
        except _NOT_UNDERSTOOD as error:
            raise IemDcrError(f"the reply to {topic} was not understood: {printable(repr(error))}") from error
        finally:
            del self._replies[reply_to]

    async def _publish(self, topic: str, value: object, *, qos: int = 0) -> None:
        """Publish when connected, and again if the connection is lost. A repeated request is carried out once."""
        while True:
            await self.connected.wait()
            try:
                if self._client is not None:
                    await self._client.publish(topic, json.dumps(value, separators=(",", ":")), qos)
            except aiomqtt.MqttError:
                await asyncio.sleep(RECONNECT_EVERY_S)
            else:
                return

    async def _stay_connected(self) -> NoReturn:
        ours = self._topics
        topics = (ours.values, ours.key, f"{ours.start}/reply/+", f"{ours.stop}/reply/+")
        while True:
            try:
                async with self._connection() as client:
                    await client.subscribe([(topic, 1) for topic in topics])
                    self._client = client
                    self.connected.set()
                    async for message in client.messages:
                        self._take(message.topic.value, message.payload)
            except aiomqtt.MqttError as error:
                _log.info("the demo's EVerest has no connection to the broker: %s", printable(error))
            finally:
                self.connected.clear()
            await asyncio.sleep(RECONNECT_EVERY_S)

    def _connection(self) -> aiomqtt.Client:
        return aiomqtt.Client(
            self._mqtt.host,
            self._mqtt.port,
            username=self._mqtt.user,
            password=self._mqtt.password,
            tls_context=self._mqtt.tls_context(),
            protocol=aiomqtt.ProtocolVersion.V311,
            identifier=f"everest-{self._module_id}",
            logger=_client_log,
        )

    def _take(self, topic: str, message: bytes) -> None:
        reply = self._replies.get(topic)
        if reply is not None and not reply.done():
            reply.set_result(message)
        try:
            if topic == self._topics.values and self.station is not None:
                self.station.publish_powermeter(_powermeter(json.loads(message, parse_float=Decimal)))
            elif topic == self._topics.key:
                self.public_key = bytes.fromhex(json.loads(message)).hex()
        except _NOT_UNDERSTOOD as error:
            _log.warning("a message on %s was not understood: %s", topic, printable(repr(error)))


def _start_response(reply: Any) -> TransactionStartResponse:  # noqa: ANN401  decoded JSON
    return TransactionStartResponse(TransactionRequestStatus(reply["status"]), reply.get("error", ""))


def _stop_response(reply: Any) -> TransactionStopResponse:  # noqa: ANN401  decoded JSON
    signed = reply.get("signed_meter_value")
    value = signed and SignedMeterValue(signed["signed_meter_data"], signed.get("public_key", ""), timestamp=None)
    return TransactionStopResponse(TransactionRequestStatus(reply["status"]), value, reply.get("error", ""))


def _powermeter(value: Any) -> Powermeter:  # noqa: ANN401  decoded JSON
    return Powermeter(
        timestamp=datetime.fromisoformat(value["timestamp"]).astimezone(),
        meter_id=value["meter_id"],
        energy_wh_import=Decimal(value["energy_Wh_import"]["total"]),
        energy_wh_export=None,
        power_w=Decimal(value["power_W"]["total"]),
        voltage_v=Decimal(value["voltage_V"]["DC"]),
        current_a=Decimal(value["current_A"]["DC"]),
    )
