"""EVerest's part of the power meter API, played: one of its modules ``powermeter_API``, and who charges behind it."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar

from iem_dcr.driver.meter_state import COMMUNICATION_FAULT
from iem_dcr.errors import IemDcrError, printable
from iem_dcr.everest_api.discovery import TYPE
from iem_dcr.everest_api.envelope import EnvelopeError, read_request
from iem_dcr.everest_api.topics import QUERY_MODULES, READY_BEACON, Topics
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

    from iem_dcr.driver.ports import Station
    from iem_dcr.everest_api.bus import Bus

T = TypeVar("T")

_log = logging.getLogger(__name__)

HEARTBEAT_EVERY_S: Final = 1.0
"""EVerest's cfg_heartbeat_interval_ms as it is by default."""
CHECK_WITHIN_S: Final = 15.0
"""cfg_communication_check_to_s as it is recommended for this meter."""
REPLY_WITHIN_S: Final = 120.0
"""cfg_request_reply_to_s as it is recommended for this meter."""
ANSWER_WITHIN_S: Final = 1.0
"""How long whoever asks which modules there are waits for their answers."""
MOST_ANSWERS: Final = 16

_NOT_UNDERSTOOD = (ValueError, TypeError, AttributeError, KeyError, ArithmeticError, RecursionError)
"""What reading a message raises that is none of the API's."""


class _NoReplyError(IemDcrError):
    """A request had no reply that means anything; the message is the reason."""


@dataclass(frozen=True, slots=True)
class _Reply:
    """A reply to come: its topic, which is listened on, and its payload."""

    topic: str
    payload: asyncio.Future[bytes]

    def take(self, message: bytes, _retained: bool) -> None:
        if not self.payload.done():
            self.payload.set_result(message)


class EverestPlayer:
    """One module ``powermeter_API`` on a bus.

    Args:
        module_id: of the module.
        bus: to the power meter.
        station: is told what the power meter publishes, and that nothing is heard of it.

    Attributes:
        topics: of the module.
        public_key: what the power meter published last: hex of DER; "" before it did.
    """

    def __init__(self, module_id: str, bus: Bus, station: Station) -> None:
        self.topics = Topics(module_id)
        self.public_key = ""
        self._module_id = module_id
        self._bus = bus
        self._station = station
        self._beats = 0
        self._heard_s = 0.0
        self._is_watched = True
        self._is_away = False
        self._answers: set[asyncio.Task[bool]] = set()
        self._next_replies: dict[str, _Reply] = {}

    async def run(self) -> None:
        """Be the module until cancelled: it has just started, its heart beats, and it watches the power meter."""
        handlers = (
            (self.topics.values, self._take_value),
            (self.topics.key, self._take_key),
            (self.topics.check, self._take_check),
            (QUERY_MODULES, self._take_question),
        )
        for topic, handler in handlers:
            self._bus.subscribe(topic, handler)
        for topic in (self.topics.start, self.topics.stop):
            self._next_replies[topic] = self._listen(topic)
        try:
            await connected(self._bus)
            self._heard_s = asyncio.get_running_loop().time()
            self._bus.offer(READY_BEACON, _json(value=True), good_for_s=CHECK_WITHIN_S)
            while True:
                self._bus.offer(self.topics.heartbeat, _json(self._beats), good_for_s=HEARTBEAT_EVERY_S)
                self._beats += 1
                self._notice_absence()
                await asyncio.sleep(HEARTBEAT_EVERY_S)
        finally:
            for topic, handler in handlers:
                self._bus.unsubscribe(topic, handler)
            for reply in self._next_replies.values():
                self._bus.unsubscribe(reply.topic, reply.take)
            self._next_replies.clear()
            for task in self._answers:
                task.cancel()

    async def start_transaction(self, request: TransactionReq) -> TransactionStartResponse:
        """Ask the power meter to begin a transaction."""
        payload = {key: value for key, value in asdict(request).items() if value is not None}
        try:
            return await self._ask(self.topics.start, payload, _start_response)
        except _NoReplyError as error:
            return TransactionStartResponse(TransactionRequestStatus.UNEXPECTED_ERROR, str(error))

    async def stop_transaction(self, transaction_id: str) -> TransactionStopResponse:
        """Ask the power meter to end a transaction. The payload is a plain text, as EVerest sends it."""
        try:
            return await self._ask(self.topics.stop, transaction_id, _stop_response)
        except _NoReplyError as error:
            return TransactionStopResponse(TransactionRequestStatus.UNEXPECTED_ERROR, error=str(error))

    # --- requests ---

    async def _ask(self, topic: str, payload: object, read: Callable[[Any], T]) -> T:
        # Its topic was subscribed before the last request went out: a reply may come faster than an acknowledgement.
        reply = self._next_replies.pop(topic, None) or self._listen(topic)
        self._next_replies[topic] = self._listen(topic)
        try:
            async with asyncio.timeout(REPLY_WITHIN_S):
                request = _json({"headers": {"replyTo": reply.topic}, "payload": payload})
                await self._bus.deliver(topic, request, within_s=REPLY_WITHIN_S)
                return read(json.loads(await reply.payload))
        except TimeoutError as error:
            raise _NoReplyError(f"no reply to {topic} within {REPLY_WITHIN_S:g} s") from error
        except _NOT_UNDERSTOOD as error:
            raise _NoReplyError(f"the reply to {topic} was not understood: {printable(repr(error))}") from error
        finally:
            self._bus.unsubscribe(reply.topic, reply.take)

    def _listen(self, topic: str) -> _Reply:
        reply = _Reply(f"{topic}/reply/{uuid.uuid4().hex[:12]}", asyncio.get_running_loop().create_future())
        self._bus.subscribe(reply.topic, reply.take)
        return reply

    # --- what the power meter publishes ---

    def _take_value(self, message: bytes, _retained: bool) -> None:
        try:
            value = _powermeter(json.loads(message, parse_float=Decimal, parse_int=Decimal))
        except _NOT_UNDERSTOOD as error:
            _log.warning("a value on %s was not understood: %s", self.topics.values, printable(repr(error)))
        else:
            self._station.publish_powermeter(value)

    def _take_key(self, message: bytes, _retained: bool) -> None:
        try:
            self.public_key = _text(json.loads(message))
        except _NOT_UNDERSTOOD as error:
            _log.warning("a key on %s was not understood: %s", self.topics.key, printable(repr(error)))
        else:
            self._station.publish_public_key(self.public_key)

    def _take_check(self, message: bytes, _retained: bool) -> None:
        if message == b"false":
            self._is_watched = False
        if message not in (b"true", b"false"):
            _log.warning("a check on %s was not understood: %s", self.topics.check, printable(message))
            return
        self._heard_s = asyncio.get_running_loop().time()
        if self._is_away:
            self._is_away = False
            self._station.clear_error(COMMUNICATION_FAULT)

    def _notice_absence(self) -> None:
        silent_s = asyncio.get_running_loop().time() - self._heard_s
        if self._is_watched and not self._is_away and silent_s > CHECK_WITHIN_S:
            self._is_away = True
            self._station.raise_error(COMMUNICATION_FAULT)

    # --- discovery ---

    def _take_question(self, message: bytes, retained: bool) -> None:
        try:
            reply_to = read_request(message).reply_to
        except EnvelopeError as error:
            reply_to = error.reply_to  # the question has no payload, and need not be a request
        if reply_to is None or retained or len(self._answers) >= MOST_ANSWERS:
            return
        module = {
            "type": TYPE,
            "module_id": self._module_id,
            "version": 1,
            "communication_monitoring": {
                "heartbeat_period_ms": int(HEARTBEAT_EVERY_S * 1000),
                "communication_check_period_s": int(CHECK_WITHIN_S),
                "request_reply_timeout_s": int(REPLY_WITHIN_S),
            },
        }
        answer = self._bus.deliver(reply_to, _json({"apis": [module]}), within_s=ANSWER_WITHIN_S)
        task = asyncio.ensure_future(answer)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)


