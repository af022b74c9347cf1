"""Options and faults as data: what is taken, what is refused, and with which words."""

from __future__ import annotations

import contextlib
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.errors import ConfigError
from iem_dcr.simulator import Fault, FaultPlan, SimulatorOptions
from iem_dcr.simulator.options import build
from tests.support.any_json import json_values
from tests.support.simulated import Bench


@pytest.mark.parametrize(("changes", "complaint"), [
    ({"nonsense": 1}, "nonsense: no such option"), ({"current_a": True}, "current_a: 'True' is not a valid float"),
    ({"current_a": float("nan")}, "current_a: nan is not a number"),
    ({"value_age_s": 5.1}, "value_age_s: 5.1 is not in the range 0<=x<=5"), ({"firmware": ["v1"]}, "firmware: "),
    ({"post_status": 302}, "post_status: 302 is not in the range 200<=x<=299"),
    ({"bidirectional": "perhaps"}, "bidirectional: 'perhaps' is not a valid boolean"),
    ({"EF": 1}, "EF: 1 is not text in one line"), ({"MS": "a\nb"}, "MS: 'a\\nb' is not text in one line"),
    ({"missing": ["MT"]}, "missing: expects each of these at most once: MS, TM"),
    ({"RD_rows": ["1-b:1.8.e", "1-b:1.8.e"]}, "RD_rows: expects each of these at most once"),
    ({"private_key": 0}, "private_key: the secret number of a secp256r1 key is at least 1"),
    ({"private_key": "many"}, "private_key: invalid literal for int() with base 0: 'many'"),
])  # fmt: skip
def test_invalid_option_is_refused_and_changes_nothing(changes: dict[str, object], complaint: str) -> None:
    bench = Bench()
    before = bench.meter.options
    with pytest.raises(ConfigError) as caught:
        bench.meter.configure(ST="X", **changes)
    assert caught.value.problems[0].startswith(complaint)
    assert bench.meter.options is before


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        SimulatorOptions(voltage_v=-1, idle_s=-1)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["voltage_v", "idle_s"]


@given(name=st.sampled_from([field.name for field in fields(SimulatorOptions)]), value=json_values)
def test_any_json_is_an_option_or_refused(name: str, value: object) -> None:
    options = SimulatorOptions(private_key=1)
    with contextlib.suppress(ConfigError):
        changed = options.changed({name: value})
        assert replace(changed, **{name: getattr(options, name)}) == options


def test_options_survive_their_json() -> None:
    options = SimulatorOptions(private_key=1, current_a=-5, missing=("TM", "P"), post_status=204, EF="E")
    written = options.as_json()
    assert "private_key" not in written
    assert SimulatorOptions(private_key=1).changed(written) == options


def test_options_are_read_from_text() -> None:
    words: dict[str, Any] = {"missing": "TM, P", "post_status": "204", "EF": "none", "private_key": "0x1"}
    words |= {"bidirectional": "TRUE", "current_a": "-5", "import_wh": "7"}
    options = SimulatorOptions(**words)
    assert (options.missing, options.post_status, options.EF, options.private_key) == (("TM", "P"), 204, None, 1)
    assert (options.bidirectional, options.current_a, options.import_wh) == (True, -5.0, 7)


def test_each_simulator_has_a_serial_of_its_own_unless_one_is_given() -> None:
    serials = {SimulatorOptions().MS for _ in range(20)}
    assert len(serials) == 20
    assert all(re.fullmatch(r"1SIM\d{10}", serial) for serial in serials)
    assert SimulatorOptions(MS="7").MS == "7"


def test_the_page_has_every_knob() -> None:
    page = (Path(__file__).parents[1] / "docs" / "simulator.md").read_text("utf-8")
    shown = re.findall(r"`(\w+)`[ ,]", page.partition("Known of")[2].partition("## Faults")[0])
    assert sorted(shown) == sorted(each.name for each in fields(SimulatorOptions))


@pytest.mark.parametrize(("wrong", "complaint"), [
    ({"kind": "nap"}, "kind: 'nap' is not one of 'refuse', 'lose-request'"), ({"node": "gw"}, "node: "),
    ({"node": "/gw"}, "kind: is missing"), ({"nodes": "/gw"}, "nodes: no such option"), ({"node": None}, "node: "),
    ({"method": "PUT"}, "method: 'PUT' is not one of"), ({"count": 0}, "count: 0 is not in the range"),
    ({"kind": "refuse", "status": 200}, "status: 200 is not in the range"),
    ({"kind": "reset", "acts": True}, "acts: is only valid for stall and server-error"),
], ids=repr)  # fmt: skip
def test_invalid_fault_is_refused(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Fault, wrong if complaint.startswith("kind: is missing") else {"kind": "stall"} | wrong)
    assert caught.value.problems[0].startswith(complaint)


def test_fault_meets_the_requests_that_match_and_counts() -> None:
    plan = FaultPlan()
    plan.add(Fault("refuse", node="/receipt", method="POST"), Fault("stall", node="/receipt", count=2))
    plan.add(Fault("reset", method="GET"))
    assert plan.take("POST", "/gw") is None
    asked = [("GET", "/receipt"), *[("POST", "/receipt")] * 3, *[("GET", "/gw")] * 2]
    taken = [plan.take(*request) for request in asked]
    assert [fault.kind if fault else None for fault in taken] == ["stall", "refuse", "stall", None, "reset", None]
