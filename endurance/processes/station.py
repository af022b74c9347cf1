"""Stations of real processes, and EVerest with a real broker: requests, answers, live values, heartbeats."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from endurance.invariants import broken
from endurance.meter import Meter, Serving
from endurance.plan import EVSE_ID, SERVICE, start_request
from endurance.station import Call, Station
from iem_dcr.simulator import SimulatorOptions, SimulatorServer

if TYPE_CHECKING:
    from contextlib import AsyncExitStack
    from pathlib import Path

CALM_S: Final = 100.0
"""How long a station waits at the end for a session that succeeds, as in the simulation."""
SILENT_AT_START_S: Final = 0.2
"""No process publishes anything this soon after its start: earlier messages are from the previous process."""
QUICK: Final = {"load_delay_s": 0.05, "charge_s": 0.3, "signing_delay_s": 0.15}


@dataclass(slots=True)
class ProcessRecord:
    """One process of ours. ``back_s`` is the time in seconds from its start to its first value."""

    number: int
    began_s: float
    back_s: float | None = None
    failures: tuple[str, ...] = ()


class RealStation(Station):
    """One station of real processes, with a meter that charges and signs quickly. Its times are those of
    `time.monotonic`.

    Attributes:
        value_s: time of the last live value.
    """

    everest: EverestMqtt

    def __init__(self, name: str, serial: str, kind: str = SERVICE, *, journal: bool = True, **options: Any) -> None:
        counts: Counter[str] = Counter()
        simulated: dict[str, Any] = QUICK | options
        meter = Meter(SimulatorOptions(MS=serial, **simulated), time.monotonic, counts, self._owner_of)
        super().__init__(name, kind, meter, counts, journal=journal)
        self.processes: list[ProcessRecord] = []
        self.address = "127.0.0.1", 0
        self.value_s = 0.0
        self._ids = itertools.count(1)

    def host_at(self, at_s: float) -> datetime:
        return datetime.now(UTC) - timedelta(seconds=time.monotonic() - at_s)

    async def serve_meter(self, stack: AsyncExitStack, host: str = "127.0.0.1") -> None:
        """Serve the meter at a free port of ``host`` until the stack ends."""
        self.address = host, (await stack.enter_async_context(SimulatorServer(self.meter, host))).port

    def settings(self, journal: Path) -> dict[str, object]:
        host, port = self.address
        kept = {"journal_path": str(journal) if self.journal else "off"}
        return {"ip_address": host, "port_http": port, "CI": EVSE_ID, **kept}

    # --- its process ---

    def process_starts(self) -> ProcessRecord:
        self.processes.append(ProcessRecord(len(self.processes), time.monotonic()))
        self.note(f"process {self.processes[-1].number} starts")
        return self.processes[-1]

    @property
    def _process_number(self) -> int:
        """The number of the process that sends messages now."""
        last = self.processes[-1]
        return last.number if time.monotonic() > last.began_s + SILENT_AT_START_S else max(0, last.number - 1)

    def on_value(self, value: dict[str, Any], at_s: float | None = None) -> None:
        super().on_value(value)
        self.value_s = at_s or time.monotonic()
        process = self.processes[-1]
        if process.back_s is None and self.value_s > process.began_s + SILENT_AT_START_S:
            process.back_s = self.value_s - process.began_s

    # --- commands ---

    def new_id(self) -> str:
        return f"{self.name}-{next(self._ids)}"

    def start(self, request: dict[str, Any]) -> Call:
        """Start a transaction with a unique card, which identifies its owner."""
        card = f"04{self.name.encode().hex()}{len(self.calls):06}"
        return super().start(request | {"identification_data": card})

    def _owner_of(self, card: str) -> Serving | None:
        for call in self.calls if card else ():
            if call.request.get("identification_data") == card:
                return Serving(call.transaction_id, self._process_number)
        return None

    def _send(self, call: Call, payload: Any) -> None:
        call.asked_s, call.process = time.monotonic(), self._process_number
        self.everest.publish(*self._message(call, payload))

    def on_answer(self, call: Call, answer: dict[str, Any]) -> None:
        """Record an answer. A broker may deliver a request again to the next process."""
        now_s, process = time.monotonic(), self.processes[self._process_number]
        is_of_later_process = process.number != call.process
        if is_of_later_process:
            self.meter.note_interference(call.asked_s or now_s, process.began_s, now_s)  # both may have acted on it
        if call.answer is None:
            call.process, call.asked_s = process.number, max(call.asked_s or now_s, process.began_s)
        elif not call.ok or answer["status"] != "OK":
            return
        super().on_answer(call, answer)

    async def last_session(self) -> None:
        """Run sessions until one succeeds, for at most 100 s. The last one counts as free of faults."""
        deadline_s = time.monotonic() + CALM_S
        is_over = False
        while not is_over:
            calls = await self.session(start_request(self.new_id(), ""), 1.5)
            is_over = all(call.ok for call in calls) or time.monotonic() > deadline_s
        for call in calls:
            call.fresh = True
        self.running_at_end = self.meter.open_transaction

    # --- results ---

    def judge(self, journal: Path) -> list[str]:
        """Read the journal, write a chronicle beside it, and return every broken promise."""
        self.read_journal(journal)
        journal.with_name(f"{self.name}.txt").write_text(self.chronicle(), "utf-8")
        return broken(self)


class EverestMqtt:
    """EVerest's connection to a broker. It reconnects by itself and then sends the requests that waited."""

    def __init__(self, port: int) -> None:
        self.stations: dict[str, RealStation] = {}
        self.address = "127.0.0.1", port
        self._client = paho.Client(CallbackAPIVersion.VERSION2)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        subscribed = asyncio.Event()

        # paho calls these in its own thread
        def on_connect(*_: object) -> None:
            self._client.subscribe([("everest_api/1/powermeter/+/m2e/#", 0), ("everest/reply/#", 1)])

        def on_message(_client: object, _data: object, message: paho.MQTTMessage) -> None:
            loop.call_soon_threadsafe(self._take, message.topic, bytes(message.payload))

        def on_subscribe(*_: object) -> None:
            loop.call_soon_threadsafe(subscribed.set)

        self._client.on_connect, self._client.on_message = on_connect, on_message
        self._client.on_subscribe = on_subscribe
        self._client.reconnect_delay_set(1, 1)
        self._client.connect_async(*self.address)
        self._client.loop_start()
        async with asyncio.timeout(30):
            await subscribed.wait()
        self._heartbeat = asyncio.create_task(self._send_heartbeats())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._heartbeat.cancel()
        await asyncio.wait({self._heartbeat})
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def add(self, station: RealStation) -> None:
        """Send the station's commands, and record what its power meter publishes."""
        self.stations[station.name] = station
        station.everest = self

    def publish(self, topic: str, message: bytes, qos: int = 1) -> None:
        self._client.publish(topic, message, qos=qos)

    def _take(self, topic: str, payload: bytes) -> None:
        for name in topic.split("/"):
            if name in self.stations:
                self.stations[name].on_message(topic, payload)

    async def _send_heartbeats(self) -> None:
        for number in itertools.count(1):
            for station in self.stations.values():
                if self._client.is_connected():
                    self.publish(station.topics.heartbeat, str(number).encode(), qos=0)
            await asyncio.sleep(1.0)
