"""EVerest's part for benchmarks/fleet.py: sends heartbeats, and records when values and communication checks arrive."""

from __future__ import annotations

import json
import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from iem_dcr.everest_api.topics import Topics

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ON_TIME_S = 0.1
POLL_S = 0.02
SLICES = 50
"""Parts of a second over which the heartbeats are spread."""


class Everest:
    """EVerest as a client of the broker, with threads of its own. It records the arrivals since the last `expect`.

    Attributes:
        checked: time of the first communication check of each meter, by `time.monotonic`.
        valued: time of the first value of each meter.
    """

    def __init__(self, port: int) -> None:
        self.expect([])
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _client, _data, message: self._take(message.topic, bytes(message.payload))
        self._client.connect("127.0.0.1", port)
        every = Topics("+")
        self._client.subscribe([(every.values, 0), (every.check, 0)])
        self._is_over = threading.Event()

    def __enter__(self) -> Self:
        self._client.loop_start()
        threading.Thread(target=self._send_heartbeats).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._client.disconnect()
        self._client.loop_stop()

    def expect(self, module_ids: Sequence[str]) -> None:
        """Clear all records and expect these meters. Each gets a heartbeat per second."""
        self._meters = len(module_ids)
        self._heartbeats = [Topics(module_id).heartbeat for module_id in module_ids]
        self.checked: dict[str, float] = {}
        self.valued: dict[str, float] = {}
        self._arrivals: dict[str, list[float]] = {}
        self._payloads: dict[str, tuple[bytes, bytes]] = {}

    def wait(self, timeout_s: float) -> bool:
        """Wait until every meter has sent a check and a value. Return False if they do not within ``timeout_s``."""
        until_s = time.monotonic() + timeout_s
        while min(len(self.checked), len(self.valued)) < self._meters:
            if time.monotonic() > until_s:
                return False
            time.sleep(POLL_S)
        return True

    def window(self, seconds: int) -> dict[str, Any]:
        """Judge the arrivals of the next ``seconds`` with `judged`, and count the meters with a rising register."""
        self._arrivals, self._payloads = {}, {}
        begin_s = time.monotonic()
        time.sleep(seconds)
        arrivals, payloads = self._arrivals, self._payloads
        self._arrivals, self._payloads = {}, {}
        times = [[at for at in meter if at < begin_s + seconds] for meter in arrivals.values()]
        return judged(times, self._meters, seconds) | {"rising": sum(_rises(*pair) for pair in payloads.values())}

    def _send_heartbeats(self) -> None:
        next_s = time.monotonic()
        for number in count(1):
            for part in range(SLICES):
                for topic in self._heartbeats[part::SLICES]:
                    self._client.publish(topic, str(number))
                next_s += 1 / SLICES
                if self._is_over.wait(max(0.0, next_s - time.monotonic())):
                    return

    def _take(self, topic: str, payload: bytes) -> None:
        now_s = time.monotonic()
        _, meter, _, kind = topic.rsplit("/", 3)
        if kind == "communication_check":
            self.checked.setdefault(meter, now_s)
            return
        self.valued.setdefault(meter, now_s)
        self._arrivals.setdefault(meter, []).append(now_s)
        before = self._payloads.get(meter)
        self._payloads[meter] = (payload if before is None else before[0], payload)


def judged(arrivals: Iterable[list[float]], meters: int, seconds: int) -> dict[str, Any]:
    """Compare the arrivals of values with each meter's own grid of seconds.

    The grid of a meter begins with its value that came earliest within its second, which is the strictest choice. Each
    meter must send one value per second. A missing value is not punctual.

    Returns:
        values: number of received values.
        on_time: number of values that were at most 100 ms late.
        due: number of expected values.
        late_s: lateness that 99 % of the received values do not exceed.
    """
    late: list[float] = []
    on_time = 0
    for times in arrivals:
        offsets = [(at - times[0] + 0.5) % 1.0 - 0.5 for at in times]
        earliest = min(offsets, default=0.0)
        lateness = [offset - earliest for offset in offsets]
        on_time += min(seconds, sum(by_s <= ON_TIME_S for by_s in lateness))
        late += lateness
    late.sort()
    late_s = late[int(0.99 * (len(late) - 1))] if late else None
    return {"values": len(late), "on_time": on_time, "due": meters * seconds, "late_s": late_s}


def _rises(first: bytes, last: bytes) -> bool:
    """Return whether the import register rose between two live values."""
    before_wh, after_wh = (json.loads(payload)["energy_Wh_import"]["total"] for payload in (first, last))
    return bool(before_wh < after_wh)
