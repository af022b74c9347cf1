"""The control path: what it does, and what it refuses without having changed anything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.simulator.control import control
from tests.support.simulated import GW, USER, Bench


def send(bench: Bench, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    answer, then = control(bench.meter, method, "/_sim/" + path, b"" if body is None else json.dumps(body).encode())
    if then is not None:
        then()
    return answer.status, json.loads(answer.body)


def test_state_tells_everything() -> None:
    bench = Bench()
    bench.post("/gw", GW)
    bench.post("/user", USER)
    record = bench.session()
    bench.post("/user", USER)
    bench.begin()
    bench.wait(1)
    status, state = send(bench, "GET", "state")
    assert status == 200
    assert [one["text"] for one in state["signed"]] == [record.text]
    assert (state["signed"][0]["import_wh"], state["signed"][0]["PG"]) == (int(record.import_wh), "T1")
    assert (state["running"], state["signing"], state["begun"], state["ended"]) == (True, False, 2, 1)
    assert (state["gateway"], state["user"], state["current_a"]) == ({"CT": "Charger", "CI": "DE*SIM*1"}, None, 125)
    assert state["TM"] == "2026-03-01T12:00:11,000+0200 I"
    assert state["public_key"] == bench.json("/publickey")["PK"]
    assert state["options"]["open_at_power_cut"] == "closed"
    assert state["requests"][0] == {"method": "POST", "node": "/gw", "status": 200, "acted": True}


def test_faults_are_added_listed_and_cleared() -> None:
    bench = Bench()
    assert send(bench, "POST", "faults", {"kind": "reset"})[0] == 200
    status, answer = send(bench, "POST", "faults", [{"kind": "stall", "count": 4}, {"kind": "drip"}])
    assert status == 200
    assert [fault["kind"] for fault in answer["faults"]] == ["reset", "stall", "drip"]
    assert send(bench, "GET", "state")[1]["faults"] == answer["faults"]
    assert send(bench, "DELETE", "faults") == (200, {"faults": []})


def test_set_changes_options_clock_and_load() -> None:
    bench = Bench()
    bench.post("/gw", GW)
    changes = {"XC": "0x1", "current_a": 10, "open_at_power_cut": "lost", "unset_time": "zeros"}
    status, answer = send(
        bench, "POST", "set", changes | {"clock_skew_s": -3600, "load": {"current_a": 7, "voltage_v": 5}}
    )
    assert (status, answer["options"]["open_at_power_cut"]) == (200, "lost")
    live = bench.json("/metervalue")
    assert (live["XC"], live["I"], live["P"]) == ("0x1", 7, 35)
    assert live["TM"] == "2026-03-01T11:00:00,000+0200 I"
    assert send(bench, "POST", "set", {"load": None})[0] == 200
    assert bench.json("/metervalue")["I"] == 0


@pytest.mark.parametrize(("method", "path", "body", "reason"), [
    ("GET", "nothing", None, "no such request; the requests are GET state, POST faults"),
    ("GET", "faults", None, "no such request"), ("POST", "faults", "stall", 'expects an object, not "stall"'),
    ("POST", "faults", [{"kind": "stall"}, {"kind": "nap"}], "kind: 'nap' is not one of"),
    ("POST", "set", None, "the body is not JSON"), ("POST", "set", {"XC": "0x1", "nonsense": 1}, "nonsense: no such"),
    ("POST", "set", {"XC": "0x1", "clock_skew_s": "1e10"}, "clock_skew_s: 10000000000.0 is not in the range"),
    ("POST", "set", {"load": {"current_a": 1}}, "expects an object with current_a and voltage_v"),
    ("POST", "set", {"load": {"current_a": 1, "voltage_v": 1}, "clock_skew_s": 5, "XC": None}, "XC: None is not text"),
    ("POST", "power-cycle", {"off": 1}, "expects an object with off_s and boot_s"),
    ("POST", "power-cycle", {"off_s": -1}, "off_s: -1.0 is not in the range"),
])  # fmt: skip
def test_bad_input_is_refused_and_changes_nothing(method: str, path: str, body: object, reason: str) -> None:
    bench = Bench()
    before = bench.meter.as_json()
    answered, answer = send(bench, method, path, body)
    assert answered == (404 if reason.startswith("no such request") else 400)
    assert answer["error"][0].startswith(reason)
    assert bench.meter.as_json() == before


@given(body=st.binary(max_size=40) | st.sampled_from([b"[" * 100_000, b'{"load": NaN}', b'{"\\ud800": 1}']))
def test_any_body_is_answered(body: bytes) -> None:
    bench = Bench()
    for path in ("set", "faults", "power-cycle"):
        answer, _ = control(bench.meter, "POST", "/_sim/" + path, body)
        assert answer.status in (200, 400)
        json.loads(answer.body)
