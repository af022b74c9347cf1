"""The EVerest of ``iem-dcr demo``: both sides of EVerest's MQTT API in one process, on one connection to the broker.

On one side of the broker is the API client with its driver, as in ``iem-dcr run``. On the other side is EVerest's part:
it starts, sends heartbeats, receives what the power meter publishes, and requests transactions.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from iem_dcr.errors import IemDcrError
from iem_dcr.everest_api.meter_api import MeterApi
from iem_dcr.everest_api.mqtt import MqttConnection
from iem_dcr.everest_api.topics import READY_BEACON
from iem_dcr.powermeter import (
    Powermeter,
    SignedMeterValue,
    TransactionReq,
    TransactionRequestStatus,
    TransactionStartResponse,
    TransactionStopResponse,
)
from iem_dcr.service.observation import ObservedMeter
from iem_dcr.service.web_settings import WebSettings
from iem_dcr.web.server import WebServer

if TYPE_CHECKING:
    from iem_dcr.cli.charging import Session
    from iem_dcr.config import Settings
    from iem_dcr.everest_api.mqtt_settings import MqttSettings

HEARTBEAT_EVERY_S: Final = 1.0
"""EVerest's default of cfg_heartbeat_interval_ms."""
REPLY_TIMEOUT_S: Final = 120.0
"""The value of cfg_request_reply_to_s that docs/everest-api.md recommends."""
PAGE_STATUS: Final = "This is the demo: the meter is simulated"


class DemoEverest:
    """EVerest with one meter, whose bring-up page is on a free loopback port.

    ``module_id`` distinguishes this demo from others at the same broker. ``view`` shows the live values that EVerest
    receives.
    """

    def __init__(self, settings: Settings, mqtt: MqttSettings, module_id: str) -> None:
        observed = ObservedMeter(settings, module_id, f"{settings.ip_address}:{settings.port_http}")
        self.page = WebServer(WebSettings("127.0.0.1:0"), [observed], lambda: PAGE_STATUS)
        self.bus = MqttConnection(mqtt, identity=f"iem-dcr-{module_id}")
        self._api = MeterApi(module_id, settings, self.bus, sink=observed, observer=observed)
        self.driver = self._api.driver
        self.view: Session | None = None
        self._connected = asyncio.Event()
        observed.attach(self.driver)
        self.bus.on_connected(self._connected.set)
        self.bus.subscribe(self._api.topics.values, self._take_value)

    async def run(self) -> None:
        """Run both sides and the page until cancelled. EVerest has just started."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.page.run())
            group.create_task(self.bus.run())
            group.create_task(self._api.run())
            await self._connected.wait()
            self.bus.offer(READY_BEACON, b"true", good_for_s=HEARTBEAT_EVERY_S)
            for beat in count():
                self.bus.offer(self._api.topics.heartbeat, str(beat).encode(), good_for_s=HEARTBEAT_EVERY_S)
                await asyncio.sleep(HEARTBEAT_EVERY_S)

    async def start_transaction(self, request: TransactionReq) -> TransactionStartResponse:
        """Make EVerest begin a transaction.

        Raises:
            IemDcrError: there is no reply.
        """
        payload = {key: value for key, value in asdict(request).items() if value is not None}
        reply = await self._ask(self._api.topics.start, payload)
        return TransactionStartResponse(TransactionRequestStatus(reply["status"]), reply.get("error", ""))

    async def stop_transaction(self, transaction_id: str) -> TransactionStopResponse:
        """Make EVerest end a transaction. The payload is a plain text, as EVerest sends it.

        Raises:
            IemDcrError: there is no reply.
        """
        reply = await self._ask(self._api.topics.stop, transaction_id)
        signed = reply.get("signed_meter_value")
        value = signed and SignedMeterValue(signed["signed_meter_data"], signed.get("public_key", ""), timestamp=None)
        return TransactionStopResponse(TransactionRequestStatus(reply["status"]), value, reply.get("error", ""))

    async def _ask(self, topic: str, payload: object) -> Any:  # noqa: ANN401  decoded JSON
        reply_to = f"{topic}/reply/{uuid.uuid4().hex[:12]}"
        replies: asyncio.Queue[bytes] = asyncio.Queue()

        def take(message: bytes, _retained: bool) -> None:
            replies.put_nowait(message)

        self.bus.subscribe(reply_to, take)
        request = json.dumps({"headers": {"replyTo": reply_to}, "payload": payload}, separators=(",", ":"))
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                await self.bus.deliver(topic, request.encode(), within_s=REPLY_TIMEOUT_S)
                return json.loads(await replies.get())
        except TimeoutError as error:
            raise IemDcrError(f"no reply to {topic} within {REPLY_TIMEOUT_S:g} s") from error
        finally:
            self.bus.unsubscribe(reply_to, take)

    def _take_value(self, message: bytes, _retained: bool) -> None:
        value = json.loads(message, parse_float=Decimal)
        if self.view is not None:
            self.view.publish_powermeter(
                Powermeter(
                    timestamp=datetime.fromisoformat(value["timestamp"]).astimezone(),
                    meter_id=value["meter_id"],
                    energy_wh_import=Decimal(value["energy_Wh_import"]["total"]),
                    energy_wh_export=None,
                    power_w=Decimal(value["power_W"]["total"]),
                    voltage_v=Decimal(value["voltage_V"]["DC"]),
                    current_a=Decimal(value["current_A"]["DC"]),
                )
            )
