"""EVerest's heartbeats for benchmarks/fleet.py: one per second to each of many meters, spread over the second.

Usage: python benchmarks/fleet_heartbeats.py BROKER_PORT MODULE_IDS

``MODULE_IDS`` is a file with a JSON list. The program ends when its standard input ends.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from itertools import count
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from iem_dcr.everest_api.topics import Topics

_SLICES = 50


def main() -> None:
    """Publish until standard input ends."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", int(sys.argv[1]))
    client.loop_start()
    topics = [Topics(module_id).heartbeat for module_id in json.loads(Path(sys.argv[2]).read_text("utf-8"))]
    ended = threading.Event()

    def await_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=await_end, daemon=True).start()
    next_s = time.monotonic()
    for number in count(1):
        for part in range(_SLICES):
            for topic in topics[part::_SLICES]:
                client.publish(topic, str(number))
            next_s += 1 / _SLICES
            if ended.wait(max(0.0, next_s - time.monotonic())):
                client.disconnect()
                return


if __name__ == "__main__":
    main()