async def connected(bus: Bus) -> None:
    """Wait until there is a connection and all subscriptions are acknowledged."""
    arrived = asyncio.Event()
    take_back = bus.on_connected(arrived.set)
    try:
        while not bus.connected:
            arrived.clear()
            await arrived.wait()
    finally:
        take_back()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# --- EVerest's types, read ---


def _powermeter(value: Any) -> Powermeter:  # noqa: ANN401  whatever JSON is
    export = value.get("energy_Wh_export")
    return Powermeter(
        timestamp=datetime.fromisoformat(value["timestamp"]).astimezone(),
        meter_id=_text(value["meter_id"]),
        energy_wh_import=_number(value["energy_Wh_import"]["total"]),
        energy_wh_export=None if export is None else _number(export["total"]),
        power_w=_number(value["power_W"]["total"]),
        voltage_v=_number(value["voltage_V"]["DC"]),
        current_a=_number(value["current_A"]["DC"]),
    )


def _start_response(value: Any) -> TransactionStartResponse:  # noqa: ANN401  as above
    return TransactionStartResponse(TransactionRequestStatus(value["status"]), _text(value.get("error", "")))


def _stop_response(value: Any) -> TransactionStopResponse:  # noqa: ANN401  as above
    signed = value.get("signed_meter_value")
    if signed is not None:
        timestamp = signed.get("timestamp")
        signed = SignedMeterValue(
            signed_meter_data=_text(signed["signed_meter_data"]),
            public_key=_text(signed.get("public_key", "")),
            timestamp=None if timestamp is None else datetime.fromisoformat(timestamp),
        )
    return TransactionStopResponse(
        TransactionRequestStatus(value["status"]), signed_meter_value=signed, error=_text(value.get("error", ""))
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, not a {type(value).__name__}")
    return value


def _number(value: object) -> Decimal:
    if not isinstance(value, Decimal):
        raise TypeError(f"expected a number, not a {type(value).__name__}")
    return value
