"""EVerest's part for benchmarks/fleet.py: sends heartbeats, and records the arrival of values and communication checks.

Usage: python benchmarks/fleet_everest.py BROKER_PORT

The program reads a question from each line of standard input and answers it with a line. Both are JSON:

* ``{"do": "expect", "module_ids": [...], "heartbeats": true}``: clear all records and expect these meters. Each gets
  a heartbeat per second, spread over the second.
* ``{"do": "wait", "timeout_s": S}``: wait until each meter has sent a value and a check. The answer has the times of
  the first check, and of the first check and value of the last meter, on this machine's monotonic clock, or null.
* ``{"do": "window", "seconds": S}``: record the arrivals of the next S seconds and judge them (see `judged`).
"""

from __future__ import annotations

import json
import sys
import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from iem_dcr.everest_api.topics import Topics

if TYPE_CHECKING:
    from collections.abc import Iterable

ON_TIME_S = 0.1
POLL_S = 0.02
SLICES = 50
"""Parts of a second over which the heartbeats are spread."""


class Everest:
    """The arrivals since the last `expect` with their times, and the heartbeats."""

    def __init__(self, client: paho.Client) -> None:
        self._client = client
        self._heartbeats: list[str] = []
        self.expect([], heartbeats=False)

    def expect(self, module_ids: list[str], *, heartbeats: bool) -> None:
        """Clear all records."""
        self._meters = len(module_ids)
        self._heartbeats = [Topics(module_id).heartbeat for module_id in module_ids] if heartbeats else []
        self._checked: dict[str, float] = {}
        self._valued: dict[str, float] = {}
        self._arrivals: dict[str, list[float]] = {}
        self._payloads: dict[str, tuple[bytes, bytes]] = {}

    def send_heartbeats(self) -> None:
        """Publish heartbeats for ever."""
        next_s = time.monotonic()
        for number in count(1):
            for part in range(SLICES):
                for topic in self._heartbeats[part::SLICES]:
                    self._client.publish(topic, str(number))
                next_s += 1 / SLICES
                time.sleep(max(0.0, next_s - time.monotonic()))

    def take(self, topic: str, payload: bytes) -> None:
        """Record a message."""
        now_s = time.monotonic()
        _, meter, _, kind = topic.rsplit("/", 3)
        if kind == "communication_check":
            self._checked.setdefault(meter, now_s)
            return
        self._valued.setdefault(meter, now_s)
        self._arrivals.setdefault(meter, []).append(now_s)
        before = self._payloads.get(meter)
        self._payloads[meter] = (payload if before is None else before[0], payload)

    def wait(self, timeout_s: float) -> dict[str, Any]:
        """Wait for the first check and value of every meter."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s and min(len(self._checked), len(self._valued)) < self._meters:
            time.sleep(POLL_S)
        checks, values = list(self._checked.values()), list(self._valued.values())
        return {
            "first_check": min(checks, default=None),
            "last_check": max(checks) if len(checks) >= self._meters else None,
            "last_value": max(values) if len(values) >= self._meters else None,
        }

    def window(self, seconds: int) -> dict[str, Any]:
        """Record and judge the arrivals of the next ``seconds``."""
        self._arrivals, self._payloads = {}, {}
        begin_s = time.monotonic()
        time.sleep(seconds)
        arrivals, payloads = self._arrivals, self._payloads
        self._arrivals, self._payloads = {}, {}
        times = [[at for at in meter if at < begin_s + seconds] for meter in arrivals.values()]
        return judged(times, self._meters, seconds) | {"rising": sum(_rises(*pair) for pair in payloads.values())}


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


def main() -> None:
    """Answer until standard input ends."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    everest = Everest(client)
    client.on_message = lambda _client, _data, message: everest.take(message.topic, bytes(message.payload))
    client.connect("127.0.0.1", int(sys.argv[1]))
    every = Topics("+")
    client.subscribe([(every.values, 0), (every.check, 0)])
    client.loop_start()
    threading.Thread(target=everest.send_heartbeats, daemon=True).start()
    for line in sys.stdin:
        match json.loads(line):
            case {"do": "expect", "module_ids": module_ids, "heartbeats": heartbeats}:
                everest.expect(module_ids, heartbeats=heartbeats)
                answer: dict[str, Any] = {}
            case {"do": "wait", "timeout_s": timeout_s}:
                answer = everest.wait(timeout_s)
            case {"do": "window", "seconds": seconds}:
                answer = everest.window(seconds)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
