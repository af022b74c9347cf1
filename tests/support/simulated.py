"""A simulated meter without a network, and the time it lives in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from iem_dcr.simulator import BASE, Answer, SignedRecord, SimulatedMeter, SimulatorOptions

GW = {"CT": "Charger", "CI": "DE*SIM*1", "TM": "2026-03-01T12:00:00,250+0200"}
USER = {"IS": True, "IL": "HEARSAY", "IF": ["RFID_PSK"], "IT": "ISO14443", "ID": "0123ABCD", "US": False}


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Bench:
    """A meter, the time it lives in, and the shortest way to ask it."""

    def __init__(self, **options: object) -> None:
        self.clock = Clock()
        chosen = SimulatorOptions(**cast("dict[str, Any]", {"private_key": 77} | options))
        self.meter = SimulatedMeter(chosen, monotonic=self.clock)

    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds

    def get(self, node: str) -> Answer:
        return self.meter.handle("GET", BASE + node)

    def json(self, node: str) -> dict[str, Any]:
        answer = self.get(node)
        assert answer.status == 200
        value: dict[str, Any] = json.loads(answer.body)
        return value

    def post(self, node: str, body: object) -> int:
        return self.meter.handle("POST", BASE + node, json.dumps(body).encode()).status

    def begin(self) -> int:
        return self.post("/receipt", {"TX": "B"})

    def end(self) -> int:
        return self.post("/receipt", {"TX": "E"})

    def session(self) -> SignedRecord:
        assert self.begin() == 200
        self.wait(10)
        assert self.end() == 200
        self.wait(0.2)
        return self.meter.signed[-1]
