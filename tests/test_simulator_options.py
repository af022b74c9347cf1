"""Options and faults as data: what is taken, what is refused, and with which words."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from iem_dcr.errors import ConfigError
from iem_dcr.simulator import Fault, FaultPlan, SimulatorOptions
from tests.test_simulator_nodes import Bench

if TYPE_CHECKING:
    from collections.abc import Callable

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"nonsense": 1}, "nonsense: no such option"),
        ({"current_a": "125"}, "current_a: '125' is not a number"),
        ({"current_a": True}, "current_a: True is not a number"),
        ({"current_a": float("nan")}, "current_a: nan is out of all proportion"),
        ({"voltage_v": -1}, "voltage_v: -1 is negative"),
        ({"charge_s": 1e12}, "charge_s: 1000000000000.0 is out of all proportion"),
        ({"power_decimals": 1.5}, "power_decimals: 1.5 is not a whole number"),
        ({"firmware": "v3"}, "firmware: 'v3' is not one of v1, v2"),
        ({"bidirectional": 1}, "bidirectional: 1 is not true or false"),
        ({"EF": 1}, "EF: 1 is not text in one line or null"),
        ({"MS": "a\nb"}, "MS: 'a\\nb' is not text in one line"),
        ({"RD_rows": "1-b:1.8.e"}, "RD_rows: '1-b:1.8.e' is not a list of texts"),
        ({"RD_rows": ["1-b:1.8.0"]}, "RD_rows: expects each of these at most once: 1-b:1.8.e, 1-b:2.8.e"),
        ({"RD_rows": ["1-b:1.8.e", "1-b:1.8.e"]}, "RD_rows: expects each of these at most once"),
        ({"clock_at_power_up": "yesterday"}, "clock_at_power_up: Invalid isoformat string: 'yesterday'"),
        ({"clock_at_power_up": "2000-01-01T00:00:00"}, "clock_at_power_up: has no offset from UTC"),
        ({"clock_at_power_up": 5}, "clock_at_power_up: 5 is not a time like 2000-01-01T00:00:00+01:00"),
        ({"private_key": 0}, "private_key: the secret number of a secp256r1 key is at least 1"),
        ({"private_key": "0"}, "private_key: '0' is not a whole number or a secp256r1 key or null"),
        ({"import_wh": 5}, "import_wh: can be set at the start only"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(changes: dict[str, object], complaint: str) -> None:
    bench = Bench()
    before = bench.meter.options
    with pytest.raises(ConfigError) as caught:
        bench.meter.configure(ST="X", **changes)
    assert caught.value.problems[0].startswith(complaint)
    assert bench.meter.options is before


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        SimulatorOptions(voltage_v=-1, idle_s=-1)
    assert caught.value.problems == ("voltage_v: -1 is negative", "idle_s: -1 is negative")


@given(name=st.sampled_from([field.name for field in fields(SimulatorOptions)]), value=JSON)
def test_any_json_is_taken_or_refused(name: str, value: object) -> None:
    options = SimulatorOptions(private_key=1)
    with contextlib.suppress(ConfigError):
        changed = options.changed({name: value})
        assert replace(changed, **{name: getattr(options, name)}) == options


def test_options_survive_their_json() -> None:
    options = SimulatorOptions(private_key=1, current_a=-5, clock_at_power_up=datetime(2001, 2, 3, tzinfo=UTC))
    written = options.as_json()
    assert "private_key" not in written
    fixed = ("import_wh", "export_wh", "pagination")
    changes = {name: value for name, value in written.items() if name not in fixed}
    assert SimulatorOptions(private_key=1).changed(changes) == options


def test_a_key_object_is_taken() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert Bench(private_key=key).meter.public_key == key.public_key()


@pytest.mark.parametrize(
    "act",
    [
        lambda bench: bench.meter.set_load(float("inf"), 1),
        lambda bench: bench.meter.set_load(1, -1),
        lambda bench: bench.meter.shift_clock("1"),
        lambda bench: bench.meter.power_cycle(-1, 1),
        lambda bench: bench.meter.power_cycle(1, float("nan")),
    ],
)
def test_numbers_from_outside_are_checked(act: Callable[[Bench], None]) -> None:
    bench = Bench()
    with pytest.raises(ConfigError, match="expects a number from"):
        act(bench)
    assert bench.meter.unreachable_for_s == 0


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"kind": "nap"}, "kind: 'nap' is not one of refuse, lose-request"),
        ({"kind": ["stall"]}, "kind: "),
        ({"node": "/gw"}, "kind: is missing"),
        ({"kind": "stall", "nodes": "/gw"}, "nodes: no such key"),
        ({"kind": "stall", "node": "gw"}, "node: expects"),
        ({"kind": "stall", "node": None}, "node: expects"),
        ({"kind": "stall", "method": "PUT"}, "method: expects"),
        ({"kind": "stall", "count": 0}, "count: expects"),
        ({"kind": "stall", "count": True}, "count: expects"),
        ({"kind": "stall", "delay_s": -1}, "delay_s: expects"),
        ({"kind": "stall", "delay_s": float("nan")}, "delay_s: expects"),
        ({"kind": "refuse", "status": 200}, "status: expects"),
        ({"kind": "refuse", "body": 5}, "body: expects"),
        ({"kind": "stall", "acts": 1}, "acts: expects"),
        ({"kind": "reset", "acts": True}, "acts: has a meaning for stall and server-error only"),
        ("stall", "fault: expects an object"),
    ],
)
def test_a_fault_that_does_not_fit_is_refused(wrong: object, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Fault.from_json(wrong)
    assert caught.value.problems[0].startswith(complaint)


@given(value=st.dictionaries(st.sampled_from([field.name for field in fields(Fault)]), JSON))
def test_any_json_is_a_fault_or_refused(value: dict[str, object]) -> None:
    with contextlib.suppress(ConfigError):
        fault = Fault.from_json(value)
        assert asdict(fault).items() >= value.items()


def test_a_plan_hits_what_matches_and_counts() -> None:
    plan = FaultPlan()
    plan.add(
        Fault("refuse", node="/receipt", method="POST"),
        Fault("stall", node="/receipt", count=2),
        Fault("reset", method="GET"),
    )
    assert plan.take("POST", "/gw") is None
    taken = [
        plan.take(*request)
        for request in (
            ("GET", "/receipt"),
            ("POST", "/receipt"),
            ("POST", "/receipt"),
            ("POST", "/receipt"),
            ("GET", "/gw"),
            ("GET", "/gw"),
        )
    ]
    assert [fault.kind if fault else None for fault in taken] == ["stall", "refuse", "stall", None, "reset", None]


def test_a_plan_can_be_read_and_cleared() -> None:
    plan = FaultPlan()
    plan.add(Fault("drip", count=3))
    plan.take("GET", "/gw")
    assert [(one["kind"], one["count"]) for one in plan.as_json()] == [("drip", 2)]
    plan.clear()
    assert plan.as_json() == []
