"""EVerest's ears for benchmarks/fleet.py: notes when each meter's values and communication checks arrive.

Usage: python benchmarks/fleet_watch.py BROKER_PORT

Reads a question from each line of standard input and answers it with a line; both are JSON:

* ``{"do": "expect", "meters": N}``: forget everything; N meters are to come.
* ``{"do": "wait", "within_s": S}``: wait until each has sent a value and a check. Gives the times of the first check
  and of the last meter's first check and value on this machine's monotonic clock, null where it has not come.
* ``{"do": "window", "seconds": S}``: note what arrives in the next S seconds and judge it (see `judged`).
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
    """What arrived since the last `expect`, each with its time."""

    def __init__(self) -> None:
        self.expect(0)

    def expect(self, meters: int) -> None:
        """Forget everything."""
        self._meters = meters
        self._checked: dict[str, float] = {}
        self._valued: dict[str, float] = {}
        self._arrivals: dict[str, list[float]] = {}
        self._payloads: dict[str, tuple[bytes, bytes]] = {}

    def take(self, topic: str, payload: bytes) -> None:
        """Note a message."""
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
        """Judge what arrives in so many seconds."""
        self._arrivals, self._payloads = {}, {}
        begin_s = time.monotonic()
        time.sleep(seconds)
        arrivals, payloads = self._arrivals, self._payloads
        self._arrivals, self._payloads = {}, {}
        times = [[at for at in meter if at < begin_s + seconds] for meter in arrivals.values()]
        return judged(times, self._meters, seconds) | {"rising": sum(_rises(*pair) for pair in payloads.values())}


def judged(arrivals: Iterable[list[float]], meters: int, seconds: int) -> dict[str, Any]:
    """Hold the values' arrivals against each meter's own grid of seconds.

    A meter's grid begins with its value that came earliest within its second: no other grid is less kind to it. In so
    many seconds each meter has to send as many values; one that does not come is not on time.

    Returns:
        values: how many came; on_time: how many of them at most 100 ms late; due: how many had to come; late_s: the
        lateness that 99 % of those that came do not exceed.
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
    """Tell whether the import register rose from one live value to another."""
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
