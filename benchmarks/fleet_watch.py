"""The receiver for benchmarks/fleet.py: records the arrival of each meter's values and communication checks.

Usage: python benchmarks/fleet_watch.py BROKER_PORT

The program reads a question from each line of standard input and answers it with a line. Both are JSON:

* ``{"do": "expect", "meters": N}``: clear all records and expect N meters.
* ``{"do": "wait", "within_s": S}``: wait until each meter has sent a value and a check. The answer has the times of the
  first check, and of the first check and value of the last meter, on the monotonic clock of this machine, or null.
* ``{"do": "window", "seconds": S}``: record the arrivals of the next S seconds and judge them (see `judged`).
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from iem_dcr.everest_api.topics import Topics

if TYPE_CHECKING:
    from collections.abc import Iterable

ON_TIME_S = 0.1
_LOOK_EVERY_S = 0.02


class Watch:
    """The arrivals since the last `expect` with their times."""

    def __init__(self) -> None:
        self.expect(0)

    def expect(self, meters: int) -> None:
        """Clear all records."""
        self._meters = meters
        self._checked: dict[str, float] = {}
        self._valued: dict[str, float] = {}
        self._arrivals: dict[str, list[float]] = {}
        self._payloads: dict[str, tuple[bytes, bytes]] = {}

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

    def wait(self, within_s: float) -> dict[str, Any]:
        """Wait for the first check and value of every meter."""
        until_s = time.monotonic() + within_s
        while time.monotonic() < until_s and min(len(self._checked), len(self._valued)) < self._meters:
            time.sleep(_LOOK_EVERY_S)
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
    watch = Watch()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: watch.take(message.topic, bytes(message.payload))
    client.connect("127.0.0.1", int(sys.argv[1]))
    every = Topics("+")
    client.subscribe([(every.values, 0), (every.check, 0)])
    client.loop_start()
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any] = {}
        if question["do"] == "expect":
            watch.expect(question["meters"])
        elif question["do"] == "wait":
            answer = watch.wait(question["within_s"])
        else:
            answer = watch.window(question["seconds"])
        print(json.dumps(answer), flush=True)
    client.disconnect()


if __name__ == "__main__":
    main()
