"""The work of the service as a bare loop in one thread with http.client and paho, for benchmarks/fleet.py.

Usage: python benchmarks/fleet_bare.py BROKER_PORT METERS

``METERS`` is a file with a JSON object that maps module_id to port. The loop reads each meter once a second on a
persistent connection, publishes its value, publishes its communication check every two seconds, and parses EVerest's
heartbeats. It has no time-outs and no sessions, and expects no faults and no slow meters. It ends on SIGTERM.
"""

from __future__ import annotations

import heapq
import http.client
import json
import select
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from iem_dcr.everest_api.topics import Topics

NODE = "/counter/v1/ocmf/metervalue"
_WH = {"Wh": 1, "kWh": 1000}


class Meter:
    """One meter's connection and topics."""

    def __init__(self, module_id: str, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        topics = Topics(module_id)
        self._values, self._check, self.heartbeat = topics.values, topics.check, topics.heartbeat
        self._reading = 0

    def read(self, client: paho.Client) -> None:
        """Read a value and publish it."""
        self._connection.request("GET", NODE)
        fields = json.loads(self._connection.getresponse().read(), parse_float=Decimal)
        client.publish(self._values, json.dumps(powermeter(fields), separators=(",", ":")))
        if self._reading % 2 == 0:
            client.publish(self._check, "true")
        self._reading += 1


def powermeter(fields: dict[str, Any]) -> dict[str, object]:
    """Convert an answer of the meter to EVerest's type Powermeter."""
    registers = {row["RI"]: float(Decimal(row["RV"]) * _WH[row["RU"]]) for row in fields["RD"] if "RI" in row}
    moment, _, fraction = fields["TM"].partition(",")
    return {
        "timestamp": f"{moment}.{fraction[:3]}Z",
        "meter_id": fields["MS"],
        "energy_Wh_import": {"total": registers["1-b:1.8.e"]},
        "power_W": {"total": float(fields["P"])},
        "voltage_V": {"DC": float(fields["U2"])},
        "current_A": {"DC": float(fields["I"])},
        "energy_Wh_export": {"total": registers["1-b:2.8.e"]},
    }


def main() -> None:
    """Read and publish until killed."""
    places = json.loads(Path(sys.argv[2]).read_text("utf-8"))
    meters = [Meter(module_id, port) for module_id, port in places.items()]
    heartbeats: dict[str, int] = {}
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: heartbeats.__setitem__(message.topic, int(message.payload))
    client.connect("127.0.0.1", int(sys.argv[1]))
    client.subscribe([(meter.heartbeat, 0) for meter in meters])
    begin_s = time.monotonic()
    due = [(begin_s + number / len(meters), number) for number in range(len(meters))]
    while True:
        due_s, number = due[0]
        left_s = due_s - time.monotonic()
        if select.select([client.socket()], [], [], max(0.0, left_s))[0]:  # type: ignore[type-var]  # it is connected
            client.loop_read()
        if time.monotonic() >= due_s:
            meters[number].read(client)
            heapq.heapreplace(due, (due_s + 1, number))
            client.loop_misc()


if __name__ == "__main__":
    main()
